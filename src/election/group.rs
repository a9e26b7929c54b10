//! Instances that move together, because a service needs all of their addresses
//! (`vrrp_sync_group`, vrrp.md 2.4): one in Fault, all in Fault; Master only all at once.

use super::Time;
use super::instance::{Effect, Event, GroupVerdict, Instance, State};

/// Fault, then Backup, then Master: each round of [`Group::settle`] can only move members one way,
/// so three rounds suffice for any number of them.
const ROUNDS: usize = 3;

/// The members of a group, by their places in the list that its methods are given.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    pub members: Vec<usize>,
}

impl Group {
    /// To be called after each event of a member. Effects come with the member that asks for them.
    pub fn settle(
        &self,
        now: Time,
        instances: &mut [Instance],
        effects: &mut Vec<(usize, Effect)>,
    ) {
        for _ in 0..ROUNDS {
            let verdicts = self.verdicts(instances);
            if verdicts.is_empty() {
                return;
            }
            for (member, verdict) in verdicts {
                let mut own = Vec::new();
                instances[member].handle(now, Event::Group(verdict), &mut own);
                effects.extend(own.into_iter().map(|effect| (member, effect)));
            }
        }
    }

    fn verdicts(&self, instances: &[Instance]) -> Vec<(usize, GroupVerdict)> {
        let members = || self.members.iter().map(|&member| (member, &instances[member]));
        let is_faulty = members().any(|(_, instance)| instance.own_fault().is_some());
        // A member's own fault is no matter of the group; the others share it.
        let shared = members().filter(|(_, instance)| {
            (is_faulty && instance.own_fault().is_none()) != instance.is_held_by_group()
        });
        let shared: Vec<_> = shared
            .map(|(member, instance)| (member, GroupVerdict::Fault(!instance.is_held_by_group())))
            .collect();
        if !shared.is_empty() {
            return shared;
        }
        let is_ready = |instance: &Instance| {
            instance.state() == State::Master
                || instance.state() == State::Backup && instance.wants_master()
        };
        let all_ready = members().all(|(_, instance)| is_ready(instance));
        let (from, verdict) = if all_ready {
            (State::Backup, GroupVerdict::Master)
        } else {
            (State::Master, GroupVerdict::Backup)
        };
        members()
            .filter(|(_, instance)| instance.state() == from)
            .map(|(member, _)| (member, verdict))
            .collect()
    }
}
