//! The whole cluster in one value: two machines, the network between them, and the agenda of what
//! happens next. Nothing in here runs by itself; [`World::step`] takes one item.

use std::collections::{BTreeMap, BTreeSet};

use twinblk::engine::effect::{Effect, Refusal};
use twinblk::engine::event::{CommandId, DiskFailure, Event, HandlerRunId, LossCause, Timer, Verb};
use twinblk::engine::handler::HandlerOutcome;

use crate::agenda::Agenda;
use crate::faults::Faults;
use crate::handlers::Programs;
use crate::link::{Delivered, Delivery, Link, Segment, Socket};
use crate::matrix::Service;
use crate::matrix::faults::Trouble;
use crate::matrix::seat::Happening;
use crate::medium::Loss;
use crate::node::{Crash, Node};
use crate::operator::Operator;
use crate::oracle::lineage::Initial;
use crate::oracle::{Invariant, Oracle, Violation};
use crate::random::{Random, Stream};
use crate::recorder::{Detail, Recorder, Statistics};
use crate::requests::{Pending, Reply};
use crate::sabotage::Sabotage;
use crate::subject::Subject;
use crate::swarm::{Beginning, Swarm};
use crate::witness::{Step, Witness};
use crate::workload::Clients;

/// Something that will happen.
#[derive(Clone, Debug)]
pub enum Item {
    Wake { node: usize, incarnation: u64 },
    OpenDisk { node: usize, incarnation: u64, opening: u64 },
    DiskLookedAt { node: usize, incarnation: u64, opening: u64 },
    DiskDone { node: usize, incarnation: u64, operation: u64 },
    TimerDue { node: usize, incarnation: u64, timer: Timer, number: u64 },
    Dial { node: usize, incarnation: u64, attempt: u64 },
    Handshake { attempts: [u64; 2] },
    SessionUp { node: usize, session: u64, attempt: u64, resolve: bool },
    SessionBreaks { node: usize, session: u64, cause: LossCause },
    Deliver(Delivery),
    SendTimeout { session: u64, from: usize, socket: Socket, epoch: u64 },
    ClientTick { client: usize },
    HandlerEnds { node: usize, incarnation: u64, run: HandlerRunId, outcome: HandlerOutcome },
    Witness { node: usize, incarnation: u64, step: Step },
    Service { node: usize, incarnation: u64, happening: Happening },
    ServiceClient { client: usize },
    ServiceFault,
    ServiceHeals(Trouble),
    OperatorTick,
    FaultTick,
    Heal { from: usize, socket: Socket, number: u64 },
    Restart { node: usize, incarnation: u64 },
    Resume { node: usize, incarnation: u64 },
}

/// Effects that one event may cause: a full set of in-flight requests, each with a disk
/// operation, a packet, a reply and a release, and as much again for the peer's.
const EFFECTS_PER_EVENT: usize = 40_000;
/// How often a disk that does not answer is looked at.
const STALL_LOOK_US: u64 = 5_000;
/// As the driver's.
const RETIRE_PATIENCE_US: u64 = 5_000_000;
/// Payloads that a driver may hold: requests of all clients, the peer's writes and resync blocks.
const PAYLOADS_HELD: usize = 20_000;

pub struct World<E> {
    pub swarm: Swarm,
    pub now_us: u64,
    pub agenda: Agenda<Item>,
    pub nodes: [Node<E>; 2],
    pub link: Link,
    pub oracle: Oracle,
    pub pending: BTreeMap<u64, Pending>,
    /// Replies that a scenario waits for.
    pub replies: BTreeMap<u64, Reply>,
    pub last_request: u64,
    pub last_command: u64,
    pub clients: Clients,
    pub operator: Operator,
    pub faults: Faults,
    pub programs: Programs,
    pub witness: Witness,
    /// What runs above the engines, in the worlds of the matrix.
    pub service: Option<Box<Service>>,
    pub disk_random: Random,
    pub link_random: Random,
    pub crash_random: Random,
    pub recorder: Recorder,
    pub statistics: Statistics,
    pub sabotage: Option<Sabotage>,
    /// Blocks that a test changed on one of the disks.
    pub planted: BTreeSet<u64>,
    /// Blocks that a verify called different.
    pub found: BTreeSet<u64>,
    pub violation: Option<Violation>,
    /// A scenario stops here: before the node performs an effect that this picks.
    pub breakpoint: Option<Breakpoint>,
    pub broke: bool,
    cut_numbers: [[u64; 2]; 2],
}

/// Where a scenario stops the world.
pub struct Breakpoint {
    pub node: usize,
    pub chosen: Box<dyn FnMut(&Effect) -> bool>,
    /// The chosen effect is still performed.
    pub after: bool,
}

impl<E: Subject> World<E> {
    pub fn new(seed: u64, swarm: Swarm, detail: Detail, trace: bool) -> Self {
        let initial = match swarm.beginning {
            Beginning::InSync => Initial::Zeroes,
            Beginning::Created => Initial::Unwritten(0),
        };
        let node = |index| Node::new(seed, index, &swarm);
        let mut world = Self {
            now_us: 1_000_000,
            agenda: Agenda::new(seed),
            nodes: [node(0), node(1)],
            link: Link::new(swarm.link),
            oracle: Oracle::new(swarm.settings.protocol, initial),
            pending: BTreeMap::new(),
            replies: BTreeMap::new(),
            last_request: 0,
            last_command: 0,
            clients: Clients::new(seed, &swarm),
            operator: Operator::new(seed, &swarm),
            faults: Faults::new(seed, &swarm),
            programs: Programs::new(seed),
            witness: Witness::new(seed),
            service: swarm.service.as_ref().map(|setup| Box::new(Service::new(seed, setup))),
            disk_random: Random::new(seed, Stream::Disk, 0),
            link_random: Random::new(seed, Stream::Link, 0),
            crash_random: Random::new(seed, Stream::Crash, 0),
            recorder: Recorder::new(detail, trace),
            statistics: Statistics { seeds: 1, ..Statistics::default() },
            sabotage: None,
            planted: BTreeSet::new(),
            found: BTreeSet::new(),
            violation: None,
            breakpoint: None,
            broke: false,
            cut_numbers: [[0; 2]; 2],
            swarm,
        };
        if let Some(growth) = world.swarm.growth {
            world.oracle.grown_from = growth.from_sectors;
        }
        for node in 0..2 {
            world.start(node);
        }
        if world.swarm.actors {
            world.start_actors();
        }
        world
    }

    fn start_actors(&mut self) {
        self.agenda.add(self.now_us, Item::OperatorTick);
        self.agenda.add(self.now_us + 100_000, Item::FaultTick);
        for client in 0..self.swarm.workload.clients {
            self.agenda.add(self.now_us + 50_000, Item::ClientTick { client });
        }
    }

    /// Remembers the first thing that went wrong; the run ends with it.
    pub fn violate(&mut self, invariant: Invariant, text: impl Into<String>) {
        let text = text.into();
        self.recorder.note(self.now_us, 9, 0, format_args!("VIOLATION {invariant:?}: {text}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, text });
        }
    }

    pub fn check(&mut self, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            self.violate(violation.invariant, violation.text);
        }
    }

    pub fn note(&mut self, node: usize, what: std::fmt::Arguments<'_>) {
        self.recorder.note(self.now_us, node, 0, what);
    }

    /// Takes the next item; false when there is none, or something is wrong.
    pub fn step(&mut self) -> bool {
        if self.violation.is_some() || self.broke {
            return false;
        }
        let Some((at_us, item)) = self.agenda.next() else { return false };
        assert!(at_us >= self.now_us, "time goes forward");
        self.now_us = at_us;
        self.take(item);
        self.violation.is_none()
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Wake { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation {
                    self.nodes[node].awake = false;
                    self.wake(node);
                }
            }
            Item::OpenDisk { node, incarnation, opening } => {
                if self.nodes[node].incarnation == incarnation
                    && self.nodes[node].opening == opening
                {
                    self.open_disk(node, opening);
                }
            }
            Item::DiskLookedAt { node, incarnation, opening } => {
                if self.nodes[node].incarnation == incarnation {
                    self.disk_looked_at(node, opening);
                }
            }
            Item::DiskDone { node, incarnation, operation } => {
                if self.nodes[node].incarnation != incarnation {
                    return;
                }
                if self.faults.is_stalled(node, self.now_us) {
                    let item = Item::DiskDone { node, incarnation, operation };
                    return self.agenda.add(self.now_us + STALL_LOOK_US, item);
                }
                self.disk_done(node, operation);
            }
            Item::TimerDue { node, incarnation, timer, number } => {
                let current = self.nodes[node].timers.get(&timer) == Some(&number);
                if self.nodes[node].incarnation == incarnation && current {
                    self.nodes[node].timers.remove(&timer);
                    self.input(node, Event::TimerFired(timer));
                }
            }
            Item::Dial { node, incarnation, attempt } => {
                if self.nodes[node].incarnation == incarnation
                    && self.nodes[node].connecting == Some(attempt)
                {
                    self.dial(node, attempt);
                }
            }
            Item::Handshake { attempts } => self.handshake(attempts),
            Item::SessionUp { node, session, attempt, resolve } => {
                self.session_up(node, session, attempt, resolve);
            }
            Item::SessionBreaks { node, session, cause } => {
                self.session_breaks(node, session, cause);
            }
            Item::Deliver(delivery) => self.deliver(&delivery),
            Item::SendTimeout { session, from, socket, epoch } => {
                self.send_timeout(session, from, socket, epoch);
            }
            Item::HandlerEnds { node, incarnation, run, outcome } => {
                if self.nodes[node].incarnation == incarnation {
                    self.input(node, Event::HandlerEnded { run, outcome });
                }
            }
            Item::ClientTick { client } => self.client_tick(client),
            Item::Witness { node, incarnation, step } => {
                self.witness_step(node, incarnation, step);
            }
            Item::Service { node, incarnation, happening } => {
                self.service_happens(node, incarnation, happening);
            }
            Item::ServiceClient { client } => self.service_client_tick(client),
            Item::ServiceFault => self.service_fault_tick(),
            Item::ServiceHeals(trouble) => self.trouble(trouble, false),
            Item::OperatorTick => self.operator_tick(),
            Item::FaultTick => self.fault_tick(),
            Item::Heal { from, socket, number } => {
                if self.cut_numbers[from][socket as usize] == number {
                    self.heal(&[(from, socket)]);
                }
            }
            Item::Restart { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation && !self.nodes[node].is_up() {
                    self.start(node);
                }
            }
            Item::Resume { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation {
                    self.resume(node);
                }
            }
        }
    }

    // The driver of a node.

    pub fn start(&mut self, node: usize) {
        self.note(node, format_args!("starts"));
        let settings = self.swarm.settings.clone();
        self.nodes[node].start(settings);
        self.witness.started_us[node] = self.now_us;
        self.witness.met[node] = false;
        self.witness.replaced[node] = None;
        self.service_starts(node);
    }

    /// An event for the node's engine: it waits in the inbox until the driver's loop comes round.
    pub fn input(&mut self, node: usize, event: Event) {
        let machine = &mut self.nodes[node];
        if !machine.is_up() {
            return;
        }
        machine.inbox.push_back(event);
        self.plan_wake(node);
    }

    fn plan_wake(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        if !machine.awake && !machine.paused && machine.is_up() {
            machine.awake = true;
            let incarnation = machine.incarnation;
            let delay_us = self.disk_random.skewed(1, 60);
            self.agenda.add(self.now_us + delay_us, Item::Wake { node, incarnation });
        }
    }

    /// One round of the driver's loop: a batch of events, then what follows from all of them.
    fn wake(&mut self, node: usize) {
        if !self.nodes[node].is_running() {
            return;
        }
        let waiting = self.nodes[node].inbox.len() as u64;
        let batch = if waiting < 2 { waiting } else { self.disk_random.between(1, waiting) };
        let incarnation = self.nodes[node].incarnation;
        let mut gathered = Vec::new();
        for _ in 0..batch {
            let Some(event) = self.nodes[node].inbox.pop_front() else { break };
            self.statistics.events += 1;
            self.recorder.note(self.now_us, node, 1, format_args!("<- {event:?}"));
            let effects = self.nodes[node].handle(self.now_us, event);
            self.count(node, effects.len());
            if self.swarm.batched {
                gathered.extend(effects);
            } else {
                self.perform_all(node, effects);
                if self.nodes[node].incarnation != incarnation || self.violation.is_some() {
                    return;
                }
                self.observe_state(node);
            }
        }
        let settled = self.nodes[node].settle(self.now_us);
        self.count(node, settled.len());
        gathered.extend(settled);
        self.perform_all(node, gathered);
        if self.nodes[node].incarnation != incarnation || self.violation.is_some() {
            return;
        }
        self.observe_state(node);
        self.service_sees(node);
        if !self.nodes[node].inbox.is_empty() {
            self.plan_wake(node);
        }
    }

    fn count(&mut self, node: usize, effects: usize) {
        self.statistics.effects += effects as u64;
        if effects > EFFECTS_PER_EVENT {
            self.violate(Invariant::I12, format!("{effects} effects of one event"));
        }
        let held = self.nodes[node].slab.len();
        if held > PAYLOADS_HELD {
            self.violate(Invariant::I12, format!("node {node} holds {held} payloads"));
        }
    }

    fn perform_all(&mut self, node: usize, effects: Vec<Effect>) {
        let incarnation = self.nodes[node].incarnation;
        for effect in effects {
            if let Some(breakpoint) = &mut self.breakpoint
                && breakpoint.node == node
                && (breakpoint.chosen)(&effect)
            {
                if breakpoint.after {
                    self.perform(node, effect);
                }
                self.breakpoint = None;
                self.broke = true;
                // What followed is undone by the crash that the scenario is about to cause.
                return;
            }
            if let Some((left, crash)) = self.nodes[node].doom {
                if left == 0 {
                    self.crash(node, crash);
                    self.plan_restart(node);
                    return;
                }
                self.nodes[node].doom = Some((left - 1, crash));
            }
            self.recorder.note(self.now_us, node, 2, format_args!("-> {effect:?}"));
            self.perform(node, effect);
            if self.violation.is_some() || self.nodes[node].incarnation != incarnation {
                return;
            }
        }
    }

    // The operator's hands; used by the actors and by scenarios.

    pub fn command(&mut self, node: usize, verb: Verb) -> CommandId {
        self.last_command += 1;
        let command = CommandId(self.last_command);
        if let Verb::Primary { force: true } = verb {
            self.nodes[node].forced = true;
        }
        self.nodes[node].commands.insert(command.0, None);
        self.input(node, Event::Commanded { command, verb });
        command
    }

    pub fn outcome(&self, node: usize, command: CommandId) -> Option<&Result<(), Refusal>> {
        self.nodes[node].commands.get(&command.0)?.as_ref()
    }

    pub fn crash(&mut self, node: usize, crash: Crash) {
        let loss = match self.crash_random.below(4) {
            0 => Loss::Everything,
            1 => Loss::Nothing,
            _ => Loss::AnySubset,
        };
        self.crash_losing(node, crash, loss);
    }

    pub fn crash_losing(&mut self, node: usize, crash: Crash, loss: Loss) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.note(node, format_args!("crash: {crash:?}, {loss:?}"));
        self.statistics.crashed(crash);
        self.before_crash(node, crash);
        let incarnation = self.nodes[node].incarnation;
        self.nodes[node].crash(crash, loss, &mut self.crash_random);
        self.forget_requests(node);
        self.sockets_die(node, incarnation, crash);
        self.after_crash(node, crash);
        self.service_dies(node, crash);
    }

    fn sockets_die(&mut self, node: usize, incarnation: u64, crash: Crash) {
        let mut held = Vec::new();
        for (number, session) in &mut self.link.sessions {
            let end = &mut session.ends[node];
            if end.alive && end.incarnation == incarnation {
                end.alive = false;
                held.push(*number);
            }
        }
        for session in held {
            self.link.drop_tail(session, node, &mut self.crash_random);
            if crash == Crash::Kill {
                self.send_end(session, node);
            }
        }
    }

    /// Closes both sockets in order: what was queued goes out first.
    pub fn send_end(&mut self, session: u64, from: usize) {
        for socket in Socket::BOTH {
            self.send_segment(session, from, socket, Segment::End);
        }
    }

    pub fn send_segment(&mut self, session: u64, from: usize, socket: Socket, segment: Segment) {
        let random = &mut self.link_random;
        if let Some(delivery) = self.link.send(self.now_us, session, from, socket, segment, random)
        {
            self.agenda.add(delivery.at_us, Item::Deliver(delivery));
        }
    }

    pub fn pause(&mut self, node: usize) {
        self.note(node, format_args!("pauses"));
        self.statistics.pauses += 1;
        self.nodes[node].paused = true;
    }

    pub fn resume(&mut self, node: usize) {
        if self.nodes[node].paused {
            self.note(node, format_args!("resumes"));
            self.nodes[node].paused = false;
            self.nodes[node].awake = false;
            self.service_resumes(node);
            // Any wake that was planned before the pause finds nothing to do.
            if !self.nodes[node].inbox.is_empty() {
                self.plan_wake(node);
            }
        }
    }

    pub fn cut(&mut self, ways: &[(usize, Socket)]) -> [[u64; 2]; 2] {
        self.note(9, format_args!("cut {ways:?}"));
        self.statistics.cuts += 1;
        for (from, socket) in ways {
            self.link.cut[*from][*socket as usize] = true;
            self.cut_numbers[*from][*socket as usize] += 1;
        }
        self.cut_numbers
    }

    pub fn heal(&mut self, ways: &[(usize, Socket)]) {
        self.note(9, format_args!("heal {ways:?}"));
        for (from, socket) in ways {
            self.link.cut[*from][*socket as usize] = false;
            self.cut_numbers[*from][*socket as usize] += 1;
        }
        for delivery in self.link.heal(self.now_us, &mut self.link_random) {
            self.agenda.add(delivery.at_us, Item::Deliver(delivery));
        }
    }

    // Disks.

    fn open_disk(&mut self, node: usize, opening: u64) {
        let machine = &mut self.nodes[node];
        let busy = machine.operations.values().any(|operation| operation.opening != opening);
        if busy || machine.looking {
            // The driver waits for what the last user of the disk left under way, but not for ever.
            let incarnation = machine.incarnation;
            if self.now_us > machine.opening_since_us + RETIRE_PATIENCE_US {
                let text = "the disk still has requests to answer".to_owned();
                return self.input(node, Event::DiskOpenFailed(DiskFailure { errno: 16, text }));
            }
            let item = Item::OpenDisk { node, incarnation, opening };
            self.agenda.add(self.now_us + 1000, item);
            return;
        }
        machine.disk_open = true;
        if self.swarm.growth.is_some_and(|growth| !growth.internal) {
            machine.usable_sectors = machine.backing_sectors;
        }
        let attached = machine.metadata.open(machine.usable_sectors);
        self.input(node, Event::DiskOpened(Box::new(attached)));
    }

    pub fn disk_failure() -> DiskFailure {
        DiskFailure { errno: 5, text: "Input/output error".to_owned() }
    }

    // Sessions.

    fn dial(&mut self, node: usize, attempt: u64) {
        let incarnation = self.nodes[node].incarnation;
        if let Some(peers) = self.nodes[1 - node].connecting
            && self.link.is_whole()
            && self.nodes.iter().all(Node::is_running)
        {
            let attempts = if node == 0 { [attempt, peers] } else { [peers, attempt] };
            let delay_us = self.link_random.skewed(100, 300_000) + 2 * self.link.quality.latency_us;
            self.agenda.add(self.now_us + delay_us, Item::Handshake { attempts });
        }
        let again_us = self.link_random.between(300_000, 1_500_000);
        self.agenda.add(self.now_us + again_us, Item::Dial { node, incarnation, attempt });
    }

    fn handshake(&mut self, attempts: [u64; 2]) {
        let ready = (0..2).all(|node| {
            self.nodes[node].connecting == Some(attempts[node]) && self.nodes[node].is_running()
        });
        if !ready || !self.link.is_whole() || self.link_random.percent(5) {
            return;
        }
        self.statistics.sessions += 1;
        let latency_us = self.link.quality.latency_us;
        let up_at_us = [0, 1].map(|_| self.now_us + self.link_random.skewed(1, 2 * latency_us + 2));
        let incarnations = [0, 1].map(|node: usize| self.nodes[node].incarnation);
        let session = self.link.establish(incarnations, up_at_us);
        let resolver = self.link_random.below(2) as usize;
        for node in 0..2 {
            // From here on the attempt is over; the engine hears of it a little later.
            let (attempt, resolve) = (attempts[node], node == resolver);
            let item = Item::SessionUp { node, session, attempt, resolve };
            self.agenda.add(up_at_us[node], item);
        }
        self.link.bury();
    }

    fn session_up(&mut self, node: usize, session: u64, attempt: u64, resolve: bool) {
        let machine = &mut self.nodes[node];
        let Some(state) = self.link.sessions.get_mut(&session) else { return };
        let end = &mut state.ends[node];
        let mine = end.alive && end.incarnation == machine.incarnation;
        if !mine {
            return;
        }
        if machine.connecting != Some(attempt) {
            // Connecting was given up between the last step of the handshake and now.
            end.alive = false;
            self.send_end(session, node);
            return;
        }
        machine.connecting = None;
        machine.session = Some(session);
        let id = end.id;
        self.note(node, format_args!("session {session} is up"));
        let features = twinblk_proto::packet::features::TRIM
            | if self.swarm.thin { twinblk_proto::packet::features::THIN_RESYNC } else { 0 }
            | twinblk_proto::packet::features::WSAME
            | twinblk_proto::packet::features::WZEROES
            | if self.swarm.twins { twinblk_proto::packet::features::TWINBLK } else { 0 };
        let event = Event::SessionEstablished { session: id, version: 101, features, resolve };
        self.input(node, event);
    }

    fn session_breaks(&mut self, node: usize, session: u64, cause: LossCause) {
        let Some(state) = self.link.sessions.get_mut(&session) else { return };
        let end = &mut state.ends[node];
        if !end.alive || end.incarnation != self.nodes[node].incarnation {
            return;
        }
        if end.up_at_us >= self.now_us {
            // The engine does not know the session yet.
            let at_us = end.up_at_us + 1;
            self.agenda.add(at_us, Item::SessionBreaks { node, session, cause });
            return;
        }
        end.alive = false;
        let id = end.id;
        self.nodes[node].session = None;
        self.input(node, Event::SessionLost { session: id, cause });
        // The driver drops its sockets, and the peer hears of that when the way is open.
        self.link.drop_tail(session, node, &mut self.link_random);
        self.send_end(session, node);
    }

    /// Both ends, each when its TCP notices.
    pub fn break_session(&mut self, session: u64) {
        for node in 0..2 {
            let delay_us = self.link_random.skewed(1, 200_000);
            let cause = LossCause::BrokenPipe("connection reset by peer".to_owned());
            let item = Item::SessionBreaks { node, session, cause };
            self.agenda.add(self.now_us + delay_us, item);
        }
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let (session, from) = (delivery.session, delivery.from);
        let to = 1 - from;
        match self.link.deliver(delivery) {
            Delivered::Nothing => {}
            Delivered::Stalled { epoch } => {
                let settings = &self.swarm.settings;
                let patience_ms =
                    u64::from(settings.timeout) * 100 * u64::from(settings.ko_count.max(1));
                let item = Item::SendTimeout { session, from, socket: delivery.socket, epoch };
                self.agenda.add(self.now_us + patience_ms * 1000, item);
            }
            Delivered::NobodyThere => {
                // A machine without power is silent; any other answers with a reset.
                if self.nodes[to].is_up() && self.link.is_open(to, delivery.socket) {
                    let cause = LossCause::BrokenPipe("connection reset by peer".to_owned());
                    let at_us = self.now_us + self.link.quality.latency_us;
                    self.agenda.add(at_us, Item::SessionBreaks { node: from, session, cause });
                }
            }
            Delivered::Segment(Segment::End) => {
                let cause = LossCause::BrokenPipe("end of file".to_owned());
                let delay_us = self.link_random.skewed(1, 1000);
                let item = Item::SessionBreaks { node: to, session, cause };
                self.agenda.add(self.now_us + delay_us, item);
            }
            Delivered::Segment(Segment::Packet { packet, content }) => {
                let id = self.link.sessions[&session].ends[to].id;
                let payload = content.map(|content| self.nodes[to].slab.insert(content));
                self.acknowledge_early(to, id, &packet);
                self.input(to, Event::PacketReceived { session: id, packet, payload });
            }
        }
    }

    fn send_timeout(&mut self, session: u64, from: usize, socket: Socket, epoch: u64) {
        let Some(state) = self.link.sessions.get(&session) else { return };
        let stream = &state.streams[from][socket as usize];
        if stream.stalled && stream.epoch == epoch {
            let cause = LossCause::Timeout("the peer did not take data".to_owned());
            self.session_breaks(from, session, cause);
        }
    }
}
