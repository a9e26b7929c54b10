//! The sans-io core of a resource. It decides everything and does nothing: events come in, effects
//! go out, and neither clock, socket, disk, thread nor randomness is inside. The same code runs in
//! the daemon and in the simulator.
//!
//! ```text
//!   event --> handle --> one sub-machine mutates --> change(): sanitize, legality, consequences
//!                                                         |
//!   effects <---------------------------------------------+
//!   settle (once per batch of events): log transactions, barriers, resync requests
//! ```
//!
//! | file | idea |
//! | --- | --- |
//! | [`event`], [`effect`], [`limits`] | the boundary and its bounds |
//! | `change` | one way to change the state, with everything that follows |
//! | [`state_rules`] | what is legal, as pure functions |
//! | [`generation`], [`split_brain`] | who is newer, and what to do about it |
//! | [`bitmap`], [`activity_log`], [`range_lock`] | which blocks differ, may be written, are in use |
//! | `record` | durable metadata in order |
//! | `attach` | the disk comes, fails and goes |
//! | `write`, `read`, `flush` | what clients ask |
//! | `epoch` | writes the peer has not made stable yet |
//! | `peer_write`, `peer_read` | what the peer asks |
//! | `session`, `handshake`, `packets` | the connection |
//! | `bitmap_exchange`, `sync_source`, `sync_target`, `sync_checksum`, `pause`, `rate` | resync |
//! | `verify`, `repair` | comparing both disks, and mending what differs |
//! | `command`, `cluster` | the operator, and agreement with the peer |
//! | `disk_timeout` | a disk that does not answer |
//! | `freeze`, `fencing` | I/O that waits, and why a Primary without its peer must |
//! | [`handler`] | programs that the administrator wants run |
//! | `resize` | a device that grows |
//! | `full_sync`, `declare` | invalidate; outdate, new-current-uuid |
//! | [`status`], [`verdict`] | what the operator sees |

pub mod activity_log;
mod adjust;
pub mod bitmap;
pub mod effect;
pub mod event;
pub mod generation;
pub mod handler;
pub mod limits;
pub mod range_lock;
pub mod refusal;
pub mod slab;
pub mod split_brain;
pub mod state_rules;
pub mod status;
pub mod verdict;

mod attach;
mod bitmap_exchange;
mod change;
mod cluster;
mod command;
mod declare;
mod disk_timeout;
mod epoch;
mod fencing;
mod flush;
mod freeze;
mod full_sync;
mod handshake;
mod packets;
mod pause;
mod peer_read;
mod peer_write;
mod rate;
mod read;
mod record;
mod repair;
mod resize;
mod session;
mod sync_checksum;
mod sync_source;
mod sync_target;
mod verify;
mod write;

use twinblk_proto::state::{DiskState, Role, State};

use self::activity_log::ActivityLog;
use self::bitmap::Bitmap;
use self::effect::{ClientError, DiskAction, Effect, Effects, NoteLevel};
use self::event::{
    ClientOperation, DeviceRecord, DiskOpId, Event, PayloadId, RequestId, Settings, Time, Timer,
};
use self::range_lock::{Granted, Kind, RangeLocks};
use self::slab::Slab;

/// Who waits for a place in the activity log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogOwner {
    Client(u64),
    Peer(u64),
}

/// What a disk operation was for.
#[derive(Debug)]
enum Purpose {
    ClientRead(u64),
    ClientWrite(u64),
    ClientFlush(u64),
    PeerRead(u64),
    PeerWrite(u64),
    /// Flush that a peer's write asked for before itself.
    PeerPreflush(u64),
    PeerEpochFlush {
        epoch: u64,
    },
    ResyncWrite(u64),
    VerifyRead(u64),
    ChecksumRead(u64),
    Record {
        version: u64,
    },
    ActivityLog,
    BitmapPages {
        pages: Vec<u32>,
    },
    /// Data that metadata is about to stop standing for.
    DataFlush(record::AfterFlush),
    /// Data before the bits that were cleared for it are written back.
    BitmapFlush,
}

/// Who waits for what the driver finds in a payload.
#[derive(Clone, Copy, Debug)]
enum Examined {
    PeerRead(u64),
    ChecksumRead(u64),
    Comparison(u64),
}

/// The engine of one resource with one volume.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    state: State,
    now: Time,
    out: Effects,
    random: Vec<u64>,

    /// Disk operations under way, and since when.
    ops: Slab<(Purpose, Time)>,
    /// When the oldest of them is looked at (disk-timeout).
    disk_due: Option<Time>,
    record: record::RecordKeeper,
    bitmap_writer: record::BitmapWriter,
    disk_info: Option<attach::DiskInfo>,
    /// Size of the device in sectors; 0 = not known yet.
    sectors: u64,
    bitmap: Bitmap,
    log: ActivityLog<LogOwner>,
    locks: RangeLocks,

    writes: Slab<write::ClientWrite>,
    reads: Slab<read::ClientRead>,
    flushes: Slab<flush::ClientFlush>,
    freeze: freeze::Freeze,
    fence: fencing::Fence,
    sessions_established: u64,
    epochs: epoch::Epochs,
    last_client_request: Time,

    peer_writes: Slab<peer_write::PeerWrite>,
    peer_epochs: peer_write::PeerEpochs,
    peer_reads: Slab<peer_read::PeerRead>,

    session: Option<session::Session>,
    /// Whether the driver was told to dial and listen.
    connecting: bool,
    /// To look for the peer, after this pause, once the writes of the lost session are on the disk.
    connect_after_drain_ms: Option<u64>,
    discard_my_data: bool,
    dry_run: bool,
    crashed_primary: bool,
    target: sync_target::Target,
    source: sync_source::Source,
    pace: rate::Pace,
    verify: verify::Verify,
    resize: resize::Resize,
    examinations: Slab<Examined>,

    clients_open: u32,
    commands: command::Commands,
    handlers: handler::Handlers,
    status: status::Story,
}

impl Engine {
    pub fn new(settings: Settings) -> Self {
        let log_slots = settings.al_extents.clamp(67, 65_534) as u16;
        Self {
            settings,
            state: State::default(),
            now: Time::default(),
            out: Effects::new(),
            random: Vec::new(),
            ops: Slab::default(),
            disk_due: None,
            record: record::RecordKeeper::default(),
            bitmap_writer: record::BitmapWriter::default(),
            disk_info: None,
            sectors: 0,
            bitmap: Bitmap::default(),
            log: ActivityLog::new(log_slots),
            locks: RangeLocks::default(),
            writes: Slab::default(),
            reads: Slab::default(),
            flushes: Slab::default(),
            freeze: freeze::Freeze::default(),
            fence: fencing::Fence::default(),
            sessions_established: 0,
            epochs: epoch::Epochs::default(),
            last_client_request: Time::default(),
            peer_writes: Slab::default(),
            peer_epochs: peer_write::PeerEpochs::default(),
            peer_reads: Slab::default(),
            session: None,
            connecting: false,
            connect_after_drain_ms: None,
            discard_my_data: false,
            dry_run: false,
            crashed_primary: false,
            target: sync_target::Target::default(),
            source: sync_source::Source::default(),
            pace: rate::Pace::default(),
            verify: verify::Verify::default(),
            resize: resize::Resize::default(),
            examinations: Slab::default(),
            clients_open: 0,
            commands: command::Commands::default(),
            handlers: handler::Handlers::default(),
            status: status::Story::default(),
        }
    }

    /// Fills the stock of random numbers that new generations are made of. Call before each
    /// [`Self::handle`].
    pub fn stock_random(&mut self, source: &mut dyn FnMut() -> u64) {
        while self.random.len() < limits::RANDOM_STOCK {
            self.random.push(source());
        }
    }

    /// Applies one event.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Effects) {
        self.now = now;
        match event {
            Event::ClientRequested { request, operation } => {
                self.client_requested(request, operation);
            }
            Event::DiskCompleted { op, result } => self.disk_completed(op, result),
            Event::Examined { examination, finding } => {
                match self.examinations.remove(examination.0) {
                    Some(Examined::PeerRead(key)) => self.peer_read_examined(key, finding),
                    Some(Examined::ChecksumRead(key)) => self.checksum_found(key, finding),
                    Some(Examined::Comparison(key)) => self.comparison_examined(key, finding),
                    None => {}
                }
            }
            Event::DiskOpened(disk) => self.disk_opened(*disk),
            Event::DiskOpenFailed(failure) => self.disk_open_failed(&failure),
            Event::DiskGrown(result) => self.disk_grown(result),
            Event::SessionEstablished { session, version, features, resolve } => {
                self.session_established(session, version, features, resolve);
            }
            Event::HandshakeFailed(failure) => self.handshake_failed(failure),
            Event::SessionLost { session, cause } => self.session_lost(session, cause),
            Event::PacketReceived { session, packet, payload } => {
                self.packet_received(session, packet, payload);
            }
            Event::Commanded { command, verb } => self.commanded(command, verb),
            Event::TimerFired(timer) => self.timer_fired(timer),
            Event::HandlerEnded { run, outcome } => self.handler_ended(run, &outcome),
            Event::ClientsChanged { open } => self.clients_changed(open),
        }
        effects.append(&mut self.out);
    }

    /// Ends a batch of events: work that is better done once for many.
    pub fn settle(&mut self, now: Time, effects: &mut Effects) {
        self.now = now;
        self.pump_log();
        self.send_barriers();
        self.pump_target();
        self.pump_verify();
        self.pump_bitmap_writer();
        self.pump_resize();
        self.finish_disk_if_drained();
        self.pump_commands();
        // A command may begin with it, and nothing else need ever happen.
        self.pump_bitmap_writer();
        effects.append(&mut self.out);
    }

    pub const fn state(&self) -> State {
        self.state
    }

    /// What the superblock says or is about to say.
    pub const fn record(&self) -> DeviceRecord {
        self.record.wanted()
    }

    /// Size of the device in sectors, as clients know it; 0 = not known yet.
    pub fn device_sectors(&self) -> u64 {
        self.told_sectors()
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub const fn out_of_sync_blocks(&self) -> u64 {
        self.bitmap.count()
    }

    pub fn is_out_of_sync(&self, block: u64) -> bool {
        self.bitmap.is_set(block)
    }

    /// First block at or after `block` that is out of sync.
    pub fn next_out_of_sync(&self, block: u64) -> Option<u64> {
        self.bitmap.next_set(block)
    }

    /// Blocks that resyncs have moved to or from this node.
    pub const fn resync_blocks_moved(&self) -> u64 {
        self.status.counters.resync_blocks
    }

    /// Blocks of which a checksum said that nothing had to be moved.
    pub const fn resync_blocks_equal(&self) -> u64 {
        self.status.counters.resync_equal_blocks
    }

    // --- shared by the sub-machines ---

    fn random(&mut self) -> u64 {
        // Bit 0 is the role bit; 0 and 4 have meanings of their own.
        let value = self.random.pop().expect("stock_random was called before handle") & !1;
        if value <= generation::JUST_CREATED { value + 0x5A5A_0000 } else { value }
    }

    fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    fn note(&mut self, level: NoteLevel, text: impl Into<String>) {
        self.out.push(Effect::Note { level, text: text.into() });
    }

    fn disk_op(&mut self, purpose: Purpose, action: DiskAction) -> DiskOpId {
        debug_assert!(self.state.disk > DiskState::Attaching, "no disk to use");
        let op = DiskOpId(self.ops.insert((purpose, self.now)));
        self.watch_disk();
        self.out.push(Effect::Disk { op, action });
        op
    }

    fn release(&mut self, payload: Option<PayloadId>) {
        if let Some(payload) = payload {
            self.out.push(Effect::ReleasePayload(payload));
        }
    }

    fn set_timer(&mut self, timer: Timer, after_ms: u64) {
        let at = self.now.after_ms(after_ms);
        self.out.push(Effect::SetTimer { timer, at });
    }

    /// The local disk takes writes: they may be in any order with the state of its content.
    const fn local_usable(&self) -> bool {
        self.state.disk as u8 >= DiskState::Inconsistent as u8
    }

    const fn is_primary(&self) -> bool {
        matches!(self.state.role, Role::Primary)
    }

    fn is_connected(&self) -> bool {
        self.session.is_some()
            && self.state.connection >= twinblk_proto::state::ConnectionState::Connected
    }

    fn reply_client(&mut self, request: RequestId, result: Result<Option<PayloadId>, ClientError>) {
        self.out.push(Effect::ReplyClient { request, result });
    }

    /// Lets go of a lock and starts whoever may go now.
    fn leave_lock(&mut self, lock: u64) {
        let mut granted = Vec::new();
        self.locks.leave(lock, &mut granted);
        for Granted { kind, owner } in granted {
            match kind {
                Kind::Client => self.start_write(owner),
                Kind::Peer => self.peer_write_unlocked(owner),
                Kind::SourceRead => self.start_peer_read(owner),
                Kind::TargetWrite => self.start_resync_write(owner),
                Kind::VerifyRead => self.start_comparison(owner),
                // Asked for only when nothing conflicted.
                Kind::TargetRequest => {}
            }
        }
    }

    fn client_requested(&mut self, request: RequestId, operation: ClientOperation) {
        self.last_client_request = self.now;
        let open = self.writes.len() + self.reads.len() + self.flushes.len() + self.freeze.len();
        let refused = if !self.is_primary() || self.commands.is_demoting() {
            Some(ClientError::NotPrimary)
        } else if open >= limits::MAX_OPEN_REQUESTS {
            Some(ClientError::Io)
        } else {
            None
        };
        if let Some(error) = refused {
            if let ClientOperation::Write { payload, .. } = operation {
                self.release(Some(payload));
            }
            return self.reply_client(request, Err(error));
        }
        if self.holds_requests() {
            return self.freeze_request(request, operation);
        }
        self.start_client_operation(request, operation);
    }

    fn start_client_operation(&mut self, request: RequestId, operation: ClientOperation) {
        match operation {
            ClientOperation::Read { range } => self.client_read(request, range),
            ClientOperation::Write { range, payload, fua } => {
                self.client_write(request, range, write::Content::Data(payload), fua);
            }
            ClientOperation::Zero { range, may_unmap, fua } => {
                self.client_write(request, range, write::Content::Zeroes { may_unmap }, fua);
            }
            ClientOperation::Flush => self.client_flush(request),
        }
    }
}
