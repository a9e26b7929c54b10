//! Replies, from what the driver says to bytes of the wire: simple or structured as negotiated
//! (nbd.md 1.3).

use super::export::{Context, Contexts};
use super::request::{Ask, Kind};
use super::wire::{Errno, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk};
use crate::buffer::Payload;

/// Most extents in one answer; a client asks again for the rest. 4096 x 8 bytes = 32 KiB, well
/// under the protocol's 2^20.
pub const EXTENT_LIMIT: usize = 4096;

/// A stretch of the export with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub length: u32,
    pub flags: u32,
}

/// The driver's answer to one request.
#[derive(Clone, Debug)]
pub enum Reply {
    Done,
    /// To a read: exactly as many bytes as were asked for.
    Data(Payload),
    Error(Errno),
    /// To a block status: extents from the request's offset on, for each context that was asked.
    BlockStatus(Vec<(Context, Vec<Extent>)>),
}

/// A reply that does not fit its request: a fault of the driver, the client gets EIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("a read of {asked} bytes was answered with {given}")]
    Length { asked: u32, given: usize },
    #[error("a block status lacks an extent for {0:?}")]
    NoExtent(Context),
    #[error("the form of the reply does not belong to the command")]
    Form,
}

/// Writes the reply to `ask` into `head`; the data to send after it, if any, is returned.
pub fn encode(
    ask: &Ask,
    structured: bool,
    contexts: Contexts,
    reply: Reply,
    head: &mut Vec<u8>,
) -> Result<Option<Payload>, Mismatch> {
    match (reply, ask.kind) {
        (Reply::Error(error), _) => {
            encode_error(ask, structured, error, "", head);
            Ok(None)
        }
        (Reply::Data(payload), Kind::Read) => {
            if payload.len() != ask.length as usize {
                return Err(Mismatch::Length { asked: ask.length, given: payload.len() });
            }
            if structured {
                put_chunk(head, chunk::OFFSET_DATA, ask.handle, 8 + ask.length);
                head.extend_from_slice(&ask.offset.to_be_bytes());
            } else {
                put_simple(head, 0, ask.handle);
            }
            Ok(Some(payload))
        }
        (Reply::BlockStatus(statuses), Kind::BlockStatus { request_one }) => {
            encode_block_status(ask, request_one, contexts, &statuses, head)?;
            Ok(None)
        }
        (Reply::Done, Kind::Other) => {
            put_simple(head, 0, ask.handle);
            Ok(None)
        }
        _ => Err(Mismatch::Form),
    }
}

/// Success of a request that had nothing to do.
pub fn encode_nothing(ask: &Ask, structured: bool, head: &mut Vec<u8>) {
    if structured && ask.kind != Kind::Other {
        put_chunk(head, chunk::NONE, ask.handle, 0);
    } else {
        put_simple(head, 0, ask.handle);
    }
}

/// Reads must be answered in structured form once negotiated, errors too; the short form is as
/// good for the rest.
pub fn encode_error(ask: &Ask, structured: bool, error: Errno, text: &str, head: &mut Vec<u8>) {
    if !structured || ask.kind == Kind::Other {
        return put_simple(head, error.code(), ask.handle);
    }
    put_chunk(head, chunk::ERROR, ask.handle, 6 + text.len() as u32);
    head.extend_from_slice(&error.code().to_be_bytes());
    head.extend_from_slice(&(text.len() as u16).to_be_bytes());
    head.extend_from_slice(text.as_bytes());
}

/// One chunk per selected context, whether or not the driver said more.
fn encode_block_status(
    ask: &Ask,
    request_one: bool,
    contexts: Contexts,
    statuses: &[(Context, Vec<Extent>)],
    head: &mut Vec<u8>,
) -> Result<(), Mismatch> {
    let start = head.len();
    for context in contexts.iter() {
        let extents = statuses
            .iter()
            .find(|(candidate, _)| *candidate == context)
            .map_or(&[][..], |(_, extents)| extents);
        let limit = if request_one { 1 } else { EXTENT_LIMIT };
        let chunk_at = head.len();
        put_chunk(head, chunk::BLOCK_STATUS, ask.handle, 0);
        head.extend_from_slice(&context.id().to_be_bytes());
        let mut left = u64::from(ask.length);
        let fitting = extents.iter().filter(|extent| extent.length > 0).take(limit);
        let mut count = 0;
        for extent in fitting {
            if left == 0 {
                break;
            }
            // Nothing is said about what lies behind the request.
            let length = u64::from(extent.length).min(left);
            left -= length;
            head.extend_from_slice(&(length as u32).to_be_bytes());
            head.extend_from_slice(&extent.flags.to_be_bytes());
            count += 1;
        }
        if count == 0 {
            head.truncate(start);
            return Err(Mismatch::NoExtent(context));
        }
        // Only the last chunk is the end of the answer.
        let is_last = contexts.iter().last() == Some(context);
        let flags = if is_last { chunk::DONE } else { 0 };
        head[chunk_at + 4..chunk_at + 6].copy_from_slice(&flags.to_be_bytes());
        let length = 4 + 8 * count as u32;
        head[chunk_at + 16..chunk_at + 20].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

fn put_simple(head: &mut Vec<u8>, error: u32, handle: u64) {
    head.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    head.extend_from_slice(&error.to_be_bytes());
    head.extend_from_slice(&handle.to_be_bytes());
}

fn put_chunk(head: &mut Vec<u8>, kind: u16, handle: u64, length: u32) {
    head.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    head.extend_from_slice(&chunk::DONE.to_be_bytes());
    head.extend_from_slice(&kind.to_be_bytes());
    head.extend_from_slice(&handle.to_be_bytes());
    head.extend_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: Kind) -> Ask {
        Ask { handle: 7, kind, offset: 4096, length: 1024, held_bytes: 0 }
    }

    fn both_contexts() -> Contexts {
        let mut contexts = Contexts::default();
        for context in Context::ALL {
            contexts.insert(context);
        }
        contexts
    }

    fn payload(length: usize) -> Payload {
        crate::buffer::BufferPool::default().take_zeroed(length).freeze()
    }

    #[test]
    fn structured_reads_name_their_offset() {
        let mut head = Vec::new();
        let reply = Reply::Data(payload(1024));
        let data = encode(&ask(Kind::Read), true, Contexts::default(), reply, &mut head);
        assert_eq!(data.expect("fits").expect("data").len(), 1024);
        let expected = [
            &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 4, 8][..],
            &[0, 0, 0, 0, 0, 0, 16, 0],
        ];
        assert_eq!(head, expected.concat());
    }

    #[test]
    fn errors_take_the_form_of_the_command() {
        let mut head = Vec::new();
        encode_error(&ask(Kind::Read), true, Errno::Invalid, "why", &mut head);
        assert_eq!(head[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1]);
        assert_eq!(head[16..], *b"\0\0\0\x09\0\0\0\x16\0\x03why");
        for (kind, structured) in [(Kind::Read, false), (Kind::Other, true)] {
            head.clear();
            encode_error(&ask(kind), structured, Errno::NoSpace, "why", &mut head);
            assert_eq!(head, *b"\x67\x44\x66\x98\0\0\0\x1c\0\0\0\0\0\0\0\x07");
        }
    }

    #[test]
    fn block_status_has_a_chunk_per_context_and_stays_in_the_request() {
        let extents = vec![
            Extent { length: 512, flags: 0 },
            Extent { length: 0, flags: 9 },
            Extent { length: 4096, flags: 3 },
            Extent { length: 512, flags: 0 },
        ];
        let statuses = vec![(Context::OutOfSync, extents.clone()), (Context::Allocation, extents)];
        let mut head = Vec::new();
        let kind = Kind::BlockStatus { request_one: false };
        let reply = Reply::BlockStatus(statuses.clone());
        encode(&ask(kind), true, both_contexts(), reply, &mut head).expect("fits");
        let chunk = |flags: u8, id: u8| {
            let mut bytes = vec![0x66, 0x8e, 0x33, 0xef, 0, flags, 0, 5];
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 20, 0, 0, 0, id]);
            bytes.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3]);
            bytes
        };
        assert_eq!(head, [chunk(0, 1), chunk(1, 2)].concat());

        head.clear();
        let kind = Kind::BlockStatus { request_one: true };
        encode(&ask(kind), true, both_contexts(), Reply::BlockStatus(statuses), &mut head)
            .expect("fits");
        assert_eq!(head.len(), 2 * (20 + 4 + 8), "one extent each");
    }

    #[test]
    fn replies_that_do_not_fit_are_found() {
        let mut head = Vec::new();
        let none = Contexts::default();
        let short = encode(&ask(Kind::Read), false, none, Reply::Data(payload(512)), &mut head);
        assert_eq!(short.unwrap_err(), Mismatch::Length { asked: 1024, given: 512 });
        let form = encode(&ask(Kind::Read), false, none, Reply::Done, &mut head);
        assert_eq!(form.unwrap_err(), Mismatch::Form);
        let kind = Kind::BlockStatus { request_one: false };
        let statuses = vec![(Context::Allocation, vec![Extent { length: 512, flags: 0 }])];
        let lacking =
            encode(&ask(kind), true, both_contexts(), Reply::BlockStatus(statuses), &mut head);
        assert_eq!(lacking.unwrap_err(), Mismatch::NoExtent(Context::OutOfSync));
        assert!(head.is_empty(), "nothing of a failed reply is sent");
    }
}
