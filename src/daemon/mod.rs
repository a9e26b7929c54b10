//! The daemon: one control socket, one thread per resource that is up.

pub mod options;

pub use options::DaemonOptions;

/// Nobody can be served without the parts that do it.
#[derive(Debug, thiserror::Error)]
#[error("this build has no daemon")]
pub struct DaemonError;

/// Runs until a signal or a `shutdown` command.
pub fn run(_options: DaemonOptions) -> Result<(), DaemonError> {
    Err(DaemonError)
}
