//! What the world tells the engine. Every event is a value; payload bytes stay with the driver and
//! are named by [`PayloadId`].

use twinblk_proto::packet::{Packet, ReplicationProtocol, SplitBrainPolicy};
use twinblk_proto::units::SectorRange;

use super::handler::{HandlerOutcome, HandlerSet};

/// Time since an arbitrary start, in microseconds: the only clock the engine knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0 + ms * 1000)
    }
}

macro_rules! identifier {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    )+ };
}

identifier! {
    /// A client's request; chosen by the driver, unique while the request is open.
    RequestId,
    /// Bytes held by the driver until the engine says [`super::effect::Effect::ReleasePayload`].
    PayloadId,
    /// A disk operation; chosen by the engine, never reused within a run.
    DiskOpId,
    /// One pair of peer connections; chosen by the driver, never reused within a run. Events and
    /// effects of an old session are dropped on both sides.
    SessionId,
    /// A look at a payload; chosen by the engine, never reused within a run.
    ExaminationId,
    /// An operator's command that waits for its outcome; chosen by the driver.
    CommandId,
    /// A run of a handler; chosen by the engine, never reused within a run of the program.
    HandlerRunId,
}

/// What a client asks. Ranges are inside the device and a multiple of 512: the NBD layer checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOperation {
    Read {
        range: SectorRange,
    },
    /// `payload` holds `range.bytes()` bytes.
    Write {
        range: SectorRange,
        payload: PayloadId,
        fua: bool,
    },
    /// Reads back as zeroes afterwards, TRIM included, so that both nodes hold the same bytes.
    Zero {
        range: SectorRange,
        may_unmap: bool,
        fua: bool,
    },
    Flush,
}

/// Settings that the engine decides by; the driver translates them from drbd.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub protocol: ReplicationProtocol,
    pub after_sb_0pri: SplitBrainPolicy,
    pub after_sb_1pri: SplitBrainPolicy,
    pub after_sb_2pri: SplitBrainPolicy,
    pub always_asbp: bool,
    pub rr_conflict: RoleConflictPolicy,
    /// Name of data-integrity-alg, empty when off. Digests themselves are made and checked by the
    /// link; the engine only negotiates.
    pub integrity_alg: String,
    pub verify_alg: String,
    pub csums_alg: String,
    /// Checksums only in the resync after a crash of a Primary.
    pub csums_after_crash_only: bool,
    /// 0.1 s.
    pub timeout: u32,
    /// Seconds.
    pub ping_interval_s: u32,
    /// 0.1 s.
    pub ping_timeout: u32,
    /// Times `timeout`; 0 = never.
    pub ko_count: u32,
    pub max_buffers: u32,
    pub max_epoch_size: u32,
    pub use_rle: bool,
    pub on_io_error: IoErrorPolicy,
    pub on_no_data: NoDataPolicy,
    pub fencing: FencingPolicy,
    /// 0.1 s; 0 = a disk may take as long as it likes.
    pub disk_timeout: u32,
    /// Handlers that are configured.
    pub handlers: HandlerSet,
    /// A Primary that is frozen because its peer could not be fenced tries again this much later; 0 =
    /// never, as DRBD does.
    pub fence_again_ms: u64,
    /// Size asked for by the administrator, in sectors; 0 = as large as both disks allow.
    pub user_sectors: u64,
    /// Slots of the activity log.
    pub al_extents: u32,
    /// Flush the disk when an epoch ends (`disk-flushes`).
    pub disk_flushes: bool,
    /// KiB/s; sent to the peer in `P_SYNC_PARAM89`, with the c-* values.
    pub resync_rate: u32,
    pub c_plan_ahead: u32,
    pub c_delay_target: u32,
    pub c_fill_target: u32,
    pub c_max_rate: u32,
    /// The operator chose it: DRBD's default of 100 MiB/s is no limit here.
    pub c_max_rate_limits: bool,
    /// KiB/s; concerns this node alone.
    pub c_min_rate: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoErrorPolicy {
    #[default]
    Detach,
    PassOn,
    /// Run the handler local-io-error, then as `Detach`.
    CallHandler,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoDataPolicy {
    #[default]
    IoError,
    SuspendIo,
}

/// `fencing`: what a node without its peer makes sure of (behaviour.md 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FencingPolicy {
    #[default]
    DontCare,
    ResourceOnly,
    /// And I/O is frozen until the peer is fenced.
    ResourceAndStonith,
}

/// `rr-conflict`: what to do when a Primary would have to become sync target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoleConflictPolicy {
    #[default]
    Disconnect,
    CallPriLost,
    Violently,
}

impl Default for Settings {
    /// DRBD's defaults (behaviour.md 7.8).
    fn default() -> Self {
        Self {
            protocol: ReplicationProtocol::C,
            after_sb_0pri: SplitBrainPolicy::Disconnect,
            after_sb_1pri: SplitBrainPolicy::Disconnect,
            after_sb_2pri: SplitBrainPolicy::Disconnect,
            always_asbp: false,
            rr_conflict: RoleConflictPolicy::Disconnect,
            integrity_alg: String::new(),
            verify_alg: String::new(),
            csums_alg: String::new(),
            csums_after_crash_only: false,
            timeout: 60,
            ping_interval_s: 10,
            ping_timeout: 5,
            ko_count: 7,
            max_buffers: 2048,
            max_epoch_size: 2048,
            use_rle: true,
            on_io_error: IoErrorPolicy::Detach,
            on_no_data: NoDataPolicy::IoError,
            fencing: FencingPolicy::DontCare,
            disk_timeout: 0,
            handlers: HandlerSet::default(),
            fence_again_ms: 0,
            user_sectors: 0,
            al_extents: 1237,
            disk_flushes: true,
            resync_rate: 250,
            c_plan_ahead: 20,
            c_delay_target: 10,
            c_fill_target: 100,
            c_max_rate: 102_400,
            c_max_rate_limits: false,
            c_min_rate: 250,
        }
    }
}

/// The four generation identifiers of a disk (session.md 2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    pub current: u64,
    pub bitmap: u64,
    /// Younger first.
    pub history: [u64; 2],
}

/// The changing part of the superblock: what the engine reads at attach and persists later
/// (metadata.md 2). The layout fields belong to `meta`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceRecord {
    pub generations: Generations,
    /// Last agreed size in sectors; 0 = never agreed.
    pub agreed_sectors: u64,
    pub peer_max_bio_bytes: u32,
    pub consistent: bool,
    pub primary: bool,
    pub connected: bool,
    pub full_sync: bool,
    pub was_up_to_date: bool,
    pub peer_outdated: bool,
    pub crashed_primary: bool,
}

/// A backing disk that the driver opened: activity log applied, bitmap loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedDisk {
    pub record: DeviceRecord,
    /// Sectors that the disk can offer after metadata.
    pub usable_sectors: u64,
    /// The bitmap as little-endian words, one bit per 4 KiB of `usable_sectors` (or more).
    pub bitmap_words: Vec<u64>,
    pub logical_block_bytes: u32,
    pub physical_block_bytes: u32,
    pub discard: bool,
}

/// Why a disk operation failed, as the operator will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure {
    pub errno: i32,
    pub text: String,
}

/// Why a backing disk does not offer more than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrowFailure {
    /// Nothing was written: the disk is as it was.
    Unchanged(String),
    /// While its metadata was being moved: it must be opened anew.
    Broken(DiskFailure),
}

/// Why a session ended without the engine asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// End of file or an error on a socket.
    BrokenPipe(String),
    /// A malformed packet, a digest mismatch, a packet on the wrong socket.
    ProtocolError(String),
    /// A send made no progress for timeout x ko-count.
    Timeout(String),
}

/// Why the sequential part of the handshake was given up for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    IncompatibleVersions(String),
    AuthenticationFailed(String),
}

/// What the operator asks of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    Attach,
    Detach {
        force: bool,
    },
    Connect {
        discard_my_data: bool,
        dry_run: bool,
    },
    Disconnect {
        force: bool,
    },
    Primary {
        force: bool,
    },
    /// `force`: clients that hold the device open are cut off.
    Secondary {
        force: bool,
    },
    /// Freeze I/O: what clients ask waits, whatever happens.
    SuspendIo,
    /// Let I/O go on, whatever froze it.
    ResumeIo,
    /// The local data is worthless: everything comes from the peer.
    Invalidate,
    /// The peer's data is worthless: it gets everything from here.
    InvalidateRemote,
    /// The local data is no longer the newest.
    Outdate,
    /// A new generation begins; with `clear_bitmap` the peer is declared to have it too.
    NewCurrentUuid {
        clear_bitmap: bool,
    },
    /// Compare both disks block by block, in sectors. Without `start` it goes on where an
    /// interrupted one ended; while one is running here, only what it does next changes.
    Verify {
        start: Option<u64>,
        stop: Option<u64>,
        repair: Option<RepairFrom>,
    },
    /// The backing disks grew, or the size is to be another one.
    Resize {
        /// None: as configured. 0: as large as both disks allow.
        sectors: Option<u64>,
        /// While not connected.
        assume_peer_has_space: bool,
        /// What is new counts as equal on both nodes.
        assume_clean: bool,
    },
    /// The configuration was changed: what of it can count at once does.
    Adjust(Box<Settings>),
    /// Hold a resync on until it is resumed; its requests under way are still answered.
    PauseSync,
    ResumeSync,
    /// Another resource of this node is to be resynced first (`resync-after`), or is done.
    AwaitOthers {
        waits: bool,
    },
    /// Find out whether the peer answers: a connection that looks alive without being so ends within
    /// `ping-timeout`. Answered at once.
    ProbePeer,
    /// Demote, disconnect, detach: the resource goes away.
    Down,
}

/// Whose data counts where the disks differ (`verify --repair`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairFrom {
    /// Whoever is Primary when the comparison begins.
    Primary,
    ThisNode,
    Peer,
}

/// What `Effect::Examine` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Digest(Vec<u8>),
    IsZero(bool),
}

/// Timers that the engine sets; one of each kind at a time, a new setting replaces the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Look whether the peer is alive.
    Ping,
    /// Look for requests that the peer never finished (ko-count x timeout).
    RequestTimeout,
    /// Ask for the next resync blocks, write back cleared bits.
    Resync,
    /// Close an epoch that went quiet, so that its extents may leave the activity log.
    EpochIdle,
    /// Look for disk operations that do not end (disk-timeout).
    DiskTimeout,
    /// The next resync request may go out.
    ResyncPace,
    /// Try a command again that met a transient state.
    CommandRetry,
    /// Ask a kernel peer for the blocks that a verify found.
    Repair,
    /// Try again to have the peer fenced.
    FenceAgain,
}

/// Everything that can happen to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    ClientRequested {
        request: RequestId,
        operation: ClientOperation,
    },
    /// A disk operation ended. A read's payload holds exactly the range that was asked for.
    /// Success of a metadata write means: durable.
    DiskCompleted {
        op: DiskOpId,
        result: Result<Option<PayloadId>, DiskFailure>,
    },
    /// Answers `Effect::Examine`.
    Examined {
        examination: ExaminationId,
        finding: Finding,
    },
    /// Answers `Effect::OpenDisk`.
    DiskOpened(Box<AttachedDisk>),
    DiskOpenFailed(DiskFailure),
    /// Answers `Effect::GrowDisk`: sectors that the disk can offer now.
    DiskGrown(Result<u64, GrowFailure>),
    /// Answers `Effect::StartConnecting`: both sockets are up, features agreed, authenticated.
    /// `resolve` is set on the node that accepted the meta socket (wire.md 1.1).
    SessionEstablished {
        session: SessionId,
        version: u32,
        features: u32,
        resolve: bool,
    },
    /// Answers `Effect::StartConnecting`: trying again would not help.
    HandshakeFailed(HandshakeFailure),
    SessionLost {
        session: SessionId,
        cause: LossCause,
    },
    /// A packet of either socket, checked for layout. `payload` holds the bulk data of packets that
    /// carry it (`range.bytes()` long), digest verified.
    PacketReceived {
        session: SessionId,
        packet: Packet,
        payload: Option<PayloadId>,
    },
    Commanded {
        command: CommandId,
        verb: Verb,
    },
    TimerFired(Timer),
    /// Answers `Effect::RunHandler`.
    HandlerEnded {
        run: HandlerRunId,
        outcome: HandlerOutcome,
    },
    /// Number of clients that hold the device open, for the check of `secondary`.
    ClientsChanged {
        open: u32,
    },
}
