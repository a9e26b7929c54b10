//! Backing disks: block devices and plain files, driven without blocking the resource's thread.
//!
//! ```text
//!   submit ---> queue ---kick---> backend ---> kernel        Disk (queue.rs): what an operation
//!                 ^                  |                       needs to become complete: rest of a
//!                 |   rest, retry    | finished steps        short transfer, zeroes by hand, one
//!                 +------------------+                       fdatasync for many flushes
//!                                    |
//!   completions <--------------------+   eventfd ---> ready
//! ```
//!
//! A backend executes single steps and knows nothing else; three exist (DESIGN.md 1):
//!
//! | name       | how                                      | chosen when                           |
//! |------------|------------------------------------------|---------------------------------------|
//! | `io_uring` | one ring, one system call per batch      | the kernel allows it                  |
//! | `threads`  | a few threads, blocking calls            | it does not (Docker's seccomp, RHEL 9)|
//! | `inline`   | the call itself, within `kick`           | file in memory: only a copy is left   |
//!
//! Memory of an operation belongs to the operation, never to a future: dropping a waiting task
//! frees nothing that the kernel may still write to, and dropping a [`Disk`] waits for what is
//! under way (nbd.md 5.4).

mod device;
mod fault;
mod holder;
mod inline;
mod queue;
mod step;
#[cfg(test)]
mod tests;
mod threads;
mod uring;

pub use fault::{Fault, FaultInjection, FaultKind};
pub use queue::Disk;

use std::io;
use std::path::PathBuf;

use crate::buffer::{Buffer, Payload};

/// Offsets and lengths of all operations are multiples of this: DRBD's and NBD's sector.
pub const SECTOR_BYTES: u64 = 512;

/// Which way operations go to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// `Inline` for a file in memory, else `IoUring` if the kernel allows it, else `Threads`.
    #[default]
    Auto,
    IoUring,
    Threads,
    Inline,
}

/// Whether to bypass the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the backing store takes requests of 512 bytes that way.
    #[default]
    Auto,
    /// Opening fails where it does not.
    On,
    Off,
}

/// Who else may have the disk open through this module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody; and a block device must not be mounted or otherwise claimed.
    #[default]
    Exclusive,
    /// Others that share too: an indexed metadata device serves several resources.
    Shared,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    pub backend: BackendChoice,
    pub direct: DirectIo,
    pub sharing: Sharing,
}

/// What can be asked of a disk. Offsets and lengths are multiples of 512 and inside the disk.
#[derive(Debug)]
pub enum Operation {
    /// Fills the whole buffer, which the completion gives back.
    Read { offset: u64, buffer: Buffer },
    /// `durable`: the bytes are stable before it completes (FUA).
    Write { offset: u64, payload: Payload, durable: bool },
    /// The range reads as zeroes afterwards; `may_unmap` allows giving its space back.
    Zero { offset: u64, length: u64, may_unmap: bool, durable: bool },
    /// Everything whose completion was taken before this was submitted is stable.
    Flush,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    pub tag: u64,
    /// The buffer of a read; none for the other operations.
    pub result: Result<Option<Buffer>, io::Error>,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot open {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is neither a block device nor a plain file", path.display())]
    NotADisk { path: PathBuf },
    #[error("{} has no room for a single sector", path.display())]
    Empty { path: PathBuf },
    #[error("{} is in use: {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("direct I/O on {} is not possible: {reason}", path.display())]
    DirectUnavailable { path: PathBuf, reason: String },
    #[error("the disk backend {name} is not available: {source}")]
    Backend { name: &'static str, source: io::Error },
}
