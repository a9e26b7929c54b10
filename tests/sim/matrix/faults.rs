//! What goes wrong with whole nodes and networks, and what operators do meanwhile: by hand in the
//! matrix, by the seed's mixture at random.

use twinblk::election::failover::Phase;
use twinblk::engine::event::{CommandId, Verb};
use twinblk_proto::state::ConnectionState;

use super::Policy;
use crate::link::Socket;
use crate::node::Crash;
use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::world::{Item, World};

/// Everything ends by itself after at most this.
const LONGEST_US: u64 = 30_000_000;
const TICK_US: u64 = 400_000;

/// What ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Replication { from: usize },
    Adverts { from: usize },
    Clients { of: usize },
    WitnessLink { of: usize },
    WitnessDead,
    Standby { of: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    PowerLoss,
    Pause,
    Replication,
    ReplicationOneWay,
    Adverts,
    AdvertsOneWay,
    Clients,
    WitnessLink,
    WitnessDead,
    AllLinks,
    Isolated,
    Handover,
    Standby,
}

const KINDS: [Kind; 14] = [
    Kind::Kill,
    Kind::PowerLoss,
    Kind::Pause,
    Kind::Replication,
    Kind::ReplicationOneWay,
    Kind::Adverts,
    Kind::AdvertsOneWay,
    Kind::Clients,
    Kind::WitnessLink,
    Kind::WitnessDead,
    Kind::AllLinks,
    Kind::Isolated,
    Kind::Handover,
    Kind::Standby,
];

/// How a split brain is being recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// The service of the victim stops.
    Stops,
    Disconnects(CommandId),
    Discards,
}

#[derive(Debug)]
pub struct Plan {
    random: Random,
    kinds: Vec<Kind>,
    pub until_us: u64,
    recovery: Option<(usize, Recovery)>,
}

impl Plan {
    /// Each seed has some kinds of trouble, not all.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, Stream::Service, 2);
        let percent = *random.pick(&[15, 30, 60]);
        let kinds = KINDS.into_iter().filter(|_| random.percent(percent)).collect();
        Self { random, kinds, until_us: 0, recovery: None }
    }

    pub fn has_power_losses(&self) -> bool {
        self.kinds.contains(&Kind::PowerLoss)
    }
}

impl<E: Subject> World<E> {
    pub fn start_service_faults(&mut self, for_us: u64) {
        self.service_mut().faults.until_us = self.now_us + for_us;
        self.agenda.add(self.now_us + TICK_US, Item::ServiceFault);
    }

    pub fn service_fault_tick(&mut self) {
        let now_us = self.now_us;
        let faults = &mut self.service_mut().faults;
        if now_us >= faults.until_us {
            return;
        }
        let pause_us = faults.random.skewed(TICK_US / 20, 4 * TICK_US);
        let due = faults.random.percent(15) && !faults.kinds.is_empty();
        let kind = due.then(|| *faults.random.pick(&faults.kinds.clone()));
        self.agenda.add(now_us + pause_us, Item::ServiceFault);
        if let Some(kind) = kind {
            self.cause(kind);
        }
    }

    fn cause(&mut self, kind: Kind) {
        let random = &mut self.service_mut().faults.random;
        let node = random.below(2) as usize;
        // Most times that matter are seconds: three adverts, a ping that is not answered.
        let for_us = match random.percent(50) {
            true => random.between(1_000_000, LONGEST_US),
            false => random.skewed(20_000, LONGEST_US),
        };
        let both: Vec<Trouble> = match kind {
            Kind::Replication | Kind::AllLinks | Kind::Isolated => {
                (0..2).map(|from| Trouble::Replication { from }).collect()
            }
            Kind::Adverts => (0..2).map(|from| Trouble::Adverts { from }).collect(),
            _ => Vec::new(),
        };
        let more: Vec<Trouble> = match kind {
            Kind::Kill | Kind::PowerLoss => {
                let crash = if kind == Kind::Kill { Crash::Kill } else { Crash::PowerLoss };
                if self.nodes[node].is_up() {
                    self.crash(node, crash);
                    let incarnation = self.nodes[node].incarnation;
                    self.agenda.add(self.now_us + for_us, Item::Restart { node, incarnation });
                }
                return;
            }
            Kind::Pause => {
                if self.nodes[node].is_running() {
                    self.pause(node);
                    let incarnation = self.nodes[node].incarnation;
                    self.agenda.add(self.now_us + for_us, Item::Resume { node, incarnation });
                }
                return;
            }
            Kind::Handover => {
                self.hand_over(node);
                return;
            }
            Kind::ReplicationOneWay => vec![Trouble::Replication { from: node }],
            Kind::AdvertsOneWay => vec![Trouble::Adverts { from: node }],
            Kind::Clients => vec![Trouble::Clients { of: node }],
            Kind::WitnessLink => vec![Trouble::WitnessLink { of: node }],
            Kind::WitnessDead => vec![Trouble::WitnessDead],
            Kind::Standby => vec![Trouble::Standby { of: node }],
            Kind::AllLinks => vec![
                Trouble::Adverts { from: 0 },
                Trouble::Adverts { from: 1 },
                Trouble::WitnessLink { of: 0 },
                Trouble::WitnessLink { of: 1 },
            ],
            Kind::Isolated => vec![
                Trouble::Adverts { from: 0 },
                Trouble::Adverts { from: 1 },
                Trouble::Clients { of: node },
                Trouble::WitnessLink { of: node },
            ],
            Kind::Replication | Kind::Adverts => Vec::new(),
        };
        for trouble in both.into_iter().chain(more) {
            self.trouble(trouble, true);
            self.agenda.add(self.now_us + for_us, Item::ServiceHeals(trouble));
        }
    }

    /// Begins or ends it.
    pub fn trouble(&mut self, trouble: Trouble, begins: bool) {
        self.note(9, format_args!("{} {trouble:?}", if begins { "begins" } else { "ends" }));
        let now_us = self.now_us;
        match trouble {
            Trouble::Replication { from } => {
                let ways = [(from, Socket::Data), (from, Socket::Meta)];
                if begins {
                    self.cut(&ways);
                    self.service_mut().troubled_us = [now_us; 2];
                } else {
                    self.heal(&ways);
                }
            }
            Trouble::Adverts { from } => self.service_mut().adverts_cut[from] = begins,
            Trouble::Clients { of } => self.service_mut().isolated[of] = begins,
            Trouble::WitnessLink { of } => self.service_mut().witness_cut[of] = begins,
            Trouble::WitnessDead => self.service_mut().witness_is_dead = begins,
            Trouble::Standby { of } => self.stand_by(of, begins),
        }
    }

    /// Everything runs and reaches everything, and stays so.
    pub fn calm_service(&mut self) {
        self.service_mut().faults.until_us = self.now_us;
        self.calm_down();
        for node in 0..2 {
            self.trouble(Trouble::Adverts { from: node }, false);
            self.trouble(Trouble::Clients { of: node }, false);
            self.trouble(Trouble::WitnessLink { of: node }, false);
            self.trouble(Trouble::Standby { of: node }, false);
        }
        self.trouble(Trouble::WitnessDead, false);
    }

    /// Only `both` needs it: the node that serves less gives its changes up, by command.
    pub fn recover_split_brain(&mut self) {
        if self.service().setup.policy != Policy::Both || !self.nodes.iter().all(|n| n.is_running())
        {
            return;
        }
        match self.service().faults.recovery {
            None => {
                let alone = |world: &Self, node: usize| {
                    world.nodes[node].state().connection == ConnectionState::StandAlone
                };
                if self.service().seen_split && (0..2).any(|node| alone(self, node)) {
                    let victim = self.choose_loser();
                    self.note(victim, format_args!("operator: gives its changes up"));
                    self.stand_by(victim, true);
                    self.service_mut().faults.recovery = Some((victim, Recovery::Stops));
                    self.service_mut().counted.split_brains += 1;
                }
            }
            Some((victim, Recovery::Stops)) => {
                let is_idle = self.service().seats[victim].phase() == Phase::Idle;
                if is_idle && !self.is_primary_role(victim) {
                    let command = self.command(victim, Verb::Disconnect { force: true });
                    let recovery = Some((victim, Recovery::Disconnects(command)));
                    self.service_mut().faults.recovery = recovery;
                }
            }
            Some((victim, Recovery::Disconnects(command))) => {
                if self.outcome(victim, command).is_some() {
                    self.oracle.discard_granted = Some(victim);
                    self.command(victim, Verb::Connect { discard_my_data: true, dry_run: false });
                    let other = 1 - victim;
                    if self.nodes[other].state().connection == ConnectionState::StandAlone {
                        let verb = Verb::Connect { discard_my_data: false, dry_run: false };
                        self.command(other, verb);
                    }
                    self.service_mut().faults.recovery = Some((victim, Recovery::Discards));
                }
            }
            Some((victim, Recovery::Discards)) => {
                let connection = self.nodes[victim].state().connection;
                if connection >= ConnectionState::Connected {
                    self.service_mut().faults.recovery = None;
                    self.service_mut().seen_split = false;
                    self.stand_by(victim, false);
                }
            }
        }
    }

    fn choose_loser(&self) -> usize {
        let diverged = [0, 1].map(|node| self.oracle.lineage(node).diverged);
        match diverged {
            [true, false] => 1,
            [false, true] => 0,
            _ => 1 - self.oracle.last_primary.unwrap_or(0),
        }
    }
}
