//! What the engine asks of the world. Effects of one call are performed in order; disk operations
//! may complete in any order. Each effect names the event that answers it, if any.

use twinblk_proto::digest::Algorithm;
use twinblk_proto::packet::Packet;
use twinblk_proto::state::State;
use twinblk_proto::units::SectorRange;

use super::event::{
    CommandId, DeviceRecord, DiskOpId, ExaminationId, HandlerRunId, PayloadId, RequestId,
    SessionId, Time, Timer,
};
use super::handler::Handler;

/// A 4 KiB piece of the bitmap (128 MiB of data).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapPage {
    /// Number of the page, from the start of the bitmap.
    pub index: u32,
    /// 512 little-endian words.
    pub words: Box<[u64; 512]>,
}

/// An update of the activity log: what one transaction records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityLogUpdate {
    /// Slot number and the extent that is in it from now on; at most 64.
    pub slots: Vec<(u16, u32)>,
}

/// A disk operation, answered by `Event::DiskCompleted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskAction {
    /// The driver finds memory; the completion names it.
    Read { range: SectorRange },
    /// `payload` stays alive until the engine releases it.
    Write { range: SectorRange, payload: PayloadId, fua: bool },
    /// Make the range read as zeroes; `may_unmap` allows punching a hole.
    Zero { range: SectorRange, may_unmap: bool, fua: bool },
    /// Everything written before is stable when this completes.
    Flush,
    /// Write the superblock, durably.
    PersistRecord(DeviceRecord),
    /// Write an activity log transaction, durably.
    PersistActivityLog(ActivityLogUpdate),
    /// Write bitmap pages, durably.
    PersistBitmap(Vec<BitmapPage>),
}

/// What the engine wants to know of bytes that it never sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examination {
    /// The digest of all of them.
    Digest(Algorithm),
    /// Whether each of them is 0.
    IsZero,
}

/// Why a client's request failed; the NBD layer chooses the error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// EIO.
    Io,
    /// ESHUTDOWN: this node is not (or no longer) Primary.
    NotPrimary,
}

/// A refused command: DRBD's code and text (behaviour.md 1.5), what it means here, what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub text: &'static str,
    /// What happened here, in a sentence.
    pub detail: String,
    /// The next command to try.
    pub hint: String,
}

/// How a session is ended by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseManner {
    /// Send what is queued, then close.
    AfterFlush,
    /// Likewise, and the peer gets the time to come to the same decision from the same packets.
    Refused,
    /// Close at once.
    Now,
}

/// Loudness of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteLevel {
    Error,
    Warning,
    Info,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Disk {
        op: DiskOpId,
        action: DiskAction,
    },
    /// Open the backing disk and its metadata, apply the activity log, load the bitmap.
    /// Answered by `DiskOpened` or `DiskOpenFailed`.
    OpenDisk,
    /// Look at the size of the backing disk again, and make use of what is new: internal metadata
    /// moves to the new end. No metadata operation is under way until the answer, `DiskGrown`.
    /// `wanted_sectors`: how much the metadata has to have room for; 0: for all of it.
    GrowDisk {
        wanted_sectors: u64,
    },
    /// Close it; operations that are still under way complete without an event.
    CloseDisk,
    /// Dial and listen until there is a session (`SessionEstablished`) or a reason to give up
    /// (`HandshakeFailed`). `after_ms` delays the first try.
    StartConnecting {
        after_ms: u64,
    },
    /// Stop dialling and listening; no session was established since `StartConnecting`.
    StopConnecting,
    /// End the session; no further event of it will be heard.
    CloseSession {
        session: SessionId,
        manner: CloseManner,
    },
    /// Send over the data socket; a payload is sent with packets that carry data.
    SendData {
        session: SessionId,
        packet: Packet,
        payload: Option<PayloadId>,
    },
    /// Send over the meta socket.
    SendMeta {
        session: SessionId,
        packet: Packet,
    },
    /// From now on the peer's packets carry digests of this algorithm (empty = none), and so do
    /// mine from the moment `mine` is named.
    UseIntegrity {
        session: SessionId,
        mine: Option<String>,
        peers: Option<String>,
    },
    /// Answer a client. The payload of a read is the driver's again after this.
    ReplyClient {
        request: RequestId,
        result: Result<Option<PayloadId>, ClientError>,
    },
    /// Look at the bytes of a payload, at once: it may be released by the next effect. Answered by
    /// `Event::Examined`.
    Examine {
        examination: ExaminationId,
        payload: PayloadId,
        what: Examination,
    },
    /// The engine will not name this payload again.
    ReleasePayload(PayloadId),
    ReplyCommand {
        command: CommandId,
        result: Result<(), Refusal>,
    },
    SetTimer {
        timer: Timer,
        at: Time,
    },
    ClearTimer(Timer),
    /// Run the program that is configured for this moment. Answered by `HandlerEnded`.
    RunHandler {
        run: HandlerRunId,
        handler: Handler,
    },
    /// The state of the resource changed; `reason` is a sentence for the operator.
    StateChanged {
        old: State,
        new: State,
        reason: String,
    },
    /// The size of the device changed, in sectors.
    SizeChanged {
        sectors: u64,
    },
    /// Something worth a log line.
    Note {
        level: NoteLevel,
        text: String,
    },
}

/// The effects of one or more calls, in order.
pub type Effects = Vec<Effect>;
