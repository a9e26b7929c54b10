//! Every packet of wire.md section 4 as a value. Bulk data is not part of the value: a packet that
//! carries data says how long it is, and the bytes travel beside it.

use crate::state::StateWord;
use crate::units::SectorRange;

/// Eight opaque bytes that the asked node hands back, kept as a big-endian number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl BlockId {
    /// Reserved for resync and verify packets.
    pub const RESYNC: Self = Self(u64::MAX);
    /// `P_OV_RESULT`: the block is in sync.
    pub const VERIFY_IN_SYNC: Self = Self(4711);
    /// `P_OV_RESULT`: the block differs.
    pub const VERIFY_OUT_OF_SYNC: Self = Self(4712);
}

/// `dp_flags` of the write packets (wire.md 5.1).
pub mod dp_flags {
    pub const RW_SYNC: u32 = 2;
    pub const MAY_SET_IN_SYNC: u32 = 4;
    pub const UNPLUG: u32 = 8;
    pub const FUA: u32 = 16;
    pub const FLUSH: u32 = 32;
    pub const DISCARD: u32 = 64;
    pub const SEND_RECEIVE_ACK: u32 = 128;
    pub const SEND_WRITE_ACK: u32 = 256;
    pub const WSAME: u32 = 512;
    pub const ZEROES: u32 = 1024;
}

/// Feature flags of `P_CONNECTION_FEATURES` (wire.md 3.1).
pub mod features {
    pub const TRIM: u32 = 1;
    pub const THIN_RESYNC: u32 = 2;
    pub const WSAME: u32 = 4;
    pub const WZEROES: u32 = 8;
    /// Private: two twinblk nodes recognise each other by it. The agreed features are the bitwise
    /// AND of both sides', so a kernel peer, which does not offer it, takes it out.
    pub const TWINBLK: u32 = 1 << 31;
}

/// `P_CONNECTION_FEATURES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFeatures {
    pub version_min: u32,
    pub features: u32,
    /// 0 means the same as `version_min`.
    pub version_max: u32,
}

/// Replication protocol: when a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicationProtocol {
    /// Local disk, and handed to the network.
    A = 1,
    /// Local disk, and received by the peer.
    B = 2,
    /// On both disks.
    C = 3,
}

/// Automatic split-brain recovery policies, by their wire numbers (wire.md 3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SplitBrainPolicy {
    #[default]
    Disconnect = 0,
    DiscardYoungerPrimary = 1,
    DiscardOlderPrimary = 2,
    DiscardZeroChanges = 3,
    DiscardLeastChanges = 4,
    DiscardLocal = 5,
    DiscardRemote = 6,
    Consensus = 7,
    DiscardSecondary = 8,
    CallPriLost = 9,
    Violently = 10,
}

impl SplitBrainPolicy {
    pub const fn from_wire(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Disconnect,
            1 => Self::DiscardYoungerPrimary,
            2 => Self::DiscardOlderPrimary,
            3 => Self::DiscardZeroChanges,
            4 => Self::DiscardLeastChanges,
            5 => Self::DiscardLocal,
            6 => Self::DiscardRemote,
            7 => Self::Consensus,
            8 => Self::DiscardSecondary,
            9 => Self::CallPriLost,
            10 => Self::Violently,
            _ => return None,
        })
    }
}

/// `P_PROTOCOL` and `P_PROTOCOL_UPDATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolSettings {
    pub protocol: ReplicationProtocol,
    pub after_sb_0pri: SplitBrainPolicy,
    pub after_sb_1pri: SplitBrainPolicy,
    pub after_sb_2pri: SplitBrainPolicy,
    pub discard_my_data: bool,
    pub dry_run: bool,
    pub two_primaries: bool,
    /// Empty when unset.
    pub integrity_alg: String,
}

/// `P_SYNC_PARAM89`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncParam {
    /// KiB/s.
    pub resync_rate: u32,
    pub verify_alg: String,
    pub csums_alg: String,
    /// 0.1 s.
    pub c_plan_ahead: u32,
    /// 0.1 s.
    pub c_delay_target: u32,
    /// Sectors.
    pub c_fill_target: u32,
    /// KiB/s.
    pub c_max_rate: u32,
}

/// Queue limits of `P_SIZES`, present when both sides have feature WSAME.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    pub physical_block_bytes: u32,
    pub logical_block_bytes: u32,
    pub alignment_offset_bytes: u32,
    pub io_min_bytes: u32,
    pub io_opt_bytes: u32,
    pub discard_enabled: bool,
    pub discard_zeroes_data: bool,
    pub write_same_capable: bool,
}

/// `P_SIZES`; sizes in sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What the sender's backing disk offers; 0 = diskless.
    pub disk_sectors: u64,
    /// What the administrator asked for; 0 = nothing.
    pub user_sectors: u64,
    /// Size of the sender's device now; 0 asks for an answer.
    pub current_sectors: u64,
    pub max_bio_bytes: u32,
    pub queue_order_type: u16,
    /// 1 = forced, 2 = no resync of grown space.
    pub flags: u16,
    pub limits: Option<QueueLimits>,
}

/// Flags of `P_SIZES`.
pub mod sizes_flags {
    /// What has grown counts as equal.
    pub const NO_RESYNC: u16 = 2;
}

/// Flags of `P_UUIDS`.
pub mod uuid_flags {
    pub const DISCARD_MY_DATA: u64 = 1;
    pub const CRASHED_PRIMARY: u64 = 2;
    pub const INCONSISTENT: u64 = 4;
    pub const SKIP_INITIAL_SYNC: u64 = 8;
}

/// `P_UUIDS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uuids {
    pub current: u64,
    pub bitmap: u64,
    /// Newer first.
    pub history: [u64; 2],
    /// Bits set in the sender's bitmap.
    pub dirty_bits: u64,
    pub flags: u64,
}

/// Fixed part of `P_DATA`, `P_TRIM`, `P_ZEROES` and `P_WSAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub range: SectorRange,
    pub id: BlockId,
    pub sequence: u32,
    pub flags: u32,
}

/// Fixed part of the requests and of their replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRequest {
    pub range: SectorRange,
    pub id: BlockId,
}

/// A 24-byte acknowledgement (wire.md 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub range: SectorRange,
    pub id: BlockId,
    pub sequence: u32,
}

/// The digest that precedes data, or stands for it. Empty when no algorithm is agreed.
pub type Digest = Vec<u8>;

/// One packet. Variants marked "data follows" have `range.bytes()` of bulk data beside them (for
/// [`Packet::WriteSame`]: one logical block).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    InitialData,
    InitialMeta,
    ConnectionFeatures(ConnectionFeatures),
    AuthChallenge(Vec<u8>),
    AuthResponse(Vec<u8>),
    Protocol(ProtocolSettings),
    ProtocolUpdate(ProtocolSettings),
    SyncParam(SyncParam),
    Sizes(Sizes),
    Uuids(Uuids),
    SyncUuid(u64),
    State(StateWord),
    StateChangeRequest {
        mask: StateWord,
        value: StateWord,
    },
    ConnectionStateChangeRequest {
        mask: StateWord,
        value: StateWord,
    },
    StateChangeReply(i32),
    ConnectionStateChangeReply(i32),
    Ping,
    PingAck,
    /// Data follows.
    Data(Write),
    Trim(Write),
    Zeroes(Write),
    /// One logical block of data follows, whose length is in the packet's length.
    WriteSame(Write),
    /// Opaque handle of the epoch that ends here.
    Barrier {
        handle: u32,
    },
    BarrierAck {
        handle: u32,
        writes: u32,
    },
    UnplugRemote,
    DataRequest(BlockRequest),
    /// Data follows.
    DataReply(BlockRequest),
    ResyncRequest(BlockRequest),
    ThinResyncRequest(BlockRequest),
    /// Data follows.
    ResyncReply(BlockRequest),
    ResyncDeallocated(SectorRange),
    ChecksumResyncRequest(BlockRequest, Digest),
    VerifyRequest(BlockRequest),
    VerifyReply(BlockRequest, Digest),
    OutOfSync(SectorRange),
    /// A chunk of the plain bitmap; empty ends a transfer.
    Bitmap(Vec<u8>),
    /// Encoding byte and code of a run-length chunk.
    CompressedBitmap(Vec<u8>),
    ReceiveAck(Ack),
    WriteAck(Ack),
    ResyncWriteAck(Ack),
    Superseded(Ack),
    RetryWrite(Ack),
    NegativeAck(Ack),
    NegativeDataReply(Ack),
    NegativeResyncReply(Ack),
    VerifyResult(Ack),
    ResyncIsInSync(Ack),
    ResyncCancel(Ack),
    DelayProbe,
}

impl Packet {
    /// DRBD's name for the packet, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InitialData => "P_INITIAL_DATA",
            Self::InitialMeta => "P_INITIAL_META",
            Self::ConnectionFeatures(_) => "P_CONNECTION_FEATURES",
            Self::AuthChallenge(_) => "P_AUTH_CHALLENGE",
            Self::AuthResponse(_) => "P_AUTH_RESPONSE",
            Self::Protocol(_) => "P_PROTOCOL",
            Self::ProtocolUpdate(_) => "P_PROTOCOL_UPDATE",
            Self::SyncParam(_) => "P_SYNC_PARAM89",
            Self::Sizes(_) => "P_SIZES",
            Self::Uuids(_) => "P_UUIDS",
            Self::SyncUuid(_) => "P_SYNC_UUID",
            Self::State(_) => "P_STATE",
            Self::StateChangeRequest { .. } => "P_STATE_CHG_REQ",
            Self::ConnectionStateChangeRequest { .. } => "P_CONN_ST_CHG_REQ",
            Self::StateChangeReply(_) => "P_STATE_CHG_REPLY",
            Self::ConnectionStateChangeReply(_) => "P_CONN_ST_CHG_REPLY",
            Self::Ping => "P_PING",
            Self::PingAck => "P_PING_ACK",
            Self::Data(_) => "P_DATA",
            Self::Trim(_) => "P_TRIM",
            Self::Zeroes(_) => "P_ZEROES",
            Self::WriteSame(_) => "P_WSAME",
            Self::Barrier { .. } => "P_BARRIER",
            Self::BarrierAck { .. } => "P_BARRIER_ACK",
            Self::UnplugRemote => "P_UNPLUG_REMOTE",
            Self::DataRequest(_) => "P_DATA_REQUEST",
            Self::DataReply(_) => "P_DATA_REPLY",
            Self::ResyncRequest(_) => "P_RS_DATA_REQUEST",
            Self::ThinResyncRequest(_) => "P_RS_THIN_REQ",
            Self::ResyncReply(_) => "P_RS_DATA_REPLY",
            Self::ResyncDeallocated(_) => "P_RS_DEALLOCATED",
            Self::ChecksumResyncRequest(..) => "P_CSUM_RS_REQUEST",
            Self::VerifyRequest(_) => "P_OV_REQUEST",
            Self::VerifyReply(..) => "P_OV_REPLY",
            Self::OutOfSync(_) => "P_OUT_OF_SYNC",
            Self::Bitmap(_) => "P_BITMAP",
            Self::CompressedBitmap(_) => "P_COMPRESSED_BITMAP",
            Self::ReceiveAck(_) => "P_RECV_ACK",
            Self::WriteAck(_) => "P_WRITE_ACK",
            Self::ResyncWriteAck(_) => "P_RS_WRITE_ACK",
            Self::Superseded(_) => "P_SUPERSEDED",
            Self::RetryWrite(_) => "P_RETRY_WRITE",
            Self::NegativeAck(_) => "P_NEG_ACK",
            Self::NegativeDataReply(_) => "P_NEG_DREPLY",
            Self::NegativeResyncReply(_) => "P_NEG_RS_DREPLY",
            Self::VerifyResult(_) => "P_OV_RESULT",
            Self::ResyncIsInSync(_) => "P_RS_IS_IN_SYNC",
            Self::ResyncCancel(_) => "P_RS_CANCEL",
            Self::DelayProbe => "P_DELAY_PROBE",
        }
    }
}
