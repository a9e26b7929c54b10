//! What the operator sees of a resource: states with their reasons, progress, counters.

use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState as C, DiskState as D, State};

use super::Engine;
use super::effect::ActivityLogUpdate;
use super::event::{DeviceRecord, Generations};
use super::verdict::{SplitBrain, Verdict};
pub use super::verify::Verified;

/// Counters as in /proc/drbd; sizes in sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub net_sent: u64,
    pub net_received: u64,
    pub disk_written: u64,
    pub disk_read: u64,
    pub log_writes: u64,
    pub bitmap_writes: u64,
    /// Blocks that resyncs brought in sync.
    pub resync_blocks: u64,
    /// Blocks of which a checksum said that they were in sync already.
    pub resync_equal_blocks: u64,
}

/// A resync under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub total_blocks: u64,
    pub left_blocks: u64,
    pub failed_blocks: u64,
    pub elapsed_us: u64,
    /// Lately.
    pub bytes_per_s: u64,
}

/// A comparison of both disks under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    pub done_blocks: u64,
    /// 0 on the asked side until the first request came.
    pub total_blocks: u64,
    pub found_blocks: u64,
    pub elapsed_us: u64,
    pub bytes_per_s: u64,
}

/// A snapshot for `status`.
#[derive(Clone, Debug)]
pub struct Status {
    pub state: State,
    /// Why the state is what it is: the last change that mattered.
    pub reason: String,
    /// The next command to try; empty when nothing is wrong.
    pub hint: String,
    pub protocol: ReplicationProtocol,
    pub sectors: u64,
    pub out_of_sync_blocks: u64,
    pub progress: Option<Progress>,
    pub verify: Option<VerifyProgress>,
    /// The last comparison that ended, on either side.
    pub verified: Option<Verified>,
    /// None without a disk.
    pub generations: Option<Generations>,
    pub peer_generations: Option<Generations>,
    /// What the metadata says of this disk; none without a disk.
    pub record: Option<DeviceRecord>,
    pub counters: Counters,
    /// Agreed protocol version and features, while connected.
    pub agreed: Option<(u32, u32)>,
    /// Client requests under way.
    pub requests_open: u64,
    /// Disk operations under way.
    pub disk_operations: u64,
    /// The peer's writes not yet on disk here.
    pub peer_writes_open: u64,
    /// Epochs not yet stable on the peer.
    pub epochs_open: u64,
    pub log_extents_active: u64,
    /// What the last handshake decided, or would have (`connect --tentative`).
    pub verdict: Option<Verdict>,
    /// Met by the last handshake and not resolved.
    pub split_brain: Option<SplitBrain>,
    /// Why I/O is frozen, what ends that, and for how long it has been (microseconds).
    pub frozen: Option<(String, String, u64)>,
    /// The takeover policy or fence-peer said that the peer went on without this Primary.
    pub is_replaced: bool,
    /// Names of the handlers that run now.
    pub handlers_running: Vec<&'static str>,
}

/// The engine's memory of what to tell, and of work that is held for a moment.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) reason: String,
    pub(super) hint: String,
    pub(super) counters: Counters,
    pub(super) pending_log: Option<ActivityLogUpdate>,
    pub(super) held_writes: Vec<u64>,
    pub(super) held_flushes: Vec<u64>,
    /// Client writes and peer's writes that come before this disk is ready to be a target.
    pub(super) held_for_target: Vec<u64>,
    pub(super) held_peer_writes: Vec<u64>,
    /// Generation that this Primary serves without a disk of its own.
    pub(super) exposed_generation: Option<u64>,
    /// Begun, but perhaps never written, when its disk was given up: the one before. Nothing was
    /// answered that only the new one has, so that disk is as good with either.
    pub(super) exposed_before: Option<u64>,
    /// Opened while a handshake ran.
    pub(super) held_disk: Option<super::event::AttachedDisk>,
    /// Client writes that were under way when this disk stopped being resync target.
    pub(super) begun_as_target: Vec<u64>,
    /// A disk that is Negotiating says Inconsistent: blocks that it may have lost are marked.
    pub(super) attaches_suspect: bool,
    /// Answers wait for the peer's new generation.
    pub(super) awaits_generation: bool,
    /// State of an attaching peer, until my own request is answered.
    pub(super) held_state: Option<twinblk_proto::state::StateWord>,
    /// `P_SYNC_UUID` that came before this node was ready for it.
    pub(super) held_sync_uuid: Option<u64>,
    /// This disk was a resync source when its node crashed: the target may have finished without
    /// this node hearing of it, and then shares its generation.
    pub(super) may_share_generation: bool,
    pub(super) verdict: Option<Verdict>,
    pub(super) split_brain: Option<SplitBrain>,
    pub(super) bitmap_scratch: Option<Vec<u64>>,
}

impl Story {
    pub(super) fn changed(&mut self, old: &State, new: &State, reason: &str) {
        // On the way back to WFConnection and StandAlone the cause stays, not the transit.
        let transit = matches!(new.connection, C::Unconnected | C::WFConnection)
            && old.connection < C::WFReportParams
            && old.connection != C::StandAlone;
        if !transit {
            reason.clone_into(&mut self.reason);
        }
        if new.connection >= C::Connected {
            self.hint.clear();
            self.split_brain = None;
        }
    }
}

/// Four identifiers as DRBD's log prints them.
pub(super) fn generations_text(generations: &Generations) -> String {
    let Generations { current, bitmap, history: [h0, h1] } = generations;
    format!("{current:016X}:{bitmap:016X}:{h0:016X}:{h1:016X}")
}

impl Engine {
    pub fn status(&self) -> Status {
        let connection = self.state.connection;
        let target = matches!(connection, C::SyncTarget | C::PausedSyncT);
        let source = matches!(connection, C::SyncSource | C::PausedSyncS);
        let progress = (target || source).then(|| {
            let (total_blocks, started, failed_blocks) = if target {
                (self.target.total_blocks, self.target.started, self.target.failed_blocks)
            } else {
                (self.source.total_blocks, self.source.started, 0)
            };
            Progress {
                total_blocks: total_blocks.max(self.bitmap.count()),
                left_blocks: self.bitmap.count(),
                failed_blocks,
                elapsed_us: self.now.0.saturating_sub(started.0),
                bytes_per_s: self.resync_speed(),
            }
        });
        let requests = self.writes.iter().count() + self.reads.len() + self.flushes.len();
        let counters =
            Counters { bitmap_writes: self.bitmap_writer.writes, ..self.status.counters };
        Status {
            state: self.state,
            reason: self.status.reason.clone(),
            hint: self.hint(),
            protocol: self.settings.protocol,
            sectors: self.told_sectors(),
            out_of_sync_blocks: self.bitmap.count(),
            progress,
            verify: self.verify_progress(),
            verified: self.verify.last,
            generations: (self.state.disk >= D::Negotiating)
                .then(|| self.record.wanted().generations),
            peer_generations: self.peer_generations(),
            record: (self.state.disk >= D::Negotiating).then(|| self.record.wanted()),
            counters,
            agreed: self.session.as_ref().map(|session| (session.version, session.features)),
            requests_open: (requests + self.freeze.len()) as u64,
            disk_operations: self.ops.len() as u64,
            peer_writes_open: self.peer_writes.len() as u64,
            epochs_open: self.epochs.len() as u64,
            log_extents_active: self.log.active() as u64,
            verdict: self.status.verdict.clone(),
            split_brain: self.status.split_brain,
            frozen: self.freeze_story(),
            is_replaced: self.is_replaced(),
            handlers_running: self.handlers.names(),
        }
    }

    fn hint(&self) -> String {
        if !self.status.hint.is_empty() {
            return self.status.hint.clone();
        }
        let s = &self.state;
        let text = match (s.connection, s.disk) {
            (C::StandAlone, _) => "twinblk connect RES",
            (C::WFConnection, D::Inconsistent) => {
                "bring the peer up, or, if this is the data to keep: twinblk primary --force RES"
            }
            (C::WFConnection, _) => "is the peer up? twinblk status RES there",
            (C::Connected, D::Inconsistent) if s.peer_disk == D::Inconsistent => {
                "twinblk primary --force RES on the node whose data is to be kept"
            }
            (C::Connected, D::UpToDate)
                if s.peer_disk == D::UpToDate && self.bitmap.count() > 0 =>
            {
                "both disks differ; keep the Primary's data: twinblk verify --repair RES; or \
                 disconnect and connect"
            }
            (_, D::Diskless) => "twinblk attach RES",
            _ => "",
        };
        text.to_owned()
    }
}
