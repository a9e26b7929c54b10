//! The backend of choice: one io_uring, one `io_uring_enter` per kick (per few steps of it, where the
//! disk itself is to be kept busy).
//!
//! The ring belongs to the resource's thread. The file is registered, and so are the buffers of the
//! pool's arena; other buffers go by plain reads and writes. No polling thread: on two cores it
//! takes the processor away from the sockets (nbd.md 5.1).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::queue::{Backend, wake};
use super::step::{Action, Call, Finished, Step};
use crate::buffer::BufferPool;

/// Steps in the kernel at once. Twice the depth that saturates a fast disk with 4 KiB requests;
/// the completion queue has twice as many entries and cannot overflow.
const DEPTH: u32 = 128;
/// Steps per enter with direct I/O. The kernel passes a batch to the device when it has seen all of
/// it, so one batch of 32 has the device wait for the processor and then the processor for the
/// device. Measured, 4 KiB writes at depth 32 against fio: all at once 0.81 of its rate, 16 at a time
/// 0.90, 8 or 4 between 0.92 and 1.05, at 0.6 of its processor time. The page cache does not care.
const DIRECT_BATCH: usize = 4;
/// Attempts to hand a batch over before the thread does something else first.
const ENTER_TRIES_MAX: usize = 8;
/// The registered file.
const FILE: Fixed = Fixed(0);
/// RWF_DSYNC of pwritev2(2).
const RWF_DSYNC: i32 = 2;

pub(super) struct Uring {
    ring: IoUring,
    event: Arc<OwnedFd>,
    /// Steps that the kernel works on, by number; they own the memory.
    steps: Vec<Option<Step>>,
    free: Vec<u32>,
    /// Keeps the registered buffers in place; none when registering was refused.
    registered: Option<BufferPool>,
    /// Entries in the queue after which the kernel is called without waiting for more.
    batch: usize,
    /// Entries are in the queue that the kernel has not taken.
    unsubmitted: bool,
    /// Completions were there when the last kick returned: the page cache had it all.
    finished_early: bool,
}

impl Uring {
    /// Completions are announced by the kernel through `event`.
    pub(super) fn start(
        file: &File,
        is_direct: bool,
        event: Arc<OwnedFd>,
        pool: &BufferPool,
    ) -> io::Result<Self> {
        let ring = build_ring()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::ReadFixed::CODE,
            opcode::WriteFixed::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(Errno::OPNOTSUPP.into());
        }
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let registered = register_arena(&ring, pool);
        Ok(Self {
            ring,
            event,
            steps: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).rev().collect(),
            registered,
            batch: if is_direct { DIRECT_BATCH } else { DEPTH as usize },
            unsubmitted: false,
            finished_early: false,
        })
    }

    /// Builds the kernel's view of a step. Its pointers are good while the step is in `steps`.
    fn entry(&self, step: &mut Step) -> squeue::Entry {
        let slot = self.registered.as_ref().and_then(|pool| match &step.action {
            Action::Read { buffer, .. } => buffer.arena_slot(pool),
            Action::Write { payload, .. } => payload.arena_slot(pool),
            _ => None,
        });
        match step.call() {
            Call::Read { offset, into } => {
                let length = length_of(into.len());
                match slot {
                    Some(slot) => opcode::ReadFixed::new(FILE, into.as_mut_ptr(), length, slot)
                        .offset(offset)
                        .build(),
                    None => {
                        opcode::Read::new(FILE, into.as_mut_ptr(), length).offset(offset).build()
                    }
                }
            }
            Call::Write { offset, from, durable } => {
                let length = length_of(from.len());
                let flags = if durable { RWF_DSYNC } else { 0 };
                match slot {
                    Some(slot) => opcode::WriteFixed::new(FILE, from.as_ptr(), length, slot)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    None => opcode::Write::new(FILE, from.as_ptr(), length)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Call::Allocate { offset, length, flags } => opcode::Fallocate::new(FILE, length)
                .offset(offset)
                .mode(flags.bits().cast_signed())
                .build(),
            Call::Sync => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        }
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn room(&self) -> usize {
        self.free.len()
    }

    fn push(&mut self, mut step: Step) {
        let number = self.free.pop().expect("the caller asked for room");
        let entry = self.entry(&mut step).user_data(u64::from(number));
        self.steps[number as usize] = Some(step);
        // SAFETY: the entry points into memory owned by the step, on the heap, so moving the step
        // does not move it. The step stays in `steps`, untouched, until its completion is reaped;
        // `drop` waits for it or leaks it. Fixed buffers are the slots of `registered`, which this
        // backend keeps alive longer than the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the submission queue holds as many entries as there are numbers");
        self.unsubmitted = true;
        if self.ring.submission().len() >= self.batch {
            self.kick();
        }
    }

    fn kick(&mut self) {
        let mut tries = 0;
        while self.unsubmitted && tries < ENTER_TRIES_MAX {
            tries += 1;
            match self.ring.submit() {
                Ok(_) => self.unsubmitted = !self.ring.submission().is_empty(),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // Out of memory for now: try again after a turn of the thread's loop.
                    Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => break,
                    // The ring is ours and complete; the kernel has no other reason to refuse.
                    _ => panic!("io_uring_enter: {error}"),
                },
            }
        }
        if self.unsubmitted {
            wake(&self.event);
        }
        self.finished_early =
            !self.ring.completion().is_empty() || self.ring.submission().taskrun();
    }

    fn reap(&mut self, finished: &mut Vec<Finished>) {
        self.kick();
        if self.ring.submission().taskrun() || self.ring.submission().cq_overflow() {
            // The kernel has finished requests and waits for us to make a system call, any, to post
            // them. An error means not now; the flag stays up for the next time.
            if self.ring.submit().is_err() {
                wake(&self.event);
            }
        }
        for completion in self.ring.completion() {
            let number = completion.user_data();
            let step = self.steps[number as usize].take().expect("completed once");
            self.free.push(number as u32);
            let result = completion.result();
            let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            finished.push(Finished { step, result });
        }
        self.finished_early = false;
    }

    /// Spares a turn of the event loop; the event would tell as well.
    fn has_finished(&self) -> bool {
        self.finished_early
    }
}

impl Drop for Uring {
    /// Waits until the kernel has let go of all memory.
    fn drop(&mut self) {
        let mut finished = Vec::new();
        while self.free.len() < DEPTH as usize {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {
                        std::thread::yield_now();
                    }
                    _ => {
                        // Lost memory is better than memory that changes under its next owner.
                        tracing::error!(%error, "cannot wait for the disk; leaking its buffers");
                        std::mem::forget(std::mem::take(&mut self.steps));
                        std::mem::forget(self.registered.take());
                        return;
                    }
                },
            }
            self.unsubmitted = false;
            self.reap(&mut finished);
            finished.clear();
        }
        // The kernel takes a ring apart in the background; the file must be closed, and so
        // unlocked, when the disk is gone.
        let _ = self.ring.submitter().unregister_files();
    }
}

/// The kernel's lengths are 32 bits wide; `queue.rs` admits no operation near that.
fn length_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("operations are bounded")
}

/// The best ring that this kernel gives: a single issuer since 6.0, cooperative completions since
/// 5.19, a plain ring before.
///
/// Completions are not deferred to the next enter (IORING_SETUP_DEFER_TASKRUN), although that works
/// with an eventfd: fetching them signals the event once more, so the thread wakes twice per batch
/// (measured at depth 1: 1.99 wake-ups per write against 1.00), for the same rate.
fn build_ring() -> io::Result<IoUring> {
    let cooperative = |builder: &mut io_uring::Builder| {
        builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all().build(DEPTH)
    };
    cooperative(IoUring::builder().setup_single_issuer())
        .or_else(|_| cooperative(&mut IoUring::builder()))
        .or_else(|_| IoUring::new(DEPTH))
}

/// Makes an event awaitable. Here because all `unsafe` of the program is in this file.
pub(super) fn watch(event: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned by the value handed over, which neither closes nor replaces
    // it while the `AsyncFd` holds it.
    Ok(unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }?)
}

/// Registers the arena; none when it has none or the kernel refuses (limit of locked memory).
fn register_arena(ring: &IoUring, pool: &BufferPool) -> Option<BufferPool> {
    if pool.arena().is_empty() {
        return None;
    }
    let slots: Vec<libc::iovec> = pool
        .arena()
        .iter()
        .map(|slot| libc::iovec {
            iov_base: slot.address as *mut libc::c_void,
            iov_len: slot.length,
        })
        .collect();
    // SAFETY: the slots are allocated as long as a clone of the pool lives; the backend keeps one
    // and drops it after the ring.
    match unsafe { ring.submitter().register_buffers(&slots) } {
        Ok(()) => Some(pool.clone()),
        Err(error) => {
            tracing::info!(%error, "the disk's buffers cannot be registered; going on without");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn start(pool: &BufferPool) -> Option<Uring> {
        let file = tempfile::tempfile().expect("a temporary file");
        let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an event"));
        match Uring::start(&file, false, event, pool) {
            Ok(uring) => Some(uring),
            Err(error) => {
                eprintln!("skipped: no io_uring here: {error}");
                None
            }
        }
    }

    #[test]
    fn a_pool_without_arena_registers_nothing() {
        let Some(uring) = start(&BufferPool::default()) else { return };
        assert!(uring.registered.is_none());
    }

    #[test]
    fn buffers_of_the_arena_are_addressed_by_their_number() {
        let pool = BufferPool::with_arena();
        let Some(uring) = start(&pool) else { return };
        if uring.registered.is_none() {
            eprintln!("skipped: the limit of locked memory forbids registered buffers");
            return;
        }
        let opcode_of = |buffer| {
            let action = Action::Read { offset: 0, buffer, done: 0 };
            uring.entry(&mut Step::new(1, action)).get_opcode()
        };
        assert_eq!(opcode_of(pool.take(4096)), u32::from(opcode::ReadFixed::CODE));
        assert_eq!(opcode_of(BufferPool::default().take(4096)), u32::from(opcode::Read::CODE));
    }
}
