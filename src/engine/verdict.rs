//! What a comparison of the two nodes found, kept for the operator: the answer to
//! `connect --tentative`, and what each side of a split brain would lose.

use twinblk_proto::state::ConnectionState as C;

use super::Engine;
use super::effect::CloseManner;
use super::generation::Outcome;
use super::split_brain::{Decision, Situation};

/// What a handshake would do with this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    NoSync,
    Source,
    Target,
    Refused,
}

/// The answer to `connect --tentative`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub direction: Direction,
    /// Blocks that would be copied: the nodes know the number of each other's bits only, and the
    /// union of both is between these.
    pub least_blocks: u64,
    pub most_blocks: u64,
    pub why: String,
}

/// A split brain that the last handshake met, and that is not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitBrain {
    /// Blocks that each node changed since they parted.
    pub my_changed_blocks: u64,
    pub peer_changed_blocks: u64,
    /// Was Primary when they parted.
    pub i_was_primary: bool,
    pub peer_was_primary: bool,
}

impl Engine {
    /// Remembers what the comparison found. `would`: the decision if nobody only asked.
    pub(super) fn remember(&mut self, outcome: Outcome, would: &Decision, at: &Situation) {
        let split = matches!(outcome, Outcome::SplitBrain | Outcome::SplitBrainAmbiguous);
        self.status.split_brain = split.then_some(SplitBrain {
            my_changed_blocks: at.my_dirty_bits,
            peer_changed_blocks: at.peer_dirty_bits,
            i_was_primary: at.i_was_primary,
            peer_was_primary: at.peer_was_primary,
        });
        let (direction, full, why) = match would {
            Decision::NoSync => (Direction::NoSync, false, "both hold the same generation".into()),
            Decision::Source { full, why, .. } => (Direction::Source, *full, why.clone()),
            Decision::Target { full, why, .. } => (Direction::Target, *full, why.clone()),
            Decision::Refuse { why, .. } => (Direction::Refused, false, why.clone()),
        };
        let (mine, peers) = (at.my_dirty_bits, at.peer_dirty_bits);
        let all = self.bitmap.bits();
        let (least_blocks, most_blocks) = match direction {
            Direction::NoSync | Direction::Refused => (0, 0),
            _ if full => (all, all),
            _ => (mine.max(peers), mine.saturating_add(peers).min(all)),
        };
        self.status.verdict = Some(Verdict { direction, least_blocks, most_blocks, why });
    }

    /// Nobody is idle who would have to be thrown out, and nothing is under way.
    pub(super) fn may_demote_in_handshake(&self) -> bool {
        self.clients_open == 0
            && !self.writes_open()
            && self.reads.is_empty()
            && self.flushes.is_empty()
            && self.freeze.len() == 0
    }

    /// The two can not go on together, or one of them only asked.
    pub(super) fn refuse_decision(&mut self, why: &str, hint: &str) {
        let peer_asked = self.session.as_ref().is_some_and(|session| session.peer_dry_run);
        if peer_asked && !self.dry_run {
            // Nothing is to change here: back to looking for the peer (the kernel gives up).
            let why = format!("the peer only asked (connect --tentative): {why}");
            return self.end_session(C::TearDown, &why, Some(CloseManner::AfterFlush));
        }
        self.refuse_session(why, hint);
    }
}
