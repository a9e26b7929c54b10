//! This node is the source of a resync (session.md 4): it answers the target's requests, clears bits
//! as the target confirms, and ends when the target says that it is UpToDate.

use twinblk_proto::packet::Packet;
use twinblk_proto::state::{ConnectionState as C, DiskState as D};
use twinblk_proto::units::SectorRange;

use super::Engine;
use super::effect::NoteLevel;
use super::event::{SessionId, Time};
use super::handler::{Handler, HeldResync};
use super::record::{AfterBitmap, AfterRecord};

#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) total_blocks: u64,
    pub(super) started: Time,
    /// The target has been told the sync identifier.
    identifier_sent: bool,
}

impl Engine {
    /// Both have the union of the bitmaps; the handler may have a say.
    pub(super) fn begin_as_source(&mut self) {
        if !self.hold_resync(Handler::BeforeResyncSource, HeldResync::Source) {
            self.become_source();
        }
    }

    pub(super) fn become_source(&mut self) {
        if !matches!(self.state.connection, C::WFBitMapS | C::StartingSyncS) {
            // The disk of one of the nodes went while the handler ran.
            return;
        }
        let random = self.random();
        let mut uuid = 0;
        let peer = self.peer_generations().map_or(0, |peer| peer.current);
        self.record.edit(|record| {
            uuid = record.generations.begin_as_source(random);
            record.generations.keep_target(peer);
        });
        self.source =
            Source { total_blocks: self.bitmap.count(), started: self.now, identifier_sent: false };
        self.reset_pace();
        let text = format!("began resync as SyncSource, {} blocks differ", self.bitmap.count());
        self.change(text, |s| {
            s.connection = C::SyncSource;
            s.peer_disk = D::Inconsistent;
        });
        let Some(session) = &self.session else { return };
        let session = session.id;
        self.after_record(AfterRecord::SendSyncUuid { session, uuid });
    }

    pub(super) fn send_sync_uuid(&mut self, session: SessionId, uuid: u64) {
        let source = matches!(self.state.connection, C::SyncSource | C::PausedSyncS);
        if self.is_session(session) && source {
            self.source.identifier_sent = true;
            self.send_data(Packet::SyncUuid(uuid), None);
        }
    }

    /// The target wrote the range.
    pub(super) fn target_wrote(&mut self, range: SectorRange) {
        let cleared = self.bitmap.clear_range(range.blocks_covered(self.sectors));
        self.status.counters.resync_blocks += cleared;
        self.count_progress(cleared);
        if cleared > 0 {
            // The source's own copy may be in its disk's cache only, written before a crash of the
            // process: after a power loss the target would have the newer one (I7).
            self.bitmap_writer.cleared_for_cached_data();
        }
    }

    /// The target is UpToDate.
    pub(super) fn finish_as_source(&mut self) {
        self.record.edit(|record| record.generations.clear_bitmap());
        let mine = self.record.wanted().generations;
        if let Some(uuids) = self.session.as_mut().and_then(|session| session.peer_uuids.as_mut()) {
            // The target took mine over; it does not say so.
            uuids.current = mine.current;
            uuids.bitmap = mine.bitmap;
            uuids.history = mine.history;
        }
        self.write_all_pages(AfterBitmap::Nothing);
        self.note(NoteLevel::Info, "resync done: the peer is UpToDate");
        self.change("resync done", |s| {
            s.connection = C::Connected;
            s.peer_disk = D::UpToDate;
        });
        if self.fences() {
            self.run_handler(Handler::UnfencePeer);
        }
    }

    /// The connection ends while this node is source. With every block confirmed the target may
    /// have finished without this node hearing of it: the identifiers must say so, or what is
    /// written here from now on would carry the generation that the target shares (I8).
    pub(super) fn source_lost_target(&mut self) -> bool {
        let source = matches!(self.state.connection, C::SyncSource | C::PausedSyncS);
        let may_have_finished = source && self.bitmap.count() == 0 && self.source.identifier_sent;
        if may_have_finished {
            self.record.edit(|record| record.generations.clear_bitmap());
        }
        self.source.identifier_sent = false;
        may_have_finished
    }
}
