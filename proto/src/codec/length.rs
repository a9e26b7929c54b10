//! How long the parts of a packet are, from its header (wire.md 2.1, 4).

use super::command::*;
use super::{
    ALGORITHM_NAME_BYTES, CHALLENGE_BYTES_MAX, CHALLENGE_BYTES_MIN, DIGEST_BYTES_MAX, Framing,
    Header, VERSION_BIG_REQUESTS, VERSION_INTEGRITY, VERSION_SYNC_PARAM89, VERSION_VERIFY,
    VERSION_VOLUMES, WireError,
};
use crate::packet::features;
use crate::units::SECTOR_BYTES;

/// P_PROTOCOL without the algorithm's name.
const PROTOCOL_BYTES: usize = 24;
/// Sector, block id and size of a request; the digest follows.
const REQUEST_BYTES: usize = 24;
/// Fixed part of P_DATA and the replies.
const DATA_BYTES: usize = 24;
/// Fixed part of P_TRIM, P_ZEROES and P_WSAME.
pub(super) const RANGE_WRITE_BYTES: usize = 28;
/// The largest logical block that P_WSAME repeats.
const LOGICAL_BLOCK_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLength {
    /// Bytes to hand to [`super::decode_body`].
    pub fixed: usize,
    /// Bytes of bulk data that follow them, beside the packet.
    pub bulk: usize,
}

/// The parts of the packet that `header` announces; an error for an unknown packet and for a length
/// that the packet cannot have.
pub fn body_length(header: &Header, framing: &Framing) -> Result<BodyLength, WireError> {
    let Header { command, length, .. } = *header;
    let given = length as usize;
    let wrong = || WireError::Length { command, length };
    let within = |least: usize, most: usize| {
        let fits = (least..=most).contains(&given);
        if fits { Ok(BodyLength { fixed: given, bulk: 0 }) } else { Err(wrong()) }
    };
    let exactly = |bytes: usize| within(bytes, bytes);
    let followed_by_data = |fixed: usize, most: usize| {
        let bulk = given.checked_sub(fixed).ok_or_else(wrong)?;
        if bulk > most || !(bulk as u64).is_multiple_of(SECTOR_BYTES) {
            return Err(wrong());
        }
        Ok(BodyLength { fixed, bulk })
    };
    let with_digest = |digest_bytes: usize| match digest_bytes {
        0 => within(REQUEST_BYTES, REQUEST_BYTES + DIGEST_BYTES_MAX),
        _ => exactly(REQUEST_BYTES + digest_bytes),
    };
    let unless_older = |version: u32| {
        if framing.version >= version { Ok(()) } else { Err(WireError::UnknownCommand(command)) }
    };
    match command {
        P_DATA => {
            followed_by_data(DATA_BYTES + framing.integrity_bytes, framing.data_limit_bytes())
        }
        P_DATA_REPLY | P_RS_DATA_REPLY => {
            let parts =
                followed_by_data(DATA_BYTES + framing.integrity_bytes, framing.data_limit_bytes())?;
            // Only a write may be empty, for its flush (wire.md 5.1).
            if parts.bulk == 0 { Err(wrong()) } else { Ok(parts) }
        }
        P_WSAME => {
            let fixed = RANGE_WRITE_BYTES + framing.integrity_bytes;
            let parts = followed_by_data(fixed, LOGICAL_BLOCK_BYTES_MAX)?;
            if parts.bulk.is_power_of_two() { Ok(parts) } else { Err(wrong()) }
        }
        P_TRIM | P_ZEROES => exactly(RANGE_WRITE_BYTES),
        P_BARRIER | P_BARRIER_ACK => exactly(8),
        P_BITMAP => {
            let parts = within(0, framing.bitmap_chunk_limit())?;
            if given.is_multiple_of(8) { Ok(parts) } else { Err(wrong()) }
        }
        P_COMPRESSED_BITMAP => within(2, framing.bitmap_chunk_limit()),
        P_UNPLUG_REMOTE | P_PING | P_PING_ACK | P_INITIAL_DATA | P_INITIAL_META => exactly(0),
        P_DATA_REQUEST | P_RS_DATA_REQUEST | P_RS_THIN_REQ | P_OV_REQUEST => exactly(REQUEST_BYTES),
        P_CSUM_RS_REQUEST => with_digest(framing.csums_bytes),
        P_OV_REPLY => with_digest(framing.verify_bytes),
        P_SYNC_PARAM => match framing.version {
            VERSION_SYNC_PARAM89.. => Err(WireError::UnknownCommand(command)),
            VERSION_VERIFY => within(4 + 1, 4 + ALGORITHM_NAME_BYTES),
            _ => exactly(4),
        },
        P_SYNC_PARAM89 => match framing.version {
            VERSION_BIG_REQUESTS.. => exactly(148),
            VERSION_SYNC_PARAM89.. => exactly(132),
            _ => Err(WireError::UnknownCommand(command)),
        },
        P_PROTOCOL if framing.version < VERSION_INTEGRITY => exactly(PROTOCOL_BYTES),
        P_PROTOCOL => within(PROTOCOL_BYTES + 1, PROTOCOL_BYTES + ALGORITHM_NAME_BYTES),
        P_PROTOCOL_UPDATE => {
            unless_older(VERSION_VOLUMES)?;
            within(PROTOCOL_BYTES + 1, PROTOCOL_BYTES + ALGORITHM_NAME_BYTES)
        }
        P_UUIDS => exactly(48),
        P_SIZES => exactly(if framing.has(features::WSAME) { 56 } else { 32 }),
        P_STATE | P_STATE_CHG_REPLY => exactly(4),
        P_SYNC_UUID | P_STATE_CHG_REQ | P_DELAY_PROBE => exactly(8),
        P_CONN_ST_CHG_REQ => {
            unless_older(VERSION_VOLUMES)?;
            exactly(8)
        }
        P_CONN_ST_CHG_REPLY => {
            unless_older(VERSION_VOLUMES)?;
            exactly(4)
        }
        P_AUTH_CHALLENGE => within(CHALLENGE_BYTES_MIN, CHALLENGE_BYTES_MAX),
        P_AUTH_RESPONSE => within(1, DIGEST_BYTES_MAX),
        P_RECV_ACK | P_WRITE_ACK | P_RS_WRITE_ACK | P_SUPERSEDED | P_NEG_ACK | P_NEG_DREPLY
        | P_NEG_RS_DREPLY | P_OV_RESULT | P_RS_IS_IN_SYNC | P_RS_CANCEL | P_RETRY_WRITE => {
            exactly(24)
        }
        P_OUT_OF_SYNC | P_RS_DEALLOCATED => exactly(16),
        P_CONNECTION_FEATURES => exactly(72),
        _ => Err(WireError::UnknownCommand(command)),
    }
}
