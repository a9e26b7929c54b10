//! A witness in the simulated world, with the production's rules and messages that take their time,
//! get lost while it is away, and overtake each other.

use twinblk::engine::event::HandlerRunId;
use twinblk::engine::handler::HandlerOutcome;
use twinblk::witness::Answer;
use twinblk::witness::ledger::Entry;
use twinblk_proto::state::{ConnectionState, DiskState, Role, State};

use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::world::{Item, World};

const NAMES: [&str; 2] = ["alice", "bob"];
/// As the driver's: a witness that does not answer in this time is as good as none.
const ANSWER_LIMIT_US: u64 = 3_000_000;

/// What arrives: at the witness, or back at the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Ask {
        run: HandlerRunId,
    },
    /// Who holds the grant?
    Look {
        turn: u64,
    },
    /// The node that looked holds this one.
    Told {
        turn: u64,
        epoch: u64,
    },
    Release {
        epoch: u64,
    },
}

/// As the driver's: the longest time in which the peer notices that a node went down, and has asked.
const NOTICE_US: u64 = 15_000_000;

#[derive(Debug)]
pub struct Witness {
    random: Random,
    entry: Entry,
    /// Changes of each node between being in sync and not.
    turns: [u64; 2],
    pub started_us: [u64; 2],
    /// Was in sync with its peer since it started.
    pub met: [bool; 2],
    /// The other was promoted beside this Primary, when this was the last request.
    pub replaced: [Option<u64>; 2],
}

impl Witness {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed, Stream::Handlers, 2);
        Self {
            random,
            entry: Entry::default(),
            turns: [0; 2],
            started_us: [0; 2],
            met: [false; 2],
            replaced: [None; 2],
        }
    }
}

fn is_in_sync(state: &State) -> bool {
    state.connection == ConnectionState::Connected
        && state.disk == DiskState::UpToDate
        && state.peer_disk == DiskState::UpToDate
}

impl<E: Subject> World<E> {
    fn send_to_witness(&mut self, node: usize, step: Step) {
        let delay_us = self.witness.random.skewed(200, self.slowest_to_witness_us());
        let incarnation = self.nodes[node].incarnation;
        self.agenda.add(self.now_us + delay_us, Item::Witness { node, incarnation, step });
    }

    fn slowest_to_witness_us(&self) -> u64 {
        // Whole nodes need times that can be named.
        if self.service.is_some() { 20_000 } else { 2_000_000 }
    }

    /// The engine asks whether the node may go on alone.
    pub fn ask_witness(&mut self, node: usize, run: HandlerRunId) {
        let disk = self.nodes[node].state().disk;
        if disk < DiskState::Consistent {
            let why = format!("the witness is not asked: the own disk is only {disk}");
            return self.answer_asked(node, run, HandlerOutcome::Denied(why), 0);
        }
        let state = self.nodes[node].state();
        let fresh = self.now_us < self.witness.started_us[node] + NOTICE_US;
        if state.role == Role::Secondary && fresh && !self.witness.met[node] {
            let why = "this node has just started".to_owned();
            return self.answer_asked(node, run, HandlerOutcome::Denied(why), 0);
        }
        self.send_to_witness(node, Step::Ask { run });
    }

    pub fn answer_asked(
        &mut self,
        node: usize,
        run: HandlerRunId,
        outcome: HandlerOutcome,
        delay_us: u64,
    ) {
        let incarnation = self.nodes[node].incarnation;
        let item = Item::HandlerEnds { node, incarnation, run, outcome };
        self.agenda.add(self.now_us + delay_us, item);
    }

    pub fn witness_sees_state(&mut self, node: usize, old: &State, new: &State) {
        let (was, is) = (is_in_sync(old), is_in_sync(new));
        if !self.swarm.witness || was == is {
            return;
        }
        self.witness.turns[node] += 1;
        self.witness.met[node] = true;
        if is {
            // A second look finds what an earlier question was granted late.
            let turn = self.witness.turns[node];
            self.send_to_witness(node, Step::Look { turn });
            let incarnation = self.nodes[node].incarnation;
            let item = Item::Witness { node, incarnation, step: Step::Look { turn } };
            self.agenda.add(self.now_us + 10_000_000, item);
        }
    }

    pub fn witness_step(&mut self, node: usize, incarnation: u64, step: Step) {
        let away = match &self.service {
            Some(service) => !service.reaches_witness(node),
            None => !self.operator.calm && self.witness.random.percent(10),
        };
        let same = self.nodes[node].incarnation == incarnation;
        match step {
            Step::Ask { run } => {
                let back_us = self.witness.random.skewed(200, self.slowest_to_witness_us());
                // A question of a process that died meanwhile is answered all the same.
                let outcome = if away {
                    HandlerOutcome::Denied("witness: no answer".to_owned())
                } else {
                    if self.service.as_ref().is_some_and(|service| service.setup.grants_all) {
                        self.witness.entry.holder = None;
                    }
                    match self.witness.entry.ask(NAMES[node]) {
                        Answer::Granted { epoch } => {
                            self.note(node, format_args!("is granted number {epoch}"));
                            HandlerOutcome::Exited(4)
                        }
                        answer => {
                            self.note(node, format_args!("is told {answer:?}"));
                            HandlerOutcome::Exited(6)
                        }
                    }
                };
                if same {
                    self.answer_asked(node, run, outcome, back_us.min(ANSWER_LIMIT_US));
                }
            }
            Step::Look { turn } if away => {
                // The node looks again later.
                if same && self.witness.turns[node] == turn {
                    self.send_to_witness(node, step);
                }
            }
            Step::Look { turn } => {
                if let Answer::State { epoch, holder: Some(holder) } = self.witness.entry.state()
                    && holder == NAMES[node]
                {
                    self.send_to_witness(node, Step::Told { turn, epoch });
                }
            }
            Step::Told { turn, epoch } => {
                if same && self.witness.turns[node] == turn {
                    self.send_to_witness(node, Step::Release { epoch });
                }
            }
            Step::Release { epoch } => {
                self.witness.entry.release(NAMES[node], epoch);
                self.note(node, format_args!("gave number {epoch} back"));
            }
        }
    }
}
