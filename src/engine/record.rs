//! Durable metadata in the right order: the superblock, bitmap pages, activity log transactions.
//!
//! One superblock write is under way at a time and each carries the newest record, so what is on
//! disk never goes back (I6). Bitmap pages are written one batch at a time for the same reason. What
//! must not happen before a record or a page is durable is queued here by name.

use std::collections::VecDeque;

use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};

use super::effect::{BitmapPage, DiskAction};
use super::event::{CommandId, DeviceRecord, DiskFailure, SessionId};
use super::limits::BITMAP_PAGES_PER_WRITE;
use super::{Engine, Purpose};

/// What waits until the record, as it is wanted now, is durable.
#[derive(Debug)]
pub(super) enum AfterRecord {
    ReplyCommand(CommandId),
    /// The peer, who has no disk, may answer writes under the generation begun for it (I10).
    TellGeneration(SessionId),
    /// Answers to writes may go on (I10).
    OpenGate,
    SendSyncUuid {
        session: SessionId,
        uuid: u64,
    },
    /// The disk is known to be Inconsistent: resync data may come (I3).
    StartTarget(SessionId),
    /// The disk is known to be Outdated: the source may answer writes that are not mirrored.
    AnswerBitmap(SessionId),
    /// The disk is known to be UpToDate: tell the peer.
    TargetFinished(SessionId),
    /// The new generation is known: bits of the old one may go.
    ClearBitmap(CommandId),
    /// The disk is declared UpToDate: tell the peer that it is, too.
    SkipInitialSync(SessionId, CommandId),
    /// The generation that a repair gives away is begun.
    RepairAsSource(SessionId),
    /// The disk that a repair will mend is known to be Inconsistent.
    RepairAsTarget(SessionId),
    /// The new size is known.
    Grown(u64),
    /// The generation in which the new space is resynced is begun.
    GiveNewSpace(SessionId),
}

/// The record as wanted and as durable.
#[derive(Debug, Default)]
pub(super) struct RecordKeeper {
    wanted: DeviceRecord,
    version: u64,
    durable: u64,
    /// The generation that is certainly on the disk.
    durable_generation: u64,
    under_way: bool,
    generation_under_way: u64,
    waiting: Vec<(u64, AfterRecord)>,
    gates: u32,
}

impl RecordKeeper {
    pub(super) const fn wanted(&self) -> DeviceRecord {
        self.wanted
    }

    pub(super) fn load(&mut self, record: DeviceRecord) {
        self.wanted = record;
        self.durable = self.version;
        self.durable_generation = record.generations.current;
    }

    pub(super) const fn durable_generation(&self) -> u64 {
        self.durable_generation
    }

    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut DeviceRecord)) {
        let before = self.wanted;
        edit(&mut self.wanted);
        if self.wanted != before {
            self.version += 1;
        }
    }

    /// Answers to writes wait from now on, until [`AfterRecord::OpenGate`] is due.
    pub(super) const fn close_gate(&mut self) {
        self.gates += 1;
    }

    pub(super) const fn gate_is_closed(&self) -> bool {
        self.gates > 0
    }
}

/// What waits until bitmap pages are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterBitmap {
    Nothing,
    /// The pages of replaced extents are on disk: flush what was written to them, then log.
    FlushForLog,
    /// The set-all is on disk: the superblock need not say so any more.
    ClearFullSync,
    StartTarget(SessionId),
    FinishTarget(SessionId),
    /// All bits are set: a full resync may begin.
    FullSync(SessionId),
    Invalidated(CommandId),
    SkipInitialSync(SessionId, CommandId),
    Reply(CommandId),
    Demote,
    Detach,
    /// The bits of new space are on disk.
    Grown(u64),
    /// The bits of what the log stands for are on disk.
    ReleasePrimaryFlag,
}

/// What waits until everything written so far is stable on the local disk. The activity log and the
/// Primary flag stand for data in its volatile cache; they do not let go of it before (the kernel
/// writes both with a preceding flush).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterFlush {
    WriteLog,
    Demote,
    Detach,
}

#[derive(Debug)]
enum Pages {
    /// Pages of these extents, as far as bits were set in them since they were written.
    OfExtents(Vec<u32>),
    /// Everything that differs from the disk.
    Unwritten,
    /// A snapshot taken before a flush: cleared bits in it are safe to write.
    Snapshot(Vec<BitmapPage>),
}

/// One batch of pages, or the flush before it, is under way at a time.
#[derive(Debug, Default)]
pub(super) struct BitmapWriter {
    queue: VecDeque<(Pages, AfterBitmap)>,
    under_way: bool,
    /// Bits were cleared for data that is in the disk's cache only: a flush comes before they are
    /// written, and only bits cleared before that flush are (I7).
    clears_unflushed: bool,
    pub(super) writes: u64,
}

impl BitmapWriter {
    /// Data was written here that its source now counts on, and its bits were cleared.
    pub(super) const fn cleared_for_cached_data(&mut self) {
        self.clears_unflushed = true;
    }
}

impl Engine {
    /// Derives the flags of the superblock from the state (metadata.md 2.1), and writes it when
    /// something changed.
    pub(super) fn update_record(&mut self) {
        let s = self.state;
        if s.disk < D::Inconsistent {
            return;
        }
        // Whoever keeps the only good disk of a diskless Primary keeps its log, too.
        let keeps_log = s.peer_disk < D::Inconsistent && s.peer == Role::Primary;
        let primary = s.role == Role::Primary || keeps_log && s.disk == D::UpToDate;
        // The flag makes the log count after a crash. It goes after the bits that the log stands
        // for are on disk (I7): here when a diskless Primary, whose log this node kept, gets its
        // disk back.
        let log_counts = self.record.wanted.primary && self.bitmap.has_unwritten_set();
        if !primary && log_counts {
            self.write_all_pages(AfterBitmap::ReleasePrimaryFlag);
        }
        let crashed_primary = self.crashed_primary;
        let agreed_sectors = self.recordable_sectors();
        self.record.edit(|record| {
            record.consistent = s.disk > D::Inconsistent;
            record.was_up_to_date = s.disk > D::Outdated;
            record.primary = primary || log_counts;
            record.connected = s.connection > C::WFReportParams;
            record.peer_outdated = matches!(s.peer_disk, D::Inconsistent | D::Outdated);
            record.crashed_primary = crashed_primary;
            record.agreed_sectors = agreed_sectors;
            if s.role == Role::Primary {
                // Cleared by a demotion only: after a crash it still says who was Primary.
                record.generations.mark_role(true);
            }
        });
        self.pump_record();
    }

    fn pump_record(&mut self) {
        if self.resize.holds_metadata() {
            return;
        }
        let keeper = &mut self.record;
        if keeper.under_way || keeper.durable == keeper.version {
            return;
        }
        if self.state.disk < D::Inconsistent {
            return;
        }
        keeper.under_way = true;
        let version = keeper.version;
        let record = keeper.wanted;
        keeper.generation_under_way = record.generations.current;
        self.disk_op(Purpose::Record { version }, DiskAction::PersistRecord(record));
    }

    /// Runs `then` when the record as wanted now is durable; at once without a disk.
    pub(super) fn after_record(&mut self, then: AfterRecord) {
        self.pump_record();
        let keeper = &mut self.record;
        if keeper.durable == keeper.version || self.state.disk < D::Inconsistent {
            return self.record_is_durable(then);
        }
        let version = keeper.version;
        keeper.waiting.push((version, then));
    }

    pub(super) fn record_written(&mut self, version: u64) {
        self.record.under_way = false;
        self.record.durable = version;
        self.record.durable_generation = self.record.generation_under_way;
        let waiting = std::mem::take(&mut self.record.waiting);
        let (due, rest) = waiting.into_iter().partition(|(wanted, _)| *wanted <= version);
        self.record.waiting = rest;
        self.pump_record();
        let due: Vec<_> = due;
        for (_, then) in due {
            self.record_is_durable(then);
        }
    }

    /// The disk is gone: nothing will become durable, and nobody must wait for it.
    pub(super) fn abandon_record(&mut self) {
        self.record.under_way = false;
        self.record.durable = self.record.version;
        for (_, then) in std::mem::take(&mut self.record.waiting) {
            self.record_is_durable(then);
        }
    }

    pub(super) fn open_gate(&mut self) {
        self.record.gates -= 1;
        if self.record.gates == 0 {
            self.gate_opened();
        }
    }

    fn record_is_durable(&mut self, then: AfterRecord) {
        match then {
            AfterRecord::ReplyCommand(command) => self.reply_command(command, Ok(())),
            AfterRecord::OpenGate => self.open_gate(),
            AfterRecord::TellGeneration(session) => {
                if self.is_session(session) {
                    self.send_uuids(0);
                }
            }
            AfterRecord::SendSyncUuid { session, uuid } => self.send_sync_uuid(session, uuid),
            AfterRecord::StartTarget(session) => self.target_is_ready(session),
            AfterRecord::AnswerBitmap(session) => self.answer_bitmap(session),
            AfterRecord::TargetFinished(session) => self.announce_target_finished(session),
            AfterRecord::ClearBitmap(command) => self.clear_whole_bitmap(command),
            AfterRecord::SkipInitialSync(session, command) => {
                self.tell_skipped_sync(session, command);
            }
            AfterRecord::RepairAsSource(session) => self.repair_as_source(session),
            AfterRecord::RepairAsTarget(session) => self.repair_as_target(session),
            AfterRecord::Grown(number) => self.growth_recorded(number),
            AfterRecord::GiveNewSpace(session) => self.give_new_space(session),
        }
    }

    // --- bitmap pages ---

    pub(super) fn write_all_pages(&mut self, then: AfterBitmap) {
        self.bitmap_writer.queue.push_back((Pages::Unwritten, then));
    }

    pub(super) fn write_pages_of(&mut self, extents: Vec<u32>, then: AfterBitmap) {
        self.bitmap_writer.queue.push_back((Pages::OfExtents(extents), then));
        self.pump_bitmap_writer();
    }

    pub(super) fn pump_bitmap_writer(&mut self) {
        while !self.bitmap_writer.under_way && !self.resize.holds_metadata() {
            let Some((pages, then)) = self.bitmap_writer.queue.front_mut() else { return };
            let then = *then;
            if self.bitmap_writer.clears_unflushed && self.state.disk >= D::Inconsistent {
                let snapshot = match pages {
                    Pages::OfExtents(extents) => Some(self.bitmap.snapshot_of_extents(extents)),
                    Pages::Unwritten => Some(self.bitmap.snapshot_unwritten()),
                    // Taken before a flush of its own.
                    Pages::Snapshot(_) => None,
                };
                if let Some(snapshot) = snapshot {
                    if matches!(pages, Pages::Unwritten) {
                        self.bitmap_writer.clears_unflushed = false;
                    }
                    *pages = Pages::Snapshot(snapshot);
                    self.bitmap_writer.under_way = true;
                    self.disk_op(Purpose::BitmapFlush, DiskAction::Flush);
                    return;
                }
            }
            let batch = match pages {
                Pages::OfExtents(extents) => {
                    let extents = std::mem::take(extents);
                    extents
                        .into_iter()
                        .filter_map(|extent| self.bitmap.take_page_of_extent(extent))
                        .collect()
                }
                Pages::Unwritten => self.bitmap.take_unwritten(BITMAP_PAGES_PER_WRITE),
                Pages::Snapshot(snapshot) => {
                    let rest = snapshot.split_off(snapshot.len().min(BITMAP_PAGES_PER_WRITE));
                    let now = std::mem::replace(snapshot, rest);
                    self.bitmap.refresh(now)
                }
            };
            if batch.is_empty() || self.state.disk < D::Inconsistent {
                self.bitmap_writer.queue.pop_front();
                self.bitmap_is_durable(then);
                continue;
            }
            self.bitmap_writer.under_way = true;
            self.bitmap_writer.writes += 1;
            let pages = batch.iter().map(|page| page.index).collect();
            self.disk_op(Purpose::BitmapPages { pages }, DiskAction::PersistBitmap(batch));
        }
    }

    pub(super) const fn metadata_writes_are_done(&self) -> bool {
        !self.record.under_way && !self.bitmap_writer.under_way
    }

    fn flush_data(&mut self, then: AfterFlush) {
        if self.state.disk < D::Inconsistent {
            return self.data_is_stable(then);
        }
        self.disk_op(Purpose::DataFlush(then), DiskAction::Flush);
    }

    pub(super) fn data_flushed(&mut self, then: AfterFlush, failure: Option<DiskFailure>) {
        if let Some(failure) = failure {
            self.local_io_error("flush", &failure);
            self.fail_disk("a flush failed: what was written before may be lost");
        }
        self.data_is_stable(then);
    }

    fn data_is_stable(&mut self, then: AfterFlush) {
        match then {
            AfterFlush::WriteLog => self.write_log_transaction(),
            AfterFlush::Demote => self.demote_bitmap_written(),
            AfterFlush::Detach => self.detach_bitmap_written(),
        }
    }

    pub(super) fn bitmap_flushed(&mut self, failure: Option<DiskFailure>) {
        self.bitmap_writer.under_way = false;
        if let Some(failure) = failure {
            self.local_io_error("flush before bitmap write-back", &failure);
            return self.fail_disk("a flush failed: resync data may be lost");
        }
        self.pump_bitmap_writer();
    }

    pub(super) fn bitmap_pages_written(&mut self, failed: Option<Vec<u32>>) {
        self.bitmap_writer.under_way = false;
        for page in failed.into_iter().flatten() {
            self.bitmap.mark_unwritten(page);
        }
        self.pump_bitmap_writer();
    }

    pub(super) fn abandon_bitmap_writes(&mut self) {
        self.bitmap_writer.under_way = false;
        for (_, then) in std::mem::take(&mut self.bitmap_writer.queue) {
            self.bitmap_is_durable(then);
        }
    }

    fn bitmap_is_durable(&mut self, then: AfterBitmap) {
        match then {
            AfterBitmap::Nothing => {}
            AfterBitmap::FlushForLog => self.flush_data(AfterFlush::WriteLog),
            AfterBitmap::ClearFullSync => {
                self.record.edit(|record| record.full_sync = false);
                self.pump_record();
            }
            AfterBitmap::ReleasePrimaryFlag => self.update_record(),
            AfterBitmap::StartTarget(session) => {
                self.record.edit(|record| record.full_sync = false);
                self.after_record(AfterRecord::StartTarget(session));
            }
            AfterBitmap::FinishTarget(session) => self.target_bitmap_written(session),
            AfterBitmap::FullSync(session) => self.full_sync_is_on_disk(session),
            AfterBitmap::Invalidated(command) => self.invalidated(command),
            AfterBitmap::SkipInitialSync(session, command) => {
                self.skip_initial_sync(session, command);
            }
            AfterBitmap::Reply(command) => self.reply_command(command, Ok(())),
            AfterBitmap::Grown(number) => self.growth_bits_written(number),
            AfterBitmap::Demote => self.flush_data(AfterFlush::Demote),
            AfterBitmap::Detach => self.flush_data(AfterFlush::Detach),
        }
    }
}
