//! Commands that say what data is worth, from the command line to the disks.

use crate::common::ledger::Ledger;
use crate::common::pair::{Pair, PairOptions, RESOURCE};

#[test]
fn invalidate_on_either_node_copies_everything() {
    let pair = Pair::in_sync(PairOptions::default());
    let mut ledger = Ledger::default();
    let mut client = pair.alice.nbd();
    for block in 10..40 {
        ledger.write(&mut client, block).expect("write");
    }
    drop(client);
    let blocks = pair.alice.status().size_bytes / 4096;
    for (node, other, verb) in
        [(&pair.bob, &pair.alice, "invalidate"), (&pair.bob, &pair.alice, "invalidate-remote")]
    {
        let moved = |status: &twinblk::control::ResourceStatus| status.counters.resync_blocks_moved;
        let before = moved(&other.status());
        assert_eq!(node.succeed(&[verb, RESOURCE]), "", "nothing to say");
        pair.wait_in_sync();
        assert!(moved(&other.status()) - before >= blocks, "{verb}: everything is copied");
        ledger.check(&mut pair.alice.nbd()).expect("all there");
        pair.alice.wait_without_clients();
        assert_eq!(pair.differing_blocks(), 0, "{verb}");
    }
}

#[test]
fn outdate_and_invalidate_of_a_resource_at_rest() {
    let pair = Pair::in_sync(PairOptions::default());
    let (code, text) = pair.bob.refused(&["outdate", RESOURCE]);
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("(-6) Refusing to be Outdated while Connected"), "{text}");
    pair.bob.succeed(&["down", RESOURCE]);
    pair.bob.succeed(&["outdate", RESOURCE]);
    assert_eq!(pair.bob.succeed(&["dstate", RESOURCE]).trim(), "Outdated");
    pair.bob.succeed(&["invalidate", RESOURCE]);
    assert_eq!(pair.bob.succeed(&["dstate", RESOURCE]).trim(), "Inconsistent");
    let (code, text) = pair.bob.refused(&["outdate", RESOURCE]);
    assert_eq!(code, 5, "{text}");
    pair.bob.succeed(&["up", RESOURCE]);
    pair.wait_in_sync();
}

#[test]
fn two_new_disks_are_declared_equal() {
    let pair = Pair::connected(PairOptions::default());
    pair.bob.succeed(&["new-current-uuid", "--clear-bitmap", RESOURCE]);
    pair.wait_in_sync();
    assert_eq!(pair.alice.status().counters.resync_blocks_moved, 0);
    let (code, text) = pair.bob.refused(&["new-current-uuid", RESOURCE]);
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("Failure: (151) Need to be StandAlone"), "{text}");
    pair.alice.succeed(&["primary", RESOURCE]);
    pair.bob.succeed(&["disconnect", RESOURCE]);
    let (code, text) = pair.alice.refused(&["invalidate", RESOURCE]);
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("(-15)"), "{text}");
}
