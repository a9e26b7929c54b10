//! Programs of others: handlers of DRBD, check and notify scripts of keepalived, service commands.
//! Each is run in a process group of its own, without input, for a bounded time, and awaited.
//!
//! ```text
//!   run        start, wait, time limit, cancel
//!   output     what it writes: lines for the log, the last ones kept, the rest dropped
//!   user       whom it runs as
//!   security   whether somebody else than root could have written it
//! ```
//!
//! Nothing here knows what a program is for.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod output;
mod run;
pub mod security;
#[cfg(test)]
mod tests;
pub mod user;

pub use run::{run, run_until};
pub use security::Insecure;
pub use user::{Identity, UserError};

/// From asking a process group to end to killing it (vrrp.md 2.4).
pub const GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// For `/bin/sh -c`.
    Shell(String),
    /// Program and arguments. A file that is neither a binary nor begins with `#!` is run by `/bin/sh`,
    /// as a shell would do (vrrp.md 2.2).
    Arguments(Vec<OsString>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub invocation: Invocation,
    /// Absent: as this process.
    pub identity: Option<Identity>,
    /// Beside what this process has.
    pub environment: Vec<(OsString, OsString)>,
    /// Absent: as long as it likes.
    pub limit: Option<Duration>,
    /// Refuse what runs as root and could have been written by somebody else
    /// (`enable_script_security`). Looked at before each start.
    pub is_root_only: bool,
}

impl Program {
    pub fn shell(text: &str) -> Self {
        Self::new(Invocation::Shell(text.to_owned()))
    }

    pub fn arguments<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::new(Invocation::Arguments(words.into_iter().map(Into::into).collect()))
    }

    fn new(invocation: Invocation) -> Self {
        let (identity, limit) = (None, None);
        Self { invocation, identity, environment: Vec::new(), limit, is_root_only: false }
    }

    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// The file that is run first. Of shell text it is the first word, where that is a path.
    pub fn file(&self) -> Option<&Path> {
        match &self.invocation {
            Invocation::Shell(text) => {
                let word = text.split_ascii_whitespace().next()?;
                let word = word.trim_matches(['"', '\'']);
                word.starts_with('/').then(|| Path::new(word))
            }
            Invocation::Arguments(words) => words.first().map(Path::new),
        }
    }
}

#[derive(Debug)]
pub struct Outcome {
    pub ending: Ending,
    /// The last lines that it wrote, oldest first.
    pub output: Vec<String>,
}

#[derive(Debug)]
pub enum Ending {
    Exited(i32),
    /// By a signal that did not come from here.
    Killed {
        signal: i32,
    },
    /// Ended with its whole group when its time was over.
    TimedOut {
        limit: Duration,
    },
    /// Ended with its whole group because it was not wanted any more.
    Cancelled,
    NotStarted(StartError),
}

impl Ending {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(0))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "exited with status {code}"),
            Self::Killed { signal } => write!(formatter, "was killed by signal {signal}"),
            Self::TimedOut { limit } => {
                write!(formatter, "did not end within {} ms and was killed", limit.as_millis())
            }
            Self::Cancelled => write!(formatter, "was ended because it is not wanted any more"),
            Self::NotStarted(error) => write!(formatter, "could not be started: {error}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no program is named")]
    Nothing,
    #[error("{}: {error}", path.display())]
    Insecure { path: PathBuf, error: Insecure },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
