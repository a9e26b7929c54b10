//! A step: what a backend executes with one system call, and what it means for its operation.
//!
//! A step owns the memory it works on and is moved through the backend and back.

use std::fs::File;
use std::io::{self, IoSlice};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::SECTOR_BYTES;
use crate::buffer::{Buffer, Payload};

/// Tries after the first for a step that was interrupted, refused for now, or made no progress.
const RETRIES_MAX: u32 = 16;

#[derive(Debug)]
pub(super) struct Step {
    pub(super) tag: u64,
    pub(super) action: Action,
    retries: u32,
    /// Test hook: count no more bytes than these of the next result.
    pub(super) shorten_to: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Action {
    Read { offset: u64, buffer: Buffer, done: usize },
    Write { offset: u64, payload: Payload, done: usize, durable: bool },
    Zero { range: ZeroRange, method: ZeroMethod },
    Sync,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroRange {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) may_unmap: bool,
    pub(super) durable: bool,
}

/// Ways to zero, in the order in which they are tried.
#[derive(Debug)]
pub(super) enum ZeroMethod {
    /// Gives the space back. On block devices the kernel promises zeroes or refuses.
    PunchHole,
    /// Keeps the space.
    ZeroRange,
    /// A chunk of zeroes at a time.
    Write { zeroes: Payload, done: u64 },
}

/// A step that came back from a backend: bytes moved, or why not.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) step: Step,
    pub(super) result: io::Result<usize>,
}

/// Where an operation stands after a step of it succeeded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Complete,
    More,
    /// Nothing was gained: end of file, or less than a sector.
    Stalled,
}

/// The system call of a step, for the backends.
#[derive(Debug)]
pub(super) enum Call<'a> {
    Read { offset: u64, into: &'a mut [u8] },
    Write { offset: u64, from: &'a [u8], durable: bool },
    Allocate { offset: u64, length: u64, flags: FallocateFlags },
    Sync,
}

impl Step {
    pub(super) fn new(tag: u64, action: Action) -> Self {
        Self { tag, action, retries: 0, shorten_to: None }
    }

    /// Counts a try that gained nothing; false when it was the last.
    pub(super) fn may_try_again(&mut self) -> bool {
        self.retries += 1;
        self.retries <= RETRIES_MAX
    }

    pub(super) fn call(&mut self) -> Call<'_> {
        match &mut self.action {
            Action::Read { offset, buffer, done } => {
                Call::Read { offset: *offset + *done as u64, into: &mut buffer[*done..] }
            }
            Action::Write { offset, payload, done, durable } => Call::Write {
                offset: *offset + *done as u64,
                from: &payload[*done..],
                durable: *durable,
            },
            Action::Zero { range: ZeroRange { offset, length, .. }, method } => match method {
                ZeroMethod::PunchHole => Call::Allocate {
                    offset: *offset,
                    length: *length,
                    flags: FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                },
                ZeroMethod::ZeroRange => Call::Allocate {
                    offset: *offset,
                    length: *length,
                    flags: FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                },
                ZeroMethod::Write { zeroes, done } => {
                    let left = *length - *done;
                    let chunk =
                        usize::try_from(left).map_or(zeroes.len(), |left| left.min(zeroes.len()));
                    // One flush at the end makes a durable one stable, not each chunk.
                    Call::Write { offset: *offset + *done, from: &zeroes[..chunk], durable: false }
                }
            },
            Action::Sync => Call::Sync,
        }
    }

    /// Accounts for `count` bytes moved. What is not a whole sector is done again, since the rest
    /// of a direct transfer must start on one.
    pub(super) fn advance(&mut self, count: usize) -> Progress {
        let count = self.shorten_to.take().map_or(count, |limit| limit.min(count));
        let progress = match &mut self.action {
            Action::Read { buffer, done, .. } => advance_to(done, count, buffer.len()),
            Action::Write { payload, done, .. } => advance_to(done, count, payload.len()),
            Action::Zero { range, method: ZeroMethod::Write { done, .. } } => {
                let gained = count as u64 - count as u64 % SECTOR_BYTES;
                *done += gained;
                match *done {
                    done if done == range.length => Progress::Complete,
                    _ if gained == 0 => Progress::Stalled,
                    _ => Progress::More,
                }
            }
            Action::Zero { .. } | Action::Sync => Progress::Complete,
        };
        if progress == Progress::More {
            // The length bounds the steps that gain something.
            self.retries = 0;
        }
        progress
    }

    /// The error of an operation that stalled for good.
    pub(super) fn stalled(&self) -> io::Error {
        match self.action {
            Action::Read { .. } => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "the disk ended before its size")
            }
            _ => io::Error::new(io::ErrorKind::WriteZero, "the disk took no more bytes"),
        }
    }

    /// Performs the step on the calling thread.
    pub(super) fn perform(&mut self, file: &File) -> io::Result<usize> {
        Ok(match self.call() {
            Call::Read { offset, into } => rustix::io::pread(file, into, offset)?,
            Call::Write { offset, from, durable } => {
                let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                rustix::io::pwritev2(file, &[IoSlice::new(from)], offset, flags)?
            }
            Call::Allocate { offset, length, flags } => {
                rustix::fs::fallocate(file, flags, offset, length)?;
                0
            }
            Call::Sync => {
                rustix::fs::fdatasync(file)?;
                0
            }
        })
    }
}

fn advance_to(done: &mut usize, count: usize, length: usize) -> Progress {
    assert!(count <= length - *done, "the kernel moved {count} bytes of {}", length - *done);
    if *done + count == length {
        *done = length;
        return Progress::Complete;
    }
    let gained = count - count % SECTOR_BYTES as usize;
    *done += gained;
    if gained == 0 { Progress::Stalled } else { Progress::More }
}

/// The call may succeed if it is made again.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::AGAIN))
}

/// How a refused `fallocate` is to be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This disk will never do it.
    Always,
    /// Not for this range (a device with sectors of 4 KiB).
    ThisTime,
}

pub(super) fn refusal(error: &io::Error) -> Option<Refusal> {
    match Errno::from_io_error(error)? {
        Errno::OPNOTSUPP | Errno::NOSYS => Some(Refusal::Always),
        Errno::INVAL => Some(Refusal::ThisTime),
        _ => None,
    }
}
