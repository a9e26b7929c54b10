//! The step "started": a command that starts a service and one that stops it, as an administrator
//! would type them.
//!
//! Whether a service runs is not asked: its commands have to bear being given twice, as those of
//! systemctl do. A stop command that takes too long is ended, but what it was to stop is a daemon
//! of its own and goes on: the unmount that follows ends whoever still uses the device.

use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::error::ServiceError;
use crate::program;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// For a killed process to be gone.
const STUCK_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Shell text.
    pub start: Option<String>,
    pub stop: Option<String>,
    pub start_limit: Duration,
    pub stop_limit: Duration,
}

impl Default for Program {
    fn default() -> Self {
        Self { start: None, stop: None, start_limit: START_LIMIT, stop_limit: STOP_LIMIT }
    }
}

impl Program {
    /// A start that failed may have come half way: it is stopped again.
    pub async fn perform(&self) -> Result<(), ServiceError> {
        let Some(start) = &self.start else { return Ok(()) };
        tracing::info!(command = start, "starting");
        let Err(why) = run_shell(start, self.start_limit).await else { return Ok(()) };
        let command = start.clone();
        match self.undo().await {
            Ok(()) => Err(ServiceError::NotStarted { command, why }),
            Err(also) => {
                let also = also.to_string();
                Err(ServiceError::NeitherStartedNorStopped { command, why, also })
            }
        }
    }

    /// An error is no reason to keep the file system mounted: its users will be ended.
    pub async fn undo(&self) -> Result<(), ServiceError> {
        let Some(stop) = &self.stop else { return Ok(()) };
        tracing::info!(command = stop, "stopping");
        run_shell(stop, self.stop_limit).await.map_err(|why| {
            tracing::error!(command = stop, why, "not stopped");
            ServiceError::NotStopped { command: stop.clone(), why }
        })
    }
}

/// A program of the system, found in PATH.
pub(super) async fn run_tool(
    name: &str,
    words: Vec<OsString>,
    limit: Duration,
) -> Result<(), String> {
    let words = std::iter::once(name.into()).chain(words);
    run(&program::Program::arguments(words), limit).await
}

async fn run_shell(text: &str, limit: Duration) -> Result<(), String> {
    run(&program::Program::shell(text), limit).await
}

/// Why not, in words.
async fn run(program: &program::Program, limit: Duration) -> Result<(), String> {
    let program = program.clone().with_limit(limit);
    // A process that waits for a disk cannot be ended by any signal: it is left behind.
    let outcome = timeout(limit + program::GRACE + STUCK_LIMIT, program::run(&program)).await;
    let Ok(outcome) = outcome else {
        return Err(format!("did not end within {} ms, and cannot be killed", limit.as_millis()));
    };
    if outcome.ending.is_success() {
        return Ok(());
    }
    match outcome.output.join("; ") {
        said if said.is_empty() => Err(outcome.ending.to_string()),
        said => Err(format!("{}: {said}", outcome.ending)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    fn program(start: &str, stop: &str) -> Program {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Program { start: text(start), stop: text(stop), ..Program::default() }
    }

    #[test]
    fn what_does_not_start_is_stopped_again() {
        let folder = tempfile::tempdir().expect("folder");
        let note = folder.path().join("stopped");
        let stop = format!("echo stopped > {}", note.display());
        let error = block_on(program("echo no disk left >&2; exit 3", &stop).perform());
        let error = error.expect_err("failed");
        assert!(matches!(error, ServiceError::NotStarted { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("no disk left") && said.contains('3'), "{said}");
        assert!(note.exists());
        let both = block_on(program("false", "exit 4").perform()).expect_err("failed");
        assert!(matches!(both, ServiceError::NeitherStartedNorStopped { .. }), "{both:?}");
    }

    #[test]
    fn a_command_that_hangs_is_given_up() {
        let mut slow = program("sleep 60", "sleep 60");
        (slow.start_limit, slow.stop_limit) =
            (Duration::from_millis(50), Duration::from_millis(50));
        let error = block_on(slow.undo()).expect_err("too slow");
        assert!(matches!(error, ServiceError::NotStopped { .. }), "{error:?}");
        let error = block_on(slow.perform()).expect_err("too slow");
        assert!(matches!(error, ServiceError::NeitherStartedNorStopped { .. }), "{error:?}");
    }

    /// A daemon inherits the output of the command that starts it, and never closes it.
    #[test]
    fn a_start_is_over_when_its_command_is() {
        let folder = tempfile::tempdir().expect("folder");
        let note = folder.path().join("process");
        let start = format!("sleep 60 & echo $! > {}", note.display());
        let started = std::time::Instant::now();
        block_on(program(&start, "").perform()).expect("started");
        assert!(started.elapsed() < Duration::from_secs(20));
        let process = std::fs::read_to_string(note).expect("its number");
        let process = process.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(process.expect("a number"), rustix::process::Signal::KILL)
            .expect("it lives");
    }

    #[test]
    fn nothing_to_run_is_done() {
        let nothing = program("", "");
        block_on(async { (nothing.perform().await, nothing.undo().await) }).0.expect("done");
    }
}
