//! This node is the target of a resync (session.md 4): it walks its bitmap, asks for what differs,
//! writes it, and becomes UpToDate when nothing is left.
//!
//! ```text
//!   P_SYNC_UUID -> bitmap durable -> record Inconsistent durable -> requests ... -> last block
//!   -> ping (the source has every acknowledgement) -> flush -> bitmap durable
//!   -> record UpToDate durable -> P_STATE
//! ```
//!
//! Bits cleared in memory go to disk only after the data did: every two seconds, and at the end, the
//! bitmap writer takes a snapshot, flushes, and writes it (`record`).

use std::collections::BTreeMap;

use twinblk_proto::packet::{Ack, BlockId, Packet};
use twinblk_proto::state::{ConnectionState as C, DiskState as D};
use twinblk_proto::units::SectorRange;

use super::effect::{DiskAction, Effect, NoteLevel};
use super::event::{DiskFailure, PayloadId, SessionId, Time, Timer};
use super::handler::{Handler, HeldResync};
use super::limits::{RESYNC_CHECKPOINT_MS, RESYNC_CHECKSUM_BLOCKS, RESYNC_EXTENT_BLOCKS};
use super::range_lock::Kind;
use super::record::AfterBitmap;
use super::session::PingPurpose;
use super::slab::Slab;
use super::sync_checksum::ChecksumRead;
use super::{Engine, Purpose};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Finish {
    #[default]
    No,
    AwaitingPing,
    WritingBitmap,
}

#[derive(Debug)]
pub(super) struct ResyncBlock {
    session: SessionId,
    range: SectorRange,
    /// None: zeroes.
    payload: Option<PayloadId>,
    lock: Option<u64>,
    /// Of the request that this answers, when its session ended before the write did: a client's
    /// write that waits for it must not overtake the old data on its way to the disk.
    request_lock: Option<u64>,
    submitted: bool,
}

#[derive(Debug)]
struct Request {
    range: SectorRange,
    lock: u64,
    /// A write of the peer into it failed since it was asked for.
    tainted: bool,
    asked: Time,
}

#[derive(Debug, Default)]
pub(super) struct Target {
    /// The metadata is as it must be for resync data to come.
    ready: bool,
    /// It was ready once: the record says Inconsistent until the resync is over.
    prepared: bool,
    cursor: u64,
    /// Asked for, by first sector; stays until written or given up.
    requests: BTreeMap<u64, Request>,
    bytes_under_way: u64,
    writes: Slab<ResyncBlock>,
    pub(super) reads: Slab<ChecksumRead>,
    /// Ask by digest (csums-alg).
    pub(super) checksums: bool,
    pub(super) total_blocks: u64,
    pub(super) started: Time,
    pub(super) failed_blocks: u64,
    /// A bit was set since the walk over the bitmap began.
    pub(super) dirtied: bool,
    finish: Finish,
}

impl Engine {
    /// `P_SYNC_UUID`.
    pub(super) fn sync_uuid(&mut self, uuid: u64) -> Result<(), String> {
        if self.holds_sync_uuid(uuid) {
            return Ok(());
        }
        self.take_new_space();
        if !self.local_usable() || self.state.peer_disk < D::Inconsistent {
            // A disk went meanwhile, and the resync with it.
            return Ok(());
        }
        if self.state.connection != C::WFSyncUUID {
            return Err(format!("P_SYNC_UUID in state {}", self.state.connection));
        }
        if self.session.as_ref().is_some_and(|session| session.held_resync.is_some()) {
            return Err("a second P_SYNC_UUID".into());
        }
        if !self.hold_resync(Handler::BeforeResyncTarget, |run| HeldResync::Target { run, uuid }) {
            self.become_target(uuid);
        }
        Ok(())
    }

    pub(super) fn become_target(&mut self, uuid: u64) {
        if self.state.connection != C::WFSyncUUID {
            // The disk went while the handler ran.
            return;
        }
        let primary = self.is_primary();
        self.record.edit(|record| record.generations.begin_as_target(uuid, primary));
        self.target = Target {
            total_blocks: self.bitmap.count(),
            started: self.now,
            writes: std::mem::take(&mut self.target.writes),
            reads: std::mem::take(&mut self.target.reads),
            checksums: self.wants_checksums(),
            ..Target::default()
        };
        self.reset_pace();
        let text = format!("began resync as SyncTarget, {} blocks differ", self.bitmap.count());
        self.change(text, |s| {
            s.connection = C::SyncTarget;
            s.disk = D::Inconsistent;
        });
        let session = self.session.as_ref().expect("packets come from the session").id;
        // I3, I7: what is about to be overwritten is on disk as bits, and the disk is known to be
        // Inconsistent, before the first block comes.
        self.write_all_pages(AfterBitmap::StartTarget(session));
        self.set_timer(Timer::Resync, RESYNC_CHECKPOINT_MS);
    }

    pub(super) fn target_is_ready(&mut self, session: SessionId) {
        if self.is_session(session) && self.is_target() {
            self.target.ready = true;
            self.target.prepared = true;
            self.release_held_for_target();
        }
    }

    /// On the way to being a target: the record may still call the disk Consistent.
    pub(super) fn is_unready_target(&self) -> bool {
        matches!(self.state.connection, C::WFBitMapT | C::StartingSyncT | C::WFSyncUUID)
            || self.is_target() && !self.target.prepared
    }

    /// Clients' writes wait: for an attaching disk, an unready target, a source whose target does not
    /// take them yet, or until what was answered is safe on the peer.
    pub(super) fn holds_writes(&self) -> bool {
        self.state.disk == D::Negotiating
            || self.state.connection == C::StartingSyncS
            || self.commands.is_giving_disk_up()
            || self.is_unready_target()
    }

    /// Lets the writes go on that waited for the disk to be ready.
    pub(super) fn release_held_for_target(&mut self) {
        if self.holds_writes() {
            return;
        }
        for key in std::mem::take(&mut self.status.held_peer_writes) {
            self.begin_peer_write(key);
        }
        if self.is_frozen() {
            return;
        }
        for key in std::mem::take(&mut self.status.held_for_target) {
            self.start_write(key);
        }
    }

    fn is_target(&self) -> bool {
        matches!(self.state.connection, C::SyncTarget | C::PausedSyncT)
    }

    /// Asks for the next blocks; at the end of each batch of events.
    pub(super) fn pump_target(&mut self) {
        if !self.target.ready || self.state.connection != C::SyncTarget {
            return;
        }
        if self.target.finish != Finish::No {
            return;
        }
        let (window, mut most) = (self.resync_window(), self.resync_request_blocks());
        if self.target.checksums {
            most = most.min(RESYNC_CHECKSUM_BLOCKS);
        }
        while self.target.bytes_under_way < window {
            let Some(first) = self.bitmap.next_set(self.target.cursor) else { break };
            if !self.resync_is_due() {
                return;
            }
            let stop =
                (first + most).min((first / RESYNC_EXTENT_BLOCKS + 1) * RESYNC_EXTENT_BLOCKS);
            let mut last = first + 1;
            while last < stop && self.bitmap.is_set(last) {
                last += 1;
            }
            let range = SectorRange::of_blocks(first..last, self.sectors);
            if self.locks.is_busy(range, Kind::TargetRequest) {
                // A client writes there right now (this node is Primary): come back afterwards.
                return;
            }
            let (lock, _) = self.locks.join(range, Kind::TargetRequest, 0);
            self.target
                .requests
                .insert(range.start.0, Request { range, lock, tainted: false, asked: self.now });
            self.target.bytes_under_way += range.bytes();
            self.resync_asked(range.bytes());
            self.target.cursor = last;
            self.ask_for_resync_block(range);
        }
        self.finish_walk_if_done();
    }

    fn finish_walk_if_done(&mut self) {
        let over = self.bitmap.next_set(self.target.cursor).is_none();
        if !over || !self.target.requests.is_empty() {
            return;
        }
        if self.bitmap.count() == 0 {
            self.target.finish = Finish::AwaitingPing;
            self.send_ping(Some(PingPurpose::TargetFinish));
        } else if self.target.dirtied {
            self.target.dirtied = false;
            self.target.failed_blocks = 0;
            self.target.cursor = 0;
        } else {
            self.end_with_failed_blocks();
        }
    }

    /// Some blocks could not be read or written: the disk stays Inconsistent until the next
    /// connection tries again (session.md 4.1).
    fn end_with_failed_blocks(&mut self) {
        let text = format!("resync ended with {} failed blocks", self.bitmap.count());
        self.note(NoteLevel::Error, text.clone());
        self.target.ready = false;
        self.change(text, |s| {
            s.connection = C::Connected;
            s.disk = D::Inconsistent;
        });
        self.send_state();
    }

    pub(super) fn has_asked_for_resync(&self, range: SectorRange) -> bool {
        let request = self.target.requests.get(&range.start.0);
        self.is_target() && request.is_some_and(|request| request.range == range)
    }

    /// Takes the request; whether a write into it failed meanwhile.
    pub(super) fn take_resync_request(&mut self, range: SectorRange) -> bool {
        let tainted =
            self.target.requests.get(&range.start.0).is_some_and(|request| request.tainted);
        self.take_request(range);
        tainted
    }

    /// A write of the peer failed here: what a digest said of the range counts no more.
    pub(super) fn taint_resync_requests(&mut self, range: SectorRange) {
        for request in self.target.requests.values_mut() {
            request.tainted |= request.range.overlaps(&range);
        }
    }

    fn take_request(&mut self, range: SectorRange) -> bool {
        let known =
            self.target.requests.get(&range.start.0).is_some_and(|request| request.range == range);
        if known {
            let request = self.target.requests.remove(&range.start.0).expect("just seen");
            self.target.bytes_under_way -= request.range.bytes();
            self.leave_lock(request.lock);
            self.resync_answered(request.asked);
        }
        known
    }

    /// `P_RS_DATA_REPLY`, `P_RS_DEALLOCATED`.
    pub(super) fn resync_data(
        &mut self,
        range: SectorRange,
        payload: Option<PayloadId>,
    ) -> Result<(), String> {
        let asked =
            self.target.requests.get(&range.start.0).is_some_and(|request| request.range == range);
        if !asked && !self.is_target() {
            // The resync was given up here while the answer was on its way.
            self.release(payload);
            let ack = self.ack(range, BlockId::RESYNC);
            self.send_meta(Packet::NegativeAck(ack));
            return Ok(());
        }
        if !asked {
            self.release(payload);
            return Err(format!("resync data for {range:?} that was not asked for"));
        }
        let session = self.session.as_ref().expect("packets come from the session").id;
        let block = ResyncBlock {
            session,
            range,
            payload,
            lock: None,
            request_lock: None,
            submitted: false,
        };
        let key = self.target.writes.insert(block);
        let (lock, granted) = self.locks.join(range, Kind::TargetWrite, key);
        self.target.writes.get_mut(key).expect("just inserted").lock = Some(lock);
        if granted {
            self.start_resync_write(key);
        }
        Ok(())
    }

    pub(super) fn start_resync_write(&mut self, key: u64) {
        let usable = self.local_usable();
        let Some(block) = self.target.writes.get_mut(key) else { return };
        if !usable {
            let failure = DiskFailure { errno: 5, text: "no disk".into() };
            return self.resync_write_done(key, Some(failure));
        }
        block.submitted = true;
        let range = block.range;
        let action = match block.payload {
            Some(payload) => DiskAction::Write { range, payload, fua: false },
            None => DiskAction::Zero { range, may_unmap: true, fua: false },
        };
        self.disk_op(Purpose::ResyncWrite(key), action);
        self.status.counters.disk_written += u64::from(range.count);
    }

    pub(super) fn resync_write_done(&mut self, key: u64, failure: Option<DiskFailure>) {
        let Some(block) = self.target.writes.remove(key) else { return };
        self.release(block.payload);
        for lock in [block.lock, block.request_lock].into_iter().flatten() {
            self.leave_lock(lock);
        }
        if !self.is_session(block.session) {
            // An old session's data: the bits stay, a new session asks again.
            return;
        }
        self.take_request(block.range);
        let sequence = self.next_sequence();
        let ack = Ack { range: block.range, id: BlockId::RESYNC, sequence };
        if let Some(failure) = failure {
            self.target.failed_blocks += block.range.blocks_touched().count() as u64;
            self.send_meta(Packet::NegativeAck(ack));
            self.local_io_error("resync write", &failure);
        } else {
            self.mark_in_sync(block.range);
            self.send_meta(Packet::ResyncWriteAck(ack));
        }
        self.target_progressed();
    }

    /// Whole blocks of the range hold what the source holds.
    pub(super) fn mark_in_sync(&mut self, range: SectorRange) {
        let cleared = self.bitmap.clear_range(range.blocks_covered(self.sectors));
        self.status.counters.resync_blocks += cleared;
        self.count_progress(cleared);
        if cleared > 0 {
            self.bitmap_writer.cleared_for_cached_data();
        }
    }

    pub(super) fn target_progressed(&mut self) {
        if self.target.ready && self.target.finish == Finish::No && self.is_target() {
            self.finish_walk_if_done();
        }
    }

    /// `P_NEG_RS_DREPLY`: the source cannot read it.
    pub(super) fn resync_refused(&mut self, range: SectorRange) {
        if self.take_request(range) {
            self.target.failed_blocks += range.blocks_touched().count() as u64;
            self.target_progressed();
        }
    }

    /// `P_RS_CANCEL`: forgotten, the bits stay for later.
    pub(super) fn resync_cancelled(&mut self, range: SectorRange) {
        self.take_request(range);
    }

    /// `P_OUT_OF_SYNC`.
    pub(super) fn peer_marked_out_of_sync(&mut self, range: SectorRange) -> Result<(), String> {
        if range.end().0 > self.sectors {
            return Err(format!("P_OUT_OF_SYNC for {range:?} beyond the device"));
        }
        self.bitmap.set_range(range.blocks_touched());
        self.target.dirtied = true;
        Ok(())
    }

    // --- the end ---

    pub(super) fn target_acks_are_through(&mut self) {
        if self.target.finish != Finish::AwaitingPing || !self.local_usable() {
            return;
        }
        // Flushes first: bits were cleared.
        self.target.finish = Finish::WritingBitmap;
        let Some(session) = &self.session else { return };
        let then = AfterBitmap::FinishTarget(session.id);
        self.write_all_pages(then);
    }

    pub(super) fn target_bitmap_written(&mut self, session: SessionId) {
        let ready = self.is_session(session) && self.target.finish == Finish::WritingBitmap;
        if !ready || !self.is_target() {
            return;
        }
        self.target.finish = Finish::No;
        if self.bitmap.count() > 0 {
            // A write failed or was announced as missing meanwhile: walk again.
            self.target.cursor = 0;
            return;
        }
        let Some(peer) = self.peer_generations() else { return };
        let primary = self.is_primary();
        self.record.edit(|record| record.generations.finish_as_target(&peer, primary));
        self.target.ready = false;
        self.emit(Effect::ClearTimer(Timer::Resync));
        self.remember_writes_of_target();
        self.note(NoteLevel::Info, "resync done: this disk is UpToDate");
        self.change("resync done", |s| {
            s.connection = C::Connected;
            s.disk = D::UpToDate;
        });
        self.run_handler(Handler::AfterResyncTarget);
        self.after_record(super::record::AfterRecord::TargetFinished(session));
    }

    pub(super) fn announce_target_finished(&mut self, session: SessionId) {
        if self.is_session(session) {
            self.send_state();
        }
    }

    // --- checkpoints ---

    pub(super) fn resync_timer(&mut self) {
        if !self.is_target() {
            return;
        }
        self.set_timer(Timer::Resync, RESYNC_CHECKPOINT_MS);
        if self.target.finish == Finish::No && self.bitmap.has_unwritten() {
            self.write_all_pages(AfterBitmap::Nothing);
        }
    }

    /// The connection or the disk is gone: what was asked for is forgotten, what is being written
    /// ends on its own.
    pub(super) fn end_resync_roles(&mut self) {
        self.target.ready = false;
        self.target.finish = Finish::No;
        self.target.bytes_under_way = 0;
        for (_, request) in std::mem::take(&mut self.target.requests) {
            let on_its_way = self.target.writes.keys().into_iter().find(|key| {
                let block = self.target.writes.get(*key).expect("listed");
                block.submitted && block.range == request.range
            });
            match on_its_way.and_then(|key| self.target.writes.get_mut(key)) {
                Some(block) => block.request_lock = Some(request.lock),
                None => self.leave_lock(request.lock),
            }
        }
        for key in self.target.writes.keys() {
            if !self.target.writes.get(key).expect("listed").submitted {
                let block = self.target.writes.remove(key).expect("listed");
                self.release(block.payload);
                if let Some(lock) = block.lock {
                    self.leave_lock(lock);
                }
            }
        }
        for key in self.target.reads.keys() {
            self.target.reads.remove(key);
        }
        self.emit(Effect::ClearTimer(Timer::Resync));
        self.status.bitmap_scratch = None;
    }
}
