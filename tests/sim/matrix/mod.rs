//! The safety matrix (DESIGN.md 6): takeover policies and faults, on whole nodes. Each node of this
//! world has an engine, a VRRP instance and the coordinator that joins them, as `src/failover` does
//! it; it has a clock that drifts, and is paused, killed, or loses power. Between the nodes are a
//! network for adverts and clients, one for replication, and one to the witness.
//!
//! | module | what |
//! | --- | --- |
//! | [`seat`] | what a node has beside its engine |
//! | [`join`] | VRRP and states in, verbs and commands out, as the runner does |
//! | [`steps`] | the steps of a service, as they take their time |
//! | [`client`] | who uses the service, and what must hold for them |
//! | [`faults`] | what goes wrong, and what operators do |
//! | [`table`] | the matrix, row by row |
//! | [`seeds`] | the same at random |

pub mod client;
pub mod faults;
mod join;
pub mod seat;
pub mod seeds;
mod steps;
pub mod table;

use twinblk::engine::event::{FencingPolicy, HandlerRunId, Settings};
use twinblk::engine::handler::{Handler, HandlerOutcome};
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::Role;

use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::swarm::Swarm;
use crate::world::World;
use client::Clients;
use seat::{Happening, Seat};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Both,
    FavourPrimary,
    Witness,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::Both, Self::FavourPrimary, Self::Witness];

    pub fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::FavourPrimary => "favour-primary",
            Self::Witness => "witness",
        }
    }

    /// Only one of two nodes goes on that do not see each other.
    pub fn is_exclusive(self) -> bool {
        self != Self::Both
    }

    /// As a configuration is translated.
    fn apply(self, settings: &mut Settings) {
        if self.is_exclusive() {
            settings.fencing = FencingPolicy::ResourceAndStonith;
            settings.fence_again_ms = 2000;
            settings.handlers = [Handler::FencePeer].into_iter().collect();
        }
    }
}

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Setup {
    pub policy: Policy,
    pub priorities: [u8; 2],
    pub preempt: bool,
    pub drift_ppm: [i64; 2],
    /// Writes of clients are durable when they are answered: power may go away.
    pub durable_writes: bool,
    /// How many of a hundred requests go to a node that announced the address earlier.
    pub stale_percent: u32,
    /// A planted bug: the witness grants whatever it is asked for.
    pub grants_all: bool,
    /// Mean time between requests of a client.
    pub think_us: u64,
}

impl Setup {
    pub fn quiet(policy: Policy) -> Self {
        Self {
            policy,
            priorities: [100, 90],
            preempt: true,
            drift_ppm: [0; 2],
            durable_writes: true,
            stale_percent: 0,
            grants_all: false,
            think_us: 20_000,
        }
    }

    pub fn swarm(&self, protocol: ReplicationProtocol) -> Swarm {
        let mut swarm = Swarm::quiet(protocol);
        self.policy.apply(&mut swarm.settings);
        swarm.witness = self.policy == Policy::Witness;
        swarm.service = Some(self.clone());
        swarm
    }
}

/// Everything of a world beyond engines.
#[derive(Debug)]
pub struct Service {
    pub setup: Setup,
    pub seats: [Seat; 2],
    pub random: Random,
    /// By sender.
    pub adverts_cut: [bool; 2],
    /// Clients do not reach the node.
    pub isolated: [bool; 2],
    pub witness_cut: [bool; 2],
    pub witness_is_dead: bool,
    /// Kept by the node over restarts.
    pub standby: [bool; 2],
    pub clients: Clients,
    /// When each node became Primary the last time.
    pub primary_since_us: [Option<u64>; 2],
    /// When something last happened after which a node may not know yet that it is alone.
    pub troubled_us: [u64; 2],
    pub seen_split: bool,
    pub counted: seeds::Counted,
    faults: faults::Plan,
}

impl Service {
    pub fn new(seed: u64, setup: &Setup) -> Self {
        Self {
            seats: [Seat::default(), Seat::default()],
            random: Random::new(seed, Stream::Service, 0),
            adverts_cut: [false; 2],
            isolated: [false; 2],
            witness_cut: [false; 2],
            witness_is_dead: false,
            standby: [false; 2],
            clients: Clients::new(seed),
            primary_since_us: [None; 2],
            troubled_us: [0; 2],
            seen_split: false,
            counted: seeds::Counted::default(),
            faults: faults::Plan::new(seed),
            setup: setup.clone(),
        }
    }

    pub fn reaches_witness(&self, node: usize) -> bool {
        !self.witness_is_dead && !self.witness_cut[node]
    }
}

impl<E: Subject> World<E> {
    pub fn service(&self) -> &Service {
        self.service.as_ref().expect("a world with a service")
    }

    pub fn service_mut(&mut self) -> &mut Service {
        self.service.as_mut().expect("a world with a service")
    }

    fn seat(&mut self, node: usize) -> &mut Seat {
        &mut self.service_mut().seats[node]
    }

    /// The policies that need nobody else (`driver/takeover.rs`).
    pub fn policy_answers(&mut self, node: usize, run: HandlerRunId) -> bool {
        let favours = self.swarm.service.as_ref().map(|setup| setup.policy);
        if favours != Some(Policy::FavourPrimary) {
            return false;
        }
        let outcome = match self.nodes[node].state().role {
            Role::Primary => HandlerOutcome::Exited(4),
            _ => HandlerOutcome::Denied("the peer is not seen and may be Primary".to_owned()),
        };
        self.answer_asked(node, run, outcome, 0);
        true
    }

    /// Something of a node, after a while; void when the process has ended by then.
    fn plan(&mut self, node: usize, after_us: u64, happening: Happening) {
        let incarnation = self.nodes[node].incarnation;
        let item = crate::world::Item::Service { node, incarnation, happening };
        self.agenda.add(self.now_us + after_us, item);
    }
}
