//! The comparison table rule by rule, and its antisymmetry over random histories.

use proptest::prelude::*;

use super::*;

const A: u64 = 0xA000_0000_0000_0010;
const B: u64 = 0xB000_0000_0000_0020;
const C: u64 = 0xC000_0000_0000_0030;
const D: u64 = 0xD000_0000_0000_0040;

fn set(current: u64, bitmap: u64, h0: u64, h1: u64) -> Generations {
    Generations { current, bitmap, history: [h0, h1] }
}

fn plain() -> Circumstances {
    Circumstances { version: 101, feature_wsame: true, ..Circumstances::default() }
}

#[track_caller]
fn expect(mine: Generations, peers: Generations, outcome: Outcome, rule: u32) -> Comparison {
    let result = compare(mine, peers, &plain());
    assert_eq!((result.outcome, result.rule), (outcome, rule));
    result
}

#[test]
fn every_rule_of_the_table() {
    let fresh = set(JUST_CREATED, 0, 0, 0);
    expect(fresh, fresh, Outcome::NoSync, 10);
    expect(fresh, set(A, 0, 0, 0), Outcome::TargetFull, 20);
    expect(set(A, 0, 0, 0), fresh, Outcome::SourceFull, 30);
    let result = expect(set(A, B, C, D), set(A, 0, B, C), Outcome::Source, 34);
    assert_eq!(result.mine, set(A, 0, B, C), "the missed end is caught up");
    expect(set(A, B, C, D), set(A, 0, D, D), Outcome::Source, 36);
    let result = expect(set(A, 0, B, C), set(A, B, C, D), Outcome::Target, 35);
    assert_eq!(result.peers, set(A, 0, B, C));
    expect(set(A, 0, D, D), set(A, B, C, D), Outcome::Target, 37);
    expect(set(A, 0, B, C), set(A | 1, 0, B, C), Outcome::NoSync, 40);
    expect(set(A, 0, 0, 0), set(B, A | 1, 0, 0), Outcome::Target, 50);
    let result = expect(set(A, 0, 0, 0), set(B, A + SYNC_STEP, A, C), Outcome::Target, 51);
    assert_eq!(result.peers, set(B, A, C, C));
    expect(set(A, 0, 0, 0), set(B, 0, C, A), Outcome::TargetFull, 60);
    expect(set(B, A, 0, 0), set(A, 0, 0, 0), Outcome::Source, 70);
    let result = expect(set(B, A + SYNC_STEP, A, C), set(A, 0, 0, 0), Outcome::Source, 71);
    assert_eq!(result.mine, set(B, A, C, C));
    expect(set(B, 0, C, A), set(A, 0, 0, 0), Outcome::SourceFull, 80);
    expect(set(A, C, 0, 0), set(B, C, 0, 0), Outcome::SplitBrain, 90);
    expect(set(A, 0, C, 0), set(B, 0, D, C), Outcome::SplitBrainAmbiguous, 100);
    expect(set(A, 0, 0, 0), set(B, 0, 0, 0), Outcome::Unrelated, 100);
}

#[test]
fn crashed_primaries_are_arbitrated() {
    let both = set(A, 0, 0, 0);
    let with = |mine, peer, resolve| Circumstances {
        my_crashed_primary: mine,
        peer_crashed_primary: peer,
        resolve,
        ..plain()
    };
    assert_eq!(compare(both, both, &with(true, false, false)).outcome, Outcome::Source);
    assert_eq!(compare(both, both, &with(false, true, false)).outcome, Outcome::Target);
    assert_eq!(compare(both, both, &with(true, true, true)).outcome, Outcome::Target);
    assert_eq!(compare(both, both, &with(true, true, false)).outcome, Outcome::Source);
    let primary = Circumstances { i_am_primary: true, ..with(false, true, false) };
    assert_eq!(compare(both, both, &primary).outcome, Outcome::Source);
    let old = Circumstances { feature_wsame: false, ..primary };
    assert_eq!(compare(both, both, &old).outcome, Outcome::Unsupported);
    let peer_primary = Circumstances { peer_is_primary: true, ..with(true, false, false) };
    let result = compare(both, both, &peer_primary);
    assert_eq!((result.outcome, result.rule), (Outcome::Target, 41));
    let two = Circumstances { i_am_primary: true, ..peer_primary };
    let result = compare(both, both, &two);
    assert_eq!((result.outcome, result.rule), (Outcome::SplitBrainAmbiguous, 41));
    // Bit 0 and both bitmap identifiers set make no difference (capture 59).
    let bits = set(A, B, 0, 0);
    assert_eq!(compare(bits, set(A | 1, B, 0, 0), &with(true, true, true)).rule, 40);
}

#[test]
fn old_peers_know_less() {
    let at = |version| Circumstances { version, ..plain() };
    let lost = (set(A, 0, C, D), set(B, A + SYNC_STEP, A, C));
    for (version, expected) in
        [(101, Outcome::Target), (95, Outcome::Target), (90, Outcome::Unsupported)]
    {
        let result = compare(lost.0, lost.1, &at(version));
        assert_eq!((result.outcome, result.rule), (expected, 51), "version {version}");
        let result = compare(lost.1, lost.0, &at(version));
        assert_eq!((result.outcome, result.rule), (expected.mirrored(), 71), "version {version}");
    }
    // Before 96 the step is random and only the history tells.
    let random = (set(A, 0, C, D), set(B, D, A, C));
    assert_eq!(compare(random.0, random.1, &at(95)).rule, 51);
    assert_eq!(compare(random.0, random.1, &at(96)).rule, 60);
    assert_eq!(compare(random.1, random.0, &at(95)).rule, 71);
    assert_eq!(compare(random.1, random.0, &at(96)).rule, 80);
    for (mine, peer, rule) in
        [(set(A, B, C, D), set(A, 0, B, C), 34), (set(A, 0, B, C), set(A, B, C, D), 35)]
    {
        let result = compare(mine, peer, &at(90));
        assert_eq!((result.outcome, result.rule), (Outcome::Unsupported, rule));
    }
}

/// Rules 20 and 30 with an identifier of 0, 61 and 81 between twinblk nodes, 80 and 60 by the older
/// history, 100 without 0 = 0.
#[test]
fn corners_of_the_table() {
    expect(set(0, 0, 0, 0), set(A, 0, 0, 0), Outcome::TargetFull, 20);
    expect(set(A, 0, 0, 0), set(0, 0, 0, 0), Outcome::SourceFull, 30);
    expect(set(A, 0, 0, 0), set(B, 0, A, C), Outcome::TargetFull, 60);
    expect(set(B, 0, A, C), set(A, 0, 0, 0), Outcome::SourceFull, 80);
    let mine_bad =
        Circumstances { heal_equal_generations: true, i_am_inconsistent: true, ..plain() };
    let result = compare(set(A, 0, 0, 0), set(B, 0, A, C), &mine_bad);
    assert_eq!((result.outcome, result.rule), (Outcome::Target, 61));
    let peers_bad =
        Circumstances { heal_equal_generations: true, peer_is_inconsistent: true, ..plain() };
    let result = compare(set(B, 0, A, C), set(A, 0, 0, 0), &peers_bad);
    assert_eq!((result.outcome, result.rule), (Outcome::Source, 81));
    expect(set(A, 0, 0, D), set(B, 0, D, 0), Outcome::SplitBrainAmbiguous, 100);
    expect(set(A, 0, 0, C), set(B, 0, 0, D), Outcome::Unrelated, 100);
}

/// What each event of session.md 2.3 does to the four identifiers.
#[test]
fn rotations() {
    let at = set(A | 1, 0, C, D);
    let after = |begin: Generations, event: &dyn Fn(&mut Generations)| {
        let mut generations = begin;
        event(&mut generations);
        generations
    };
    // The Primary loses the peer; a Secondary is promoted alone (bit 0 tells them apart).
    assert_eq!(after(at, &|g| g.begin(B, true)), set(B | 1, A | 1, C, D));
    assert_eq!(after(set(A, 0, C, D), &|g| g.begin(B, true)), set(B | 1, A, C, D));
    // Forced promotion while a base is recorded: it must be found again.
    let forced = after(set(A, C, D, 0), &|g| g.begin(B, true));
    assert_eq!(forced, set(B | 1, A, C, D));
    expect(forced, set(C, 0, 0, 0), Outcome::SourceFull, 80);
    expect(forced, set(A, 0, 0, 0), Outcome::Source, 70);
    // Promotion and demotion while connected: bit 0 only.
    assert_eq!(after(at, &|g| g.mark_role(false)), set(A, 0, C, D));
    assert_eq!(after(set(A, 0, C, D), &|g| g.mark_role(true)), at);
    // Sync source: the base moves on, random when there is none (0 or 4).
    assert_eq!(
        after(set(A, B, C, D), &|g| assert_eq!(g.begin_as_source(7), B + SYNC_STEP)),
        set(A, B + SYNC_STEP, B, C)
    );
    assert_eq!(after(set(A, 0, C, D), &|g| assert_eq!(g.begin_as_source(7), 7)), set(A, 7, C, D));
    assert_eq!(after(set(A, 4, C, D), &|g| assert_eq!(g.begin_as_source(7), 7)), set(A, 7, 4, C));
    // Sync target, Secondary and Primary; the end on both sides.
    assert_eq!(after(set(A, B, C, D), &|g| g.begin_as_target(B | 1, false)), set(B, 0, C, D));
    assert_eq!(after(set(A, B, C, D), &|g| g.begin_as_target(B, true)), set(B | 1, 0, C, D));
    let peer = set(A | 1, B, C, D);
    assert_eq!(
        after(set(B + SYNC_STEP, 0, C, D), &|g| g.finish_as_target(&peer, false)),
        set(A, 0, B + SYNC_STEP, B)
    );
    assert_eq!(
        after(set(A, B + SYNC_STEP, B, C), &Generations::clear_bitmap),
        set(A, 0, B + SYNC_STEP, B)
    );
    assert_eq!(after(set(A, 0, B, C), &Generations::clear_bitmap), set(A, 0, B, C));
}

#[test]
fn dirty_bits_under_equal_generations_are_healed_between_twinblk_nodes() {
    let both = set(A, 0, 0, 0);
    let dirty = Circumstances { my_dirty_bits: 3, ..plain() };
    assert_eq!(compare(both, both, &dirty).outcome, Outcome::NoSync, "a kernel peer would not");
    let heal = Circumstances { heal_equal_generations: true, ..dirty };
    for resolve in [false, true] {
        // Who has no marks has the data.
        let mine = Circumstances { resolve, ..heal };
        assert_eq!(compare(both, both, &mine).outcome, Outcome::Target);
        let peers = Circumstances { my_dirty_bits: 0, peer_dirty_bits: 3, ..mine };
        assert_eq!(compare(both, both, &peers).outcome, Outcome::Source);
        let marked = Circumstances { peer_dirty_bits: 3, ..mine };
        let outcome = if resolve { Outcome::Target } else { Outcome::Source };
        assert_eq!(compare(both, both, &marked).outcome, outcome);
    }
    let primary = Circumstances { peer_is_primary: true, resolve: false, ..heal };
    assert_eq!(compare(both, both, &primary).outcome, Outcome::Target);
}

#[test]
fn a_clean_resync_leaves_both_with_the_same_history() {
    // session.md 2.3, capture 13.
    let old_sync = 0x9C23_0000_0000_00A9;
    let mut source = set(0x7B7B_0000_0000_008D, 0x32C1_0000_0000_0037, old_sync, 4);
    let mut target = set(0x32C1_0000_0000_0036, 0, old_sync, 4);
    let sent = source;
    let sync = source.begin_as_source(999);
    assert_eq!(sync, 0x32C2_0000_0000_0037);
    assert_eq!(source.history, [0x32C1_0000_0000_0037, old_sync]);
    target.begin_as_target(sync, false);
    assert_eq!(target.current, 0x32C2_0000_0000_0036);
    target.finish_as_target(&sent, false);
    source.clear_bitmap();
    assert_eq!(target.current, 0x7B7B_0000_0000_008C);
    assert_eq!(target.history, [0x32C2_0000_0000_0036, 0x32C1_0000_0000_0037]);
    assert_eq!((source.bitmap, target.bitmap), (0, 0));
    assert_eq!(source.history, [0x32C2_0000_0000_0037, 0x32C1_0000_0000_0037]);
}

fn identifier() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(JUST_CREATED),
        Just(A),
        Just(A | 1),
        Just(B),
        Just(C),
        Just(A + SYNC_STEP),
        Just(B + SYNC_STEP),
    ]
}

fn generations() -> impl Strategy<Value = Generations> {
    (identifier(), identifier(), identifier(), identifier())
        .prop_map(|(current, bitmap, h0, h1)| set(current, bitmap, h0, h1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Both nodes decide alone and must come to mirror images (session.md 1.1). Exceptions are
    /// sets that no history produces: each the ancestor of the other.
    #[test]
    fn both_nodes_find_mirror_images(
        mine in generations(), peer in generations(),
        flags in prop::collection::vec(any::<bool>(), 8),
        bits in (0_u64..2, 0_u64..2),
    ) {
        let with = Circumstances {
            version: 101, my_crashed_primary: flags[0], peer_crashed_primary: flags[1],
            i_am_primary: flags[2], peer_is_primary: flags[3], resolve: flags[4],
            feature_wsame: true, heal_equal_generations: flags[5],
            my_dirty_bits: bits.0, peer_dirty_bits: bits.1,
            i_am_inconsistent: flags[6], peer_is_inconsistent: flags[7],
        };
        let other = Circumstances {
            my_crashed_primary: flags[1], peer_crashed_primary: flags[0],
            i_am_primary: flags[3], peer_is_primary: flags[2], resolve: !flags[4],
            my_dirty_bits: bits.1, peer_dirty_bits: bits.0,
            i_am_inconsistent: flags[7], peer_is_inconsistent: flags[6], ..with
        };
        let a = compare(mine, peer, &with);
        let b = compare(peer, mine, &other);
        let ancestor = |x: &Generations, y: &Generations| {
            same(x.current, y.bitmap) || y.history.iter().any(|&old| same(x.current, old))
        };
        let impossible = is_zero(mine.current)
            || is_zero(peer.current)
            || !same(mine.current, peer.current)
                && ancestor(&mine, &peer)
                && ancestor(&peer, &mine);
        if !impossible {
            prop_assert_eq!(a.outcome.mirrored(), b.outcome, "rules {} and {}", a.rule, b.rule);
        }
    }
}

#[test]
fn a_target_that_hears_of_nothing_is_found_again() {
    let target = set(0xC, 0, 0, 0);
    // Found by the history (rule 80); the source begins, is interrupted, crashes, is promoted alone.
    let mut source = set(0xF, 0xE, 0xB, 0xC);
    for generation in 0..5 {
        source.begin_as_source(0x1234);
        source.keep_target(target.current);
        source.clear_bitmap();
        source.begin(0x100 + 2 * generation, true);
        expect(source, target, Outcome::SourceFull, 80);
    }
    let mut source = set(0xF, 0xE, 0xC, 0xB);
    source.keep_target(0xE);
    source.keep_target(JUST_CREATED);
    assert_eq!(source, set(0xF, 0xE, 0xC, 0xB), "known, or nothing to know");
}
