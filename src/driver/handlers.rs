//! Runs the programs of the `handlers` section (behaviour.md 6), each in a task of its own beside the
//! loop: through `/bin/sh`, with DRBD's environment, its output in the log, for a bounded time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinblk_proto::state::State;

use super::takeover::{self, Takeover};
use crate::engine::event::HandlerRunId;
use crate::engine::handler::{Handler, HandlerOutcome, HandlerSet};
use crate::program::{self, Ending, Program};

/// DRBD sets no limit. Ten minutes are more than a fencing device takes to switch a machine off and
/// look whether it worked; I/O that waits for longer has lost its users.
const HANDLER_LIMIT: Duration = Duration::from_secs(600);

/// What is configured for a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandlerPlan {
    /// Command lines for `/bin/sh -c`.
    pub commands: BTreeMap<Handler, String>,
    /// DRBD's variables (behaviour.md 6).
    pub environment: Vec<(String, String)>,
    /// Instead of a fence-peer command.
    pub takeover: Takeover,
}

impl HandlerPlan {
    pub fn configured(&self) -> HandlerSet {
        let own = (self.takeover != Takeover::Both).then_some(Handler::FencePeer);
        self.commands.keys().copied().chain(own).collect()
    }
}

/// Handlers under way.
#[derive(Debug)]
pub(super) struct Handlers {
    resource: String,
    plan: HandlerPlan,
    ended: UnboundedSender<(HandlerRunId, HandlerOutcome)>,
    inbox: UnboundedReceiver<(HandlerRunId, HandlerOutcome)>,
    /// Counts the times that both nodes came in sync, or ceased to be.
    sync_turns: Rc<Cell<u64>>,
    /// When this node took part again.
    started: Instant,
}

impl Handlers {
    pub(super) fn new(resource: &str, plan: HandlerPlan) -> Self {
        let (ended, inbox) = unbounded_channel();
        let resource = resource.to_owned();
        Self { resource, plan, ended, inbox, sync_turns: Rc::default(), started: Instant::now() }
    }

    /// The states of the pair changed: a grant is given back while both are in sync, and not later.
    pub(super) fn state_changed(&self, old: &State, new: &State) {
        let Takeover::Witness { witness, .. } = &self.plan.takeover else { return };
        let (was, is) = (takeover::is_in_sync(old), takeover::is_in_sync(new));
        if was != is {
            self.sync_turns.set(self.sync_turns.get() + 1);
        }
        if is && !was {
            let turns = Rc::clone(&self.sync_turns);
            let work = takeover::give_back(witness.clone(), self.resource.clone(), turns);
            tokio::task::spawn_local(work);
        }
    }

    /// Needs a `LocalSet`.
    pub(super) fn start(&self, run: HandlerRunId, handler: Handler, state: State) {
        let ended = self.ended.clone();
        if handler == Handler::FencePeer && self.plan.takeover != Takeover::Both {
            let (takeover, resource) = (self.plan.takeover.clone(), self.resource.clone());
            let alone_since = (self.sync_turns.get() == 0).then_some(self.started);
            tokio::task::spawn_local(async move {
                let outcome = takeover::fence(takeover, &resource, state, alone_since).await;
                let _ = ended.send((run, outcome));
            });
            return;
        }
        let Some(command) = self.plan.commands.get(&handler) else {
            let outcome = HandlerOutcome::Failed("is not configured".to_owned());
            let _ = ended.send((run, outcome));
            return;
        };
        let program = program(command, &self.plan.environment);
        let resource = self.resource.clone();
        tokio::task::spawn_local(async move {
            let log = |line: &str| tracing::info!(resource, handler = handler.name(), "{line}");
            let outcome = program::run_until(&program, pending(), log).await;
            let outcome = outcome_of(&outcome.ending);
            // Nobody listens any more once the resource is down.
            let _ = ended.send((run, outcome));
        });
    }

    pub(super) async fn ended(&mut self) -> (HandlerRunId, HandlerOutcome) {
        match self.inbox.recv().await {
            Some(ended) => ended,
            None => unreachable!("this holds a sender itself"),
        }
    }

    pub(super) fn poll_ended(&mut self) -> Option<(HandlerRunId, HandlerOutcome)> {
        self.inbox.try_recv().ok()
    }
}

fn program(command: &str, environment: &[(String, String)]) -> Program {
    let own = environment.iter().map(|(name, value)| (name.into(), value.into()));
    Program { environment: own.collect(), ..Program::shell(command).with_limit(HANDLER_LIMIT) }
}

fn outcome_of(ending: &Ending) -> HandlerOutcome {
    match ending {
        Ending::Exited(code) => HandlerOutcome::Exited(*code),
        other => HandlerOutcome::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> HandlerOutcome {
        let environment = [("DRBD_RESOURCE".to_owned(), "r 0".to_owned())];
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let outcome = runtime.block_on(program::run(&program(command, &environment)));
        outcome_of(&outcome.ending)
    }

    #[test]
    fn a_handler_has_its_environment_and_its_exit_code_decides() {
        assert_eq!(run("test \"$DRBD_RESOURCE\" = 'r 0' && exit 4"), HandlerOutcome::Exited(4));
        assert_eq!(run("/no/such/program"), HandlerOutcome::Exited(127));
        let killed = run("kill -KILL $$");
        assert!(matches!(&killed, HandlerOutcome::Failed(why) if why.contains("signal 9")));
    }
}
