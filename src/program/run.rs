//! Starts a program, waits for it, and ends it with everything it has started when its time is over
//! or nobody waits any more.
//!
//! The leader of the group is reaped last: as long as it is there, dead or alive, the number of
//! the group belongs to nobody else, and a signal to the group cannot hit a stranger.

use std::ffi::OsStr;
use std::future::{Future, pending};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::output::Output;
use super::{Ending, GRACE, Invocation, Outcome, Program, StartError, security};

const SHELL: &str = "/bin/sh";

/// The shell looks the program up and runs a file without `#!` itself.
const RUN_ARGUMENTS: &str = "exec \"$0\" \"$@\"";

/// Runs to the end, or to the limit. Dropping the future kills the group at once.
pub async fn run(program: &Program) -> Outcome {
    run_until(program, pending(), |_| {}).await
}

/// As [`run`], and ends the program when `unwanted` is ready. Each line of output is handed to
/// `on_line` as it comes, up to a bound.
pub async fn run_until(
    program: &Program,
    unwanted: impl Future<Output = ()>,
    on_line: impl FnMut(&str),
) -> Outcome {
    let (mut running, mut output) = match start(program, on_line) {
        Ok(started) => started,
        Err(error) => return Outcome { ending: Ending::NotStarted(error), output: Vec::new() },
    };
    let limit = async {
        match program.limit {
            Some(limit) => sleep(limit).await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        // What has ended has not run out of time.
        biased;
        ended = running.ended_beside(&mut output) => ended.map(|()| None),
        () = unwanted => Ok(Some(Ending::Cancelled)),
        () = limit => Ok(program.limit.map(|limit| Ending::TimedOut { limit })),
    };
    let ending = match ended {
        Ok(None) => running.reap().await.map(ending_of),
        Ok(Some(ending)) => {
            running.end(&mut output).await;
            running.reap().await.map(|_| ending)
        }
        Err(error) => Err(error),
    };
    let ending = ending.unwrap_or_else(|error| Ending::NotStarted(error.into()));
    Outcome { ending, output: output.finish() }
}

fn ending_of(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Killed { signal: signal.unwrap_or_default() },
    }
}

// ---- start

fn start<F: FnMut(&str)>(
    program: &Program,
    on_line: F,
) -> Result<(Running, Output<F>), StartError> {
    let runs_as_root = match &program.identity {
        Some(identity) => identity.user_id == 0,
        None => rustix::process::geteuid().is_root(),
    };
    if program.is_root_only
        && runs_as_root
        && let Some(path) = program.file()
    {
        let insecure = |error| StartError::Insecure { path: path.to_owned(), error };
        security::check(path).map_err(insecure)?;
    }
    match &program.invocation {
        Invocation::Shell(text) => start_words(program, SHELL, ["-c", text], on_line),
        Invocation::Arguments(words) => {
            let Some((name, arguments)) = words.split_first() else {
                return Err(StartError::Nothing);
            };
            let mut on_line = Some(on_line);
            let mut take = || on_line.take().expect("taken by the start that succeeds");
            match spawn(program, name, arguments) {
                Err(error) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
                    let shell = [OsStr::new("-c"), OsStr::new(RUN_ARGUMENTS), name];
                    let words = shell.into_iter().chain(arguments.iter().map(AsRef::as_ref));
                    start_words(program, SHELL, words, take())
                }
                spawned => attend(spawned?, take()),
            }
        }
    }
}

struct Spawned {
    child: Child,
    reader: OwnedFd,
    ends: unix::Signal,
}

fn start_words<F: FnMut(&str)>(
    program: &Program,
    name: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    on_line: F,
) -> Result<(Running, Output<F>), StartError> {
    attend(spawn(program, name, arguments)?, on_line)
}

fn spawn(
    program: &Program,
    name: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> io::Result<Spawned> {
    // Listened to before there is anything to hear.
    let ends = signal(SignalKind::child())?;
    // One pipe for both, so that lines stay in the order in which they were written.
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(name);
    command.args(arguments);
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    // What stays in the background must not keep a file system busy.
    command.current_dir("/");
    if let Some(identity) = &program.identity {
        command.uid(identity.user_id).gid(identity.group_id);
    }
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn()?;
    Ok(Spawned { child, reader: reader.into(), ends })
}

fn attend<F: FnMut(&str)>(
    Spawned { child, reader, ends }: Spawned,
    on_line: F,
) -> Result<(Running, Output<F>), StartError> {
    let group = child.id().and_then(|id| Pid::from_raw(id as i32)).expect("not yet reaped");
    let running = Running { child, group, ends, is_reaped: false };
    Ok((running, Output::new(reader, on_line)?))
}

// ---- end

/// A program under way: killed with its group when this is dropped. Reaping it is then the
/// runtime's work.
struct Running {
    child: Child,
    group: Pid,
    /// Some process ended.
    ends: unix::Signal,
    is_reaped: bool,
}

impl Running {
    /// Looks only: `reap` takes the leader away.
    async fn ended(&mut self) -> io::Result<()> {
        let looking = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match waitid(WaitId::Pid(self.group), looking) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {
                    self.ends.recv().await;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Output is read meanwhile: who writes much would wait for a reader otherwise.
    async fn ended_beside<F: FnMut(&str)>(&mut self, output: &mut Output<F>) -> io::Result<()> {
        tokio::select! {
            ended = self.ended() => ended,
            never = output.follow() => match never {},
        }
    }

    /// Asks the whole group to end, then kills what is left.
    async fn end<F: FnMut(&str)>(&mut self, output: &mut Output<F>) {
        let _ = kill_process_group(self.group, Signal::TERM);
        // Children of the shell may outlive it. While the output is open, somebody lives.
        let all_ended = async {
            let _ = self.ended_beside(output).await;
            output.closed().await;
        };
        let _ = timeout(GRACE, all_ended).await;
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.ended_beside(output).await;
    }

    async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.is_reaped = true;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}
