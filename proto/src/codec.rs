//! Packets to bytes and back (wire.md 2 to 7).
//!
//! ```text
//!   stream: | header | fixed part, digest | bulk data | header | ...
//!             decode_header  decode_body     beside the packet, never copied here
//! ```
//!
//! A reader calls [`decode_header`], [`body_length`], then [`decode_body`] with exactly the fixed
//! bytes, and takes the bulk bytes itself. Lengths are checked exactly, sizes against the limits of
//! wire.md 2.1: whatever the bytes are, the answer is a packet or a [`WireError`], and what is
//! allocated for it is bounded by the 4096 bytes of a bitmap packet. Reserved bytes are ignored, as
//! the kernel does, except in the header.

pub mod command;
mod decode;
mod encode;
mod length;

pub use command::socket_of;
pub use decode::{Decoded, decode_body};
pub use encode::encode;
pub use length::{BodyLength, body_length};

use crate::packet::features;

/// First protocol version with h100 headers, volumes and connection-wide state changes.
pub const VERSION_VOLUMES: u32 = 100;
/// First protocol version with h95 headers and requests above 32 KiB.
pub const VERSION_BIG_REQUESTS: u32 = 95;
/// First protocol version with P_SYNC_PARAM89.
pub const VERSION_SYNC_PARAM89: u32 = 89;
/// First protocol version with a verify-alg in P_SYNC_PARAM.
pub const VERSION_VERIFY: u32 = 88;
/// First protocol version with an integrity algorithm in P_PROTOCOL.
pub const VERSION_INTEGRITY: u32 = 87;

/// A whole bitmap packet, header included (wire.md 2.1).
pub const BITMAP_PACKET_BYTES: usize = 4096;
/// An algorithm name with its final NUL.
pub const ALGORITHM_NAME_BYTES: usize = 64;
/// The longest digest that is taken: that of SHA-512, the longest that kernel nodes have in use.
pub const DIGEST_BYTES_MAX: usize = 64;
/// Bytes of a challenge (wire.md 3.2).
pub const CHALLENGE_BYTES_MIN: usize = 64;
pub const CHALLENGE_BYTES_MAX: usize = 128;

const MAGIC_H80: u32 = 0x8374_0267;
const MAGIC_H95: u16 = 0x835A;
const MAGIC_H100: u32 = 0x8620_EC20;
/// The longest payload with an h80 header while there is a choice (wire.md 2).
const H80_LENGTH_MAX: usize = 32768;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("bytes {0:08x} are no packet header of the agreed protocol")]
    Magic(u32),
    #[error("reserved bytes {0:08x} in a packet header")]
    HeaderPadding(u32),
    #[error("unknown packet {0:#06x}")]
    UnknownCommand(u16),
    #[error("{} ({command:#06x}) with a length of {length} bytes", command_name(*command))]
    Length { command: u16, length: u32 },
    #[error("{} ({command:#06x}): {given} bytes given to decode, {expected} expected",
        command_name(*command))]
    WrongSlice { command: u16, given: usize, expected: usize },
    #[error("{} ({command:#06x}): {field} is {value}", command_name(*command))]
    Field { command: u16, field: &'static str, value: u64 },
    #[error("{} ({command:#06x}): {field} is no text with a final NUL", command_name(*command))]
    Text { command: u16, field: &'static str },
    #[error("bitmap: {0}")]
    Bitmap(#[from] crate::run_length::BitmapError),
}

fn command_name(command: u16) -> &'static str {
    command::name_of(command).unwrap_or("packet")
}

/// What both sides agreed on, as far as it shapes packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// Agreed protocol version; 0 before there is one.
    pub version: u32,
    /// Agreed features.
    pub features: u32,
    /// Length of the digest that the sender of this stream puts before data.
    pub integrity_bytes: usize,
    /// Length of a digest of csums-alg; 0 takes any up to [`DIGEST_BYTES_MAX`], for a reader that
    /// leaves the comparison to whoever knows the algorithm.
    pub csums_bytes: usize,
    /// Length of a digest of verify-alg; 0 as for `csums_bytes`.
    pub verify_bytes: usize,
}

impl Framing {
    /// Bytes of the packet headers, once the features are agreed.
    pub const fn header_bytes(&self) -> usize {
        if self.version >= VERSION_VOLUMES {
            HeaderForm::H100.bytes()
        } else {
            HeaderForm::H80.bytes()
        }
    }

    /// The longest payload of a bitmap packet: `chunk_limit` of [`crate::run_length`].
    pub const fn bitmap_chunk_limit(&self) -> usize {
        BITMAP_PACKET_BYTES - self.header_bytes()
    }

    /// The most data that a packet carries or asks for (wire.md 2.1).
    pub const fn data_limit_bytes(&self) -> usize {
        match self.version {
            VERSION_VOLUMES.. => 1 << 20,
            VERSION_BIG_REQUESTS.. => 128 << 10,
            _ => 32 << 10,
        }
    }

    /// The longest range of P_TRIM, P_ZEROES and P_WSAME.
    pub const fn trim_limit_bytes(&self) -> usize {
        if self.has(features::WSAME) { 128 << 20 } else { 4 << 20 }
    }

    const fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }
}

/// The three forms of a packet header (wire.md 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    H80,
    H95,
    H100,
}

impl HeaderForm {
    pub const fn bytes(self) -> usize {
        match self {
            Self::H80 | Self::H95 => 8,
            Self::H100 => 16,
        }
    }

    /// The form that a packet is sent with: h80 up to and including the features.
    const fn for_packet(command: u16, length: usize, version: u32) -> Self {
        if is_initial(command) || version < VERSION_BIG_REQUESTS {
            Self::H80
        } else if version >= VERSION_VOLUMES {
            Self::H100
        } else if length > H80_LENGTH_MAX {
            Self::H95
        } else {
            Self::H80
        }
    }
}

/// Packets that come before a protocol version is agreed.
const fn is_initial(command: u16) -> bool {
    matches!(
        command,
        command::P_INITIAL_DATA | command::P_INITIAL_META | command::P_CONNECTION_FEATURES
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub command: u16,
    /// 0 for connection-wide packets, and always below protocol 100.
    pub volume: u16,
    /// Bytes that follow the header.
    pub length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    Data,
    Meta,
}

/// The header at the start of `bytes` and its length in bytes; `None` when more bytes are needed.
/// `version` is `None` before the features are agreed.
pub fn decode_header(
    bytes: &[u8],
    version: Option<u32>,
) -> Result<Option<(Header, usize)>, WireError> {
    let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() else { return Ok(None) };
    let magic = u32::from_be_bytes([a, b, c, d]);
    let version = version.unwrap_or(0);
    let form = if version >= VERSION_VOLUMES {
        (magic == MAGIC_H100).then_some(HeaderForm::H100)
    } else if magic == MAGIC_H80 {
        Some(HeaderForm::H80)
    } else {
        let is_h95 = version >= VERSION_BIG_REQUESTS && magic >> 16 == u32::from(MAGIC_H95);
        is_h95.then_some(HeaderForm::H95)
    };
    let form = form.ok_or(WireError::Magic(magic))?;
    let Some(bytes) = bytes.get(..form.bytes()) else { return Ok(None) };
    let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
    let header = match form {
        HeaderForm::H80 => Header { command: u16_at(4), volume: 0, length: u32::from(u16_at(6)) },
        HeaderForm::H95 => Header { command: u16_at(2), volume: 0, length: u32_at(4) },
        HeaderForm::H100 => {
            let padding = u32_at(12);
            if padding != 0 {
                return Err(WireError::HeaderPadding(padding));
            }
            Header { command: u16_at(6), volume: u16_at(4), length: u32_at(8) }
        }
    };
    Ok(Some((header, form.bytes())))
}

#[cfg(test)]
mod tests;
