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
}

/// What to do about a new peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    NoSync,
    Source { full: bool, why: String },
    Target { full: bool, why: String },
    Refuse { why: String, hint: String },
}

/// Applies the fix-ups in the order of session.md 3.2.
pub fn decide(outcome: Outcome, rule: u32, at: &Situation, settings: &Settings) -> Decision {
    let mut outcome = outcome;
    let mut why = format!("generations compared by rule {rule}");
    match outcome {
        Outcome::Unrelated => {
            return refuse(
                "Unrelated data, aborting: the two disks share no generation",
                "if one side may be overwritten as a whole: twinblk down and create-md --force there, then up",
            );
        }
        Outcome::Unsupported => {
            return refuse(
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
    if matches!(outcome, Outcome::SplitBrain | Outcome::SplitBrainAmbiguous) {
        let ambiguous = outcome == Outcome::SplitBrainAmbiguous;
        let automatic = (!ambiguous || settings.always_asbp)
            .then(|| automatic_recovery(at, settings))
            .flatten();
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
                "Split-Brain detected but unresolved, dropping connection: both nodes were written \
                 to while apart",
                "on the node whose changes may be lost: twinblk secondary RES, disconnect RES, \
                 connect --discard-my-data RES; on the other: connect RES",
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
            "I shall become SyncSource, but I am inconsistent!",
            "make one node the source: twinblk primary --force on the node with the data to keep",
        );
    }
    if target
        && at.i_am_primary
        && !at.attaching
        && at.my_disk >= DiskState::Consistent
        && settings.rr_conflict != RoleConflictPolicy::Violently
    {
        return refuse(
            "I am Primary and would become SyncTarget (rr-conflict disconnect)",
            "demote this node first: twinblk secondary RES, then connect RES",
        );
    }
    if at.dry_run {
        return refuse(
            &format!("dry run: would become {}", if source { "SyncSource" } else { "SyncTarget" }),
            "twinblk connect RES, without --tentative, does it",
        );
    }
    match (source, target) {
        (true, _) => Decision::Source { full, why },
        (_, true) => Decision::Target { full, why },
        _ => Decision::NoSync,
    }
}

fn refuse(why: &str, hint: &str) -> Decision {
    Decision::Refuse { why: why.into(), hint: hint.into() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    DiscardMine,
    DiscardPeers,
}

/// The after-sb policies, by the number of Primaries (session.md 3.3).
fn automatic_recovery(at: &Situation, settings: &Settings) -> Option<Verdict> {
    use SplitBrainPolicy::*;
    let without_primary = || zero_primaries(settings.after_sb_0pri, at);
    match (at.i_am_primary, at.peer_is_primary) {
        (false, false) => without_primary(),
        (true, true) => match settings.after_sb_2pri {
            Violently => without_primary(),
            _ => None,
        },
        (i_am_primary, _) => {
            let discard_secondary =
                if i_am_primary { Verdict::DiscardPeers } else { Verdict::DiscardMine };
            match settings.after_sb_1pri {
                Consensus => without_primary().filter(|&verdict| verdict == discard_secondary),
                DiscardSecondary => Some(discard_secondary),
                Violently => without_primary(),
                CallPriLost => without_primary().filter(|&verdict| verdict == discard_secondary),
                _ => None,
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
mod tests {
    use super::*;

    fn at() -> Situation {
        Situation {
            my_disk: DiskState::UpToDate,
            peer_disk: DiskState::UpToDate,
            attaching: false,
            i_am_primary: false,
            peer_is_primary: false,
            resolve: false,
            my_dirty_bits: 5,
            peer_dirty_bits: 9,
            i_was_primary: true,
            peer_was_primary: true,
            i_discard_my_data: false,
            peer_discards_its_data: false,
            dry_run: false,
        }
    }

    fn is_source(decision: &Decision) -> bool {
        matches!(decision, Decision::Source { .. })
    }

    fn is_target(decision: &Decision) -> bool {
        matches!(decision, Decision::Target { .. })
    }

    #[test]
    fn split_brain_is_never_merged_without_a_word() {
        let settings = Settings::default();
        for outcome in [Outcome::SplitBrain, Outcome::SplitBrainAmbiguous] {
            assert!(matches!(decide(outcome, 90, &at(), &settings), Decision::Refuse { .. }));
            let mine = Situation { i_discard_my_data: true, ..at() };
            assert!(is_target(&decide(outcome, 90, &mine, &settings)));
            let peers = Situation { peer_discards_its_data: true, ..at() };
            assert!(is_source(&decide(outcome, 90, &peers, &settings)));
            let both = Situation { i_discard_my_data: true, ..peers };
            assert!(matches!(decide(outcome, 90, &both, &settings), Decision::Refuse { .. }));
        }
    }

    #[test]
    fn an_inconsistent_disk_is_always_the_target() {
        let settings = Settings::default();
        let bad = Situation { my_disk: DiskState::Inconsistent, ..at() };
        assert!(is_target(&decide(Outcome::Source, 70, &bad, &settings)));
        let peers = Situation { peer_disk: DiskState::Inconsistent, ..at() };
        assert!(is_source(&decide(Outcome::TargetFull, 60, &peers, &settings)));
        let both = Situation { peer_disk: DiskState::Inconsistent, ..bad };
        assert!(matches!(decide(Outcome::Source, 70, &both, &settings), Decision::Refuse { .. }));
    }

    #[test]
    fn a_primary_with_good_data_does_not_become_target() {
        let settings = Settings::default();
        let primary = Situation { i_am_primary: true, ..at() };
        assert!(matches!(
            decide(Outcome::Target, 50, &primary, &settings),
            Decision::Refuse { .. }
        ));
    }

    #[test]
    fn automatic_policies() {
        let least = Settings {
            after_sb_0pri: SplitBrainPolicy::DiscardLeastChanges,
            after_sb_1pri: SplitBrainPolicy::Consensus,
            ..Settings::default()
        };
        assert!(is_target(&decide(Outcome::SplitBrain, 90, &at(), &least)));
        let primary = Situation { i_am_primary: true, ..at() };
        assert!(
            matches!(decide(Outcome::SplitBrain, 90, &primary, &least), Decision::Refuse { .. }),
            "consensus does not discard a Primary"
        );
        let secondary = Situation { peer_is_primary: true, ..at() };
        assert!(is_target(&decide(Outcome::SplitBrain, 90, &secondary, &least)));
        let equal = Situation { my_dirty_bits: 9, resolve: true, ..at() };
        assert!(is_target(&decide(Outcome::SplitBrain, 90, &equal, &least)));
    }
}
