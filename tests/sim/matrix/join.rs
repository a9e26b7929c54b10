//! VRRP, coordinator and resource joined as `src/failover/runner.rs` joins them, each message with a
//! delay of its own.

use twinblk::election::check::Received;
use twinblk::election::failover::{self, Data, Phase, Seen, Standing};
use twinblk::election::packet::HOP_LIMIT;
use twinblk::election::{self, Notice, Time};
use twinblk::engine::event::Verb;
use twinblk_proto::state::{ConnectionState, Role};

use super::seat::{BringUp, Happening, Seat, Told, address_of};
use crate::node::Crash;
use crate::subject::Subject;
use crate::world::World;

/// Between threads and processes of one machine.
const HAND_ON_US: u64 = 500;
/// The loop comes round.
const ROUND_US: u64 = 2_000;
const ADVERT_US: u64 = 2_000;
/// As the runner's.
const UP_PAUSE_US: u64 = 5_000_000;
const BRING_UP_LOOK_US: u64 = 20_000;

impl<E: Subject> World<E> {
    /// The daemon begins.
    pub fn service_starts(&mut self, node: usize) {
        let Some(service) = &mut self.service else { return };
        service.seats[node] = Seat::start(&service.setup, node);
        let is_standby = service.standby[node];
        self.elect(node, election::Event::Source(Some(address_of(node))));
        self.elect(node, election::Event::Start);
        self.plan(node, 1_000, Happening::BringUp);
        self.plan(node, 1_000, Happening::Look);
        if is_standby {
            self.give(node, failover::Event::Standby(true));
        }
    }

    /// The daemon ends without being asked: its guards, or the power switch, take everything away.
    pub fn service_dies(&mut self, node: usize, crash: Crash) {
        let Some(service) = &mut self.service else { return };
        service.seats[node] = Seat::default();
        service.troubled_us[1 - node] = self.now_us;
        service.clients.was_primary[node] = false;
        service.counted.crashed(crash);
        self.collect_replies();
    }

    pub fn service_resumes(&mut self, node: usize) {
        let now_us = self.now_us;
        let Some(service) = &mut self.service else { return };
        service.troubled_us[node] = now_us;
        let mut held = std::mem::take(&mut service.seats[node].held);
        // What lies in the socket is read before timers are looked at.
        held.sort_by_key(|happening| !matches!(happening, Happening::Advert { .. }));
        for (place, happening) in held.into_iter().enumerate() {
            self.plan(node, 1 + place as u64, happening);
        }
    }

    pub fn service_happens(&mut self, node: usize, incarnation: u64, happening: Happening) {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].is_up() {
            return;
        }
        if self.nodes[node].paused {
            return self.seat(node).held.push(happening);
        }
        match happening {
            Happening::Advert { bytes } => {
                let [source, destination] = [address_of(1 - node), group()];
                let received =
                    Received { source, destination, hop_limit: HOP_LIMIT, bytes: &bytes };
                self.elect(node, election::Event::Received(received));
            }
            Happening::Told(told) => {
                let event = match told {
                    Told::Eligible(good) => election::Event::Tracker { index: 0, good },
                    Told::Veto(is_vetoed) => election::Event::Veto(is_vetoed),
                    Told::MayPreempt(may_preempt) => election::Event::MayPreempt(may_preempt),
                    Told::Serve(serves) => election::Event::Serve(serves),
                    Told::Yield => election::Event::Yield,
                };
                self.elect(node, event);
            }
            Happening::Elect => {
                self.seat(node).elects_us = None;
                let local = self.local(node);
                let instance = self.seat(node).instance.as_ref().expect("it runs");
                match instance.deadline().is_some_and(|at| at <= local) {
                    true => self.elect(node, election::Event::TimerDue),
                    false => self.plan_timers(node),
                }
            }
            Happening::Follow => {
                let seat = self.seat(node);
                seat.follows = false;
                let instance = seat.instance.as_ref().expect("it runs");
                let standing = Standing::of([(instance.state(), instance.is_in_doubt())]);
                if seat.standing != standing {
                    seat.standing = standing;
                    self.note(node, format_args!("VRRP: {standing:?}"));
                    self.give(node, failover::Event::Vrrp(standing));
                }
            }
            Happening::Look => self.look(node),
            Happening::MasterSilent => self.give(node, failover::Event::MasterSilent),
            Happening::Reconsider => {
                self.seat(node).reconsiders_us = None;
                let local = self.local(node);
                let coordinator = self.seat(node).coordinator.as_ref().expect("it runs");
                match coordinator.deadline().is_some_and(|at| at <= local) {
                    true => self.give(node, failover::Event::TimerDue),
                    false => self.plan_timers(node),
                }
            }
            Happening::Step => self.poll_step(node),
            Happening::BringUp => self.bring_up(node),
        }
    }

    /// After each round of the node's driver.
    pub fn service_sees(&mut self, node: usize) {
        if self.service.is_none() || !self.nodes[node].is_up() {
            return;
        }
        let is_primary = self.nodes[node].is_primary() && !self.nodes[node].promotion_due;
        let now_us = self.now_us;
        let was = self.service().clients.was_primary[node];
        if is_primary != was {
            let service = self.service_mut();
            service.clients.was_primary[node] = is_primary;
            if is_primary {
                service.primary_since_us[node] = Some(now_us);
            }
        }
        let alone = self.nodes[node].state().connection == ConnectionState::StandAlone;
        if alone && self.nodes[node].engine.as_ref().is_some_and(E::has_split_brain) {
            self.service_mut().seen_split = true;
        }
        self.collect_replies();
        if self.seen_data(node) != self.service().seats[node].data && !self.seat(node).looks {
            self.seat(node).looks = true;
            let delay_us = self.service_mut().random.below(ROUND_US);
            self.plan(node, delay_us, Happening::Look);
        }
    }

    fn local(&self, node: usize) -> Time {
        Time(self.nodes[node].clock.local(self.now_us))
    }

    fn seen_data(&self, node: usize) -> Data {
        let state = self.nodes[node].state();
        let seen = Seen {
            role: state.role,
            peer_role: state.peer,
            connection: state.connection,
            disk: state.disk,
            peer_disk: state.peer_disk,
            // The engine says so of a Primary without its peer only.
            is_replaced: state.role == Role::Primary
                && state.connection < ConnectionState::Connected
                && self.nodes[node].engine.as_ref().is_some_and(E::is_replaced),
        };
        Data::of(&seen, &self.service().seats[node].data)
    }

    pub(super) fn look(&mut self, node: usize) {
        let seen = self.seen_data(node);
        let seat = self.seat(node);
        seat.looks = false;
        if seat.data != seen {
            seat.data = seen;
            self.give(node, failover::Event::Data(seen));
        }
    }

    fn elect(&mut self, node: usize, event: election::Event<'_>) {
        let now = self.local(node);
        let mut effects = Vec::new();
        let instance = self.seat(node).instance.as_mut().expect("it runs");
        instance.handle(now, event, &mut effects);
        for effect in effects {
            match effect {
                election::Effect::SendAdvert { bytes, .. } => self.send_advert(node, bytes),
                election::Effect::AddAddresses => {
                    self.seat(node).has_addresses = true;
                    self.note(node, format_args!("has the address"));
                    self.address_announced(node);
                }
                election::Effect::RemoveAddresses => self.seat(node).has_addresses = false,
                election::Effect::Report(Notice::SilentMaster) => {
                    self.plan(node, HAND_ON_US, Happening::MasterSilent);
                }
                election::Effect::Announce { .. }
                | election::Effect::Notify(_)
                | election::Effect::Report(_) => {}
            }
        }
        if !self.seat(node).follows {
            self.seat(node).follows = true;
            let delay_us = self.service_mut().random.below(ROUND_US);
            self.plan(node, delay_us, Happening::Follow);
        }
        self.plan_timers(node);
    }

    fn send_advert(&mut self, from: usize, bytes: Vec<u8>) {
        let to = 1 - from;
        if self.service().adverts_cut[from] || !self.nodes[to].is_up() {
            return;
        }
        let delay_us = 100 + self.service_mut().random.below(ADVERT_US);
        self.plan(to, delay_us, Happening::Advert { bytes });
    }

    fn plan_timers(&mut self, node: usize) {
        let clock = self.nodes[node].clock;
        let now_us = self.now_us;
        let seat = self.seat(node);
        let elects = seat.instance.as_ref().and_then(election::Instance::deadline);
        let reconsiders = seat.coordinator.as_ref().and_then(failover::Coordinator::deadline);
        let due = |at: Time| clock.global(at.0).max(now_us);
        let (elects_us, reconsiders_us) = (elects.map(due), reconsiders.map(due));
        let is_sooner = |wanted: Option<u64>, planned: Option<u64>| {
            wanted.filter(|wanted| planned.is_none_or(|planned| *wanted < planned))
        };
        if let Some(at_us) = is_sooner(elects_us, seat.elects_us) {
            seat.elects_us = Some(at_us);
            self.plan(node, at_us - now_us, Happening::Elect);
        }
        let seat = self.seat(node);
        if let Some(at_us) = is_sooner(reconsiders_us, seat.reconsiders_us) {
            seat.reconsiders_us = Some(at_us);
            self.plan(node, at_us - now_us, Happening::Reconsider);
        }
    }

    pub(super) fn tell(&mut self, node: usize, told: Told) {
        let delay_us = self.service_mut().random.below(HAND_ON_US);
        let at_us = (self.now_us + delay_us).max(self.seat(node).told_until_us + 1);
        self.seat(node).told_until_us = at_us;
        self.plan(node, at_us - self.now_us, Happening::Told(told));
    }

    /// An event for the coordinator.
    pub(super) fn give(&mut self, node: usize, event: failover::Event) {
        let now = self.local(node);
        self.recorder.note(self.now_us, node, 3, format_args!("<= {event:?}"));
        let mut effects = Vec::new();
        let coordinator = self.seat(node).coordinator.as_mut().expect("it runs");
        coordinator.handle(now, event, &mut effects);
        for effect in effects {
            self.recorder.note(self.now_us, node, 4, format_args!("=> {effect:?}"));
            match effect {
                failover::Effect::Perform { step } => self.begin_step(node, step, None),
                failover::Effect::Undo { step, force } => self.begin_step(node, step, Some(force)),
                failover::Effect::Cancel => {
                    if let Some(step) = &mut self.seat(node).step {
                        step.is_cancelled = true;
                    }
                }
                failover::Effect::Eligible(verdict) => {
                    self.tell(node, Told::Eligible(verdict.is_ok()));
                }
                failover::Effect::Veto(is_vetoed) => self.tell(node, Told::Veto(is_vetoed)),
                failover::Effect::MayPreempt(may) => self.tell(node, Told::MayPreempt(may)),
                failover::Effect::Yield => self.tell(node, Told::Yield),
                failover::Effect::ProbePeer => drop(self.command(node, Verb::ProbePeer)),
                failover::Effect::Report(_) => {}
            }
        }
        self.plan_timers(node);
    }

    fn bring_up(&mut self, node: usize) {
        let outcome = |world: &Self, command| world.outcome(node, command).cloned();
        let again_us = match self.seat(node).bring_up {
            BringUp::Attach => {
                let command = self.command(node, Verb::Attach);
                self.seat(node).bring_up = BringUp::Attaching(command);
                BRING_UP_LOOK_US
            }
            BringUp::Attaching(command) => match outcome(self, command) {
                None => BRING_UP_LOOK_US,
                Some(Ok(())) => {
                    let verb = Verb::Connect { discard_my_data: false, dry_run: false };
                    let command = self.command(node, verb);
                    self.seat(node).bring_up = BringUp::Connecting(command);
                    BRING_UP_LOOK_US
                }
                Some(Err(refusal)) => {
                    self.note(node, format_args!("not up: {refusal:?}"));
                    self.seat(node).bring_up = BringUp::Attach;
                    UP_PAUSE_US
                }
            },
            BringUp::Connecting(command) => match outcome(self, command) {
                None => BRING_UP_LOOK_US,
                Some(result) => {
                    self.note(node, format_args!("is up: {result:?}"));
                    self.seat(node).bring_up = BringUp::Done;
                    return;
                }
            },
            BringUp::Done => return,
        };
        self.plan(node, again_us, Happening::BringUp);
    }

    // Operators.

    /// False: refused, as the runner refuses it.
    pub fn hand_over(&mut self, node: usize) -> bool {
        let seat = self.seat(node);
        let may = seat.phase() == Phase::Serving && seat.data.can_be_handed_over();
        if may && self.nodes[node].is_running() {
            self.note(node, format_args!("operator: handover"));
            self.give(node, failover::Event::Handover);
        }
        may
    }

    pub fn stand_by(&mut self, node: usize, is_standby: bool) {
        if self.service().standby[node] == is_standby || self.nodes[node].paused {
            return;
        }
        self.service_mut().standby[node] = is_standby;
        self.note(node, format_args!("operator: standby {is_standby}"));
        if self.nodes[node].is_up() {
            self.give(node, failover::Event::Standby(is_standby));
        }
    }

    pub fn is_primary_role(&self, node: usize) -> bool {
        self.nodes[node].state().role == Role::Primary
    }
}

fn group() -> std::net::IpAddr {
    std::net::Ipv4Addr::new(224, 0, 0, 18).into()
}
