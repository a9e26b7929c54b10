//! The step "started": a command that starts a service and one that stops it, as an administrator
//! would type them.
//!
//! Whether a service runs is not asked: its commands have to bear being given twice, as those of
//! systemctl do. A stop command that takes too long is ended, but what it was to stop is a daemon
//! of its own and goes on: the unmount that follows ends whoever still uses the device.

use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ServiceError;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

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
    program: &str,
    words: Vec<OsString>,
    limit: Duration,
) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(words);
    run(command, limit).await
}

async fn run_shell(text: &str, limit: Duration) -> Result<(), String> {
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", text]);
    run(command, limit).await
}

async fn run(mut command: tokio::process::Command, limit: Duration) -> Result<(), String> {
    command.kill_on_drop(true).stdin(std::process::Stdio::null());
    match tokio::time::timeout(limit, command.output()).await {
        Err(_) => Err(format!("did not end within {} ms", limit.as_millis())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("{}: {said}", output.status))
        }
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

    #[test]
    fn nothing_to_run_is_done() {
        let nothing = program("", "");
        block_on(async { (nothing.perform().await, nothing.undo().await) }).0.expect("done");
    }
}
