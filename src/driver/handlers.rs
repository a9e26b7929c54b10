//! Runs the programs of the `handlers` section (behaviour.md 6), each in a task of its own beside the
//! loop: through `/bin/sh`, in a process group of its own, with DRBD's environment, its output in the
//! log, and ended with all its children when it takes too long.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use twinblk_proto::state::State;

use super::takeover::{self, Takeover};
use crate::engine::event::HandlerRunId;
use crate::engine::handler::{Handler, HandlerOutcome, HandlerSet};

/// DRBD sets no limit. Ten minutes are more than a fencing device takes to switch a machine off and
/// look whether it worked; I/O that waits for longer has lost its users.
const HANDLER_LIMIT: Duration = Duration::from_secs(600);

/// From asking the process group to end to killing it.
const GRACE: Duration = Duration::from_secs(3);

/// A child that it left in the background may hold the output open: nobody waits for that.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// Output of one run that reaches the log; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
const LINE_BYTES_MAX: usize = 1 << 10;

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
}

impl Handlers {
    pub(super) fn new(resource: &str, plan: HandlerPlan) -> Self {
        let (ended, inbox) = unbounded_channel();
        let sync_turns = Rc::default();
        Self { resource: resource.to_owned(), plan, ended, inbox, sync_turns }
    }

    /// The states of the pair changed: a grant is given back while both are in sync, and not later.
    pub(super) fn state_changed(&self, old: &State, new: &State) {
        let Takeover::Witness(witness) = &self.plan.takeover else { return };
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
            tokio::task::spawn_local(async move {
                let outcome = takeover::fence(takeover, &resource, state).await;
                let _ = ended.send((run, outcome));
            });
            return;
        }
        let Some(command) = self.plan.commands.get(&handler) else {
            let outcome = HandlerOutcome::Failed("is not configured".to_owned());
            let _ = ended.send((run, outcome));
            return;
        };
        let command = shell(command, &self.plan.environment);
        let resource = self.resource.clone();
        tokio::task::spawn_local(async move {
            let log = move |line: &str| {
                tracing::info!(resource, handler = handler.name(), "{line}");
            };
            let outcome = execute(command, HANDLER_LIMIT, &log).await;
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

fn shell(command: &str, environment: &[(String, String)]) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    for (name, value) in environment {
        shell.env(name, value);
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell.process_group(0);
    shell
}

async fn execute(mut command: Command, limit: Duration, log: &dyn Fn(&str)) -> HandlerOutcome {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return HandlerOutcome::Failed(format!("could not be started: {error}")),
    };
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let output = async { tokio::join!(copy_lines(stdout, log), copy_lines(stderr, log)) };
    tokio::pin!(output);
    let mut output_ended = false;
    let finished = async {
        loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut output, if !output_ended => output_ended = true,
            }
        }
    };
    let outcome = match timeout(limit, finished).await {
        Ok(Ok(status)) => ended(status),
        Ok(Err(error)) => HandlerOutcome::Failed(format!("could not be waited for: {error}")),
        Err(_) => {
            end_group(&mut child).await;
            let limit_ms = limit.as_millis();
            HandlerOutcome::Failed(format!("did not end within {limit_ms} ms and was killed"))
        }
    };
    if !output_ended {
        let _ = timeout(OUTPUT_GRACE, output).await;
    }
    outcome
}

fn ended(status: ExitStatus) -> HandlerOutcome {
    match status.code() {
        Some(code) => HandlerOutcome::Exited(code),
        None => HandlerOutcome::Failed(format!("was killed: {status}")),
    }
}

async fn end_group(child: &mut Child) {
    let Some(group) = child.id().and_then(|id| Pid::from_raw(id as i32)) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    // Its children may live on when the shell has gone: the second signal finds them.
    let _ = timeout(GRACE, child.wait()).await;
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait().await;
}

async fn copy_lines(mut stream: impl AsyncRead + Unpin, log: &dyn Fn(&str)) {
    let mut line = Vec::new();
    let mut chunk = [0; 1024];
    let mut left = OUTPUT_BYTES_MAX;
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let taken = length.min(left);
        left -= taken;
        for &byte in &chunk[..taken] {
            if byte == b'\n' || line.len() >= LINE_BYTES_MAX {
                log(&String::from_utf8_lossy(&line));
                line.clear();
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        log(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn run(command: &str, limit: Duration) -> (HandlerOutcome, Vec<String>) {
        let lines = RefCell::new(Vec::new());
        let environment = [("DRBD_RESOURCE".to_owned(), "r 0".to_owned())];
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let log = |line: &str| lines.borrow_mut().push(line.to_owned());
        let outcome = runtime.block_on(execute(shell(command, &environment), limit, &log));
        (outcome, lines.into_inner())
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn the_exit_code_and_the_output_arrive() {
        let (outcome, lines) = run("echo \"<$DRBD_RESOURCE>\"; echo second >&2; exit 4", LONG);
        assert_eq!(outcome, HandlerOutcome::Exited(4));
        assert!(lines.contains(&"<r 0>".to_owned()) && lines.contains(&"second".to_owned()));
        let (outcome, _) = run("kill -KILL $$", LONG);
        assert!(matches!(outcome, HandlerOutcome::Failed(why) if why.contains("signal")));
        let (outcome, lines) = run("/no/such/program", LONG);
        assert_eq!(outcome, HandlerOutcome::Exited(127), "{lines:?}");
    }

    #[test]
    fn who_takes_too_long_is_ended_with_all_children() {
        let folder = tempfile::tempdir().expect("folder");
        let pid_file = folder.path().join("pid");
        let command =
            format!("trap '' TERM; sleep 1000 & echo $! > '{}'; wait; wait", pid_file.display());
        let (outcome, _) = run(&command, Duration::from_millis(300));
        assert!(matches!(outcome, HandlerOutcome::Failed(why) if why.contains("was killed")));
        let pid = std::fs::read_to_string(&pid_file).expect("the child was started");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        // A signal takes a moment, and the orphan is a zombie until its new parent reaps it.
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let limit = std::time::Instant::now() + LONG;
        while std::fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(std::time::Instant::now() < limit, "the child outlived the handler");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_flood_of_output_is_cut_and_a_background_child_holds_nobody_up() {
        let (outcome, lines) = run("yes | head -c 1000000; sleep 5 & exit 0", LONG);
        assert_eq!(outcome, HandlerOutcome::Exited(0));
        let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
        assert!(bytes <= OUTPUT_BYTES_MAX + LINE_BYTES_MAX, "{bytes}");
    }
}
