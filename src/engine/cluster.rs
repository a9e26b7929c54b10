//! Changes that need the peer's word while connected (wire.md 7): promotion, disconnect, detach. One
//! request of ours at a time; the peer's requests are checked like local wishes and answered.

use twinblk_proto::packet::Packet;
use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role, State, StateWord};

use super::Engine;
use super::effect::CloseManner;
use super::record::AfterRecord;
use super::refusal::Code;
use super::verify::Wanted;

/// What a request of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Promote {
        forced: bool,
    },
    Disconnect,
    Detach,
    /// A full resync; `source`: from this node (invalidate-remote).
    FullSync {
        source: bool,
    },
    Verify(Wanted),
}

impl Engine {
    pub(super) fn ask_peer(&mut self, wish: Wish) {
        let word = StateWord::from;
        let base = State {
            role: Role::Unknown,
            peer: Role::Unknown,
            connection: C::StandAlone,
            disk: D::Diskless,
            peer_disk: D::Diskless,
            ..State::default()
        };
        let (mask, value) = match wish {
            Wish::Promote { forced: false } => {
                (StateWord::ROLE, State { role: Role::Primary, ..base })
            }
            Wish::Promote { forced: true } => (
                StateWord::ROLE | StateWord::DISK,
                State { role: Role::Primary, disk: D::UpToDate, ..base },
            ),
            Wish::Disconnect => {
                (StateWord::CONNECTION, State { connection: C::Disconnecting, ..base })
            }
            Wish::Verify(_) => (StateWord::CONNECTION, State { connection: C::VerifyS, ..base }),
            Wish::Detach => (StateWord::DISK, State { disk: D::Failed, ..base }),
            Wish::FullSync { source } => {
                let connection = if source { C::StartingSyncS } else { C::StartingSyncT };
                (StateWord::CONNECTION, State { connection, ..base })
            }
        };
        let (mask, value) = (StateWord(mask), word(value));
        let whole =
            wish == Wish::Disconnect && self.session.as_ref().is_some_and(|s| s.version >= 100);
        self.send_data(
            if whole {
                Packet::ConnectionStateChangeRequest { mask, value }
            } else {
                Packet::StateChangeRequest { mask, value }
            },
            None,
        );
    }

    /// The peer asks: translate to my view, check, perform, answer (wire.md 7.3).
    pub(super) fn peer_requests_change(
        &mut self,
        mask: StateWord,
        value: StateWord,
        whole_connection: bool,
    ) -> Result<(), String> {
        let Some(wanted) = value.unpack() else {
            return Err(format!("change request with unknown state {value:?}"));
        };
        let has = |field: u32| mask.0 & field != 0;
        let resolve = self.session.as_ref().is_some_and(|session| session.resolve);
        if resolve && self.commands.has_request() {
            self.answer_change(Code::ConcurrentChange, whole_connection);
            return Ok(());
        }
        if has(StateWord::ROLE) && matches!(self.state.disk, D::Attaching | D::Negotiating) {
            // Who is source is being decided by the roles as they are.
            self.answer_change(Code::InTransientState, whole_connection);
            return Ok(());
        }
        let connection = has(StateWord::CONNECTION).then_some(wanted.connection);
        if let Some(C::StartingSyncS | C::StartingSyncT) = connection {
            // Invalidate and invalidate-remote over there: the mirror image here.
            let source = connection == Some(C::StartingSyncT);
            let mut checked = self.check_full_sync(source);
            if !source && self.is_primary() && !self.is_settled() {
                // What was answered here must not be on this disk alone when it is given up.
                checked = checked.and(Err(Code::InTransientState));
            }
            if checked.is_ok() {
                self.begin_full_sync(source, "the peer asked for a full resync");
            }
            self.answer_change(checked.err().unwrap_or(Code::Success), whole_connection);
            return Ok(());
        }
        let unsupported = connection.is_some_and(|connection| {
            let known = [C::Disconnecting, C::Connected, C::WFReportParams, C::VerifyS];
            !known.contains(&connection)
        });
        if unsupported {
            self.answer_change(Code::NotSupported, whole_connection);
            return Ok(());
        }
        if connection == Some(C::VerifyS) {
            let code = self.check_verify().err().unwrap_or(Code::Success);
            if code == Code::Success {
                self.begin_verify_for_peer();
                self.change("the peer began an online verify", |s| s.connection = C::VerifyT);
            }
            self.answer_change(code, whole_connection);
            return Ok(());
        }
        let before = self.state;
        let apply = |s: &mut State| {
            if has(StateWord::ROLE) {
                s.peer = wanted.role;
            }
            if has(StateWord::DISK) {
                s.peer_disk = wanted.disk;
            }
            if has(StateWord::PEER_DISK)
                && wanted.peer_disk == D::Outdated
                && s.role != Role::Primary
            {
                s.disk = D::Outdated;
            }
        };
        if connection == Some(C::Disconnecting) {
            // The peer leaves: answer, then look for it again.
            self.answer_change(Code::Success, whole_connection);
            if has(StateWord::PEER_DISK) || has(StateWord::DISK) {
                self.note_outdated(&wanted, has(StateWord::DISK), has(StateWord::PEER_DISK));
            }
            self.end_session(C::TearDown, "the peer disconnected", Some(CloseManner::AfterFlush));
            return Ok(());
        }
        match self.check(apply) {
            Err(code) => self.answer_change(code, whole_connection),
            Ok(_) => {
                let forced = before.disk == D::Inconsistent
                    && before.peer_disk == D::Inconsistent
                    && before.peer == Role::Secondary
                    && wanted.role == Role::Primary
                    && has(StateWord::ROLE);
                if forced && let Some(session) = &mut self.session {
                    session.consider_resync = true;
                }
                self.change("the peer asked for it", apply);
                self.answer_change(Code::Success, whole_connection);
            }
        }
        Ok(())
    }

    fn note_outdated(&mut self, wanted: &State, peers: bool, mine: bool) {
        // A graceful leave with fencing: one of the disks is Outdated from now on.
        let outdate_mine = mine && wanted.peer_disk == D::Outdated && !self.is_primary();
        let outdate_peers = peers && wanted.disk == D::Outdated;
        if outdate_mine {
            self.record.edit(|record| record.was_up_to_date = false);
        }
        if outdate_peers {
            self.record.edit(|record| record.peer_outdated = true);
        }
    }

    fn answer_change(&mut self, code: Code, whole_connection: bool) {
        let code = code as i32;
        self.send_meta(if whole_connection {
            Packet::ConnectionStateChangeReply(code)
        } else {
            Packet::StateChangeReply(code)
        });
    }

    /// Becoming Primary, after the peer agreed or because there is none (behaviour.md 1.6).
    pub(super) fn become_primary(&mut self, forced: bool) {
        let had = self.state;
        let was_primary = self.record.wanted().generations.current & 1 == 1;
        self.discard_my_data = false;
        self.change(if forced { "promoted by force" } else { "promoted" }, |s| {
            s.role = Role::Primary;
            if forced && s.disk >= D::Inconsistent {
                s.disk = D::UpToDate;
            }
        });
        let forced = forced && had.disk < D::UpToDate;
        let alone = self.state.connection < C::Connected || self.state.peer_disk <= D::Failed;
        if alone && std::mem::take(&mut self.status.may_share_generation) {
            // The sync identifier goes into the history, where an unfinished target is found again
            // (rule 81), and a finished one finds its generation as the base of the new one (70).
            self.record.edit(|record| record.generations.clear_bitmap());
        }
        let no_record = self.record.wanted().generations.bitmap == 0;
        if self.state.disk >= D::Inconsistent && (forced || alone && no_record) {
            self.begin_generation_of(was_primary);
            self.update_record();
        }
        if self.state.disk < D::Inconsistent {
            self.status.exposed_generation = self.peer_generations().map(|peer| peer.current);
        }
        if self.session.is_some() {
            if forced {
                self.send_uuids(0);
            }
            self.send_state();
        }
        if let Some(command) = self.commands.take_running() {
            // Clients may come once the superblock says Primary: a crash from now on is one.
            self.after_record(AfterRecord::ReplyCommand(command));
        }
    }
}
