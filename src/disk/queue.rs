//! The disk as the driver sees it: operations in, completions out.
//!
//! Flushes share: while one fdatasync is under way, new flushes wait and then go together with the
//! next one. A flush never joins an fdatasync that was handed over before, since that one may not
//! cover the writes that completed in between. After a failed flush, and after a failed durable
//! write, every later flush fails too: the kernel reports lost pages once and forgets them, so a
//! later success would be a lie (DESIGN.md 3). Opening the disk again starts afresh.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::device::Device;
use super::fault::{Fault, FaultInjection};
use super::inline::Inline;
use super::step::{
    Action, Finished, Progress, Refusal, Step, ZeroMethod, ZeroRange, is_transient, refusal,
};
use super::threads::Threads;
use super::uring::{Uring, watch};
use super::{BackendChoice, Completion, DiskError, DiskOptions, Operation, SECTOR_BYTES};
use crate::buffer::{BufferPool, Payload};

/// Operations submitted and not yet completed. Callers bound their own (128 per NBD client, 2048
/// of the peer); this is several times their sum, and more is a mistake that must not eat memory.
const OPERATIONS_MAX: usize = 65_536;
/// Bytes of one read or write: 32 times NBD's largest request, a quarter of the kernel's.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// Zeroes written with one call where the backing store cannot zero by itself.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// Executes steps, in any order. Dropping a backend waits for the steps it was given.
pub(super) trait Backend {
    fn name(&self) -> &'static str;
    /// Steps that can be pushed now.
    fn room(&self) -> usize;
    fn push(&mut self, step: Step);
    /// Starts what was pushed.
    fn kick(&mut self);
    fn reap(&mut self, finished: &mut Vec<Finished>);
    /// Whether `reap` has something that the event does not announce.
    fn has_finished(&self) -> bool;
}

/// A backing disk. It belongs to the thread that opened it.
pub struct Disk {
    /// Before all else: it ends when the kernel is done with the rest.
    backend: Box<dyn Backend>,
    event: AsyncFd<Arc<OwnedFd>>,
    device: Device,
    pool: BufferPool,
    /// Not yet given to the backend; bounded by `OPERATIONS_MAX`.
    queued: VecDeque<Step>,
    in_flight: usize,
    flushes: Flushes,
    zeroing: Zeroing,
    faults: Option<FaultInjection>,
    /// Steps that a fault ended.
    struck: Vec<Finished>,
    finished: Vec<Finished>,
    completed: Vec<Completion>,
    bound_to_thread: PhantomData<*const ()>,
}

#[derive(Debug, Default)]
struct Flushes {
    /// Tags of operations that wait for the next fdatasync.
    waiting: Vec<u64>,
    /// Tags that the running one serves.
    running: Vec<u64>,
    is_running: bool,
    started: u64,
    /// Errno of the failure after which none succeeds any more.
    failure: Option<i32>,
}

/// What the backing store was found to be able to do.
#[derive(Debug)]
struct Zeroing {
    punch_hole: bool,
    zero_range: bool,
    /// Made when first needed.
    zeroes: Option<Payload>,
}

impl Disk {
    /// Opens a block device or plain file for this process alone. Needs a tokio runtime with I/O.
    pub fn open(path: &Path, options: &DiskOptions, pool: &BufferPool) -> Result<Self, DiskError> {
        Self::open_internal(path, options, pool, None)
    }

    /// As `open`, with faults on demand.
    pub fn open_with_faults(
        path: &Path,
        options: &DiskOptions,
        pool: &BufferPool,
        faults: FaultInjection,
    ) -> Result<Self, DiskError> {
        Self::open_internal(path, options, pool, Some(faults))
    }

    fn open_internal(
        path: &Path,
        options: &DiskOptions,
        pool: &BufferPool,
        faults: Option<FaultInjection>,
    ) -> Result<Self, DiskError> {
        let device = Device::open(path, options, pool)?;
        let failed = |source: io::Error| DiskError::Open { path: path.into(), source };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Arc::new)
            .map_err(|error| failed(error.into()))?;
        let backend = start_backend(options.backend, &device, &event, pool)?;
        let event = watch(event).map_err(failed)?;
        tracing::debug!(
            path = %path.display(),
            backend = backend.name(),
            direct = device.direct,
            size_bytes = device.size_bytes,
            "disk opened"
        );
        Ok(Self {
            backend,
            event,
            device,
            pool: pool.clone(),
            queued: VecDeque::new(),
            in_flight: 0,
            flushes: Flushes::default(),
            zeroing: Zeroing { punch_hole: true, zero_range: true, zeroes: None },
            faults,
            struck: Vec::new(),
            finished: Vec::new(),
            completed: Vec::new(),
            bound_to_thread: PhantomData,
        })
    }

    /// A multiple of 512.
    pub fn size_bytes(&self) -> u64 {
        self.device.size_bytes
    }

    /// The backing store was found to have another size.
    pub fn set_size_bytes(&mut self, size_bytes: u64) {
        self.device.size_bytes = size_bytes;
    }

    pub fn logical_block_bytes(&self) -> u32 {
        self.device.logical_block_bytes
    }

    pub fn physical_block_bytes(&self) -> u32 {
        self.device.physical_block_bytes
    }

    /// Whether zeroing with `may_unmap` gives space back.
    pub fn discard(&self) -> bool {
        self.device.discard
    }

    /// `io_uring`, `threads` or `inline`.
    pub fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.device.direct
    }

    /// Operations submitted whose completion was not yet taken.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many times the disk's cache was flushed.
    pub fn fdatasyncs(&self) -> u64 {
        self.flushes.started
    }

    /// Queues an operation; it starts with the next `kick`. Its completion carries `tag`.
    pub fn submit(&mut self, tag: u64, operation: Operation) {
        self.in_flight += 1;
        if let Err(error) = self.check(&operation) {
            self.complete(tag, Err(error));
            return;
        }
        let action = match operation {
            Operation::Read { offset, buffer } => Action::Read { offset, buffer, done: 0 },
            Operation::Write { offset, payload, durable } => {
                Action::Write { offset, payload, done: 0, durable }
            }
            Operation::Zero { offset, length, may_unmap, durable } => {
                let range = ZeroRange { offset, length, may_unmap, durable };
                Action::Zero { range, method: self.zero_method(&range) }
            }
            Operation::Flush => {
                self.flushes.waiting.push(tag);
                return;
            }
        };
        self.queued.push_back(Step::new(tag, action));
    }

    /// Hands everything queued to the kernel, as far as its queue has room; the rest follows as
    /// completions are taken.
    pub fn kick(&mut self) {
        self.start_flush();
        let mut pushed = false;
        while self.backend.room() > 0
            && let Some(mut step) = self.queued.pop_front()
        {
            match self.faults.as_ref().and_then(|faults| faults.strike(&step.action)) {
                Some(Fault::Error(errno)) => {
                    let result = Err(io::Error::from_raw_os_error(errno));
                    self.struck.push(Finished { step, result });
                    continue;
                }
                Some(Fault::Short(bytes)) => step.shorten_to = Some(bytes),
                None => {}
            }
            self.backend.push(step);
            pushed = true;
        }
        if pushed {
            self.backend.kick();
        }
    }

    /// Takes the operations that ended since the last call; never waits.
    pub fn completions(&mut self, out: &mut Vec<Completion>) {
        let mut finished = std::mem::take(&mut self.finished);
        self.backend.reap(&mut finished);
        finished.append(&mut self.struck);
        for Finished { step, result } in finished.drain(..) {
            self.settle(step, result);
        }
        self.finished = finished;
        if !self.queued.is_empty() || (self.flushes.wants_start()) {
            self.kick();
        }
        self.in_flight -= self.completed.len();
        out.append(&mut self.completed);
    }

    /// Returns when `completions` may have something; now and then without reason. Dropping the
    /// future loses nothing.
    pub async fn ready(&self) {
        if !self.completed.is_empty() || !self.struck.is_empty() || self.backend.has_finished() {
            return;
        }
        // The counter is never read: each signal is an edge for epoll, and only edges matter.
        if let Ok(mut guard) = self.event.readable().await {
            guard.clear_ready();
        }
    }

    /// The trust boundary: what comes in may have come over the wire.
    fn check(&self, operation: &Operation) -> io::Result<()> {
        let (offset, length) = match operation {
            Operation::Read { offset, buffer } => (*offset, transfer_length(buffer.len())?),
            Operation::Write { offset, payload, .. } => (*offset, transfer_length(payload.len())?),
            Operation::Zero { offset, length, .. } => (*offset, *length),
            Operation::Flush => (0, SECTOR_BYTES),
        };
        if self.in_flight > OPERATIONS_MAX {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many disk operations"));
        }
        if length == 0 || offset % SECTOR_BYTES != 0 || length % SECTOR_BYTES != 0 {
            return Err(invalid("not a whole number of sectors"));
        }
        if offset.checked_add(length).is_none_or(|end| end > self.device.size_bytes) {
            return Err(invalid("beyond the end of the disk"));
        }
        Ok(())
    }

    fn complete(&mut self, tag: u64, result: io::Result<Option<crate::buffer::Buffer>>) {
        self.completed.push(Completion { tag, result });
    }

    /// A step came back.
    fn settle(&mut self, mut step: Step, result: io::Result<usize>) {
        if matches!(step.action, Action::Sync) {
            return self.end_flush(result);
        }
        match result.map(|count| step.advance(count)) {
            Ok(Progress::Complete) => self.succeed(step),
            Ok(Progress::More) => self.queued.push_back(step),
            Ok(Progress::Stalled) if step.may_try_again() => self.queued.push_back(step),
            Ok(Progress::Stalled) => {
                let error = step.stalled();
                self.fail(step, error);
            }
            Err(error) if is_transient(&error) && step.may_try_again() => {
                self.queued.push_back(step);
            }
            Err(error) => self.fail(step, error),
        }
    }

    fn succeed(&mut self, step: Step) {
        match step.action {
            Action::Read { buffer, .. } => self.complete(step.tag, Ok(Some(buffer))),
            // Stable with the next flush, together with whoever else waits for one.
            Action::Zero { range, .. } if range.durable => self.flushes.waiting.push(step.tag),
            _ => self.complete(step.tag, Ok(None)),
        }
    }

    fn fail(&mut self, step: Step, error: io::Error) {
        let Step { tag, action, .. } = step;
        match action {
            Action::Zero { range, method } if !matches!(method, ZeroMethod::Write { .. }) => {
                match refusal(&error) {
                    Some(refusal) => self.zero_otherwise(tag, range, &method, &refusal),
                    None => self.complete(tag, Err(error)),
                }
            }
            Action::Write { durable: true, .. } => {
                // Its own bytes or those of an earlier write: the kernel does not tell.
                self.flushes.failure.get_or_insert_with(|| errno_of(&error));
                self.complete(tag, Err(error));
            }
            _ => self.complete(tag, Err(error)),
        }
    }

    /// The best way that is not known to be refused.
    fn zero_method(&mut self, range: &ZeroRange) -> ZeroMethod {
        if range.may_unmap && self.zeroing.punch_hole {
            ZeroMethod::PunchHole
        } else if self.zeroing.zero_range {
            ZeroMethod::ZeroRange
        } else {
            self.zero_by_writing()
        }
    }

    fn zero_by_writing(&mut self) -> ZeroMethod {
        let zeroes = self
            .zeroing
            .zeroes
            .get_or_insert_with(|| self.pool.take_zeroed(ZERO_CHUNK_BYTES).freeze())
            .clone();
        ZeroMethod::Write { zeroes, done: 0 }
    }

    /// Goes on with the next way to zero after `refused` was.
    fn zero_otherwise(
        &mut self,
        tag: u64,
        range: ZeroRange,
        refused: &ZeroMethod,
        refusal: &Refusal,
    ) {
        let method = if *refusal == Refusal::ThisTime {
            self.zero_by_writing()
        } else {
            match refused {
                ZeroMethod::PunchHole => self.zeroing.punch_hole = false,
                _ => self.zeroing.zero_range = false,
            }
            self.zero_method(&range)
        };
        self.queued.push_back(Step::new(tag, Action::Zero { range, method }));
    }

    /// Starts the fdatasync that everyone waiting shares, unless one is under way.
    fn start_flush(&mut self) {
        if !self.flushes.wants_start() {
            return;
        }
        if let Some(errno) = self.flushes.failure {
            for tag in std::mem::take(&mut self.flushes.waiting) {
                self.complete(tag, Err(io::Error::from_raw_os_error(errno)));
            }
            return;
        }
        self.flushes.is_running = true;
        self.flushes.started += 1;
        std::mem::swap(&mut self.flushes.running, &mut self.flushes.waiting);
        self.queued.push_front(Step::new(0, Action::Sync));
    }

    fn end_flush(&mut self, result: io::Result<usize>) {
        self.flushes.is_running = false;
        if let Err(error) = &result {
            self.flushes.failure.get_or_insert_with(|| errno_of(error));
        }
        let failure = self.flushes.failure;
        for tag in std::mem::take(&mut self.flushes.running) {
            let result = failure.map_or(Ok(None), |errno| Err(io::Error::from_raw_os_error(errno)));
            self.complete(tag, result);
        }
    }
}

impl Flushes {
    fn wants_start(&self) -> bool {
        !self.is_running && !self.waiting.is_empty()
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Disk")
            .field("path", &self.device.path)
            .field("backend", &self.backend.name())
            .field("size_bytes", &self.device.size_bytes)
            .field("direct", &self.device.direct)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

fn start_backend(
    choice: BackendChoice,
    device: &Device,
    event: &Arc<OwnedFd>,
    pool: &BufferPool,
) -> Result<Box<dyn Backend>, DiskError> {
    let unavailable = |name| move |source| DiskError::Backend { name, source };
    let uring = || Uring::start(&device.file, device.direct, event.clone(), pool);
    let threads = || Threads::start(device.file.clone(), event.clone());
    let inline = || Box::new(Inline::new(device.file.clone()));
    Ok(match choice {
        BackendChoice::Inline => inline(),
        BackendChoice::Auto if device.in_memory => inline(),
        BackendChoice::IoUring => Box::new(uring().map_err(unavailable("io_uring"))?),
        BackendChoice::Threads => Box::new(threads().map_err(unavailable("threads"))?),
        BackendChoice::Auto => match uring() {
            Ok(uring) => Box::new(uring),
            Err(error) => {
                tracing::info!(%error, "no io_uring here; using threads for the disk");
                Box::new(threads().map_err(unavailable("threads"))?)
            }
        },
    })
}

/// Signals the event; its counter cannot overflow before the machine is scrap.
pub(super) fn wake(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

fn transfer_length(bytes: usize) -> io::Result<u64> {
    if bytes > TRANSFER_BYTES_MAX {
        return Err(invalid("more than a single transfer may carry"));
    }
    Ok(bytes as u64)
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The number to fail later flushes with.
fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}
