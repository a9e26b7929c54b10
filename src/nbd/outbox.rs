//! Replies on their way to the socket: heads in one byte string, data as shared payloads, all of
//! it handed over in as few vectored writes as the socket takes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::buffer::Payload;

/// Slices per write: 128 requests in flight are at most 256 slices, two writes. The kernel takes
/// 1024 (IOV_MAX).
const SLICES_PER_WRITE: usize = 128;

/// Sent heads are dropped from the byte string when this many have piled up behind a reader that
/// never lets it become empty.
const SENT_HEAD_LIMIT: usize = 64 << 10;

/// What a sent reply gives back to the connection's allowance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) requests: usize,
    pub(super) bytes: u64,
}

#[derive(Debug)]
enum Segment {
    /// The next so many bytes of `heads`.
    Head(usize),
    /// A payload from this byte on.
    Data(Payload, usize),
}

/// The end of a reply in the stream, and the bytes its request holds.
#[derive(Debug)]
struct Mark {
    end: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    heads: Vec<u8>,
    heads_sent: usize,
    segments: VecDeque<Segment>,
    marks: VecDeque<Mark>,
    /// Positions in the stream of all replies ever queued.
    queued: u64,
    sent: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Queues one reply: `write_head` appends its head and returns the data to follow. `bytes` is
    /// what the request holds of the connection's allowance until the reply is sent.
    pub(super) fn push(
        &mut self,
        bytes: u64,
        write_head: impl FnOnce(&mut Vec<u8>) -> Option<Payload>,
    ) {
        let before = self.heads.len();
        let data = write_head(&mut self.heads);
        let head = self.heads.len() - before;
        self.queued += head as u64;
        match self.segments.back_mut() {
            // Heads without data in between lie side by side: one slice.
            Some(Segment::Head(length)) => *length += head,
            _ => self.segments.push_back(Segment::Head(head)),
        }
        if let Some(data) = data
            && !data.is_empty()
        {
            self.queued += data.len() as u64;
            self.segments.push_back(Segment::Data(data, 0));
        }
        self.marks.push_back(Mark { end: self.queued, bytes });
    }

    /// Writes once. `WouldBlock` and failures come back as errors.
    pub(super) fn write(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Released> {
        let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
        let mut head = self.heads_sent;
        let mut used = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(match segment {
                Segment::Head(length) => {
                    head += length;
                    &self.heads[head - length..head]
                }
                Segment::Data(payload, from) => &payload[*from..],
            });
            used += 1;
        }
        let count = write(&slices[..used])?;
        if count == 0 && used > 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.advance(count);
        Ok(self.release())
    }

    fn advance(&mut self, count: usize) {
        self.sent += count as u64;
        let mut left = count;
        while let Some(segment) = self.segments.front_mut() {
            let rest = match segment {
                Segment::Head(length) => *length,
                Segment::Data(payload, from) => payload.len() - *from,
            };
            let step = rest.min(left);
            match segment {
                Segment::Head(length) => {
                    *length -= step;
                    self.heads_sent += step;
                }
                Segment::Data(_, from) => *from += step,
            }
            left -= step;
            if step < rest {
                break;
            }
            self.segments.pop_front();
        }
        debug_assert_eq!(left, 0, "the socket took more than it was given");
        if self.segments.is_empty() {
            self.heads.clear();
            self.heads_sent = 0;
        } else if self.heads_sent >= SENT_HEAD_LIMIT {
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
    }

    fn release(&mut self) -> Released {
        let mut released = Released::default();
        while let Some(mark) = self.marks.front().filter(|mark| mark.end <= self.sent) {
            released.requests += 1;
            released.bytes += mark.bytes;
            self.marks.pop_front();
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::BufferPool;
    use proptest::prelude::*;

    proptest! {
        /// However little the socket takes at a time, the bytes and the accounts are the same.
        #[test]
        fn any_partial_writes_give_the_same_stream(
            replies in prop::collection::vec((1usize..40, 0usize..900), 1..40),
            takes in prop::collection::vec(1usize..2000, 1..20),
        ) {
            let pool = BufferPool::default();
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (number, (head, data)) in replies.iter().enumerate() {
                let mut payload = pool.take(*data);
                payload.fill(number as u8);
                expected.extend(std::iter::repeat_n(!(number as u8), *head));
                expected.extend_from_slice(&payload);
                outbox.push(*data as u64, |heads| {
                    heads.extend(std::iter::repeat_n(!(number as u8), *head));
                    Some(payload.freeze())
                });
            }
            let mut stream = Vec::new();
            let mut released = Released::default();
            let mut takes = takes.iter().cycle();
            while !outbox.is_empty() {
                let now = outbox.write(|slices| {
                    let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                    let count = all.len().min(*takes.next().expect("endless"));
                    stream.extend_from_slice(&all[..count]);
                    Ok(count)
                }).expect("takes some");
                released.requests += now.requests;
                released.bytes += now.bytes;
            }
            prop_assert!(stream == expected);
            prop_assert_eq!(released.requests, replies.len());
            prop_assert_eq!(released.bytes, replies.iter().map(|reply| reply.1 as u64).sum::<u64>());
            prop_assert!(outbox.heads.is_empty() && outbox.marks.is_empty());
        }
    }

    #[test]
    fn neighbouring_heads_are_one_slice() {
        let mut outbox = Outbox::default();
        for _ in 0..10 {
            outbox.push(0, |heads| {
                heads.extend_from_slice(&[1; 16]);
                None
            });
        }
        let released = outbox.write(|slices| {
            assert_eq!(slices.len(), 1);
            Ok(slices[0].len())
        });
        assert_eq!(released.expect("written").requests, 10);
    }
}
