//! `notify_fifo`: lines into a named pipe, and a program that reads them there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::Errno;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::program::{self, GRACE, Identity, Invocation, Program};

/// A pipe takes lines up to this whole or not at all; names are not as long.
const LINE_BYTES_MAX: usize = 4096;

/// Until a program that ended is started again.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FifoSettings {
    pub path: PathBuf,
    /// Whose the pipe is, if it is made here.
    pub owner: Option<Identity>,
    /// Runs as long as this does; the path becomes its last argument.
    pub script: Option<Program>,
}

#[derive(Debug, thiserror::Error)]
pub enum FifoError {
    #[error(
        "notify_fifo {}: it is there already and no pipe; remove it or write another name",
        path.display()
    )]
    NoPipe { path: PathBuf },
    #[error("notify_fifo {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    pipe: OwnedFd,
    is_own: bool,
    dropped: AtomicU64,
    script: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Fifo {
    /// Makes the pipe if it is missing. Needs a tokio runtime for the script.
    pub fn open(settings: FifoSettings) -> Result<Self, FifoError> {
        let FifoSettings { path, owner, script } = settings;
        let io = |error: io::Error| FifoError::Io { path: path.clone(), error };
        let is_own = make(&path, owner).map_err(io)?;
        if !fs::metadata(&path).map_err(io)?.file_type().is_fifo() {
            return Err(FifoError::NoPipe { path });
        }
        // With both ends in this hand, opening waits for nobody and writing kills nobody.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = open(&path, flags, Mode::empty()).map_err(|error| io(error.into()))?;
        let script = script.map(|program| {
            let (stop, stopping) = watch::channel(false);
            (stop, tokio::spawn(keep_running(with_path(program, &path), stopping)))
        });
        Ok(Self { path, pipe, is_own, dropped: AtomicU64::new(0), script })
    }

    /// Lines that found the pipe full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Never waits: a pipe that nobody reads is full after 64 KiB, and then lines are dropped.
    pub fn write(&self, line: &str) {
        let bytes = format!("{}\n", line.replace(['\n', '\r'], " "));
        let written = loop {
            if bytes.len() > LINE_BYTES_MAX {
                break Err(Errno::TOOBIG);
            }
            match rustix::io::write(&self.pipe, bytes.as_bytes()) {
                Err(Errno::INTR) => {}
                written => break written,
            }
        };
        if let Err(error) = written {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                let path = self.path.display();
                tracing::warn!(
                    "notify_fifo {path}: {dropped} lines dropped so far ({error}); does somebody \
                     read it?"
                );
            }
        }
    }

    /// Asks the script to end once it has had the time to read what was written.
    pub async fn stop(mut self) {
        if let Some((stop, mut task)) = self.script.take() {
            stop.send_replace(true);
            let longest = GRACE + Duration::from_secs(1);
            if timeout(longest, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.script {
            task.abort();
        }
        if self.is_own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether it was made here.
fn make(path: &Path, owner: Option<Identity>) -> io::Result<bool> {
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if let Some(Identity { user_id, group_id }) = owner {
        std::os::unix::fs::chown(path, Some(user_id), Some(group_id))?;
    }
    Ok(true)
}

fn with_path(program: Program, path: &Path) -> Program {
    let invocation = match program.invocation {
        Invocation::Arguments(mut words) => {
            words.push(path.into());
            Invocation::Arguments(words)
        }
        // `sh -c TEXT sh PATH`, with the path as the argument of whatever the text runs.
        Invocation::Shell(text) => {
            let words = ["/bin/sh".into(), "-c".into(), format!("{text} \"$1\"").into()];
            let words: [OsString; 3] = words;
            let more = ["sh".into(), OsString::from(path)];
            Invocation::Arguments(words.into_iter().chain(more).collect())
        }
    };
    Program { invocation, limit: None, ..program }
}

async fn keep_running(program: Program, stopping: watch::Receiver<bool>) {
    let stop = || {
        let mut stopping = stopping.clone();
        async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        }
    };
    loop {
        let log = |line: &str| tracing::info!("notify_fifo_script: {line}");
        let outcome = program::run_until(&program, stop(), log).await;
        if *stopping.borrow() {
            return;
        }
        tracing::warn!(
            "notify_fifo_script {}; it is started again in {} s",
            outcome.ending,
            PAUSE.as_secs()
        );
        tokio::select! {
            () = stop() => return,
            () = sleep(PAUSE) => {}
        }
    }
}
