//! The fix-ups and the policies of automatic recovery, row by row (session.md 3.2, 3.3).

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
        may_demote: false,
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
    assert!(matches!(decide(Outcome::Target, 50, &primary, &settings), Decision::Refuse { .. }));
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

/// Who loses: me, the peer, nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loser {
    Me,
    Peer,
    Nobody,
}

fn loser(decision: &Decision) -> Loser {
    match decision {
        Decision::Target { .. } => Loser::Me,
        Decision::Source { .. } => Loser::Peer,
        _ => Loser::Nobody,
    }
}

fn mirrored(at: &Situation) -> Situation {
    Situation {
        my_disk: at.peer_disk,
        peer_disk: at.my_disk,
        i_am_primary: at.peer_is_primary,
        peer_is_primary: at.i_am_primary,
        resolve: !at.resolve,
        my_dirty_bits: at.peer_dirty_bits,
        peer_dirty_bits: at.my_dirty_bits,
        i_was_primary: at.peer_was_primary,
        peer_was_primary: at.i_was_primary,
        ..*at
    }
}

/// Decides on both nodes, which must come to mirror images, and gives my side.
#[track_caller]
fn both_decide(at: &Situation, settings: &Settings, outcome: Outcome) -> Decision {
    let mine = decide(outcome, 90, at, settings);
    // discard-local here is discard-remote there (behaviour.md 3.1).
    let over_there = match settings.after_sb_0pri {
        SplitBrainPolicy::DiscardLocal => SplitBrainPolicy::DiscardRemote,
        SplitBrainPolicy::DiscardRemote => SplitBrainPolicy::DiscardLocal,
        other => other,
    };
    let peers_settings = Settings { after_sb_0pri: over_there, ..settings.clone() };
    let peers = decide(outcome, 90, &mirrored(at), &peers_settings);
    let expected = match loser(&mine) {
        Loser::Me => Loser::Peer,
        Loser::Peer => Loser::Me,
        Loser::Nobody => Loser::Nobody,
    };
    assert_eq!(loser(&peers), expected, "{at:?}: {mine:?} and {peers:?}");
    mine
}

/// after-sb-0pri: policy, was Primary at the split (I, peer), changed blocks (mine, peer's), who
/// loses without RESOLVE, who with it.
#[test]
fn policies_without_a_primary() {
    use Loser::*;
    use SplitBrainPolicy::*;
    type Row = (SplitBrainPolicy, (bool, bool), (u64, u64), Loser, Loser);
    let rows: &[Row] = &[
        (Disconnect, (false, true), (0, 9), Nobody, Nobody),
        // Who became Primary later is the younger: it was not one when they parted.
        (DiscardYoungerPrimary, (false, true), (9, 5), Me, Me),
        (DiscardYoungerPrimary, (true, false), (5, 9), Peer, Peer),
        (DiscardYoungerPrimary, (true, true), (0, 5), Me, Me),
        (DiscardYoungerPrimary, (true, true), (5, 0), Peer, Peer),
        (DiscardYoungerPrimary, (false, false), (5, 9), Me, Me),
        (DiscardYoungerPrimary, (false, false), (9, 5), Peer, Peer),
        (DiscardYoungerPrimary, (true, true), (5, 5), Peer, Me),
        (DiscardYoungerPrimary, (false, false), (0, 0), Peer, Me),
        (DiscardOlderPrimary, (false, true), (9, 5), Peer, Peer),
        (DiscardOlderPrimary, (true, false), (5, 9), Me, Me),
        (DiscardOlderPrimary, (true, true), (0, 5), Me, Me),
        (DiscardOlderPrimary, (false, false), (9, 5), Peer, Peer),
        (DiscardOlderPrimary, (false, false), (5, 5), Peer, Me),
        (DiscardZeroChanges, (true, true), (0, 0), Peer, Me),
        (DiscardZeroChanges, (true, true), (5, 0), Peer, Peer),
        (DiscardZeroChanges, (true, true), (0, 5), Me, Me),
        (DiscardZeroChanges, (true, false), (5, 9), Nobody, Nobody),
        (DiscardLeastChanges, (true, true), (5, 9), Me, Me),
        (DiscardLeastChanges, (true, true), (9, 5), Peer, Peer),
        (DiscardLeastChanges, (true, true), (7, 7), Peer, Me),
        (DiscardLocal, (true, false), (9, 0), Me, Me),
        (DiscardRemote, (false, true), (0, 9), Peer, Peer),
        // Words of the other two options mean nothing here.
        (Consensus, (true, false), (0, 9), Nobody, Nobody),
        (DiscardSecondary, (true, false), (0, 9), Nobody, Nobody),
        (CallPriLost, (true, false), (0, 9), Nobody, Nobody),
        (Violently, (true, false), (0, 9), Nobody, Nobody),
    ];
    for &(policy, was, bits, without, with) in rows {
        let settings = Settings { after_sb_0pri: policy, ..Settings::default() };
        for (resolve, expected) in [(false, without), (true, with)] {
            let at = Situation {
                resolve,
                i_was_primary: was.0,
                peer_was_primary: was.1,
                my_dirty_bits: bits.0,
                peer_dirty_bits: bits.1,
                ..at()
            };
            let decision = both_decide(&at, &settings, Outcome::SplitBrain);
            let row = format!("{policy:?} {was:?} {bits:?} resolve {resolve}: {decision:?}");
            assert_eq!(loser(&decision), expected, "{row}");
            // Without always-asbp, a split brain without a common generation is left alone; with
            // it, it is a full sync.
            let left = both_decide(&at, &settings, Outcome::SplitBrainAmbiguous);
            assert_eq!(loser(&left), Nobody, "{row}");
            let always = Settings { always_asbp: true, ..settings.clone() };
            let solved = both_decide(&at, &always, Outcome::SplitBrainAmbiguous);
            assert_eq!(loser(&solved), expected, "{row}");
            match solved {
                Decision::Source { full, .. } | Decision::Target { full, .. } => assert!(full),
                _ => {}
            }
        }
    }
}

/// after-sb-1pri: what after-sb-0pri would do is discard-local: seen from the Primary (I), with a
/// device in use and idle, and from the Secondary.
#[test]
fn policies_with_one_primary() {
    use SplitBrainPolicy::*;
    // Violently after all: what rr-conflict says about it is tested on its own.
    let base = Settings { rr_conflict: RoleConflictPolicy::Violently, ..Settings::default() };
    for (policy, zero, expected) in [
        (Disconnect, DiscardRemote, Loser::Nobody),
        (Consensus, DiscardRemote, Loser::Peer),
        (Consensus, DiscardLocal, Loser::Nobody),
        (Consensus, Disconnect, Loser::Nobody),
        (DiscardSecondary, Disconnect, Loser::Peer),
        (DiscardSecondary, DiscardLocal, Loser::Peer),
        (Violently, DiscardRemote, Loser::Peer),
        (Violently, DiscardLocal, Loser::Me),
        (Violently, Disconnect, Loser::Nobody),
        (CallPriLost, DiscardRemote, Loser::Peer),
        (CallPriLost, Disconnect, Loser::Nobody),
    ] {
        let settings = Settings { after_sb_0pri: zero, after_sb_1pri: policy, ..base.clone() };
        let at = Situation { i_am_primary: true, ..at() };
        let decision = both_decide(&at, &settings, Outcome::SplitBrain);
        assert_eq!(loser(&decision), expected, "{policy:?} {zero:?}: {decision:?}");
    }
    // The Primary loses: idle it steps down, in use it stays as it is.
    let settings =
        Settings { after_sb_0pri: DiscardLocal, after_sb_1pri: CallPriLost, ..Settings::default() };
    let idle = Situation { i_am_primary: true, may_demote: true, ..at() };
    let decision = both_decide(&idle, &settings, Outcome::SplitBrain);
    assert!(matches!(decision, Decision::Target { yields: true, .. }), "{decision:?}");
    let in_use = Situation { may_demote: false, ..idle };
    let decision = decide(Outcome::SplitBrain, 90, &in_use, &settings);
    let cause = Cause::PrimaryLostAfterSplitBrain;
    assert!(matches!(decision, Decision::Refuse { cause: found, .. } if found == cause));
    // The winner knows that the loser steps down.
    let there = Settings { after_sb_0pri: DiscardRemote, ..settings };
    let decision = decide(Outcome::SplitBrain, 90, &mirrored(&idle), &there);
    assert!(matches!(decision, Decision::Source { peer_yields: true, .. }), "{decision:?}");
}

/// after-sb-2pri.
#[test]
fn policies_with_two_primaries() {
    use SplitBrainPolicy::*;
    let two = Situation { i_am_primary: true, peer_is_primary: true, may_demote: true, ..at() };
    for (policy, zero, expected) in [
        (Disconnect, DiscardLocal, Loser::Nobody),
        (Violently, DiscardLocal, Loser::Me),
        (Violently, DiscardRemote, Loser::Peer),
        (Violently, Disconnect, Loser::Nobody),
        (CallPriLost, DiscardLocal, Loser::Me),
        (CallPriLost, DiscardRemote, Loser::Peer),
        (CallPriLost, Disconnect, Loser::Nobody),
    ] {
        let settings = Settings {
            after_sb_0pri: zero,
            after_sb_2pri: policy,
            rr_conflict: RoleConflictPolicy::Violently,
            ..Settings::default()
        };
        let decision = both_decide(&two, &settings, Outcome::SplitBrain);
        assert_eq!(loser(&decision), expected, "{policy:?} {zero:?}: {decision:?}");
        let steps_down = matches!(
            decision,
            Decision::Target { yields: true, .. } | Decision::Source { peer_yields: true, .. }
        );
        assert_eq!(steps_down, policy == CallPriLost && expected != Loser::Nobody);
    }
}

/// rr-conflict: a Primary with good data that would become target, whatever made it so.
#[test]
fn role_conflicts() {
    let primary = Situation { i_am_primary: true, ..at() };
    for (policy, allowed) in [
        (RoleConflictPolicy::Disconnect, false),
        (RoleConflictPolicy::CallPriLost, false),
        (RoleConflictPolicy::Violently, true),
    ] {
        let settings = Settings { rr_conflict: policy, ..Settings::default() };
        for outcome in [Outcome::Target, Outcome::TargetFull] {
            let decision = decide(outcome, 50, &primary, &settings);
            assert_eq!(is_target(&decision), allowed, "{policy:?}");
            if !allowed {
                assert!(matches!(decision, Decision::Refuse { cause: Cause::PrimaryLost, .. }));
            }
            // Nothing is lost where nothing is good, and nobody reads a disk being attached.
            let bad = Situation { my_disk: DiskState::Inconsistent, ..primary };
            assert!(is_target(&decide(outcome, 50, &bad, &settings)));
            let attaching = Situation { attaching: true, ..primary };
            assert!(is_target(&decide(outcome, 50, &attaching, &settings)));
        }
        assert!(is_source(&decide(Outcome::Source, 70, &primary, &settings)));
    }
}

/// The operator's word counts where the policies have none, and only there; a policy that decides
/// comes first (session.md 3.2 no. 5).
#[test]
fn discard_my_data_is_for_what_is_unresolved() {
    let word = Situation { i_discard_my_data: true, ..at() };
    let settings = Settings::default();
    assert!(is_target(&decide(Outcome::SplitBrain, 90, &word, &settings)));
    assert!(is_source(&decide(Outcome::Source, 70, &word, &settings)), "no split brain");
    assert_eq!(decide(Outcome::NoSync, 40, &word, &settings), Decision::NoSync);
    let policy = Settings { after_sb_0pri: SplitBrainPolicy::DiscardRemote, ..Settings::default() };
    assert!(is_source(&decide(Outcome::SplitBrain, 90, &word, &policy)));
    match decide(Outcome::SplitBrainAmbiguous, 100, &word, &settings) {
        Decision::Target { full, .. } => assert!(!full, "by the union of both bitmaps"),
        other => panic!("{other:?}"),
    }
}

/// `connect --tentative` tells and does nothing.
#[test]
fn a_dry_run_only_tells() {
    let dry = Situation { dry_run: true, ..at() };
    for (outcome, text) in [
        (Outcome::Source, "become SyncSource"),
        (Outcome::TargetFull, "become SyncTarget"),
        (Outcome::NoSync, "connect without a resync"),
    ] {
        match decide(outcome, 50, &dry, &Settings::default()) {
            Decision::Refuse { cause: Cause::DryRun, why, .. } => {
                assert!(why.contains(text), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}
