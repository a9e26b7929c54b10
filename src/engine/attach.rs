//! The local disk comes, fails and goes.
//!
//! ```text
//!   Diskless --attach--> Attaching --opened--> Inconsistent | Outdated | UpToDate   (alone)
//!                                         \--> Negotiating --handshake--> ...       (connected)
//!   any --I/O error, detach--> Failed --operations drained--> Diskless
//! ```

use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};

use super::activity_log::ActivityLog;
use super::bitmap::Bitmap;
use super::effect::{DiskAction, Effect, NoteLevel};
use super::event::{AttachedDisk, DeviceRecord, DiskFailure, DiskOpId, IoErrorPolicy, PayloadId};
use super::handler::Handler;
use super::refusal::Code;
use super::{Engine, LogOwner, Purpose};

/// What the engine remembers of the backing disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskInfo {
    pub(super) usable_sectors: u64,
    pub(super) logical_block_bytes: u32,
    pub(super) physical_block_bytes: u32,
    pub(super) discard: bool,
}

impl Engine {
    pub(super) fn begin_attach(&mut self) {
        self.change("attach: opening the backing disk", |s| s.disk = D::Attaching);
        self.emit(Effect::OpenDisk);
    }

    pub(super) fn disk_open_failed(&mut self, failure: &DiskFailure) {
        if self.state.disk != D::Attaching {
            return;
        }
        let reason = format!("attach failed: {}", failure.text);
        self.note(NoteLevel::Error, reason.clone());
        self.change(reason.clone(), |s| s.disk = D::Diskless);
        self.attach_ended(Err(
            Code::NoLocalDisk.refuse(reason, "correct the disk, then: twinblk attach RES")
        ));
    }

    pub(super) fn disk_opened(&mut self, disk: AttachedDisk) {
        if self.state.disk != D::Attaching {
            return self.emit(Effect::CloseDisk);
        }
        if self.state.connection == C::WFReportParams {
            // This node said that it has no disk, and the peer decides by that: a moment later it
            // can be told.
            self.status.held_disk = Some(disk);
            return;
        }
        if let Err(refusal) = self.check_disk(&disk) {
            self.note(NoteLevel::Error, refusal.detail.clone());
            self.emit(Effect::CloseDisk);
            self.change(refusal.detail.clone(), |s| s.disk = D::Diskless);
            return self.attach_ended(Err(refusal));
        }
        self.disk_info = Some(DiskInfo {
            usable_sectors: disk.usable_sectors,
            logical_block_bytes: disk.logical_block_bytes,
            physical_block_bytes: disk.physical_block_bytes,
            discard: disk.discard,
        });
        let record = disk.record;
        self.record.load(record);
        if self.is_primary() && self.is_exposed_before(&record) {
            // The generation that was begun is not on it: it begins again, before the peer compares.
            self.begin_generation();
            self.status.exposed_generation = Some(self.record.wanted().generations.current);
        }
        self.log = ActivityLog::new(self.settings.al_extents.clamp(67, 65_534) as u16);
        // A record that says Primary while this node is not: it crashed as Primary (6.4).
        self.crashed_primary =
            record.crashed_primary || record.primary && self.state.role != Role::Primary;
        self.status.may_share_generation =
            record.connected && record.peer_outdated && record.generations.bitmap != 0;
        let agreed = record.agreed_sectors;
        self.bitmap = Bitmap::load(agreed, disk.bitmap_words);
        if record.full_sync {
            self.bitmap.set_all();
        }
        let sectors = if self.session.is_some() && self.sectors != 0 {
            // The device exists by the peer's disk already.
            self.sectors
        } else {
            self.size_for(disk.usable_sectors, agreed)
        };
        self.resize(sectors, true);
        if agreed != 0 && agreed < sectors {
            self.grow_attached(agreed);
        }

        let alone = self.disk_alone(&record);
        if self.state.connection >= C::Connected {
            self.change("attached: negotiating with the peer", |s| s.disk = D::Negotiating);
            self.send_sizes();
            self.status.attaches_suspect = self.has_suspect_blocks(&record);
            let bad = alone == D::Inconsistent || self.status.attaches_suspect;
            let flags = self.uuid_flags(bad);
            self.send_uuids(flags);
            self.send_state();
        } else {
            let peer_disk = if record.peer_outdated { D::Outdated } else { self.state.peer_disk };
            self.change("attached", |s| {
                s.disk = alone;
                s.peer_disk = peer_disk;
            });
            self.begin_generation_for_lone_primary();
        }
        if record.full_sync {
            self.write_all_pages(super::record::AfterBitmap::ClearFullSync);
        }
        self.attach_ended(Ok(()));
    }

    /// Blocks are marked on a disk that comes back in the generation of its UpToDate peer: it was
    /// thrown out at the end of a resync, by a flush that failed before the cleared bits were
    /// written. What the blocks hold here may be lost (I7), and the peer has them. By rule 40
    /// nobody would mend them, by rule 34 this node would be their source; a disk that says
    /// Inconsistent is the target, for a kernel peer too (session.md 3.2).
    fn has_suspect_blocks(&self, record: &DeviceRecord) -> bool {
        let Some(peer) = self.peer_generations() else { return false };
        let mine = record.generations;
        let missed_the_end = super::generation::same(mine.bitmap, peer.history[0])
            && super::generation::same(mine.history[0], peer.history[1]);
        record.consistent
            && self.state.peer_disk == D::UpToDate
            && super::generation::same(mine.current, peer.current)
            && (mine.bitmap == 0 || missed_the_end)
            && !self.crashed_primary
            && self.bitmap.count() > 0
    }

    /// What a disk is without a word from the peer.
    fn disk_alone(&self, record: &DeviceRecord) -> D {
        if !record.consistent {
            D::Inconsistent
        } else if !record.was_up_to_date {
            D::Outdated
        } else if self.fences() && !record.peer_outdated {
            // The peer may have gone on alone: it, or the handler fence-peer, has to say.
            D::Consistent
        } else {
            D::UpToDate
        }
    }

    /// The connection ended before both sides knew what a new disk is worth. It counts by itself,
    /// but not for a Primary whose clients saw other data at the peer.
    pub(super) fn settle_negotiation(&mut self) {
        if self.state.disk != D::Negotiating {
            return;
        }
        let record = self.record.wanted();
        let is_served = |exposed| super::generation::same(exposed, record.generations.current);
        if self.is_primary() && !self.status.exposed_generation.is_some_and(is_served) {
            return self.give_up_disk("connection lost while negotiating, no data");
        }
        let alone = self.disk_alone(&record);
        self.change("connection lost while negotiating: the disk counts by itself", |s| {
            s.disk = alone;
        });
        self.begin_generation_for_lone_primary();
    }

    /// A Primary goes on from its own disk, after the peer served it: the peer may have begun a
    /// generation that this node never heard of, and must not overwrite what is written from now on
    /// (I8).
    fn begin_generation_for_lone_primary(&mut self) {
        let fresh = self.record.wanted().generations.bitmap == 0;
        if !self.is_primary() || self.state.disk != D::UpToDate || !fresh {
            return;
        }
        if self.is_frozen() {
            self.freeze.generation_due = true;
        } else {
            self.begin_generation();
            self.update_record();
        }
    }

    /// A disk that was opened during a handshake.
    pub(super) fn take_held_disk(&mut self) {
        if self.state.connection != C::WFReportParams
            && let Some(disk) = self.status.held_disk.take()
        {
            self.disk_opened(disk);
        }
    }

    fn check_disk(&self, disk: &AttachedDisk) -> Result<(), super::effect::Refusal> {
        let record = &disk.record;
        if record.consistent && record.agreed_sectors > disk.usable_sectors {
            return Err(Code::NoLocalDisk.refuse(
                format!(
                    "the backing disk offers {} sectors, the device has {}: data would be cut off",
                    disk.usable_sectors, record.agreed_sectors
                ),
                "grow the backing disk to its old size, then: twinblk attach RES",
            ));
        }
        if self.session.is_some() && disk.usable_sectors < self.sectors {
            return Err(Code::NoLocalDisk.refuse(
                format!(
                    "the backing disk offers {} sectors, the device has {}",
                    disk.usable_sectors, self.sectors
                ),
                "use a disk of at least the size of the peer's, then: twinblk attach RES",
            ));
        }
        let served_by_peer = self.is_connected() && self.state.peer_disk == D::UpToDate;
        if self.is_primary()
            && !served_by_peer
            && let Some(exposed) = self.status.exposed_generation
            && !super::generation::same(exposed, record.generations.current)
            && !self.is_exposed_before(record)
        {
            return Err(Code::NoUpToDateDisk.refuse(
                format!(
                    "this Primary last served generation {exposed:016X} from its peer, the disk \
                     holds another: what was written since is missing on it"
                ),
                "reconnect to the peer first, then: twinblk attach RES",
            ));
        }
        // A Primary without disk serves the peer's generation; another one must not join it.
        if self.is_primary()
            && served_by_peer
            && let Some(peer) = self.peer_generations()
            && !super::generation::same(record.generations.current, peer.current)
            && !super::generation::same(record.generations.current, peer.bitmap)
            && record.consistent
        {
            let with = super::generation::Circumstances {
                version: self.session.as_ref().map_or(0, |session| session.version),
                feature_wsame: true,
                ..Default::default()
            };
            let outcome = super::generation::compare(record.generations, peer, &with);
            if outcome.outcome.number() > 0 {
                return Err(Code::NoUpToDateDisk.refuse(
                    "the disk claims to be newer than the data this Primary serves from its peer",
                    "twinblk secondary RES first, or create-md on this disk",
                ));
            }
        }
        Ok(())
    }

    fn is_exposed_before(&self, record: &DeviceRecord) -> bool {
        let before = self.status.exposed_before;
        before.is_some_and(|before| super::generation::same(before, record.generations.current))
    }

    /// Size of the device from the local side alone (wire.md 3.5).
    fn size_for(&self, usable: u64, agreed: u64) -> u64 {
        let limit = if agreed != 0 { agreed.min(usable) } else { usable };
        // Growth is the operator's decision: an agreed size stays until a resize.
        match self.settings.user_sectors {
            0 => limit,
            user => user.min(limit),
        }
    }

    pub(super) fn resize(&mut self, sectors: u64, set_new: bool) {
        if sectors == self.sectors && self.bitmap.bits() == super::bitmap::bits_of(sectors) {
            return;
        }
        self.sectors = sectors;
        if self.disk_info.is_some() {
            self.bitmap.resize(sectors, set_new);
        }
        self.emit(Effect::SizeChanged { sectors });
    }

    /// A disk operation on data failed: what on-io-error says (behaviour.md section 4).
    pub(super) fn local_io_error(&mut self, what: &str, failure: &DiskFailure) {
        if self.state.disk <= D::Failed {
            // Given up already: what it had under way follows.
            return;
        }
        let text = format!("local I/O error on {what}: {}", failure.text);
        self.note(NoteLevel::Error, text.clone());
        match self.settings.on_io_error {
            IoErrorPolicy::Detach => self.fail_disk(&text),
            IoErrorPolicy::CallHandler => {
                self.run_handler(Handler::LocalIoError);
                self.fail_disk(&text);
            }
            IoErrorPolicy::PassOn => {
                if self.state.disk == D::UpToDate {
                    self.change(text, |s| s.disk = D::Inconsistent);
                    if self.session.is_some() {
                        self.send_state();
                    }
                }
            }
        }
    }

    /// The disk is given up; it becomes Diskless when its operations have drained.
    pub(super) fn fail_disk(&mut self, reason: &str) {
        if self.state.disk <= D::Failed {
            return;
        }
        if self.is_primary() {
            // What clients go on seeing is the peer's data, and no other (session.md 2.1).
            let mine = self.record.wanted().generations.current;
            let peers = self.peer_generations().map(|peer| peer.current);
            let served = peers.filter(|_| self.state.peer_disk == D::UpToDate);
            self.status.exposed_generation = Some(served.unwrap_or(mine));
            let durable = self.record.durable_generation();
            self.status.exposed_before =
                (served.is_none() && !super::generation::same(mine, durable)).then_some(durable);
            if peers.is_some_and(|peers| super::generation::same(peers, mine)) && self.mirrors() {
                // The lost disk's record shares the peer's generation until that begins a new one:
                // no write that the disk misses is answered before (I10).
                self.status.awaits_generation = true;
                self.record.close_gate();
            }
        }
        self.give_up_disk(reason);
    }

    fn give_up_disk(&mut self, reason: &str) {
        self.change(reason, |s| s.disk = D::Failed);
        self.end_resync_roles();
        self.resize_lost_disk();
        self.forget_log_references();
        for owner in self.log.abandon() {
            match owner {
                LogOwner::Client(key) => self.log_gone_for_write(key),
                LogOwner::Peer(key) => self.fail_peer_write(key),
            }
        }
    }

    pub(super) fn finish_disk_if_drained(&mut self) {
        if self.state.disk != D::Failed || !self.ops.is_empty() {
            return;
        }
        self.emit(Effect::CloseDisk);
        self.change("detached", |s| s.disk = D::Diskless);
        self.disk_info = None;
        self.abandon_record();
        self.abandon_bitmap_writes();
        self.abandon_growth();
        if self.session.is_some() {
            self.send_state();
        }
        self.detach_ended();
    }

    pub(super) fn disk_completed(
        &mut self,
        op: DiskOpId,
        result: Result<Option<PayloadId>, DiskFailure>,
    ) {
        let Some((purpose, _)) = self.ops.remove(op.0) else {
            if let Ok(payload) = result {
                self.release(payload);
            }
            return;
        };
        match purpose {
            Purpose::ClientRead(key) => self.client_read_done(key, result),
            Purpose::ClientWrite(key) => self.client_write_done(key, result.err()),
            Purpose::ClientFlush(key) => self.client_flush_done(key, result.err()),
            Purpose::PeerRead(key) => self.peer_read_done(key, result),
            Purpose::PeerWrite(key) => self.peer_write_done(key, result.err()),
            Purpose::PeerPreflush(key) => self.peer_preflush_done(key, result.err()),
            Purpose::ChecksumRead(key) => self.checksum_read_done(key, result),
            Purpose::PeerEpochFlush { epoch } => self.peer_epoch_flushed(epoch, result.err()),
            Purpose::VerifyRead(key) => self.verify_read_done(key, result),
            Purpose::ResyncWrite(key) => self.resync_write_done(key, result.err()),
            Purpose::DataFlush(then) => self.data_flushed(then, result.err()),
            Purpose::BitmapFlush => self.bitmap_flushed(result.err()),
            Purpose::Record { version } => match result {
                Ok(_) => self.record_written(version),
                Err(failure) => self.metadata_error("superblock", &failure),
            },
            Purpose::ActivityLog => match result {
                Ok(_) => self.log_transaction_written(),
                Err(failure) => self.metadata_error("activity log", &failure),
            },
            Purpose::BitmapPages { pages } => match result {
                Ok(_) => self.bitmap_pages_written(None),
                Err(failure) => {
                    self.bitmap_pages_written(Some(pages));
                    self.metadata_error("bitmap", &failure);
                }
            },
        }
    }

    /// Metadata that cannot be written always detaches: nothing may rest on it.
    pub(super) fn metadata_error(&mut self, what: &str, failure: &DiskFailure) {
        let text = format!("metadata I/O error on the {what}: {}", failure.text);
        self.note(NoteLevel::Error, text.clone());
        self.fail_disk(&text);
    }

    // --- the activity log's transactions ---

    pub(super) fn pump_log(&mut self) {
        if self.state.disk < D::Inconsistent || self.resize.holds_log() {
            return;
        }
        let mut ready = Vec::new();
        let transaction = self.log.next_transaction(&mut ready);
        if let Some(transaction) = transaction {
            self.status.counters.log_writes += 1;
            let replaced = transaction.replaced;
            self.status.pending_log = Some(transaction.update);
            if replaced.is_empty() {
                self.write_log_transaction();
            } else {
                // I7: the bits of an extent are durable before its slot is given away, and so is
                // what was written to it.
                self.write_pages_of(replaced, super::record::AfterBitmap::FlushForLog);
            }
        } else if self.log.has_waiting() {
            // No room: finish epochs, so that their extents become idle.
            self.close_epoch();
        }
        self.go_on(ready);
    }

    pub(super) fn write_log_transaction(&mut self) {
        let Some(update) = self.status.pending_log.take() else { return };
        if self.state.disk < D::Inconsistent {
            return;
        }
        self.disk_op(Purpose::ActivityLog, DiskAction::PersistActivityLog(update));
    }

    fn log_transaction_written(&mut self) {
        if self.state.disk < D::Inconsistent {
            return;
        }
        let owners = self.log.completed();
        self.go_on(owners);
    }

    fn go_on(&mut self, owners: Vec<LogOwner>) {
        for owner in owners {
            match owner {
                LogOwner::Client(key) => self.write_is_logged(key),
                LogOwner::Peer(key) => self.peer_write_is_logged(key),
            }
        }
    }
}
