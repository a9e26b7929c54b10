//! The loop of all instances: take what has come, then let the timers that are due fire, then do
//! what was asked.
//!
//! What lies in the sockets is always read before timers are looked at. After a stall the adverts
//! of a living master wait there, and a timer that fired first would take over from it.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::guard::Guard;
use super::netlink::{Changes, Link, Netlink};
use super::slot::{Slot, all_addresses};
use super::socket::{Frames, watch_changes};
use super::{
    Command, InstanceStatus, Occurrence, OccurrenceKind, Outlet, Placement, Plan, VrrpError, now,
};
use crate::election::check::Received;
use crate::election::{Effect, Event, Group, Instance, Time};

/// Packets taken from one socket before timers have their turn. A socket holds 208 KiB, at least
/// 768 bytes a packet: after so many, everything has been read that had come by then. A flood must
/// not keep a master from advertising.
const PACKETS_A_TURN: usize = 300;

pub(super) struct Router {
    netlink: Netlink,
    changes: AsyncFd<Changes>,
    frames: Frames,
    links: Vec<Link>,
    /// What was asked for, in the order of the lists below.
    pub(super) placements: Vec<Placement>,
    pub(super) instances: Vec<Instance>,
    pub(super) slots: Vec<Slot>,
    pub(super) has_addresses: Vec<bool>,
    pub(super) followed: Vec<Followed>,
    pub(super) groups: Vec<Group>,
    pub(super) guard: Option<Guard>,
    outlet: Outlet,
}

/// A tracker of an instance that follows an interface.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    pub(super) instance: usize,
    pub(super) tracker: usize,
    pub(super) interface: String,
    /// What the instance was told last.
    pub(super) told: Option<bool>,
}

/// Runs `plan` until it is told to stop, or nobody is left to tell it. Returns after everything
/// that was held is released.
pub async fn run(
    plan: Plan,
    mut commands: mpsc::Receiver<Command>,
    outlet: Outlet,
) -> Result<(), VrrpError> {
    let mut router = Router::new(plan, outlet)?;
    router.look_around()?;
    for index in 0..router.instances.len() {
        router.give(index, Event::Start);
    }
    let mut has_more = false;
    loop {
        router.tell_status();
        let deadline = router.deadline();
        let command = tokio::select! {
            biased;
            command = commands.recv() => Some(command.unwrap_or(Command::Stop)),
            () = router.readable(), if !has_more => None,
            () = until(deadline), if !has_more => None,
            () = std::future::ready(()), if has_more => None,
        };
        match command {
            Some(Command::Stop) => break,
            Some(command) => router.obey(command),
            None => has_more = router.turn(),
        }
    }
    for index in 0..router.instances.len() {
        router.give(index, Event::Stop);
    }
    router.tell_status();
    Ok(())
}

/// Each checked; none has begun.
pub(super) fn instances(placements: &[Placement]) -> Result<Vec<Instance>, VrrpError> {
    let one = |placement: &Placement| {
        let name = &placement.settings.name;
        if !placement.settings.accept {
            tracing::warn!("({name}) no_accept is not provided: the addresses answer");
        }
        Instance::new(placement.settings.clone())
            .map_err(|error| VrrpError::Settings { name: name.clone(), error })
    };
    placements.iter().map(one).collect()
}

/// Nobody is in two groups, and whoever is in one knows it.
pub(super) fn check_groups(plan: &Plan) -> Result<(), VrrpError> {
    let mut members: BTreeSet<usize> = BTreeSet::new();
    for group in &plan.groups {
        for &member in &group.members {
            let placement = plan.instances.get(member);
            let knows = placement.is_some_and(|placement| placement.settings.grouped);
            if !knows || !members.insert(member) {
                return Err(VrrpError::Group(group.name.clone()));
            }
        }
    }
    Ok(())
}

pub(super) fn followed(placements: &[Placement]) -> Vec<Followed> {
    let all = placements.iter().enumerate().flat_map(|(instance, placement)| {
        let interfaces = placement.tracked_interfaces.iter().cloned();
        interfaces.map(move |(tracker, interface)| Followed {
            instance,
            tracker,
            interface,
            told: None,
        })
    });
    all.collect()
}

async fn until(deadline: Option<Time>) {
    match deadline {
        Some(at) => tokio::time::sleep(Duration::from_micros(at.since(now()))).await,
        None => std::future::pending().await,
    }
}

impl Router {
    fn new(plan: Plan, outlet: Outlet) -> Result<Self, VrrpError> {
        let instances = instances(&plan.instances)?;
        check_groups(&plan)?;
        let slots = plan.instances.iter().map(|placement| Slot::new(&placement.interface));
        let slots = slots.collect();
        let frames = Frames::open().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => VrrpError::NotPermitted(error),
            _ => VrrpError::Io(error),
        })?;
        let guard = plan.guard.as_ref().map(Guard::start).transpose().map_err(VrrpError::Guard)?;
        Ok(Self {
            netlink: Netlink::open()?,
            changes: watch_changes(Changes::open()?)?,
            frames,
            links: Vec::new(),
            has_addresses: vec![false; instances.len()],
            followed: followed(&plan.instances),
            placements: plan.instances,
            instances,
            slots,
            groups: plan.groups,
            guard,
            outlet,
        })
    }

    /// Waits until a socket has something. Readiness is forgotten before the socket is emptied, so
    /// what comes in between is announced again.
    async fn readable(&self) {
        poll_fn(|context| {
            let mut any = false;
            if let Poll::Ready(Ok(mut guard)) = self.changes.poll_read_ready(context) {
                guard.clear_ready();
                any = true;
            }
            for ear in self.slots.iter().filter_map(Slot::ear) {
                if let Poll::Ready(Ok(mut guard)) = ear.poll_read_ready(context) {
                    guard.clear_ready();
                    any = true;
                }
            }
            if any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn deadline(&self) -> Option<Time> {
        let instances = self.instances.iter().filter_map(Instance::deadline);
        instances.chain(self.slots.iter().filter_map(Slot::next_frame_at)).min()
    }

    fn obey(&mut self, command: Command) {
        let (instance, event) = match command {
            Command::Tracker { instance, tracker, good } => {
                (instance, Event::Tracker { index: tracker, good })
            }
            Command::TrackerNumber { instance, tracker, number } => {
                (instance, Event::TrackerNumber { index: tracker, number })
            }
            Command::Serve { instance, serves } => (instance, Event::Serve(serves)),
            Command::Veto { instance, is_vetoed } => (instance, Event::Veto(is_vetoed)),
            Command::MayPreempt { instance, may_preempt } => {
                (instance, Event::MayPreempt(may_preempt))
            }
            Command::Yield { instance } => (instance, Event::Yield),
            Command::Reload { plan, answer } => {
                let result = self.reload(plan);
                // Before the answer: places in the status are those of the new plan from then on.
                self.tell_status();
                // Whoever asked may be gone; the plan counts all the same.
                let _ = answer.send(result);
                return;
            }
            Command::Stop => return,
        };
        let Some(settings) = self.instances.get(instance).map(Instance::settings) else { return };
        let is_known = match event {
            Event::Tracker { index, .. } | Event::TrackerNumber { index, .. } => {
                index < settings.trackers.len()
            }
            Event::Serve(_) => settings.bound,
            _ => true,
        };
        if is_known {
            self.give(instance, event);
        }
    }

    /// Returns whether a socket may have more.
    fn turn(&mut self) -> bool {
        if self.changes.get_ref().take()
            && let Err(error) = self.look_around()
        {
            tracing::error!("cannot see the interfaces: {error}");
        }
        let mut has_more = false;
        for index in 0..self.instances.len() {
            let mut left = PACKETS_A_TURN;
            while let Some(datagram) = self.slots[index].take() {
                let (source, destination) = (datagram.source, datagram.destination);
                let (hop_limit, bytes) = (datagram.hop_limit, &datagram.bytes[..]);
                let received = Received { source, destination, hop_limit, bytes };
                self.give(index, Event::Received(received));
                left -= 1;
                if left == 0 {
                    has_more = true;
                    break;
                }
            }
        }
        for index in 0..self.instances.len() {
            if self.instances[index].deadline().is_some_and(|at| at <= now()) {
                self.give(index, Event::TimerDue);
            }
        }
        for slot in &mut self.slots {
            slot.send_frames(now(), &self.frames);
        }
        has_more
    }

    /// Asks for all interfaces and addresses and tells the instances.
    pub(super) fn look_around(&mut self) -> Result<(), VrrpError> {
        self.links = self.netlink.links()?;
        for place in 0..self.followed.len() {
            let followed = &mut self.followed[place];
            let link = self.links.iter().find(|link| link.name == followed.interface);
            let good = link.is_some_and(|link| link.is_up);
            if followed.told.replace(good) != Some(good) {
                let (instance, index) = (followed.instance, followed.tracker);
                self.give(instance, Event::Tracker { index, good });
            }
        }
        // Nothing is sent from a virtual address, whichever instance holds it.
        let mut addresses = self.netlink.addresses()?;
        let settings = self.instances.iter().map(Instance::settings);
        let virtual_addresses: BTreeSet<IpAddr> =
            settings.flat_map(all_addresses).map(|address| address.address).collect();
        addresses.retain(|address| !virtual_addresses.contains(&address.address));
        for index in 0..self.instances.len() {
            let settings = self.instances[index].settings();
            match self.slots[index].follow(&self.links, &addresses, settings) {
                Ok(events) => events.into_iter().for_each(|event| self.give(index, event)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(VrrpError::NotPermitted(error));
                }
                Err(error) => {
                    tracing::error!("({}) cannot listen: {error}", settings.name);
                    self.give(index, Event::Link { is_up: false });
                }
            }
        }
        Ok(())
    }

    /// A tracker that the settings do not have is somebody's mistake, not this one's end.
    pub(super) fn give(&mut self, index: usize, event: Event<'_>) {
        let now = now();
        let mut effects = Vec::new();
        self.instances[index].handle(now, event, &mut effects);
        let mut effects: Vec<_> = effects.into_iter().map(|effect| (index, effect)).collect();
        for group in self.groups.iter().filter(|group| group.members.contains(&index)) {
            group.settle(now, &mut self.instances, &mut effects);
        }
        for (index, effect) in effects {
            self.perform(now, index, effect);
        }
    }

    /// All groups, after their members have changed.
    pub(super) fn settle(&mut self) {
        let now = now();
        let mut effects = Vec::new();
        for group in &self.groups {
            group.settle(now, &mut self.instances, &mut effects);
        }
        for (index, effect) in effects {
            self.perform(now, index, effect);
        }
    }

    pub(super) fn perform(&mut self, now: Time, index: usize, effect: Effect) {
        let settings = self.instances[index].settings();
        let slot = &mut self.slots[index];
        let guard = self.guard.as_mut();
        match effect {
            Effect::SendAdvert { destination, bytes } => {
                if let Err(text) = slot.send(destination, &bytes) {
                    tracing::error!("({}) {text}", settings.name);
                    self.tell(index, OccurrenceKind::CannotSend(text));
                }
            }
            Effect::AddAddresses => {
                slot.add_addresses(&mut self.netlink, guard, &self.links, settings);
                self.has_addresses[index] = true;
            }
            Effect::RemoveAddresses => {
                slot.remove_addresses(&mut self.netlink, guard, &self.links, settings);
                self.has_addresses[index] = false;
            }
            Effect::Announce { repeat } => {
                slot.announce(now, repeat, &self.links, settings);
                slot.send_frames(now, &self.frames);
            }
            Effect::Notify(state) => {
                let priority = self.instances[index].effective_priority();
                self.tell(index, OccurrenceKind::Notify { state, priority });
            }
            Effect::Report(notice) => {
                if notice.is_warning() {
                    tracing::warn!("({}) {notice}", settings.name);
                } else {
                    tracing::info!("({}) {notice}", settings.name);
                }
                self.tell(index, OccurrenceKind::Said(notice));
            }
        }
    }

    fn tell(&self, instance: usize, kind: OccurrenceKind) {
        let name = self.instances[instance].settings().name.clone();
        // Whoever does not listen must not delay an advertisement.
        let _ = self.outlet.occurrences.try_send(Occurrence { instance, name, kind });
    }

    pub(super) fn tell_reloaded(&self) {
        let (instance, name, kind) = (0, String::new(), OccurrenceKind::Reloaded);
        let _ = self.outlet.occurrences.try_send(Occurrence { instance, name, kind });
    }

    fn tell_status(&self) {
        let parts = self.instances.iter().zip(&self.slots).zip(&self.has_addresses);
        let status = parts.map(|((instance, slot), has_addresses)| InstanceStatus {
            name: instance.settings().name.clone(),
            interface: slot.interface().to_owned(),
            state: instance.state(),
            effective_priority: instance.effective_priority(),
            is_in_doubt: instance.is_in_doubt(),
            has_addresses: *has_addresses,
            master: instance.heard_master().map(|(address, _)| address),
            counters: *instance.counters(),
        });
        self.outlet.status.send_replace(status.collect());
    }
}
