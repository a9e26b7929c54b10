//! A packet to its header and fixed part.

use super::command::*;
use super::{
    ALGORITHM_NAME_BYTES, Framing, HeaderForm, MAGIC_H80, MAGIC_H95, MAGIC_H100,
    VERSION_BIG_REQUESTS, VERSION_INTEGRITY, VERSION_SYNC_PARAM89, VERSION_VERIFY, VERSION_VOLUMES,
};
use crate::packet::{
    Ack, BlockId, BlockRequest, Packet, ProtocolSettings, Sizes, SyncParam, Write, features,
};
use crate::units::SectorRange;

/// Bytes of the zero tail of P_CONNECTION_FEATURES (wire.md 3.1).
const FEATURES_RESERVED_BYTES: usize = 60;

/// Appends header, fixed part and digest to `out`; the caller sends `bulk_bytes` of data after it.
/// `digest` is that of the data, and empty where the sender has no data-integrity-alg.
///
/// # Panics
///
/// When the data is not as long as the packet says, when a digest is given for a packet that
/// carries none, or when a text or range does not fit its field: the peer would lose its place in
/// the stream, and take data for packets.
pub fn encode(
    packet: &Packet,
    volume: u16,
    framing: &Framing,
    bulk_bytes: usize,
    digest: &[u8],
    out: &mut Vec<u8>,
) {
    check_bulk(packet, bulk_bytes, digest);
    let command = command_of(packet, framing);
    let start = out.len();
    // h80 and h95 are equally long, so only the length decides between them, afterwards.
    let header_bytes = HeaderForm::for_packet(command, 0, framing.version).bytes();
    out.resize(start + header_bytes, 0);
    put_body(packet, framing, out);
    out.extend_from_slice(digest);
    let length = out.len() - start - header_bytes + bulk_bytes;
    let header = &mut out[start..start + header_bytes];
    let long_length = u32::try_from(length).expect("data is far below 4 GiB").to_be_bytes();
    match HeaderForm::for_packet(command, length, framing.version) {
        HeaderForm::H80 => {
            let length = u16::try_from(length).expect("before protocol 95 packets are short");
            header[..4].copy_from_slice(&MAGIC_H80.to_be_bytes());
            header[4..6].copy_from_slice(&command.to_be_bytes());
            header[6..].copy_from_slice(&length.to_be_bytes());
        }
        HeaderForm::H95 => {
            header[..2].copy_from_slice(&MAGIC_H95.to_be_bytes());
            header[2..4].copy_from_slice(&command.to_be_bytes());
            header[4..].copy_from_slice(&long_length);
        }
        HeaderForm::H100 => {
            header[..4].copy_from_slice(&MAGIC_H100.to_be_bytes());
            header[4..6].copy_from_slice(&volume.to_be_bytes());
            header[6..8].copy_from_slice(&command.to_be_bytes());
            header[8..12].copy_from_slice(&long_length);
        }
    }
}

fn check_bulk(packet: &Packet, bulk_bytes: usize, digest: &[u8]) {
    let range = match packet {
        Packet::Data(Write { range, .. })
        | Packet::DataReply(BlockRequest { range, .. })
        | Packet::ResyncReply(BlockRequest { range, .. }) => range,
        Packet::WriteSame(_) => {
            assert!(bulk_bytes > 0, "one logical block follows P_WSAME");
            return;
        }
        _ => {
            assert!(bulk_bytes == 0 && digest.is_empty(), "this packet carries no data");
            return;
        }
    };
    assert_eq!(bulk_bytes as u64, range.bytes(), "the data is as long as its range");
}

fn command_of(packet: &Packet, framing: &Framing) -> u16 {
    match packet {
        Packet::InitialData => P_INITIAL_DATA,
        Packet::InitialMeta => P_INITIAL_META,
        Packet::ConnectionFeatures(_) => P_CONNECTION_FEATURES,
        Packet::AuthChallenge(_) => P_AUTH_CHALLENGE,
        Packet::AuthResponse(_) => P_AUTH_RESPONSE,
        Packet::Protocol(_) => P_PROTOCOL,
        Packet::ProtocolUpdate(_) => P_PROTOCOL_UPDATE,
        Packet::SyncParam(_) if framing.version < VERSION_SYNC_PARAM89 => P_SYNC_PARAM,
        Packet::SyncParam(_) => P_SYNC_PARAM89,
        Packet::Sizes(_) => P_SIZES,
        Packet::Uuids(_) => P_UUIDS,
        Packet::SyncUuid(_) => P_SYNC_UUID,
        Packet::State(_) => P_STATE,
        Packet::StateChangeRequest { .. } => P_STATE_CHG_REQ,
        // wire.md 7.1: below protocol 100 both kinds of request use the same numbers.
        Packet::ConnectionStateChangeRequest { .. } if framing.version < VERSION_VOLUMES => {
            P_STATE_CHG_REQ
        }
        Packet::ConnectionStateChangeRequest { .. } => P_CONN_ST_CHG_REQ,
        Packet::StateChangeReply(_) => P_STATE_CHG_REPLY,
        Packet::ConnectionStateChangeReply(_) if framing.version < VERSION_VOLUMES => {
            P_STATE_CHG_REPLY
        }
        Packet::ConnectionStateChangeReply(_) => P_CONN_ST_CHG_REPLY,
        Packet::Ping => P_PING,
        Packet::PingAck => P_PING_ACK,
        Packet::Data(_) => P_DATA,
        Packet::Trim(_) => P_TRIM,
        Packet::Zeroes(_) => P_ZEROES,
        Packet::WriteSame(_) => P_WSAME,
        Packet::Barrier { .. } => P_BARRIER,
        Packet::BarrierAck { .. } => P_BARRIER_ACK,
        Packet::UnplugRemote => P_UNPLUG_REMOTE,
        Packet::DataRequest(_) => P_DATA_REQUEST,
        Packet::DataReply(_) => P_DATA_REPLY,
        Packet::ResyncRequest(_) => P_RS_DATA_REQUEST,
        Packet::ThinResyncRequest(_) => P_RS_THIN_REQ,
        Packet::ResyncReply(_) => P_RS_DATA_REPLY,
        Packet::ResyncDeallocated(_) => P_RS_DEALLOCATED,
        Packet::ChecksumResyncRequest(..) => P_CSUM_RS_REQUEST,
        Packet::VerifyRequest(_) => P_OV_REQUEST,
        Packet::VerifyReply(..) => P_OV_REPLY,
        Packet::OutOfSync(_) => P_OUT_OF_SYNC,
        Packet::Bitmap(_) => P_BITMAP,
        Packet::CompressedBitmap(_) => P_COMPRESSED_BITMAP,
        Packet::ReceiveAck(_) => P_RECV_ACK,
        Packet::WriteAck(_) => P_WRITE_ACK,
        Packet::ResyncWriteAck(_) => P_RS_WRITE_ACK,
        Packet::Superseded(_) => P_SUPERSEDED,
        Packet::RetryWrite(_) => P_RETRY_WRITE,
        Packet::NegativeAck(_) => P_NEG_ACK,
        Packet::NegativeDataReply(_) => P_NEG_DREPLY,
        Packet::NegativeResyncReply(_) => P_NEG_RS_DREPLY,
        Packet::VerifyResult(_) => P_OV_RESULT,
        Packet::ResyncIsInSync(_) => P_RS_IS_IN_SYNC,
        Packet::ResyncCancel(_) => P_RS_CANCEL,
        Packet::DelayProbe => P_DELAY_PROBE,
    }
}

fn put_body(packet: &Packet, framing: &Framing, out: &mut Vec<u8>) {
    match packet {
        Packet::InitialData
        | Packet::InitialMeta
        | Packet::Ping
        | Packet::PingAck
        | Packet::UnplugRemote => {}
        Packet::DelayProbe => out.extend_from_slice(&[0; 8]),
        Packet::ConnectionFeatures(offered) => {
            put_u32(out, offered.version_min);
            put_u32(out, offered.features);
            put_u32(out, offered.version_max);
            out.extend_from_slice(&[0; FEATURES_RESERVED_BYTES]);
        }
        Packet::AuthChallenge(bytes)
        | Packet::AuthResponse(bytes)
        | Packet::Bitmap(bytes)
        | Packet::CompressedBitmap(bytes) => out.extend_from_slice(bytes),
        Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => {
            put_protocol(settings, framing, out);
        }
        Packet::SyncParam(param) => put_sync_param(param, framing, out),
        Packet::Sizes(sizes) => put_sizes(sizes, framing, out),
        Packet::Uuids(uuids) => {
            put_u64(out, uuids.current);
            put_u64(out, uuids.bitmap);
            put_u64(out, uuids.history[0]);
            put_u64(out, uuids.history[1]);
            put_u64(out, uuids.dirty_bits);
            put_u64(out, uuids.flags);
        }
        Packet::SyncUuid(uuid) => put_u64(out, *uuid),
        Packet::State(state) => put_u32(out, state.0),
        Packet::StateChangeRequest { mask, value }
        | Packet::ConnectionStateChangeRequest { mask, value } => {
            put_u32(out, mask.0);
            put_u32(out, value.0);
        }
        Packet::StateChangeReply(code) | Packet::ConnectionStateChangeReply(code) => {
            put_u32(out, code.cast_unsigned());
        }
        Packet::Data(write) => put_write(write, out),
        Packet::Trim(write) | Packet::Zeroes(write) | Packet::WriteSame(write) => {
            put_write(write, out);
            put_size(out, &write.range);
        }
        Packet::Barrier { handle } => {
            put_u32(out, *handle);
            put_u32(out, 0);
        }
        Packet::BarrierAck { handle, writes } => {
            put_u32(out, *handle);
            put_u32(out, *writes);
        }
        // Sequence number and flags are 0 (wire.md 6.1).
        Packet::DataReply(reply) | Packet::ResyncReply(reply) => {
            put_write(&Write { range: reply.range, id: reply.id, sequence: 0, flags: 0 }, out);
        }
        Packet::DataRequest(request)
        | Packet::ResyncRequest(request)
        | Packet::ThinResyncRequest(request)
        | Packet::VerifyRequest(request) => put_block(&request.range, request.id, 0, out),
        Packet::ChecksumResyncRequest(request, digest) | Packet::VerifyReply(request, digest) => {
            put_block(&request.range, request.id, 0, out);
            out.extend_from_slice(digest);
        }
        Packet::OutOfSync(range) | Packet::ResyncDeallocated(range) => {
            put_u64(out, range.start.0);
            put_size(out, range);
            put_u32(out, 0);
        }
        Packet::ReceiveAck(ack)
        | Packet::WriteAck(ack)
        | Packet::ResyncWriteAck(ack)
        | Packet::Superseded(ack)
        | Packet::RetryWrite(ack)
        | Packet::NegativeAck(ack)
        | Packet::NegativeDataReply(ack)
        | Packet::NegativeResyncReply(ack)
        | Packet::VerifyResult(ack)
        | Packet::ResyncIsInSync(ack)
        | Packet::ResyncCancel(ack) => {
            let Ack { range, id, sequence } = ack;
            put_block(range, *id, *sequence, out);
        }
    }
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_size(out: &mut Vec<u8>, range: &SectorRange) {
    put_u32(out, u32::try_from(range.bytes()).expect("a packet's range is below 4 GiB"));
}

/// Name and final NUL, filled up to `padded_bytes` with NULs.
fn put_name(out: &mut Vec<u8>, name: &str, padded_bytes: usize) {
    assert!(name.len() < ALGORITHM_NAME_BYTES, "algorithm name {name:?} is too long");
    let end = out.len() + padded_bytes.max(name.len() + 1);
    out.extend_from_slice(name.as_bytes());
    out.resize(end, 0);
}

fn put_write(write: &Write, out: &mut Vec<u8>) {
    put_u64(out, write.range.start.0);
    put_u64(out, write.id.0);
    put_u32(out, write.sequence);
    put_u32(out, write.flags);
}

/// Requests and acknowledgements: the last word is padding in the one, a number in the other.
fn put_block(range: &SectorRange, id: BlockId, last: u32, out: &mut Vec<u8>) {
    put_u64(out, range.start.0);
    put_u64(out, id.0);
    put_size(out, range);
    put_u32(out, last);
}

fn put_protocol(settings: &ProtocolSettings, framing: &Framing, out: &mut Vec<u8>) {
    put_u32(out, settings.protocol as u32);
    put_u32(out, settings.after_sb_0pri as u32);
    put_u32(out, settings.after_sb_1pri as u32);
    put_u32(out, settings.after_sb_2pri as u32);
    put_u32(out, u32::from(settings.discard_my_data) | u32::from(settings.dry_run) << 1);
    put_u32(out, u32::from(settings.two_primaries));
    if framing.version >= VERSION_INTEGRITY {
        put_name(out, &settings.integrity_alg, 0);
    }
}

fn put_sync_param(param: &SyncParam, framing: &Framing, out: &mut Vec<u8>) {
    put_u32(out, param.resync_rate);
    if framing.version < VERSION_SYNC_PARAM89 {
        if framing.version == VERSION_VERIFY {
            put_name(out, &param.verify_alg, 0);
        }
        return;
    }
    put_name(out, &param.verify_alg, ALGORITHM_NAME_BYTES);
    put_name(out, &param.csums_alg, ALGORITHM_NAME_BYTES);
    if framing.version >= VERSION_BIG_REQUESTS {
        put_u32(out, param.c_plan_ahead);
        put_u32(out, param.c_delay_target);
        put_u32(out, param.c_fill_target);
        put_u32(out, param.c_max_rate);
    }
}

fn put_sizes(sizes: &Sizes, framing: &Framing, out: &mut Vec<u8>) {
    put_u64(out, sizes.disk_sectors);
    put_u64(out, sizes.user_sectors);
    put_u64(out, sizes.current_sectors);
    put_u32(out, sizes.max_bio_bytes);
    put_u16(out, sizes.queue_order_type);
    put_u16(out, sizes.flags);
    // The agreed features, not the value, say whether the limits are there (wire.md 3.5).
    if framing.has(features::WSAME) {
        let limits = sizes.limits.unwrap_or_default();
        put_u32(out, limits.physical_block_bytes);
        put_u32(out, limits.logical_block_bytes);
        put_u32(out, limits.alignment_offset_bytes);
        put_u32(out, limits.io_min_bytes);
        put_u32(out, limits.io_opt_bytes);
        out.extend_from_slice(&[
            u8::from(limits.discard_enabled),
            u8::from(limits.discard_zeroes_data),
            u8::from(limits.write_same_capable),
            0,
        ]);
    }
}
