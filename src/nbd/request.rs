//! Requests of the transmission phase: bytes in, the next [`Step`] out.
//!
//! The parser owns no socket and no buffer. It decides everything that can be decided from the 28
//! bytes of a request and the rules of the connection (nbd.md 1.3 and 1.5): what goes to the
//! driver is inside the export, aligned and allowed.

use super::export::{Contexts, ExportInfo};
use super::wire::{Errno, REQUEST_BYTES, REQUEST_MAGIC, command, command_flag};
use crate::buffer::Payload;

/// Names a request between [`super::ClientEvent::Request`] and [`super::Client::reply`]. Chosen
/// by the server: a hostile client may use one cookie of its own for many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// A request for the driver: well formed, inside the export, never of length zero.
#[derive(Clone, Debug)]
pub enum Request {
    Read { offset: u64, length: u32 },
    Write { offset: u64, payload: Payload, fua: bool },
    Trim { offset: u64, length: u32, fua: bool },
    WriteZeroes { offset: u64, length: u32, may_unmap: bool, fua: bool },
    Flush,
    BlockStatus { offset: u64, length: u32, request_one: bool, contexts: Contexts },
}

/// A refused write's payload is read and thrown away up to here; a header that claims more ends
/// the connection. Twice the largest allowed payload: a client that missed the limit is told so,
/// one that lost its place in the stream is not listened to.
pub const SKIPPED_PAYLOAD_LIMIT: u32 = 64 << 20;

/// What a connection may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub size_bytes: u64,
    pub read_only: bool,
    pub fast_zero: bool,
    pub minimum_block_bytes: u32,
    pub maximum_payload_bytes: u32,
    pub structured: bool,
    pub contexts: Contexts,
}

impl Rules {
    pub fn new(export: &ExportInfo, structured: bool, contexts: Contexts) -> Self {
        Self {
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            fast_zero: export.fast_zero,
            minimum_block_bytes: export.minimum_block_bytes,
            maximum_payload_bytes: export.maximum_payload_bytes,
            structured,
            contexts,
        }
    }
}

/// What the bytes at the start of the input mean.
#[derive(Debug)]
pub enum Step {
    /// Fewer bytes than a request has.
    Incomplete,
    /// The next [`REQUEST_BYTES`] bytes are a request.
    Request { ask: Ask, action: Action },
    /// NBD_CMD_DISC: answer what is outstanding, then close.
    Disconnect,
    /// The stream cannot be followed any further: close.
    Violation(Violation),
}

/// What an answer needs to know about its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The client's own cookie.
    pub handle: u64,
    pub kind: Kind,
    pub offset: u64,
    pub length: u32,
    /// Payload memory that the request needs, from now until its answer is sent.
    pub held_bytes: u32,
}

/// Commands by the form of their answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    BlockStatus { request_one: bool },
    Other,
}

#[derive(Debug)]
pub enum Action {
    Forward(Request),
    /// A write: `length` bytes of payload follow the request.
    Receive {
        offset: u64,
        length: u32,
        fua: bool,
    },
    /// Nothing to do: answered as done.
    Done,
    /// Answered with an error. `payload_bytes` follow the request and are thrown away.
    Refuse {
        error: Errno,
        text: &'static str,
        payload_bytes: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a request does not start with the request magic but with {0:#010x}")]
    BadMagic(u32),
    #[error("a write claims {0} bytes of payload")]
    OversizedWrite(u32),
}

/// Reads one request from the start of `bytes`.
pub fn parse(bytes: &[u8], rules: &Rules) -> Step {
    let Some(header) = bytes.first_chunk::<REQUEST_BYTES>() else {
        // Garbage is recognised without waiting for the rest of it.
        return match bytes.first_chunk::<4>().map(|magic| u32::from_be_bytes(*magic)) {
            Some(magic) if magic != REQUEST_MAGIC => Step::Violation(Violation::BadMagic(magic)),
            _ => Step::Incomplete,
        };
    };
    let magic = u32::from_be_bytes(field(header, 0));
    let flags = u16::from_be_bytes(field(header, 4));
    let command = u16::from_be_bytes(field(header, 6));
    let handle = u64::from_be_bytes(field(header, 8));
    let offset = u64::from_be_bytes(field(header, 16));
    let length = u32::from_be_bytes(field(header, 24));
    if magic != REQUEST_MAGIC {
        return Step::Violation(Violation::BadMagic(magic));
    }
    if command == command::DISCONNECT {
        return Step::Disconnect;
    }
    if command == command::WRITE && length > SKIPPED_PAYLOAD_LIMIT {
        return Step::Violation(Violation::OversizedWrite(length));
    }
    let kind = match command {
        command::READ => Kind::Read,
        command::BLOCK_STATUS => {
            Kind::BlockStatus { request_one: flags & command_flag::REQ_ONE != 0 }
        }
        _ => Kind::Other,
    };
    let action = match check(command, flags, offset, length, rules) {
        Ok(action) => action,
        Err((error, text)) => {
            let payload_bytes = if command == command::WRITE { length } else { 0 };
            Action::Refuse { error, text, payload_bytes }
        }
    };
    let held_bytes = match action {
        Action::Forward(Request::Read { length, .. }) | Action::Receive { length, .. } => length,
        _ => 0,
    };
    Step::Request { ask: Ask { handle, kind, offset, length, held_bytes }, action }
}

fn field<const N: usize>(header: &[u8; REQUEST_BYTES], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&header[at..at + N]);
    value
}

type Refusal = (Errno, &'static str);

fn check(
    command: u16,
    flags: u16,
    offset: u64,
    length: u32,
    rules: &Rules,
) -> Result<Action, Refusal> {
    let Some(allowed_flags) = allowed_flags(command, rules) else {
        return Err((Errno::Invalid, "unknown command"));
    };
    if flags & !allowed_flags != 0 {
        return Err((Errno::Invalid, "a flag is not valid for this command"));
    }
    let changes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if changes && rules.read_only {
        return Err((Errno::NotPermitted, "the export is read-only"));
    }
    if command == command::FLUSH {
        return if offset == 0 && length == 0 {
            Ok(Action::Forward(Request::Flush))
        } else {
            Err((Errno::Invalid, "offset and length of a flush are reserved"))
        };
    }
    check_range(command, offset, length, rules)?;

    let fua = flags & command_flag::FUA != 0;
    if command == command::BLOCK_STATUS {
        return check_block_status(flags, offset, length, rules);
    }
    if length == 0 {
        return Ok(Action::Done);
    }
    Ok(match command {
        command::READ => Action::Forward(Request::Read { offset, length }),
        command::WRITE => Action::Receive { offset, length, fua },
        command::TRIM => Action::Forward(Request::Trim { offset, length, fua }),
        // A hint, and what clients ask for to see whether anybody is there: answered at once, also
        // while I/O is frozen.
        command::CACHE => Action::Done,
        _ => {
            if flags & command_flag::FAST_ZERO != 0 && !rules.fast_zero {
                return Err((Errno::NotSupported, "zeroing is not faster than writing"));
            }
            let may_unmap = flags & command_flag::NO_HOLE == 0;
            Action::Forward(Request::WriteZeroes { offset, length, may_unmap, fua })
        }
    })
}

/// FUA goes with every command, once offered (nbd.md 1.3).
fn allowed_flags(command: u16, rules: &Rules) -> Option<u16> {
    Some(match command {
        command::READ if rules.structured => command_flag::FUA | command_flag::DF,
        command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => {
            command_flag::FUA
        }
        command::WRITE_ZEROES => {
            command_flag::FUA | command_flag::NO_HOLE | command_flag::FAST_ZERO
        }
        command::BLOCK_STATUS => command_flag::FUA | command_flag::REQ_ONE,
        _ => return None,
    })
}

fn check_range(command: u16, offset: u64, length: u32, rules: &Rules) -> Result<(), Refusal> {
    let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= rules.size_bytes);
    if !inside {
        return Err(match command {
            command::WRITE | command::WRITE_ZEROES => {
                (Errno::NoSpace, "the range crosses the end of the export")
            }
            _ => (Errno::Invalid, "the range crosses the end of the export"),
        });
    }
    let carries_data = matches!(command, command::READ | command::WRITE);
    if carries_data && length > rules.maximum_payload_bytes {
        return Err((Errno::Invalid, "longer than the largest payload of this export"));
    }
    let block = u64::from(rules.minimum_block_bytes);
    if !offset.is_multiple_of(block) || !u64::from(length).is_multiple_of(block) {
        return Err((Errno::Invalid, "not aligned to the smallest block of this export"));
    }
    Ok(())
}

fn check_block_status(
    flags: u16,
    offset: u64,
    length: u32,
    rules: &Rules,
) -> Result<Action, Refusal> {
    if rules.contexts.is_empty() {
        return Err((Errno::Invalid, "no metadata context was selected"));
    }
    if length == 0 {
        return Err((Errno::Invalid, "block status of nothing"));
    }
    let request_one = flags & command_flag::REQ_ONE != 0;
    let contexts = rules.contexts;
    Ok(Action::Forward(Request::BlockStatus { offset, length, request_one, contexts }))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
