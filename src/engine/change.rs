//! The one way in which the state changes: apply, derive the consequences, check, then do what
//! follows from the difference (DESIGN section 2).

use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role, State};

use super::Engine;
use super::effect::Effect;
use super::event::{FencingPolicy, NoDataPolicy};
use super::fencing::is_unfenced_primary;
use super::freeze::frozen;
use super::handler::Handler;
use super::record::AfterRecord;
use super::refusal::Code;
use super::state_rules::{possible, sanitize, valid};

/// Primary, and nowhere is UpToDate data.
fn is_degraded_primary(s: &State) -> bool {
    s.role == Role::Primary && s.disk < D::UpToDate && s.peer_disk < D::UpToDate
}

/// Current data can be reached.
fn has_data(s: &State) -> bool {
    s.disk == D::UpToDate || s.connection >= C::Connected && s.peer_disk == D::UpToDate
}

impl Engine {
    fn derive(&self, old: &State, change: impl FnOnce(&mut State)) -> State {
        let mut new = *old;
        change(&mut new);
        sanitize(&mut new);
        let data = has_data(&new);
        // Frozen when it begins to lack data, not for as long: an operator who resumes I/O wants
        // the errors (behaviour.md 1.7).
        let lacks_data = new.role == Role::Primary && !data;
        let had_data = has_data(old) || old.role != Role::Primary;
        if !lacks_data {
            new.suspended_no_data = false;
        } else if had_data && self.settings.on_no_data == NoDataPolicy::SuspendIo {
            new.suspended_no_data = true;
        }
        if !is_unfenced_primary(&new) {
            new.suspended_fencing = false;
        } else if !is_unfenced_primary(old)
            && self.settings.fencing == FencingPolicy::ResourceAndStonith
        {
            new.suspended_fencing = true;
        }
        new
    }

    /// What the state would be; the reason why it may not.
    pub(super) fn check(&self, change: impl FnOnce(&mut State)) -> Result<State, Code> {
        let old = self.state;
        let new = self.derive(&old, change);
        possible(&old, &new)?;
        // A wish does not have to mend what is wrong already.
        let judged = |s: &State| {
            valid(s)?;
            // An Outdated or worse peer can not go on alone.
            let unfenced = self.fences() && is_unfenced_primary(s);
            if unfenced { Err(Code::PrimaryNop) } else { Ok(()) }
        };
        match judged(&new) {
            Err(code) if judged(&old) != Err(code) => Err(code),
            _ => Ok(new),
        }
    }

    /// Changes the state, as a fact.
    pub(super) fn change(&mut self, reason: impl Into<String>, change: impl FnOnce(&mut State)) {
        let old = self.state;
        let new = self.derive(&old, change);
        if old == new {
            return;
        }
        assert!(
            possible(&old, &new).is_ok(),
            "illegal transition {old:?} -> {new:?}: {:?}",
            possible(&old, &new)
        );
        self.state = new;
        let reason = reason.into();
        self.status.changed(&old, &new, &reason);
        self.emit(Effect::StateChanged { old, new, reason });
        self.after_change(&old, &new);
    }

    fn after_change(&mut self, old: &State, new: &State) {
        let became = |disk: D| old.disk != disk && new.disk == disk;
        if (old.disk != D::UpToDate || old.peer_disk != D::UpToDate)
            && new.disk == D::UpToDate
            && new.peer_disk == D::UpToDate
        {
            self.crashed_primary = false;
        }
        if old.role == Role::Primary && new.role != Role::Primary {
            self.record.edit(|record| record.generations.mark_role(false));
        }
        self.begin_generation_if_peer_missed_data(old, new);
        if old.connection != new.connection && matches!(old.connection, C::VerifyS | C::VerifyT) {
            self.verify_left(old);
        }
        if old.connection != C::WFBitMapS && new.connection == C::WFBitMapS {
            // Writes are not mirrored now, and with equal generations (rules 40, 41) the peer's
            // record may still call it UpToDate: nothing is answered until it has its bitmap, and
            // so the record, on disk (I2, I10).
            self.record.close_gate();
        }
        if new.disk >= D::Inconsistent {
            self.go_on_growing();
            self.update_record();
        }
        if old.connection == C::WFBitMapS && new.connection != C::WFBitMapS {
            self.after_record(AfterRecord::OpenGate);
        }
        if old.connection == C::WFReportParams && new.connection >= C::Connected {
            self.send_state();
        }
        self.tell_pause(old, new);
        if became(D::Failed) && self.session.is_some() {
            self.send_state();
        }
        self.release_held_for_target();
        self.after_freeze_change(old, new);
        let lost_peer = old.connection >= C::WFReportParams && new.connection < C::WFReportParams;
        if lost_peer && is_unfenced_primary(new) {
            self.begin_fencing();
        }
        if is_degraded_primary(new) && !is_degraded_primary(old) {
            self.run_handler(Handler::PriOnInconDegr);
        }
        if old.role != new.role && new.role == Role::Primary {
            self.last_client_request = self.now;
        }
    }

    /// Session.md 2.3: who holds the only current data begins a new generation, durable before
    /// the next write is answered (I10).
    fn begin_generation_if_peer_missed_data(&mut self, old: &State, new: &State) {
        let had = matches!(old.peer_disk, D::Inconsistent | D::Consistent | D::UpToDate);
        let has = matches!(new.peer_disk, D::Inconsistent | D::Consistent | D::UpToDate);
        let primary_somewhere = new.role == Role::Primary || new.peer == Role::Primary;
        let lost_contact = had && !has && primary_somewhere;
        let diskless_peer_promoted = new.connection >= C::Connected
            && new.peer_disk < D::Inconsistent
            && old.peer != Role::Primary
            && new.peer == Role::Primary;
        // The peer is back without the data that it missed while I/O was frozen.
        let still_misses = self.freeze.generation_due && new.connection >= C::Connected && !has;
        // A Primary gets its disk back and has no peer: the peer's copy went out of sight while this
        // node had none of its own to note it.
        let attached_alone = old.disk < D::Inconsistent
            && new.role == Role::Primary
            && new.connection < C::Connected;
        if (lost_contact || diskless_peer_promoted || still_misses || attached_alone)
            && new.disk == D::UpToDate
            && self.record.wanted().generations.bitmap == 0
        {
            if frozen(new) && new.connection < C::Connected {
                self.freeze.generation_due = true;
                return;
            }
            self.freeze.generation_due = false;
            self.begin_generation();
            if new.connection >= C::Connected
                && let Some(session) = &self.session
            {
                let session = session.id;
                self.after_record(AfterRecord::TellGeneration(session));
            }
        }
    }

    /// The peer could not write what this Primary mirrored, and may not have noted that yet: its
    /// record shares the generation until this node begins another (I10).
    pub(super) fn peer_missed_a_write(&mut self) {
        let fresh = self.record.wanted().generations.bitmap == 0;
        if fresh && self.is_primary() && self.state.disk == D::UpToDate {
            self.begin_generation();
            self.update_record();
            if let Some(session) = &self.session {
                let session = session.id;
                self.after_record(AfterRecord::TellGeneration(session));
            }
        }
    }

    /// Begins a new generation; answers to writes wait until it is durable.
    pub(super) fn begin_generation(&mut self) {
        let primary = self.is_primary();
        self.begin_generation_of(primary);
    }

    /// `was_primary`: this node wrote in the generation that ends. Bit 0 of the bitmap identifier
    /// keeps it: who was Primary when a split brain began (session.md 3.3).
    pub(super) fn begin_generation_of(&mut self, was_primary: bool) {
        let random = self.random();
        let primary = self.is_primary();
        self.record.edit(|record| {
            record.generations.mark_role(was_primary);
            record.generations.begin(random, primary);
        });
        self.record.close_gate();
        self.after_record(AfterRecord::OpenGate);
    }
}
