//! What the administrator's programs do in the simulated world.

use std::collections::BTreeMap;

use twinblk::engine::event::HandlerRunId;
use twinblk::engine::handler::{Handler, HandlerOutcome};

use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::world::{Item, World};

#[derive(Debug)]
pub struct Programs {
    random: Random,
    /// Exit codes that a scenario asks for.
    pub codes: BTreeMap<Handler, i32>,
    /// Every run so far: the node, and what it was for.
    pub ran: Vec<(usize, Handler)>,
}

impl Programs {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed, Stream::Handlers, 1);
        Self { random, codes: BTreeMap::new(), ran: Vec::new() }
    }
}

impl<E: Subject> World<E> {
    pub fn run_handler(&mut self, node: usize, run: HandlerRunId, handler: Handler) {
        self.statistics.handlers += 1;
        self.programs.ran.push((node, handler));
        let incarnation = self.nodes[node].incarnation;
        let delay_us = self.programs.random.skewed(500, 3_000_000);
        let chosen = self.programs.codes.get(&handler).map(|code| HandlerOutcome::Exited(*code));
        let outcome = chosen.unwrap_or_else(|| self.any_outcome(handler));
        let item = Item::HandlerEnds { node, incarnation, run, outcome };
        self.agenda.add(self.now_us + delay_us, item);
    }

    /// Now and then a program refuses, or does not work.
    fn any_outcome(&mut self, handler: Handler) -> HandlerOutcome {
        let decides = matches!(handler, Handler::BeforeResyncTarget | Handler::BeforeResyncSource);
        if decides && self.swarm.actors && !self.operator.calm && self.programs.random.percent(15) {
            if self.programs.random.percent(50) {
                return HandlerOutcome::Exited(1);
            }
            return HandlerOutcome::Failed("was killed".to_owned());
        }
        HandlerOutcome::Exited(0)
    }
}
