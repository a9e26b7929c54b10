//! Bytes of the socket become requests: one large read, every request in it parsed, payloads in
//! pooled buffers.

use std::io::{self, IoSliceMut};

use super::request::{Action, Ask, Request, Rules, Step, Violation, parse};
use super::stream::Stream;
use super::wire::{Errno, REQUEST_BYTES};
use crate::buffer::{Buffer, BufferPool};

/// Room for 60 writes of 4 KiB, or thousands of reads, in one read of the socket.
const RECEIVE_BYTES: usize = 256 << 10;

/// From this size on a payload is worth a read of its own, straight into its buffer...
const LARGE_PAYLOAD_BYTES: u32 = 32 << 10;
/// ...so after a large write no more than this is read ahead of the next request's head.
const READ_AHEAD_BYTES: usize = 4 << 10;

/// What the received bytes ask for next.
#[derive(Debug)]
pub(super) enum Received {
    /// Read more first.
    Incomplete,
    /// The next request has to wait for room.
    NoRoom,
    Request(Ask, Request),
    Done(Ask),
    Refused(Ask, Errno, &'static str),
    Disconnect,
    Violation(Violation),
}

/// A write whose payload is not complete.
#[derive(Debug)]
struct Filling {
    ask: Ask,
    offset: u64,
    fua: bool,
    buffer: Buffer,
    filled: usize,
}

#[derive(Debug)]
pub(super) struct Receiver {
    rules: Rules,
    pool: BufferPool,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    filling: Option<Filling>,
    /// Rest of a refused write's payload, and what it is refused with.
    skipping: Option<(Ask, Errno, &'static str, usize)>,
    read_ahead: usize,
}

impl Receiver {
    pub(super) fn new(rules: Rules, pool: BufferPool) -> Self {
        Self {
            rules,
            pool,
            bytes: vec![0; RECEIVE_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            filling: None,
            skipping: None,
            read_ahead: RECEIVE_BYTES,
        }
    }

    /// Requests are checked against this size from now on.
    pub(super) fn set_size(&mut self, size_bytes: u64) {
        self.rules.size_bytes = size_bytes;
    }

    /// Reads once from the socket. Call when [`Self::next`] said `Incomplete`: then less than one
    /// request is left over. `Ok(false)` at the end of the stream.
    pub(super) fn read(&mut self, stream: &Stream) -> io::Result<bool> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        assert!(self.end < REQUEST_BYTES, "everything before was consumed");
        let to = (self.end + self.read_ahead).min(RECEIVE_BYTES);
        let ahead = &mut self.bytes[self.end..to];
        let count = match &mut self.filling {
            Some(filling) => {
                let rest = &mut filling.buffer[filling.filled..];
                let wanted = rest.len();
                let mut slices = [IoSliceMut::new(rest), IoSliceMut::new(ahead)];
                let count = stream.try_read_vectored(&mut slices)?;
                let direct = count.min(wanted);
                filling.filled += direct;
                self.end += count - direct;
                count
            }
            None => {
                let count = stream.try_read_vectored(&mut [IoSliceMut::new(ahead)])?;
                self.end += count;
                count
            }
        };
        Ok(count > 0)
    }

    /// The next request in what was read. `has_room` is asked for the bytes that a request will
    /// hold before it is taken.
    pub(super) fn next(&mut self, has_room: impl FnOnce(u32) -> bool) -> Received {
        if self.filling.is_some() {
            return self.fill();
        }
        if self.skipping.is_some() {
            return self.skip();
        }
        let (ask, action) = match parse(&self.bytes[self.start..self.end], &self.rules) {
            Step::Incomplete => return Received::Incomplete,
            Step::Disconnect => return Received::Disconnect,
            Step::Violation(violation) => return Received::Violation(violation),
            Step::Request { ask, action } => (ask, action),
        };
        if !has_room(ask.held_bytes) {
            return Received::NoRoom;
        }
        self.start += REQUEST_BYTES;
        match action {
            Action::Forward(request) => Received::Request(ask, request),
            Action::Done => Received::Done(ask),
            Action::Refuse { error, text, payload_bytes: 0 } => Received::Refused(ask, error, text),
            Action::Refuse { error, text, payload_bytes } => {
                self.skipping = Some((ask, error, text, payload_bytes as usize));
                self.skip()
            }
            Action::Receive { offset, length, fua } => {
                self.read_ahead =
                    if length >= LARGE_PAYLOAD_BYTES { READ_AHEAD_BYTES } else { RECEIVE_BYTES };
                let buffer = self.pool.take(length as usize);
                self.filling = Some(Filling { ask, offset, fua, buffer, filled: 0 });
                self.fill()
            }
        }
    }

    /// The request whose payload never came whole, at the end of the stream.
    pub(super) fn unfinished(&mut self) -> Option<Ask> {
        let write = self.filling.take().map(|filling| filling.ask);
        write.or_else(|| self.skipping.take().map(|skipping| skipping.0))
    }

    /// Moves what is there into the payload; the write is complete when it is full.
    fn fill(&mut self) -> Received {
        let Some(mut filling) = self.filling.take() else { return Received::Incomplete };
        let count = (filling.buffer.len() - filling.filled).min(self.end - self.start);
        filling.buffer[filling.filled..filling.filled + count]
            .copy_from_slice(&self.bytes[self.start..self.start + count]);
        self.start += count;
        filling.filled += count;
        if filling.filled < filling.buffer.len() {
            self.filling = Some(filling);
            return Received::Incomplete;
        }
        let Filling { ask, offset, fua, buffer, .. } = filling;
        Received::Request(ask, Request::Write { offset, payload: buffer.freeze(), fua })
    }

    fn skip(&mut self) -> Received {
        let Some((ask, error, text, rest)) = self.skipping.take() else {
            return Received::Incomplete;
        };
        let count = rest.min(self.end - self.start);
        self.start += count;
        if count < rest {
            self.skipping = Some((ask, error, text, rest - count));
            return Received::Incomplete;
        }
        Received::Refused(ask, error, text)
    }
}
