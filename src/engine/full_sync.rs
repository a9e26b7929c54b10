//! A full resync by command: `invalidate` and `invalidate-remote` (session.md 5.5), of ours or the
//! peer's.
//!
//! ```text
//!   granted: all bits set, the target Inconsistent -- one record with FULL_SYNC -->
//!   bitmap durable -- target: WFSyncUUID ... P_SYNC_UUID --> SyncTarget
//!                  \- source: SyncSource, P_SYNC_UUID
//! ```
//!
//! There is no bitmap exchange and no `P_STATE`. The kernel calls the target Outdated until data comes;
//! here it is Inconsistent at once, so that whatever is interrupted, it is the target again and
//! never the source (I8). A Primary gives its disk up only when the peer has, on stable storage, all
//! that was answered (I2). A source holds its clients' writes until it is SyncSource: before, the
//! peer would miss them and not know it (I10).

use twinblk_proto::state::{ConnectionState as C, DiskState as D};

use super::Engine;
use super::command::no_disk;
use super::effect::{NoteLevel, Refusal};
use super::event::{CommandId, SessionId};
use super::record::{AfterBitmap, AfterRecord};
use super::refusal::Code;

impl Engine {
    /// Whether a full resync may begin; `source`: this node gives the data.
    pub(super) fn check_full_sync(&self, source: bool) -> Result<(), Code> {
        let s = &self.state;
        if s.connection > C::Connected {
            return Err(Code::ResyncRunning);
        }
        if s.connection < C::Connected {
            return Err(Code::NeedConnection);
        }
        if s.disk < D::Inconsistent {
            return Err(Code::NoLocalDisk);
        }
        if s.peer_disk < D::Inconsistent {
            return Err(Code::NoRemoteDisk);
        }
        // The kernel would declare whatever the source holds to be UpToDate.
        if (if source { s.disk } else { s.peer_disk }) != D::UpToDate {
            return Err(Code::NoUpToDateDisk);
        }
        self.check(|s| s.connection = if source { C::StartingSyncS } else { C::StartingSyncT })
            .map(|_| ())
    }

    pub(super) fn refuse_full_sync(&self, code: Code, source: bool) -> Refusal {
        let s = &self.state;
        let verb = if source { "invalidate-remote" } else { "invalidate" };
        let detail = format!(
            "{verb}: the connection is {}, this disk {}, the peer's {}",
            s.connection, s.disk, s.peer_disk
        );
        let hint = match code {
            Code::ResyncRunning => "wait for it: twinblk wait-sync RES",
            Code::NeedConnection if source => {
                "twinblk connect RES first; alone, only a StandAlone Primary may: twinblk disconnect RES"
            }
            Code::NeedConnection => {
                "twinblk connect RES first; alone, only a StandAlone Secondary may: twinblk disconnect RES"
            }
            Code::NoLocalDisk => "twinblk attach RES",
            Code::NoRemoteDisk => "on the peer: twinblk attach RES",
            Code::NoUpToDateDisk => {
                "if the data of a node that is not UpToDate is to be kept: there, twinblk primary --force RES"
            }
            _ => "twinblk status RES",
        };
        code.refuse(detail, hint)
    }

    /// Both nodes agree: this one gives (`source`) or takes everything.
    pub(super) fn begin_full_sync(&mut self, source: bool, why: &str) {
        let Some(session) = &self.session else { return };
        let session = session.id;
        self.bitmap.set_all();
        self.record.edit(|record| record.full_sync = true);
        self.change(why, |s| {
            if source {
                s.connection = C::StartingSyncS;
            } else {
                s.connection = C::StartingSyncT;
                s.disk = D::Inconsistent;
            }
        });
        self.write_all_pages(AfterBitmap::FullSync(session));
    }

    /// Every bit is on disk, or the disk is gone.
    pub(super) fn full_sync_is_on_disk(&mut self, session: SessionId) {
        if self.local_usable() {
            self.record.edit(|record| record.full_sync = false);
            self.update_record();
        }
        if self.is_session(session) {
            match self.state.connection {
                C::StartingSyncS => self.begin_as_source(),
                C::StartingSyncT => {
                    self.change("ready for the resync", |s| s.connection = C::WFSyncUUID);
                    if let Some(uuid) = self.status.held_sync_uuid.take()
                        && let Err(why) = self.sync_uuid(uuid)
                    {
                        self.drop_session(C::ProtocolError, &why);
                    }
                }
                _ => {}
            }
        }
        self.full_sync_command_ended();
    }

    /// The other socket may bring the identifier before this node is ready for it, or knows that its
    /// wish was granted.
    pub(super) fn holds_sync_uuid(&mut self, uuid: u64) -> bool {
        let early = self.state.connection == C::StartingSyncT
            || self.state.connection == C::Connected && self.commands.asks_to_be_target()
            || self.awaits_new_space();
        if early {
            self.status.held_sync_uuid = Some(uuid);
        }
        early
    }

    // --- alone ---

    /// A StandAlone Secondary gives its data up.
    pub(super) fn invalidate_alone(&mut self, command: CommandId) {
        self.bitmap.set_all();
        self.record.edit(|record| record.full_sync = true);
        self.change("invalidated by command", |s| s.disk = D::Inconsistent);
        self.write_all_pages(AfterBitmap::Invalidated(command));
    }

    /// A StandAlone Primary declares that the peer, once it is back, needs everything.
    pub(super) fn invalidate_peer_alone(&mut self, command: CommandId) {
        self.bitmap.set_all();
        self.record.edit(|record| record.full_sync = true);
        self.change("the peer's data was invalidated by command", |s| {
            s.peer_disk = D::Inconsistent;
        });
        self.write_all_pages(AfterBitmap::Invalidated(command));
    }

    pub(super) fn invalidated(&mut self, command: CommandId) {
        if !self.local_usable() {
            self.note(NoteLevel::Error, "the disk went while it was invalidated");
            return self.reply_command(command, Err(no_disk()));
        }
        self.record.edit(|record| record.full_sync = false);
        self.after_record(AfterRecord::ReplyCommand(command));
    }
}
