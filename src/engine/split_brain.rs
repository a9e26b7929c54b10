//! From the comparison to a decision: disk states, automatic recovery, the operator's word
//! (session.md 3.2 and 3.3).

use twinblk_proto::packet::SplitBrainPolicy;
use twinblk_proto::state::DiskState;

use super::event::{RoleConflictPolicy, Settings};
use super::generation::Outcome;

/// What besides the comparison goes into the decision.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    pub my_disk: DiskState,
    pub peer_disk: DiskState,
    /// My disk is being attached: nobody reads from it yet.
    pub attaching: bool,
    pub i_am_primary: bool,
    pub peer_is_primary: bool,
    pub resolve: bool,
    pub my_dirty_bits: u64,
    pub peer_dirty_bits: u64,
    /// Bit 0 of the bitmap identifiers: was Primary when the split began.
    pub i_was_primary: bool,
    pub peer_was_primary: bool,
    pub i_discard_my_data: bool,
    pub peer_discards_its_data: bool,
    pub dry_run: bool,
    /// Nobody holds this Primary's device open, and nothing is under way.
    pub may_demote: bool,
}

/// What to do about a new peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    NoSync,
    /// `peer_yields`: the peer, Primary, demotes itself first (call-pri-lost-after-sb).
    Source {
        full: bool,
        peer_yields: bool,
        why: String,
    },
    /// `yields`: this Primary demotes itself first.
    Target {
        full: bool,
        yields: bool,
        why: String,
    },
    Refuse {
        cause: Cause,
        why: String,
        hint: String,
    },
}

/// Why two nodes can not go on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    SplitBrain,
    /// A policy made this Primary lose a split brain, and it can not demote itself.
    PrimaryLostAfterSplitBrain,
    /// This Primary would have to become sync target.
    PrimaryLost,
    /// Only asked (`connect --tentative`).
    DryRun,
    Other,
}

/// Applies the fix-ups in the order of session.md 3.2.
pub fn decide(outcome: Outcome, rule: u32, at: &Situation, settings: &Settings) -> Decision {
    let mut outcome = outcome;
    let mut why = format!("generations compared by rule {rule}");
    match outcome {
        Outcome::Unrelated => {
            return refuse(
                Cause::Other,
                "Unrelated data, aborting: the two disks share no generation",
                "if one side may be overwritten as a whole: twinblk down and create-md --force there, then up",
            );
        }
        Outcome::Unsupported => {
            return refuse(
                Cause::Other,
                "the peer is too old to decide who is newer after a crash",
                "upgrade the peer, or connect while both are Secondary",
            );
        }
        _ => {}
    }

    // 2. An Inconsistent disk always becomes target.
    let mine_bad = at.my_disk <= DiskState::Inconsistent;
    let peers_bad = at.peer_disk <= DiskState::Inconsistent;
    if mine_bad != peers_bad {
        let full = matches!(
            outcome,
            Outcome::SourceFull | Outcome::TargetFull | Outcome::SplitBrainAmbiguous
        );
        outcome = match (mine_bad, full) {
            (false, false) => Outcome::Source,
            (false, true) => Outcome::SourceFull,
            (true, false) => Outcome::Target,
            (true, true) => Outcome::TargetFull,
        };
        why = "decided by the disk states: an Inconsistent disk is always the target".into();
    }

    // 4. Automatic recovery; 5. the operator's word.
    let (mut yields, mut peer_yields) = (false, false);
    if matches!(outcome, Outcome::SplitBrain | Outcome::SplitBrainAmbiguous) {
        let ambiguous = outcome == Outcome::SplitBrainAmbiguous;
        let automatic = match automatic_recovery(at, settings) {
            _ if ambiguous && !settings.always_asbp => None,
            Recovery::None => None,
            Recovery::Decided(verdict) => Some(verdict),
            Recovery::IYield => {
                yields = true;
                Some(Verdict::DiscardMine)
            }
            Recovery::PeerYields => {
                peer_yields = true;
                Some(Verdict::DiscardPeers)
            }
            Recovery::Stuck => {
                return refuse(
                    Cause::PrimaryLostAfterSplitBrain,
                    "Split-Brain detected: this Primary's changes are to be discarded \
                     (call-pri-lost-after-sb), but its device is in use",
                    "close what uses the device, then: twinblk secondary RES, connect RES",
                );
            }
        };
        let manual = match (at.i_discard_my_data, at.peer_discards_its_data) {
            (true, false) => Some(Verdict::DiscardMine),
            (false, true) => Some(Verdict::DiscardPeers),
            _ => None,
        };
        let (verdict, full, how) = if let Some(verdict) = automatic {
            (verdict, ambiguous, "automatically solved")
        } else if let Some(verdict) = manual {
            (verdict, false, "manually solved")
        } else {
            return refuse(
                Cause::SplitBrain,
                "Split-Brain detected but unresolved, dropping connection: both nodes were written \
                 to while apart",
                "on the node whose changes may be lost: twinblk resolve RES --discard-local (or: \
                 secondary RES, disconnect RES, connect --discard-my-data RES); on the other: \
                 connect RES",
            );
        };
        why = format!("Split-Brain detected, {how}");
        outcome = match (verdict, full) {
            (Verdict::DiscardMine, false) => Outcome::Target,
            (Verdict::DiscardMine, true) => Outcome::TargetFull,
            (Verdict::DiscardPeers, false) => Outcome::Source,
            (Verdict::DiscardPeers, true) => Outcome::SourceFull,
        };
    }

    let full = matches!(outcome, Outcome::SourceFull | Outcome::TargetFull);
    let source = matches!(outcome, Outcome::Source | Outcome::SourceFull);
    let target = matches!(outcome, Outcome::Target | Outcome::TargetFull);
    if source && mine_bad {
        return refuse(
            Cause::Other,
            "I shall become SyncSource, but I am inconsistent!",
            "make one node the source: twinblk primary --force on the node with the data to keep",
        );
    }
    if target
        && at.i_am_primary
        && !at.attaching
        && !yields
        && at.my_disk >= DiskState::Consistent
        && settings.rr_conflict != RoleConflictPolicy::Violently
    {
        let policy = match settings.rr_conflict {
            RoleConflictPolicy::CallPriLost => "call-pri-lost",
            _ => "disconnect",
        };
        return refuse(
            Cause::PrimaryLost,
            &format!("I am Primary and would become SyncTarget (rr-conflict {policy})"),
            "demote this node first: twinblk secondary RES, then connect RES",
        );
    }
    if at.dry_run {
        let would = match (source, target) {
            (true, _) => "become SyncSource",
            (_, true) => "become SyncTarget",
            _ => "connect without a resync",
        };
        return refuse(
            Cause::DryRun,
            &format!("dry run: would {would}: {why}"),
            "twinblk connect RES, without --tentative, does it",
        );
    }
    match (source, target) {
        (true, _) => Decision::Source { full, peer_yields, why },
        (_, true) => Decision::Target { full, yields, why },
        _ => Decision::NoSync,
    }
}

fn refuse(cause: Cause, why: &str, hint: &str) -> Decision {
    Decision::Refuse { cause, why: why.into(), hint: hint.into() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    DiscardMine,
    DiscardPeers,
}

/// What the policies find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    None,
    Decided(Verdict),
    /// My changes are discarded, after I demoted myself.
    IYield,
    PeerYields,
    /// I should yield and can not.
    Stuck,
}

/// The after-sb policies, by the number of Primaries (session.md 3.3).
fn automatic_recovery(at: &Situation, settings: &Settings) -> Recovery {
    use SplitBrainPolicy::*;
    let without_primary = || zero_primaries(settings.after_sb_0pri, at);
    let decided = |verdict: Option<Verdict>| verdict.map_or(Recovery::None, Recovery::Decided);
    // The loser, if it is Primary, steps down first.
    let loser_steps_down = |verdict: Option<Verdict>| match verdict {
        None => Recovery::None,
        Some(Verdict::DiscardMine) if at.i_am_primary && at.may_demote => Recovery::IYield,
        Some(Verdict::DiscardMine) if at.i_am_primary => Recovery::Stuck,
        Some(Verdict::DiscardPeers) if at.peer_is_primary => Recovery::PeerYields,
        Some(verdict) => Recovery::Decided(verdict),
    };
    match (at.i_am_primary, at.peer_is_primary) {
        (false, false) => decided(without_primary()),
        (true, true) => match settings.after_sb_2pri {
            Violently => decided(without_primary()),
            CallPriLost => loser_steps_down(without_primary()),
            _ => Recovery::None,
        },
        (i_am_primary, _) => {
            let discard_secondary =
                if i_am_primary { Verdict::DiscardPeers } else { Verdict::DiscardMine };
            match settings.after_sb_1pri {
                Consensus => decided(without_primary().filter(|&found| found == discard_secondary)),
                DiscardSecondary => Recovery::Decided(discard_secondary),
                Violently => decided(without_primary()),
                CallPriLost => loser_steps_down(without_primary()),
                _ => Recovery::None,
            }
        }
    }
}

fn zero_primaries(policy: SplitBrainPolicy, at: &Situation) -> Option<Verdict> {
    use SplitBrainPolicy::*;
    use Verdict::*;
    let coin = if at.resolve { DiscardMine } else { DiscardPeers };
    let zero_changes = || match (at.my_dirty_bits, at.peer_dirty_bits) {
        (0, 0) => Some(coin),
        (_, 0) => Some(DiscardPeers),
        (0, _) => Some(DiscardMine),
        _ => None,
    };
    let least_changes = || match at.my_dirty_bits.cmp(&at.peer_dirty_bits) {
        std::cmp::Ordering::Less => Some(DiscardMine),
        std::cmp::Ordering::Greater => Some(DiscardPeers),
        std::cmp::Ordering::Equal => Some(coin),
    };
    match (policy, at.i_was_primary, at.peer_was_primary) {
        (DiscardYoungerPrimary, false, true) => Some(DiscardMine),
        (DiscardYoungerPrimary, true, false) => Some(DiscardPeers),
        (DiscardOlderPrimary, false, true) => Some(DiscardPeers),
        (DiscardOlderPrimary, true, false) => Some(DiscardMine),
        (DiscardYoungerPrimary | DiscardOlderPrimary, ..) => zero_changes().or_else(least_changes),
        (DiscardZeroChanges, ..) => zero_changes(),
        (DiscardLeastChanges, ..) => least_changes(),
        (DiscardLocal, ..) => Some(DiscardMine),
        (DiscardRemote, ..) => Some(DiscardPeers),
        _ => None,
    }
}

#[cfg(test)]
#[path = "split_brain_tests.rs"]
mod tests;
