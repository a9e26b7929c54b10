//! The numbers of the NBD protocol: magics, options, flags, commands, reply types, errors.
//!
//! All integers on the wire are big-endian.

/// `NBDMAGIC`: first eight bytes of the server.
pub const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: follows the server magic, and starts every option of the client.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// magic u64, option u32, length u32
pub const OPTION_HEADER_BYTES: usize = 16;
/// magic u32, flags u16, type u16, cookie u64, offset u64, length u32
pub const REQUEST_BYTES: usize = 28;
/// magic u32, error u32, cookie u64
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// magic u32, flags u16, type u16, cookie u64, length u32
pub const STRUCTURED_CHUNK_BYTES: usize = 20;

/// Longest string the protocol allows: names, descriptions, messages.
pub const STRING_LIMIT: usize = 4096;

/// Handshake flags, the same bits in both directions.
pub mod handshake {
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub const NO_ZEROES: u16 = 1 << 1;
}

pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies to options; errors have the top bit.
pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR_UNSUPPORTED: u32 = (1 << 31) + 1;
    pub const ERROR_POLICY: u32 = (1 << 31) + 2;
    pub const ERROR_INVALID: u32 = (1 << 31) + 3;
    pub const ERROR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERROR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Items of information in replies to INFO and GO.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags (nbd.md 1.2).
pub mod feature {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Structured replies: flag of the last chunk, and chunk types.
pub mod chunk {
    pub const DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 0x8001;
}

/// Extent flags of `base:allocation`.
pub mod allocation {
    pub const HOLE: u32 = 1 << 0;
    pub const ZERO: u32 = 1 << 1;
}

/// Extent flag of `twinblk:out-of-sync`: the peer does not have the current content. The same bit
/// as qemu's dirty bitmaps, so tools that read those read ours.
pub const OUT_OF_SYNC: u32 = 1 << 0;

/// Errors of the transmission phase; the wire knows no others (nbd.md 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    NotPermitted = 1,
    InputOutput = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
    ShutDown = 108,
}

impl Errno {
    /// What a client is told about a failed system call. A code that a client would blame on its
    /// own request (EINVAL, ENOMEM) never leaves: the request was fine.
    pub fn from_io(error: &std::io::Error) -> Self {
        use rustix::io::Errno as System;
        match error.raw_os_error().map(System::from_raw_os_error) {
            Some(System::ROFS | System::PERM | System::ACCESS) => Self::NotPermitted,
            Some(System::NOSPC | System::DQUOT | System::FBIG) => Self::NoSpace,
            Some(System::SHUTDOWN) => Self::ShutDown,
            _ => Self::InputOutput,
        }
    }

    pub const fn code(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn system_errors_become_one_of_the_few_on_the_wire() {
        let code = |raw| Errno::from_io(&Error::from_raw_os_error(raw)).code();
        assert_eq!(code(30), 1, "EROFS");
        assert_eq!(code(122), 28, "EDQUOT");
        assert_eq!(code(27), 28, "EFBIG");
        assert_eq!(code(22), 5, "EINVAL of the disk is not the client's fault");
        assert_eq!(code(12), 5, "ENOMEM");
        assert_eq!(Errno::from_io(&Error::other("no number")).code(), 5);
    }
}
