//! The sending half of a socket: packets queue up, a flush hands them to the system in one vectored
//! write, and what the socket does not take is left to a task that waits for room.
//!
//! Headers and fixed parts are encoded into one staging buffer; payloads are not copied, their
//! bytes go from the pool's memory to the socket.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, timeout_at};
use twinblk_proto::codec::{self, Framing};
use twinblk_proto::packet::Packet;

use crate::buffer::Payload;

/// Slices of one vectored write: 128 writes of 4 KiB, each with its header; 4 KiB of stack.
const SLICES_PER_WRITE: usize = 256;
/// Writes in a row before other tasks get their turn: 16 x 128 x 4 KiB = 8 MiB.
const WRITES_PER_TURN: usize = 16;
/// Payloads up to this size are copied behind their header: cheaper than a slice of their own.
const COPIED_PAYLOAD_BYTES: usize = 512;
/// Sent bytes at the start of the staging buffer before the rest moves down.
const STAGING_SLACK_BYTES: usize = 256 << 10;
/// Staging memory that is kept when the queue runs empty.
const STAGING_KEPT_BYTES: usize = 1 << 20;
/// More than this never waits for a peer: the plain bitmap of 32 TiB
/// (32 TiB / 4 KiB / 8 bits = 1 GiB) must fit, the engine queues it as a whole.
const QUEUE_BYTES_MAX: usize = 1 << 30;

/// Why a socket takes no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("sending: {0}")]
    Io(#[from] io::Error),
    #[error("sending made no progress for {0:?}")]
    Stalled(Duration),
    #[error("{QUEUE_BYTES_MAX} bytes wait to be sent: the peer does not read")]
    Overflow,
}

#[derive(Debug)]
enum Segment {
    /// So many bytes of the staging buffer.
    Staged(usize),
    Shared {
        payload: Payload,
        sent: usize,
    },
}

/// Bytes in order, not yet taken by the socket.
#[derive(Debug, Default)]
struct Queue {
    staging: Vec<u8>,
    /// Bytes at the start of `staging` that are sent.
    staging_sent: usize,
    segments: VecDeque<Segment>,
    bytes: usize,
}

impl Queue {
    fn push(
        &mut self,
        packet: &Packet,
        framing: &Framing,
        digest: &[u8],
        payload: Option<Payload>,
    ) {
        let before = self.staging.len();
        let bulk_bytes = payload.as_ref().map_or(0, |payload| payload.len());
        codec::encode(packet, 0, framing, bulk_bytes, digest, &mut self.staging);
        let payload = payload.filter(|payload| {
            let copied = payload.len() <= COPIED_PAYLOAD_BYTES;
            if copied {
                self.staging.extend_from_slice(payload);
            }
            !copied
        });
        let staged = self.staging.len() - before;
        self.bytes += staged;
        match self.segments.back_mut() {
            Some(Segment::Staged(bytes)) => *bytes += staged,
            _ => self.segments.push_back(Segment::Staged(staged)),
        }
        if let Some(payload) = payload {
            self.bytes += payload.len();
            self.segments.push_back(Segment::Shared { payload, sent: 0 });
        }
    }

    /// The first segments as slices; how many there are.
    fn slices<'a>(&'a self, out: &mut [IoSlice<'a>; SLICES_PER_WRITE]) -> usize {
        let mut staged_from = self.staging_sent;
        let mut count = 0;
        for (slot, segment) in out.iter_mut().zip(&self.segments) {
            *slot = IoSlice::new(match segment {
                Segment::Staged(bytes) => {
                    let from = staged_from;
                    staged_from += bytes;
                    &self.staging[from..staged_from]
                }
                Segment::Shared { payload, sent } => &payload[*sent..],
            });
            count += 1;
        }
        count
    }

    /// Forgets `taken` bytes that the socket took.
    fn advance(&mut self, mut taken: usize) {
        assert!(taken <= self.bytes, "the socket took no more than it was given");
        self.bytes -= taken;
        while taken > 0 {
            match self.segments.front_mut() {
                Some(Segment::Staged(bytes)) if *bytes > taken => {
                    *bytes -= taken;
                    self.staging_sent += taken;
                    taken = 0;
                }
                Some(Segment::Staged(bytes)) => {
                    taken -= *bytes;
                    self.staging_sent += *bytes;
                    self.segments.pop_front();
                }
                Some(Segment::Shared { payload, sent }) if payload.len() - *sent > taken => {
                    *sent += taken;
                    taken = 0;
                }
                Some(Segment::Shared { payload, sent }) => {
                    taken -= payload.len() - *sent;
                    self.segments.pop_front();
                }
                None => unreachable!("segments add up to the queue's bytes"),
            }
        }
        if self.segments.is_empty() {
            self.staging.clear();
            self.staging.shrink_to(STAGING_KEPT_BYTES);
            self.staging_sent = 0;
        } else if self.staging_sent > STAGING_SLACK_BYTES
            && self.staging_sent > self.staging.len() / 2
        {
            self.staging.drain(..self.staging_sent);
            self.staging_sent = 0;
        }
    }
}

/// The sending half of one socket.
#[derive(Debug)]
pub(super) struct Sender {
    stream: Rc<TcpStream>,
    queue: RefCell<Queue>,
    /// The socket is full; the task is to go on when there is room.
    blocked: Cell<bool>,
    wake: Notify,
}

impl Sender {
    pub(super) fn new(stream: Rc<TcpStream>) -> Self {
        Self { stream, queue: RefCell::default(), blocked: Cell::new(false), wake: Notify::new() }
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.borrow().bytes
    }

    pub(super) fn push(
        &self,
        packet: &Packet,
        framing: &Framing,
        digest: &[u8],
        payload: Option<Payload>,
    ) -> Result<(), SendError> {
        let mut queue = self.queue.borrow_mut();
        queue.push(packet, framing, digest, payload);
        if queue.bytes > QUEUE_BYTES_MAX { Err(SendError::Overflow) } else { Ok(()) }
    }

    /// Hands over what the socket takes now; the task gets the rest.
    pub(super) fn flush(&self) -> Result<(), SendError> {
        if self.blocked.get() || self.write()? {
            return Ok(());
        }
        self.blocked.set(true);
        self.wake.notify_one();
        Ok(())
    }

    /// True when the queue is empty, false when the socket is full or the turn is over.
    fn write(&self) -> Result<bool, SendError> {
        let mut queue = self.queue.borrow_mut();
        for _ in 0..WRITES_PER_TURN {
            if queue.bytes == 0 {
                return Ok(true);
            }
            let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
            let count = queue.slices(&mut slices);
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(SendError::Io(io::ErrorKind::WriteZero.into())),
                Ok(taken) => queue.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(queue.bytes == 0)
    }

    /// Sends what flushes left over, for ever. Ends with the reason why the socket is of no more
    /// use: an error, or no progress for `chances` times `limit` in a row (wire.md 1.3).
    pub(super) async fn run(&self, limit: Duration, chances: Option<u32>) -> SendError {
        loop {
            self.wake.notified().await;
            if let Err(error) = self.drain(limit, chances).await {
                return error;
            }
            self.blocked.set(false);
        }
    }

    /// Sends until the queue is empty.
    pub(super) async fn drain(
        &self,
        limit: Duration,
        chances: Option<u32>,
    ) -> Result<(), SendError> {
        let mut progressed = Instant::now();
        let mut missed = 0;
        loop {
            let queued = self.queued_bytes();
            if self.write()? {
                return Ok(());
            }
            if self.queued_bytes() < queued {
                progressed = Instant::now();
                missed = 0;
                // Writes in a row are bounded by their turn; now the others.
                tokio::task::yield_now().await;
            }
            match timeout_at(progressed + limit * (missed + 1), self.stream.writable()).await {
                Ok(ready) => ready?,
                Err(_) => {
                    missed += 1;
                    if chances.is_some_and(|chances| missed >= chances) {
                        return Err(SendError::Stalled(limit * missed));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use twinblk_proto::packet::{BlockId, Write};
    use twinblk_proto::units::SectorRange;

    use super::*;
    use crate::buffer::BufferPool;

    /// However few bytes the socket takes at a time, it gets every byte once and in order.
    #[test]
    fn any_step_gives_the_same_bytes() {
        let pool = BufferPool::default();
        let framing = Framing { version: 101, ..Framing::default() };
        let fill = |queue: &mut Queue, expected: &mut Vec<u8>| {
            for length in [0, 512, 4096, 512, 1024, 0, 8192] {
                let mut buffer = pool.take(length);
                buffer.fill((expected.len() % 251) as u8);
                let payload = buffer.freeze();
                let range = SectorRange::from_bytes(0, length as u64).expect("whole sectors");
                let write = Write { range, id: BlockId(7), sequence: 1, flags: 0 };
                let packet = if length == 0 { Packet::Ping } else { Packet::Data(write) };
                codec::encode(&packet, 0, &framing, length, &[], expected);
                expected.extend_from_slice(&payload);
                queue.push(&packet, &framing, &[], (length > 0).then_some(payload));
            }
        };
        for step in [1, 7, 16, 40, 500, 4096, 5000, 1 << 20] {
            let (mut queue, mut expected, mut sent) = (Queue::default(), Vec::new(), Vec::new());
            fill(&mut queue, &mut expected);
            while queue.bytes > 0 {
                let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
                let count = queue.slices(&mut slices);
                let mut left = step;
                for slice in &slices[..count] {
                    let take = left.min(slice.len());
                    sent.extend_from_slice(&slice[..take]);
                    left -= take;
                }
                queue.advance(step - left);
                // More arrives while some is still waiting.
                if expected.len() < 100_000 && sent.len() > expected.len() / 2 {
                    fill(&mut queue, &mut expected);
                }
            }
            assert!(sent == expected, "step {step}");
            assert!(queue.segments.is_empty() && queue.staging.is_empty());
        }
    }
}
