//! What the administrator's programs do in the simulated world.

use std::collections::BTreeMap;

use twinblk::engine::event::{FencingPolicy, HandlerRunId, Verb};
use twinblk::engine::handler::{Handler, HandlerOutcome};
use twinblk_proto::state::{DiskState, Role};

use crate::node::Crash;
use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::world::{Item, World};

#[derive(Debug)]
pub struct Programs {
    random: Random,
    /// Exit codes that a scenario asks for.
    pub codes: BTreeMap<Handler, i32>,
    /// How often a resync may still be refused. Each costs the history of generations an entry.
    refusals: u32,
    /// What a cluster manager remembers: this node must not be promoted until it is in sync again.
    pub barred: Option<usize>,
    /// Every run so far: the node, and what it was for.
    pub ran: Vec<(usize, Handler)>,
}

impl Programs {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed, Stream::Handlers, 1);
        Self { random, codes: BTreeMap::new(), refusals: 2, barred: None, ran: Vec::new() }
    }
}

impl<E: Subject> World<E> {
    pub fn run_handler(&mut self, node: usize, run: HandlerRunId, handler: Handler) {
        self.statistics.handlers += 1;
        self.programs.ran.push((node, handler));
        if handler == Handler::FencePeer && self.policy_answers(node, run) {
            return;
        }
        if handler == Handler::FencePeer && self.swarm.witness {
            return self.ask_witness(node, run);
        }
        let incarnation = self.nodes[node].incarnation;
        let delay_us = self.programs.random.skewed(500, 3_000_000);
        let chosen = self.programs.codes.get(&handler).map(|code| HandlerOutcome::Exited(*code));
        let outcome = match (handler, chosen) {
            (_, Some(chosen)) => chosen,
            (Handler::FencePeer, None) => self.fence(1 - node),
            (_, None) => self.any_outcome(handler),
        };
        if handler == Handler::UnfencePeer && self.programs.barred == Some(1 - node) {
            self.programs.barred = None;
        }
        let item = Item::HandlerEnds { node, incarnation, run, outcome };
        self.agenda.add(self.now_us + delay_us, item);
    }

    /// Now and then the operator freezes I/O for a moment, to take a snapshot.
    pub fn suspension_tick(&mut self) {
        for node in 0..2 {
            let state = self.nodes[node].state();
            if !self.nodes[node].is_running() {
                continue;
            }
            if state.suspended_user {
                if self.operator.calm || self.programs.random.percent(20) {
                    self.command(node, Verb::ResumeIo);
                }
            } else if !self.operator.calm
                && self.programs.random.chance(self.swarm.rates.suspend_io)
            {
                self.command(node, Verb::SuspendIo);
            }
        }
    }

    /// Makes sure that `victim` can not become Primary, as an honest cluster manager does.
    fn fence(&mut self, victim: usize) -> HandlerOutcome {
        let actors = self.swarm.actors && !self.operator.calm;
        let broken = actors && self.programs.random.percent(15);
        if broken || self.programs.barred == Some(1 - victim) {
            return HandlerOutcome::Exited(1);
        }
        let stonith = self.swarm.settings.fencing == FencingPolicy::ResourceAndStonith;
        let state = self.nodes[victim].state();
        let code = if !self.nodes[victim].is_up() {
            if self.programs.random.percent(50) { 5 } else { 7 }
        } else if stonith && (self.nodes[victim].paused || self.programs.random.percent(50)) {
            self.crash(victim, Crash::PowerLoss);
            self.plan_restart(victim);
            7
        } else if self.nodes[victim].paused {
            1
        } else if state.role == Role::Primary {
            6
        } else if state.disk <= DiskState::Inconsistent {
            3
        } else {
            // The constraint alone keeps it from being promoted.
            4
        };
        if matches!(code, 3 | 4 | 5 | 7) {
            self.programs.barred = Some(victim);
        }
        HandlerOutcome::Exited(code)
    }

    /// Now and then a program refuses, or does not work.
    fn any_outcome(&mut self, handler: Handler) -> HandlerOutcome {
        let decides = matches!(handler, Handler::BeforeResyncTarget | Handler::BeforeResyncSource);
        let may_refuse = self.swarm.actors && !self.operator.calm && self.programs.refusals > 0;
        if decides && may_refuse && self.programs.random.percent(15) {
            self.programs.refusals -= 1;
            if self.programs.random.percent(50) {
                return HandlerOutcome::Exited(1);
            }
            return HandlerOutcome::Failed("was killed".to_owned());
        }
        HandlerOutcome::Exited(0)
    }
}
