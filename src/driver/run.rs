//! The loop: wait, drain, handle, act, settle, flush.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use twinblk_proto::state::Role;

use super::ResourceSetup;
use super::backing::{Backing, Finished};
use super::clients::Clients;
use super::exports::Exports;
use super::growing::{self, Growing, Grown};
use super::handle::Order;
use super::handlers::Handlers;
use super::peer::{Peer, PeerNews};
use super::polling::Polling;
use super::roles::RoleKeeper;
use super::slab::Slab;
use super::timers::{Clock, Timers};
use crate::buffer::{BufferPool, Payload};
use crate::engine::Engine;
use crate::engine::effect::{Effects, Refusal};
use crate::engine::event::{
    ClientOperation, CommandId, Event, GrowFailure, HandlerRunId, PayloadId, RequestId, Time, Verb,
};
use crate::engine::handler::HandlerOutcome;
use crate::link::LinkEvent;
use crate::nbd::{Accepted, ClientEvent};

/// Events taken from one source in one turn. Enough to share a submission and a write among many,
/// few enough that the first of them is answered within a millisecond.
const BATCH_MAX: usize = 256;

/// Timers that fire in one turn: every kind twice. One that is set anew for the past must not keep
/// everything else from being heard.
const TIMERS_MAX: usize = 16;

/// How long to wait for what the kernel still works on for a disk that was given up, before it is
/// opened again and before the resource ends. A disk that takes longer than this for a request is
/// not one to go on with.
const RETIRE_PATIENCE_MS: u64 = 5000;

/// How soon to look again whether the peer has taken what kept clients waiting: its socket frees
/// half a MiB at a time, which takes longer on anything below 4 Gbit/s.
const CONGESTION_LOOK_MS: u64 = 1;

pub(super) struct Driver {
    pub(super) setup: ResourceSetup,
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    random: SystemRandom,
    pub(super) pool: BufferPool,
    pub(super) payloads: Slab<Payload>,
    pub(super) backing: Option<Backing>,
    /// Closed by the engine, with operations that the kernel has not finished.
    pub(super) retiring: Vec<Backing>,
    /// The engine asked for the disk then; an old one may still be retiring, or be looked at.
    pub(super) open_wanted: Option<Time>,
    /// The disk is being looked at, and its metadata moved.
    pub(super) growing: Option<Growing>,
    pub(super) peer: Peer,
    pub(super) clients: Clients,
    pub(super) client_events: UnboundedSender<ClientEvent>,
    client_inbox: UnboundedReceiver<ClientEvent>,
    /// Connections of the kernel's device that wait for what the ones before left over.
    pub(super) parked: VecDeque<Accepted>,
    /// Primary, but programs are sent away: the role is about to be given up.
    pub(super) is_leaving: bool,
    /// See [`super::Snapshot::takeovers`].
    pub(super) takeovers: u64,
    orders: UnboundedReceiver<Order>,
    pub(super) commands: BTreeMap<CommandId, oneshot::Sender<Result<(), Refusal>>>,
    next_command: u64,
    pub(super) timers: Timers,
    pub(super) handlers: Handlers,
    polling: Polling,
    pub(super) roles: RoleKeeper,
    pub(super) exports: Exports,
    pub(super) changes: Arc<watch::Sender<u64>>,
    /// Something that status shows changed in this turn.
    pub(super) changed: bool,
    /// Events that performing effects gave rise to.
    pub(super) followups: VecDeque<Event>,
    /// What ended the last sleep.
    arrivals: Vec<Arrival>,
    effects: Effects,
    finished: Vec<Finished>,
    pub(super) admitted: Vec<(RequestId, ClientOperation)>,
    stopping: bool,
}

/// Something taken out of its queue while sleeping.
enum Arrival {
    News(PeerNews),
    Client(ClientEvent),
    Order(Order),
    Handler((HandlerRunId, HandlerOutcome)),
    Grown(Result<Grown, GrowFailure>),
}

impl Driver {
    pub(super) fn new(
        setup: ResourceSetup,
        exports: Exports,
        changes: Arc<watch::Sender<u64>>,
        orders: UnboundedReceiver<Order>,
        pool: BufferPool,
    ) -> Self {
        let (client_events, client_inbox) = unbounded_channel();
        Self {
            engine: Engine::new(setup.engine.clone()),
            clock: Clock::start(),
            random: SystemRandom::new(),
            payloads: Slab::default(),
            backing: None,
            retiring: Vec::new(),
            open_wanted: None,
            growing: None,
            peer: Peer::new(setup.link.clone(), pool.clone()),
            clients: Clients::default(),
            client_events,
            client_inbox,
            parked: VecDeque::new(),
            is_leaving: false,
            takeovers: 0,
            orders,
            commands: BTreeMap::new(),
            next_command: 0,
            timers: Timers::default(),
            handlers: Handlers::new(&setup.name, setup.handlers.clone()),
            polling: Polling::new(setup.polling),
            roles: RoleKeeper::load(setup.roles_file.clone()),
            exports,
            changes,
            changed: true,
            followups: VecDeque::new(),
            arrivals: Vec::new(),
            effects: Effects::new(),
            finished: Vec::new(),
            admitted: Vec::new(),
            stopping: false,
            pool,
            setup,
        }
    }

    /// Until the daemon stops the resource.
    pub(super) async fn run(mut self) {
        while !self.stopping {
            // Looking at the clock is much of the work of looking around: once for each turn.
            let now = self.clock.now();
            let handled = self.turn(now);
            // A resync alone is not in a hurry, and wants the cores for itself.
            if handled > 0 && self.engine.application_is_busy(now) {
                self.polling.saw_events(self.clock.now());
            }
            if handled > 0 || self.polling.look_again(now) {
                if handled == 0 {
                    // The peer or the client may be waiting for this very core.
                    std::thread::yield_now();
                }
                // Lets the sockets' tasks run and looks at the sockets without waiting.
                tokio::task::yield_now().await;
            } else {
                self.sleep().await;
            }
        }
        self.shut_down().await;
    }

    /// Handles everything that has arrived; returns how much that was.
    fn turn(&mut self, now: Time) -> usize {
        let mut handled = 0;
        for arrival in std::mem::take(&mut self.arrivals) {
            handled += 1;
            match arrival {
                Arrival::News(news) => self.take_news(now, news),
                Arrival::Client(event) => self.take_client_event(now, event),
                Arrival::Order(order) => self.take_order(now, order),
                Arrival::Handler(ended) => self.handler_ended(now, ended),
                Arrival::Grown(result) => self.disk_looked_at(now, result),
            }
        }
        handled += self.drain_disk(now);
        for _ in 0..BATCH_MAX {
            let Some(news) = self.peer.poll_news() else { break };
            handled += 1;
            self.take_news(now, news);
        }
        for _ in 0..BATCH_MAX {
            if self.peer.is_congested() {
                break;
            }
            let Ok(event) = self.client_inbox.try_recv() else { break };
            handled += 1;
            self.take_client_event(now, event);
        }
        while let Some(ended) = self.handlers.poll_ended() {
            handled += 1;
            self.handler_ended(now, ended);
        }
        if let Some(result) = self.growing.as_mut().and_then(growing::poll_ended) {
            handled += 1;
            self.disk_looked_at(now, result);
        }
        while let Ok(order) = self.orders.try_recv() {
            handled += 1;
            self.take_order(now, order);
        }
        for _ in 0..TIMERS_MAX {
            let Some(timer) = self.timers.take_due(now) else { break };
            handled += 1;
            self.handle(now, Event::TimerFired(timer));
        }
        if let Some(since) = self.open_wanted {
            if self.retiring.is_empty() && self.growing.is_none() {
                handled += 1;
                self.open_disk();
                self.handle_followups(now);
            } else if now >= since.after_ms(RETIRE_PATIENCE_MS) {
                handled += 1;
                self.refuse_to_open();
                self.handle_followups(now);
            }
        }
        if !self.parked.is_empty() {
            self.serve_parked(now);
        }
        if handled > 0 {
            self.engine.settle(now, &mut self.effects);
            self.perform_all(now);
            self.handle_followups(now);
        }
        // The peer and the clients can work while a backend that copies does so.
        self.peer.flush();
        self.clients.flush();
        if let Some(backing) = &mut self.backing {
            backing.kick();
        }
        self.publish();
        handled
    }

    /// One event and everything that follows from it.
    pub(super) fn handle(&mut self, now: Time, event: Event) {
        self.handle_one(now, event);
        self.handle_followups(now);
    }

    fn handle_followups(&mut self, now: Time) {
        while let Some(event) = self.followups.pop_front() {
            self.handle_one(now, event);
        }
    }

    fn handle_one(&mut self, now: Time, event: Event) {
        let random = &self.random;
        self.engine.stock_random(&mut || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes).expect("the system's random source works");
            u64::from_ne_bytes(bytes)
        });
        self.engine.handle(now, event, &mut self.effects);
        self.perform_all(now);
    }

    fn perform_all(&mut self, now: Time) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.perform(now, effect);
        }
        self.effects = effects;
    }

    fn drain_disk(&mut self, now: Time) -> usize {
        let mut finished = std::mem::take(&mut self.finished);
        if let Some(backing) = &mut self.backing {
            backing.completions(&self.pool, &mut finished);
        }
        let handled = finished.len();
        for (op, result) in finished.drain(..) {
            let result = result.map(|data| data.map(|data| PayloadId(self.payloads.insert(data))));
            self.handle(now, Event::DiskCompleted { op, result });
        }
        self.finished = finished;
        let mut ignored = Vec::new();
        self.retiring.retain_mut(|backing| {
            backing.completions(&self.pool, &mut ignored);
            backing.kick();
            backing.in_flight() > 0
        });
        handled
    }

    fn take_news(&mut self, now: Time, news: PeerNews) {
        let event = match news {
            PeerNews::Established { session, version, features, resolve } => {
                Event::SessionEstablished { session, version, features, resolve }
            }
            PeerNews::HandshakeFailed(failure) => Event::HandshakeFailed(failure),
            PeerNews::Link { session, event: LinkEvent::Packet { packet, payload } } => {
                let payload = payload.map(|payload| PayloadId(self.payloads.insert(payload)));
                Event::PacketReceived { session, packet, payload }
            }
            PeerNews::Link { session, event: LinkEvent::Lost(cause) } => {
                Event::SessionLost { session, cause }
            }
        };
        self.handle(now, event);
    }

    fn handler_ended(&mut self, now: Time, (run, outcome): (HandlerRunId, HandlerOutcome)) {
        self.handle(now, Event::HandlerEnded { run, outcome });
    }

    fn take_order(&mut self, now: Time, order: Order) {
        match order {
            Order::Perform { verb, answer } => {
                self.next_command += 1;
                let command = CommandId(self.next_command);
                tracing::info!(resource = self.setup.name, ?verb, "command");
                self.is_leaving &= !matches!(verb, Verb::Primary { .. });
                self.commands.insert(command, answer);
                self.handle(now, Event::Commanded { command, verb });
            }
            Order::Snapshot { answer } => {
                let _ = answer.send(self.snapshot());
            }
            Order::ChangeLink(link) => self.peer.change_settings(*link),
            Order::Serve(client) => self.take_client(now, *client),
            Order::DismissClients => self.clients.let_go(),
            Order::SendProgramsAway => {
                self.is_leaving = self.engine.state().role == Role::Primary;
                self.clients.let_go_of_remote();
            }
            Order::Stop => self.stopping = true,
        }
    }

    /// Until something arrives or a timer is due.
    async fn sleep(&mut self) {
        let congested = self.peer.is_congested();
        let mut due = self.timers.next().map(|at| self.clock.instant(at));
        if congested {
            let look = self.clock.instant(self.clock.now().after_ms(CONGESTION_LOOK_MS));
            due = Some(due.map_or(look, |due| due.min(look)));
        }
        if let Some(since) = self.open_wanted {
            let end = self.clock.instant(since.after_ms(RETIRE_PATIENCE_MS));
            due = Some(due.map_or(end, |due| due.min(end)));
        }
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let disk = async {
            let waits: Vec<_> = self.backing.iter().chain(&self.retiring).collect();
            match waits.as_slice() {
                [] => std::future::pending().await,
                [only] => only.ready().await,
                [first, others @ ..] => {
                    // A disk that retires is rare and short-lived: its first companion is enough,
                    // the rest is looked at on the way.
                    tokio::select! {
                        () = first.ready() => {}
                        () = others[0].ready() => {}
                    }
                }
            }
        };
        let grown = async {
            match &mut self.growing {
                Some(growing) => growing::ended(growing).await,
                None => std::future::pending().await,
            }
        };
        let arrival = tokio::select! {
            () = disk => None,
            result = grown => Some(Arrival::Grown(result)),
            news = self.peer.news() => Some(Arrival::News(news)),
            Some(event) = self.client_inbox.recv(), if !congested => Some(Arrival::Client(event)),
            order = self.orders.recv() => Some(Arrival::Order(order.unwrap_or(Order::Stop))),
            ended = self.handlers.ended() => Some(Arrival::Handler(ended)),
            () = timer => None,
        };
        self.arrivals.extend(arrival);
    }

    /// What the kernel still works on is waited for: its buffers are ours. They stay its own, and the
    /// disk claimed, where it does not come to an end.
    async fn shut_down(mut self) {
        if let Some(mut growing) = self.growing.take() {
            // Else the next daemon would open a disk whose metadata is on its way.
            let _ = growing::ended(&mut growing).await;
        }
        self.exports.remove(&self.setup.name);
        self.clients.let_go();
        self.clients.flush();
        self.retiring.extend(self.backing.take());
        let mut ignored = Vec::new();
        let patience = Duration::from_millis(RETIRE_PATIENCE_MS);
        let end = tokio::time::Instant::now() + patience;
        while let Some(mut backing) = self.retiring.pop() {
            backing.retire();
            backing.kick();
            let drained = async {
                while backing.in_flight() > 0 {
                    backing.ready().await;
                    backing.completions(&self.pool, &mut ignored);
                }
            };
            if tokio::time::timeout_at(end, drained).await.is_err() {
                tracing::error!(
                    resource = self.setup.name,
                    operations = backing.in_flight(),
                    "the disk does not answer: it stays claimed until this process ends"
                );
                std::mem::forget(backing);
            }
        }
        self.changes.send_modify(|count| *count += 1);
    }
}
