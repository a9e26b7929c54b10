//! How a daemon is started.

use std::path::PathBuf;

/// What the command line tells the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonOptions {
    /// The drbd.conf to read.
    pub config: PathBuf,
    /// The keepalived.conf to run; absent: no VRRP.
    pub keepalived: Option<PathBuf>,
    /// Where the control socket and the NBD unix sockets are.
    pub run_dir: PathBuf,
    /// Name of this node: which `on` section is its own.
    pub node: String,
}
