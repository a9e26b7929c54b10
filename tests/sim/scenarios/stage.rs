//! What the scenarios share: a quiet world whose only actor is the test.

use twinblk::engine::effect::{Effect, Refusal};
use twinblk::engine::event::{RequestId, Verb};
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, DiskState, Role};
use twinblk_proto::units::SectorRange;

use crate::link::Socket;
use crate::medium::Loss;
use crate::node::Crash;
use crate::oracle::Floor;
use crate::recorder::Detail;
use crate::requests::{Reply, Wish};
use crate::stamp::Stamp;
use crate::subject::Subject;
use crate::swarm::{Beginning, Swarm};
use crate::world::{Breakpoint, World};

/// Longer than any time limit of the settings, with slack.
const PATIENCE_MS: u64 = 60_000;

/// Every way of the network.
pub const ALL_WAYS: [(usize, Socket); 4] =
    [(0, Socket::Data), (0, Socket::Meta), (1, Socket::Data), (1, Socket::Meta)];

pub const CONNECT: Verb = Verb::Connect { discard_my_data: false, dry_run: false };
pub const PRIMARY: Verb = Verb::Primary { force: false };

pub struct Stage<E: Subject> {
    pub world: World<E>,
}

impl<E: Subject> Drop for Stage<E> {
    /// A scenario that fails is read by its trace.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.world.recorder.lines();
            for line in &lines[lines.len().saturating_sub(80)..] {
                eprintln!("{line}");
            }
            eprintln!("{}", self.world.standing());
        }
    }
}

impl<E: Subject> Stage<E> {
    pub fn new(swarm: Swarm) -> Self {
        Self { world: World::new(1, swarm, Detail::Outline, true) }
    }

    /// Two nodes in sync and connected, node 0 Primary, protocol C.
    pub fn pair() -> Self {
        Self::pair_of(Swarm::quiet(ReplicationProtocol::C))
    }

    pub fn pair_of(swarm: Swarm) -> Self {
        assert_eq!(swarm.beginning, Beginning::InSync, "forced promotion has its own scenario");
        let mut stage = Self::new(swarm);
        stage.bring_up(0);
        stage.bring_up(1);
        stage.until("both are in sync", Self::is_in_sync);
        stage.must(0, PRIMARY);
        stage
    }

    pub fn bring_up(&mut self, node: usize) {
        self.must(node, Verb::Attach);
        self.must(node, CONNECT);
    }

    pub fn is_in_sync(&self) -> bool {
        self.world.nodes.iter().all(|node| {
            let state = node.state();
            state.connection == ConnectionState::Connected
                && state.disk == DiskState::UpToDate
                && state.peer_disk == DiskState::UpToDate
                && node.engine.as_ref().is_some_and(|engine| engine.out_of_sync_blocks() == 0)
        })
    }

    #[track_caller]
    fn no_violation(&self) {
        if let Some(violation) = &self.world.violation {
            panic!("{violation}");
        }
    }

    #[track_caller]
    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let until_us = self.world.now_us + PATIENCE_MS * 1000;
        while !reached(self) {
            let goes_on = self.world.step();
            self.no_violation();
            assert!(goes_on && self.world.now_us < until_us, "never reached: {what}");
        }
        self.no_violation();
    }

    #[track_caller]
    pub fn rest(&mut self, milliseconds: u64) {
        let until_us = self.world.now_us + milliseconds * 1000;
        while self.world.now_us < until_us && self.world.step() {}
        self.no_violation();
    }

    #[track_caller]
    pub fn ask(&mut self, node: usize, verb: Verb) -> Result<(), Refusal> {
        let command = self.world.command(node, verb.clone());
        self.until(&format!("outcome of {verb:?}"), |stage| {
            stage.world.outcome(node, command).is_some()
        });
        self.world.outcome(node, command).cloned().expect("just seen")
    }

    #[track_caller]
    pub fn must(&mut self, node: usize, verb: Verb) {
        if let Err(refusal) = self.ask(node, verb.clone()) {
            panic!("{verb:?} of node {node} was refused: {refusal:?}");
        }
    }

    /// Repeats the command until it is accepted: a failure takes its time to be noticed.
    #[track_caller]
    pub fn eventually(&mut self, node: usize, verb: Verb) {
        for _ in 0..30 {
            if self.ask(node, verb.clone()).is_ok() {
                return;
            }
            self.rest(1000);
        }
        panic!("{verb:?} of node {node} is refused for good");
    }

    pub fn begin(&mut self, node: usize, wish: Wish) -> RequestId {
        self.world.request(node, None, wish)
    }

    #[track_caller]
    pub fn answer(&mut self, request: RequestId) -> Reply {
        self.until("an answer", |stage| stage.world.replies.contains_key(&request.0));
        self.world.replies.remove(&request.0).expect("just seen")
    }

    pub fn is_answered(&self, request: RequestId) -> bool {
        self.world.replies.contains_key(&request.0)
    }

    #[track_caller]
    pub fn does(&mut self, node: usize, wish: Wish) -> Reply {
        let request = self.begin(node, wish);
        let reply = self.answer(request);
        assert!(matches!(reply, Reply::Done | Reply::Content(_)), "{wish:?}: {reply:?}");
        reply
    }

    #[track_caller]
    pub fn write(&mut self, node: usize, start: u64, count: u32) {
        self.does(node, write(start, count));
    }

    #[track_caller]
    pub fn read(&mut self, node: usize, start: u64, count: u32) -> Vec<Stamp> {
        match self.does(node, Wish::Read(SectorRange::new(start, count))) {
            Reply::Content(content) => content.to_vec(),
            other => panic!("a read was answered with {other:?}"),
        }
    }

    pub fn power_loss(&mut self, node: usize) {
        self.world.crash_losing(node, Crash::PowerLoss, Loss::Everything);
    }

    /// Runs until the node is about to perform an effect that `chosen` picks, and not beyond.
    #[track_caller]
    pub fn until_before(&mut self, node: usize, chosen: impl FnMut(&Effect) -> bool + 'static) {
        self.break_at(Breakpoint { node, chosen: Box::new(chosen), after: false });
    }

    /// Runs until the node has performed such an effect, and nothing after it.
    #[track_caller]
    pub fn until_after(&mut self, node: usize, chosen: impl FnMut(&Effect) -> bool + 'static) {
        self.break_at(Breakpoint { node, chosen: Box::new(chosen), after: true });
    }

    /// Like the two above; false when the effect does not come.
    pub fn reaches(
        &mut self,
        node: usize,
        after: bool,
        chosen: impl FnMut(&Effect) -> bool + 'static,
    ) -> bool {
        self.world.breakpoint = Some(Breakpoint { node, chosen: Box::new(chosen), after });
        let until_us = self.world.now_us + 10_000_000;
        while !self.world.broke && self.world.now_us < until_us && self.world.step() {}
        self.no_violation();
        self.world.breakpoint = None;
        std::mem::take(&mut self.world.broke)
    }

    #[track_caller]
    fn break_at(&mut self, breakpoint: Breakpoint) {
        self.world.breakpoint = Some(breakpoint);
        let until_us = self.world.now_us + PATIENCE_MS * 1000;
        while !self.world.broke {
            let goes_on = self.world.step() || self.world.broke;
            self.no_violation();
            assert!(goes_on && self.world.now_us < until_us, "the effect never came");
        }
        self.world.broke = false;
    }

    #[track_caller]
    pub fn restart(&mut self, node: usize) {
        self.world.start(node);
        self.bring_up(node);
    }

    pub fn cut_all(&mut self) {
        self.world.cut(&ALL_WAYS);
    }

    pub fn heal_all(&mut self) {
        self.world.heal(&ALL_WAYS);
    }

    pub fn role(&self, node: usize) -> Role {
        self.world.nodes[node].state().role
    }

    pub fn connection(&self, node: usize) -> ConnectionState {
        self.world.nodes[node].state().connection
    }

    pub fn disk(&self, node: usize) -> DiskState {
        self.world.nodes[node].state().disk
    }

    pub fn blocks_moved(&self, node: usize) -> u64 {
        self.world.nodes[node].engine.as_ref().map_or(0, E::resync_blocks_moved)
    }

    /// The end of every scenario: in sync, at rest, equal, nothing leaked, nothing missing.
    #[track_caller]
    pub fn heals(&mut self) {
        self.until("both are in sync", Self::is_in_sync);
        self.rest(15_000);
        assert!(self.is_in_sync(), "stays in sync");
        self.world.check_equal();
        self.world.check_coverage();
        let touched: Vec<u64> = self.world.oracle.lineage(0).touched().collect();
        for node in 0..2 {
            let held = self.world.nodes[node].slab.ids();
            assert!(held.is_empty(), "node {node} still holds payloads {held:?}");
            for sector in &touched {
                let value = self.world.nodes[node].medium.view(*sector);
                let admitted = self.world.oracle.admits(0, *sector, value, Floor::Answered);
                assert_eq!(admitted, Ok(()), "node {node}");
            }
        }
        let outcome = self.world.oracle.finish();
        self.world.check(outcome);
        self.no_violation();
    }
}

pub fn write(start: u64, count: u32) -> Wish {
    Wish::Write { range: SectorRange::new(start, count), fua: false }
}
