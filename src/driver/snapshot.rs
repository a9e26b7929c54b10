//! What a resource tells about itself.

use std::time::Duration;

use super::clients::Asked;
use super::roles::RoleTimes;
use crate::engine::status::Status;

/// The state of a resource at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub engine: Status,
    pub size_bytes: u64,
    /// `io_uring`, `threads` or `inline`; empty while there is no disk.
    pub backend: &'static str,
    pub direct_io: bool,
    pub clients: Vec<ClientSnapshot>,
    /// Connections of the kernel's device that are served, or will be when what the ones before
    /// left over is done.
    pub kernel_sockets: usize,
    /// How often, while this node was Secondary, the peer's data took the place of its own, or may
    /// have: what a kernel device remembers of the content from before is not true any more.
    pub takeovers: u64,
    /// Payloads that the engine has not released, requests that it has not answered, disk actions
    /// under way: all are 0 when nothing happens, or something leaks.
    pub payloads_held: usize,
    pub requests_open: usize,
    pub disk_actions: usize,
    /// When this node was Primary.
    pub roles: RoleTimes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// Address, or process id on the unix socket.
    pub peer: String,
    pub since: Duration,
    pub requests: u64,
    pub in_flight: u64,
    pub asked: Asked,
    /// Of a device of this machine's kernel.
    pub is_kernel: bool,
    /// Over TCP.
    pub is_remote: bool,
}
