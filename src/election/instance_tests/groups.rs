//! Two instances of one sync group.

use super::super::super::packet::{Authentication, ChecksumForm, HOP_LIMIT};
use super::super::super::{Group, settings::VirtualAddress};
use super::stage::{HIGHER, OWN, settings};
use super::*;

struct Members {
    instances: Vec<Instance>,
    group: Group,
    now: Time,
    effects: Vec<(usize, Effect)>,
}

impl Members {
    fn new() -> Self {
        let instances = [51, 52].map(|virtual_router_id| {
            let name = format!("VI_{virtual_router_id}");
            let settings =
                InstanceSettings { name, virtual_router_id, grouped: true, ..settings(100) };
            Instance::new(settings).expect("good settings")
        });
        let group = Group { name: "G".to_owned(), members: vec![0, 1] };
        let effects = Vec::new();
        let mut members = Self { instances: instances.into(), group, now: Time(0), effects };
        for member in 0..2 {
            members.handle(member, Event::Source(Some(OWN)));
            members.handle(member, Event::Start);
        }
        members
    }

    fn handle(&mut self, member: usize, event: Event<'_>) {
        let mut effects = Vec::new();
        self.instances[member].handle(self.now, event, &mut effects);
        self.effects.extend(effects.into_iter().map(|effect| (member, effect)));
        self.group.settle(self.now, &mut self.instances, &mut self.effects);
    }

    fn hear(&mut self, member: usize, priority: u8) {
        let settings = self.instances[member].settings().clone();
        let destination = settings.group();
        let advert = Advertisement {
            version: settings.version,
            virtual_router_id: settings.virtual_router_id,
            priority,
            interval_us: settings.advert_interval_us,
            authentication: Authentication::None,
            addresses: settings
                .addresses
                .iter()
                .map(|VirtualAddress { address, .. }| *address)
                .collect(),
        };
        let route = Route { source: HIGHER, destination };
        let bytes = advert.encode(route, ChecksumForm::WithPseudoHeader);
        let received =
            Received { source: HIGHER, destination, hop_limit: HOP_LIMIT, bytes: &bytes };
        self.handle(member, Event::Received(received));
    }

    fn run_until(&mut self, microseconds: u64) {
        loop {
            let due =
                (0..2).filter_map(|member| Some((self.instances[member].deadline()?, member)));
            let Some((at, member)) = due.min().filter(|(at, _)| at.0 <= microseconds) else {
                break;
            };
            self.now = at.max(self.now);
            self.handle(member, Event::TimerDue);
        }
        self.now = Time(microseconds);
    }

    fn states(&self) -> [State; 2] {
        [self.instances[0].state(), self.instances[1].state()]
    }
}

#[test]
fn a_member_becomes_master_only_with_the_others() {
    let mut members = Members::new();
    for second in 1..8 {
        members.run_until(second * SECOND);
        members.hear(1, 200);
        assert_eq!(members.states(), [State::Backup; 2]);
    }
    assert!(members.instances[0].wants_master());
    members.run_until(7 * SECOND + DOWN_100);
    assert_eq!(members.states(), [State::Master; 2]);
}

#[test]
fn a_member_that_yields_takes_the_others_along() {
    let mut members = Members::new();
    members.run_until(DOWN_100);
    assert_eq!(members.states(), [State::Master; 2]);
    members.hear(1, 200);
    assert_eq!(members.states(), [State::Backup; 2]);
}

#[test]
fn a_fault_of_one_is_the_fault_of_all_until_it_is_gone() {
    let mut members = Members::new();
    members.run_until(DOWN_100);
    members.effects.clear();
    members.handle(0, Event::Link { is_up: false });
    assert_eq!(members.states(), [State::Fault; 2]);
    let priority_zero = |(member, effect): &(usize, Effect)| {
        *member == 1 && matches!(effect, Effect::SendAdvert { bytes, .. } if bytes[2] == 0)
    };
    assert!(members.effects.iter().any(priority_zero), "the other link is up: its peer is told");
    members.handle(1, Event::Link { is_up: false });
    members.handle(0, Event::Link { is_up: true });
    assert_eq!(members.states(), [State::Fault; 2]);
    members.handle(1, Event::Link { is_up: true });
    assert_eq!(members.states(), [State::Backup; 2]);
}
