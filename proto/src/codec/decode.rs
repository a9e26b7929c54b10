//! The fixed part of a packet to a value.

use super::command::*;
use super::{ALGORITHM_NAME_BYTES, Framing, Header, WireError, body_length};
use crate::packet::{
    Ack, BlockId, BlockRequest, ConnectionFeatures, Packet, ProtocolSettings, QueueLimits,
    ReplicationProtocol, Sizes, SplitBrainPolicy, SyncParam, Uuids, Write, dp_flags,
};
use crate::state::StateWord;
use crate::units::{SECTOR_BYTES, Sector, SectorRange};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub packet: Packet,
    /// The digest of the bulk data, where the sender's data-integrity-alg is set.
    pub digest: Option<Vec<u8>>,
}

/// Decodes `fixed`, which is exactly the [`super::BodyLength::fixed`] bytes behind the header.
pub fn decode_body(header: &Header, fixed: &[u8], framing: &Framing) -> Result<Decoded, WireError> {
    let lengths = body_length(header, framing)?;
    let command = header.command;
    if fixed.len() != lengths.fixed {
        let (given, expected) = (fixed.len(), lengths.fixed);
        return Err(WireError::WrongSlice { command, given, expected });
    }
    let mut body = Body { command, rest: fixed };
    let packet = match command {
        P_INITIAL_DATA => Packet::InitialData,
        P_INITIAL_META => Packet::InitialMeta,
        P_PING => Packet::Ping,
        P_PING_ACK => Packet::PingAck,
        P_UNPLUG_REMOTE => Packet::UnplugRemote,
        P_DELAY_PROBE => Packet::DelayProbe,
        P_CONNECTION_FEATURES => Packet::ConnectionFeatures(ConnectionFeatures {
            version_min: body.u32()?,
            features: body.u32()?,
            version_max: body.u32()?,
        }),
        P_AUTH_CHALLENGE => Packet::AuthChallenge(body.remainder()),
        P_AUTH_RESPONSE => Packet::AuthResponse(body.remainder()),
        P_PROTOCOL => Packet::Protocol(body.protocol()?),
        P_PROTOCOL_UPDATE => Packet::ProtocolUpdate(body.protocol()?),
        P_SYNC_PARAM | P_SYNC_PARAM89 => Packet::SyncParam(body.sync_param()?),
        P_SIZES => Packet::Sizes(body.sizes()?),
        P_UUIDS => Packet::Uuids(Uuids {
            current: body.u64()?,
            bitmap: body.u64()?,
            history: [body.u64()?, body.u64()?],
            dirty_bits: body.u64()?,
            flags: body.u64()?,
        }),
        P_SYNC_UUID => Packet::SyncUuid(body.u64()?),
        P_STATE => Packet::State(body.state()?),
        P_STATE_CHG_REQ => Packet::StateChangeRequest { mask: body.state()?, value: body.state()? },
        P_CONN_ST_CHG_REQ => {
            Packet::ConnectionStateChangeRequest { mask: body.state()?, value: body.state()? }
        }
        P_STATE_CHG_REPLY => Packet::StateChangeReply(body.u32()?.cast_signed()),
        P_CONN_ST_CHG_REPLY => Packet::ConnectionStateChangeReply(body.u32()?.cast_signed()),
        P_DATA => {
            let write = body.write(lengths.bulk)?;
            if write.range.is_empty() && write.flags & dp_flags::FLUSH == 0 {
                return Err(body.wrong("size", 0u64));
            }
            Packet::Data(write)
        }
        P_TRIM => Packet::Trim(body.range_write(framing)?),
        P_ZEROES => Packet::Zeroes(body.range_write(framing)?),
        P_WSAME => Packet::WriteSame(body.range_write(framing)?),
        P_DATA_REPLY => Packet::DataReply(body.reply(lengths.bulk)?),
        P_RS_DATA_REPLY => Packet::ResyncReply(body.reply(lengths.bulk)?),
        P_BARRIER => Packet::Barrier { handle: body.u32()? },
        P_BARRIER_ACK => Packet::BarrierAck { handle: body.u32()?, writes: body.u32()? },
        P_DATA_REQUEST => Packet::DataRequest(body.request(framing)?),
        P_RS_DATA_REQUEST => Packet::ResyncRequest(body.request(framing)?),
        P_RS_THIN_REQ => Packet::ThinResyncRequest(body.request(framing)?),
        P_OV_REQUEST => Packet::VerifyRequest(body.request(framing)?),
        P_CSUM_RS_REQUEST => {
            Packet::ChecksumResyncRequest(body.request(framing)?, body.remainder())
        }
        P_OV_REPLY => Packet::VerifyReply(body.request(framing)?, body.remainder()),
        P_OUT_OF_SYNC => Packet::OutOfSync(body.plain_range()?),
        P_RS_DEALLOCATED => Packet::ResyncDeallocated(body.plain_range()?),
        P_BITMAP => Packet::Bitmap(body.remainder()),
        P_COMPRESSED_BITMAP => Packet::CompressedBitmap(body.remainder()),
        P_RECV_ACK => Packet::ReceiveAck(body.ack()?),
        P_WRITE_ACK => Packet::WriteAck(body.ack()?),
        P_RS_WRITE_ACK => Packet::ResyncWriteAck(body.ack()?),
        P_SUPERSEDED => Packet::Superseded(body.ack()?),
        P_RETRY_WRITE => Packet::RetryWrite(body.ack()?),
        P_NEG_ACK => Packet::NegativeAck(body.ack()?),
        P_NEG_DREPLY => Packet::NegativeDataReply(body.ack()?),
        P_NEG_RS_DREPLY => Packet::NegativeResyncReply(body.ack()?),
        P_OV_RESULT => Packet::VerifyResult(body.ack()?),
        P_RS_IS_IN_SYNC => Packet::ResyncIsInSync(body.ack()?),
        P_RS_CANCEL => Packet::ResyncCancel(body.ack()?),
        _ => return Err(WireError::UnknownCommand(command)),
    };
    let carries_digest = matches!(command, P_DATA | P_WSAME | P_DATA_REPLY | P_RS_DATA_REPLY);
    let digest = (carries_digest && framing.integrity_bytes > 0).then(|| body.remainder());
    Ok(Decoded { packet, digest })
}

/// The bytes of the fixed part that were not read yet.
struct Body<'a> {
    command: u16,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    fn state(&mut self) -> Result<StateWord, WireError> {
        self.u32().map(StateWord)
    }

    /// Everything that is left.
    fn remainder(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest).to_vec()
    }

    /// A text that ends at the first NUL of `bytes`.
    fn text(&self, bytes: &[u8], field: &'static str) -> Result<String, WireError> {
        let error = WireError::Text { command: self.command, field };
        let Some(end) = bytes.iter().position(|&byte| byte == 0) else { return Err(error) };
        match std::str::from_utf8(&bytes[..end]) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(error),
        }
    }

    fn short(&self) -> WireError {
        self.wrong("missing byte", self.rest.len() as u64)
    }

    fn wrong(&self, field: &'static str, value: impl Into<u64>) -> WireError {
        WireError::Field { command: self.command, field, value: value.into() }
    }

    /// A range whose size stands in bytes; `limit_bytes` of 0 takes any.
    fn range(&self, start: u64, bytes: u32, limit_bytes: usize) -> Result<SectorRange, WireError> {
        let in_sectors = u64::from(bytes).is_multiple_of(SECTOR_BYTES);
        let within = limit_bytes == 0 || (1..=limit_bytes).contains(&(bytes as usize));
        if !in_sectors || !within {
            return Err(self.wrong("size", bytes));
        }
        Ok(SectorRange { start: Sector(start), count: bytes / SECTOR_BYTES as u32 })
    }

    /// wire.md 5.1; `bulk` was checked to be whole sectors and within the limits.
    fn write(&mut self, bulk: usize) -> Result<Write, WireError> {
        let (start, id) = (self.u64()?, BlockId(self.u64()?));
        let (sequence, flags) = (self.u32()?, self.u32()?);
        let range = SectorRange::new(start, (bulk as u64 / SECTOR_BYTES) as u32);
        Ok(Write { range, id, sequence, flags })
    }

    /// wire.md 5.2.
    fn range_write(&mut self, framing: &Framing) -> Result<Write, WireError> {
        let write = self.write(0)?;
        let bytes = self.u32()?;
        let range = self.range(write.range.start.0, bytes, framing.trim_limit_bytes())?;
        Ok(Write { range, ..write })
    }

    /// The layout of P_DATA, sequence number and flags unused (wire.md 6.1).
    fn reply(&mut self, bulk: usize) -> Result<BlockRequest, WireError> {
        let Write { range, id, .. } = self.write(bulk)?;
        Ok(BlockRequest { range, id })
    }

    /// wire.md 6.1. The padding holds anything.
    fn request(&mut self, framing: &Framing) -> Result<BlockRequest, WireError> {
        let (start, id, bytes) = (self.u64()?, BlockId(self.u64()?), self.u32()?);
        let _padding = self.u32()?;
        Ok(BlockRequest { range: self.range(start, bytes, framing.data_limit_bytes())?, id })
    }

    /// wire.md 5.3. A flush without data is acknowledged with size 0.
    fn ack(&mut self) -> Result<Ack, WireError> {
        let (start, id, bytes) = (self.u64()?, BlockId(self.u64()?), self.u32()?);
        Ok(Ack { range: self.range(start, bytes, 0)?, id, sequence: self.u32()? })
    }

    /// P_OUT_OF_SYNC and P_RS_DEALLOCATED (wire.md 6.2, 6.4). The padding holds anything.
    fn plain_range(&mut self) -> Result<SectorRange, WireError> {
        let (start, bytes) = (self.u64()?, self.u32()?);
        self.range(start, bytes, 0)
    }

    /// wire.md 3.3. Below protocol 87 there is no name.
    fn protocol(&mut self) -> Result<ProtocolSettings, WireError> {
        let number = self.u32()?;
        let protocol = match number {
            1 => ReplicationProtocol::A,
            2 => ReplicationProtocol::B,
            3 => ReplicationProtocol::C,
            _ => return Err(self.wrong("protocol", number)),
        };
        let after_sb_0pri = self.policy()?;
        let after_sb_1pri = self.policy()?;
        let after_sb_2pri = self.policy()?;
        let flags = self.u32()?;
        let two_primaries = self.u32()? != 0;
        let integrity_alg = match std::mem::take(&mut self.rest) {
            [] => String::new(),
            name => self.text(name, "data-integrity-alg")?,
        };
        Ok(ProtocolSettings {
            protocol,
            after_sb_0pri,
            after_sb_1pri,
            after_sb_2pri,
            discard_my_data: flags & 1 != 0,
            dry_run: flags & 2 != 0,
            two_primaries,
            integrity_alg,
        })
    }

    fn policy(&mut self) -> Result<SplitBrainPolicy, WireError> {
        let number = self.u32()?;
        SplitBrainPolicy::from_wire(number).ok_or_else(|| self.wrong("after-sb policy", number))
    }

    /// wire.md 3.4; what an older form leaves out is empty or 0.
    fn sync_param(&mut self) -> Result<SyncParam, WireError> {
        let resync_rate = self.u32()?;
        let mut param = SyncParam {
            resync_rate,
            verify_alg: String::new(),
            csums_alg: String::new(),
            c_plan_ahead: 0,
            c_delay_target: 0,
            c_fill_target: 0,
            c_max_rate: 0,
        };
        if self.command == P_SYNC_PARAM {
            if !self.rest.is_empty() {
                param.verify_alg = self.text(self.rest, "verify-alg")?;
            }
            return Ok(param);
        }
        let name = self.bytes(ALGORITHM_NAME_BYTES)?;
        param.verify_alg = self.text(name, "verify-alg")?;
        let name = self.bytes(ALGORITHM_NAME_BYTES)?;
        param.csums_alg = self.text(name, "csums-alg")?;
        if !self.rest.is_empty() {
            param.c_plan_ahead = self.u32()?;
            param.c_delay_target = self.u32()?;
            param.c_fill_target = self.u32()?;
            param.c_max_rate = self.u32()?;
        }
        Ok(param)
    }

    /// wire.md 3.5.
    fn sizes(&mut self) -> Result<Sizes, WireError> {
        let mut sizes = Sizes {
            disk_sectors: self.u64()?,
            user_sectors: self.u64()?,
            current_sectors: self.u64()?,
            max_bio_bytes: self.u32()?,
            queue_order_type: self.u16()?,
            flags: self.u16()?,
            limits: None,
        };
        if !self.rest.is_empty() {
            sizes.limits = Some(QueueLimits {
                physical_block_bytes: self.u32()?,
                logical_block_bytes: self.u32()?,
                alignment_offset_bytes: self.u32()?,
                io_min_bytes: self.u32()?,
                io_opt_bytes: self.u32()?,
                discard_enabled: self.u8()? != 0,
                discard_zeroes_data: self.u8()? != 0,
                write_same_capable: self.u8()? != 0,
            });
        }
        Ok(sizes)
    }
}
