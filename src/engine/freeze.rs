//! Frozen I/O (behaviour.md 1.7, I14): by command, for lack of data, or until the peer is fenced. What
//! clients ask is neither answered nor lost; it goes on when the last reason is gone.
//!
//! | what | while frozen |
//! | --- | --- |
//! | a new request | waits here |
//! | a read under way | is done again afterwards: another node may write meanwhile |
//! | a write under way | is finished on the disks, its answer waits; without a disk it is done again |
//! | a flush under way | its answer waits |
//!
//! A new generation that the loss of the peer calls for waits as well: until something is answered,
//! nothing has happened that the peer misses (session.md 2.3).

use std::collections::BTreeSet;

use twinblk_proto::state::{ConnectionState as C, DiskState as D, State};

use super::Engine;
use super::effect::{ClientError, Effect};
use super::event::{ClientOperation, RequestId, Time};

#[derive(Debug, Default)]
pub(super) struct Freeze {
    requests: Vec<(RequestId, ClientOperation)>,
    /// Writes that are done again. Whoever comes later must not see what was before them.
    replaying: BTreeSet<u64>,
    since: Time,
    /// The peer missed, or may have missed, what was under way: a new generation is due when I/O
    /// goes on without it.
    pub(super) generation_due: bool,
}

impl Freeze {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }
}

pub(super) const fn frozen(s: &State) -> bool {
    s.suspended_user || s.suspended_no_data || s.suspended_fencing
}

impl Engine {
    pub(super) const fn is_frozen(&self) -> bool {
        frozen(&self.state)
    }

    /// New requests wait.
    pub(super) fn holds_requests(&self) -> bool {
        self.is_frozen() || !self.freeze.replaying.is_empty()
    }

    pub(super) fn freeze_request(&mut self, request: RequestId, operation: ClientOperation) {
        self.freeze.requests.push((request, operation));
    }

    /// Neither disk can serve it: it waits for one, or fails (on-no-data-accessible).
    pub(super) fn freeze_or_fail(&mut self, request: RequestId, operation: ClientOperation) {
        if self.is_frozen() {
            self.freeze_request(request, operation);
        } else {
            if let ClientOperation::Write { payload, .. } = operation {
                self.release(Some(payload));
            }
            self.reply_client(request, Err(ClientError::Io));
        }
    }

    pub(super) fn after_freeze_change(&mut self, old: &State, new: &State) {
        if frozen(new) && !frozen(old) {
            self.freeze.since = self.now;
        }
        if frozen(old) && !frozen(new) {
            self.thaw();
        }
    }

    fn thaw(&mut self) {
        // Whoever is demoted instead answers no write that the peer missed: a generation of its own
        // would be a split brain with the node that replaced it.
        let due = std::mem::take(&mut self.freeze.generation_due) && self.is_primary();
        let alone = self.state.connection < C::Connected;
        let fresh = self.record.wanted().generations.bitmap == 0;
        if due && alone && fresh && self.state.disk == D::UpToDate {
            self.begin_generation();
            self.update_record();
        }
        if !self.record.gate_is_closed() {
            self.gate_opened();
        }
        self.release_requests();
    }

    fn release_requests(&mut self) {
        if self.holds_requests() {
            return;
        }
        for (request, operation) in std::mem::take(&mut self.freeze.requests) {
            self.start_client_operation(request, operation);
        }
    }

    pub(super) fn replay_later(&mut self, key: u64) {
        self.freeze.replaying.insert(key);
    }

    pub(super) fn replay_ended(&mut self, key: u64) {
        if self.freeze.replaying.remove(&key) {
            self.release_requests();
        }
    }

    /// Whoever asked is told that this node serves no more; what is under way on the disks ends
    /// without an answer.
    pub(super) fn fail_frozen(&mut self) {
        for (request, operation) in std::mem::take(&mut self.freeze.requests) {
            if let ClientOperation::Write { payload, .. } = operation {
                self.release(Some(payload));
            }
            self.emit(Effect::ReplyClient { request, result: Err(ClientError::NotPrimary) });
        }
        if self.is_frozen() {
            self.refuse_held_answers();
        }
    }

    /// Something waits for the end of the freeze.
    pub(super) fn requests_held(&self) -> bool {
        let held = &self.status;
        !self.freeze.requests.is_empty()
            || !held.held_writes.is_empty()
            || !held.held_flushes.is_empty()
            || !held.held_for_target.is_empty()
    }

    /// Why I/O is frozen and what ends it, for the operator.
    pub(super) fn freeze_story(&self) -> Option<(String, String, u64)> {
        if !self.is_frozen() {
            return None;
        }
        let s = &self.state;
        let mut whys = Vec::new();
        let mut ends = Vec::new();
        if s.suspended_user {
            whys.push("by command".to_owned());
            ends.push("twinblk resume-io RES".to_owned());
        }
        if s.suspended_fencing {
            whys.push(match self.is_fencing() {
                true => "fence-peer runs".to_owned(),
                false if self.fence.complaint.is_empty() => "the peer is not fenced".to_owned(),
                false => format!("the peer is not fenced: {}", self.fence.complaint),
            });
            ends.push(
                "the peer's return; or, when it is certain that the peer does not serve: twinblk \
                 resume-io RES"
                    .to_owned(),
            );
        }
        if s.suspended_no_data {
            whys.push("no UpToDate data can be reached".to_owned());
            ends.push("the peer's return or: twinblk attach RES".to_owned());
        }
        let since_us = self.now.0.saturating_sub(self.freeze.since.0);
        Some((whys.join(", "), ends.join("; "), since_us))
    }

    // --- commands ---

    pub(super) fn suspend_io(&mut self) {
        self.change("I/O is suspended by command", |s| s.suspended_user = true);
    }

    /// Ends what `suspend-io` began; without that, overrides the other reasons: the operator knows
    /// that nobody else serves. DRBD clears all at once, so that a fence that happens to be needed
    /// meanwhile is lost without anybody having seen it.
    pub(super) fn resume_io(&mut self) {
        let user = self.state.suspended_user;
        self.change("I/O is resumed by command", |s| {
            s.suspended_user = false;
            if !user {
                s.suspended_no_data = false;
                s.suspended_fencing = false;
            }
        });
    }
}
