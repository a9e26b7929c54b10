//! What the operator declares about the data: `outdate` (it is no longer the newest) and
//! `new-current-uuid` (a new generation begins; with `--clear-bitmap` the peer is declared to have
//! the same data: session.md 5.6).

use twinblk_proto::packet::{Packet, Uuids, uuid_flags};
use twinblk_proto::state::{ConnectionState as C, DiskState as D};

use super::Engine;
use super::command::no_disk;
use super::event::{CommandId, SessionId};
use super::generation::{JUST_CREATED, same};
use super::record::{AfterBitmap, AfterRecord};
use super::refusal::{Code, NEED_STANDALONE};

/// Oldest peer that knows how to skip the first sync.
const VERSION_OF_SKIPPING: u32 = 90;

impl Engine {
    // --- outdate ---

    pub(super) fn outdate(&mut self, command: CommandId) {
        let s = &self.state;
        let refusal = if s.disk < D::Inconsistent {
            Some(no_disk())
        } else if s.disk < D::Outdated {
            let detail = format!("this disk is {}: worse than Outdated already", s.disk);
            Some(Code::LowerThanOutdated.refuse(detail, "twinblk connect RES brings it up to date"))
        } else if s.connection >= C::Connected {
            let detail = "the peer is connected: what it has, this disk gets";
            Some(Code::ConnectedOutdates.refuse(detail, "twinblk disconnect RES first"))
        } else {
            let primary = "this node is Primary, and its data the only there is: \
                           twinblk secondary RES first";
            self.check(|s| s.disk = D::Outdated)
                .err()
                .map(|code| code.refuse(self.status.reason.clone(), primary))
        };
        if let Some(refusal) = refusal {
            return self.reply_command(command, Err(refusal));
        }
        self.change("outdated by command", |s| s.disk = D::Outdated);
        self.finish_after_record(command);
    }

    // --- new-current-uuid ---

    pub(super) fn new_current_uuid(&mut self, command: CommandId, clear_bitmap: bool) {
        if self.state.disk < D::Inconsistent {
            return self.reply_command(command, Err(no_disk()));
        }
        if clear_bitmap && self.may_skip_initial_sync() {
            let session = self.session.as_ref().expect("connected").id;
            // Bits first: with current still 4 they do not count, whatever is interrupted.
            self.bitmap.clear_range(0..self.bitmap.bits());
            return self.write_all_pages(AfterBitmap::SkipInitialSync(session, command));
        }
        if self.state.connection != C::StandAlone {
            let detail = format!("the connection is {}", self.state.connection);
            let hint = "twinblk disconnect RES first; only two disks that were just created may \
                        skip the first sync while connected";
            return self.reply_command(command, Err(NEED_STANDALONE.refuse(detail, hint)));
        }
        let random = self.random();
        let primary = self.is_primary();
        self.record.edit(|record| {
            record.generations.clear_bitmap();
            record.generations.begin(random, primary);
        });
        self.record.close_gate();
        if clear_bitmap {
            // After the generation: a crash between the two leaves bits too many, not too few. And
            // before the gate opens: writes that belong to the new generation are still here.
            self.after_record(AfterRecord::ClearBitmap(command));
        } else {
            self.finish_after_record(command);
        }
        self.after_record(AfterRecord::OpenGate);
    }

    pub(super) fn clear_whole_bitmap(&mut self, command: CommandId) {
        if self.local_usable() {
            self.bitmap.clear_range(0..self.bitmap.bits());
            self.mark_writes_under_way();
        }
        self.write_all_pages(AfterBitmap::Reply(command));
    }

    /// Connected, and neither disk ever took part in anything.
    fn may_skip_initial_sync(&self) -> bool {
        let fresh = |current: u64| same(current, JUST_CREATED);
        self.state.connection == C::Connected
            && self.state.disk == D::Inconsistent
            && self.state.peer_disk == D::Inconsistent
            && fresh(self.record.wanted().generations.current)
            && self.peer_generations().is_some_and(|peer| fresh(peer.current))
            && self.session.as_ref().is_some_and(|session| session.version >= VERSION_OF_SKIPPING)
    }

    /// The bitmap is clear on disk: one record makes the disk good, then the peer is told.
    pub(super) fn skip_initial_sync(&mut self, session: SessionId, command: CommandId) {
        if !self.is_session(session) || !self.may_skip_initial_sync() {
            let detail = format!("meanwhile the state changed: {}", self.status.reason);
            let hint = "look at twinblk status RES, then try again";
            return self.reply_command(command, Err(Code::InTransientState.refuse(detail, hint)));
        }
        self.begin_generation();
        self.record.edit(|record| record.generations.bitmap = 0);
        self.change("the initial sync is skipped by command", |s| s.disk = D::UpToDate);
        self.after_record(AfterRecord::SkipInitialSync(session, command));
    }

    pub(super) fn tell_skipped_sync(&mut self, session: SessionId, command: CommandId) {
        // A connection that is lost now finds a created disk and this one: a full sync.
        if self.is_session(session) && self.local_usable() {
            let generations = self.record.wanted().generations;
            self.send_data(
                Packet::Uuids(Uuids {
                    current: generations.current,
                    // What it was before: so the kernel sends it.
                    bitmap: JUST_CREATED,
                    history: generations.history,
                    dirty_bits: 0,
                    flags: self.uuid_flags(false) | uuid_flags::SKIP_INITIAL_SYNC,
                }),
                None,
            );
            let session = self.session.as_mut().expect("just seen");
            if let Some(uuids) = &mut session.peer_uuids {
                // It takes them over and does not say so.
                uuids.current = generations.current;
                uuids.bitmap = 0;
            }
            self.change("the initial sync is skipped by command", |s| s.peer_disk = D::UpToDate);
        }
        self.finish_after_record(command);
    }
}
