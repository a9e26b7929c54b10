//! After an outage only what differs is moved, whoever was restarted in between.

use crate::common::ledger::Ledger;
use crate::common::pair::{Pair, PairOptions, RESOURCE};

/// Blocks written while the peer is away.
const WRITTEN: u64 = 40;

fn write_some(pair: &Pair, ledger: &mut Ledger) {
    let mut client = pair.alice.nbd();
    for block in 0..WRITTEN {
        ledger.write(&mut client, 5000 + block * 3).expect("a write without the peer");
    }
    client.flush().expect("flush");
    drop(client);
    pair.alice.wait_without_clients();
}

fn assert_only_those_moved(pair: &Pair, before: u64, allowance: u64) {
    pair.wait_in_sync();
    let moved = pair.bob.status().counters.resync_blocks_moved - before;
    assert!(moved >= WRITTEN, "{moved} blocks moved, {WRITTEN} differed");
    assert!(moved <= WRITTEN + allowance, "{moved} blocks moved, only {WRITTEN} differed");
    assert_eq!(pair.differing_blocks(), 0);
}

#[test]
fn a_disconnected_peer_gets_only_what_differs() {
    let pair = Pair::in_sync(PairOptions::default());
    let before = pair.bob.status().counters.resync_blocks_moved;
    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let mut ledger = Ledger::default();
    write_some(&pair, &mut ledger);
    assert_eq!(pair.alice.status().out_of_sync_bytes, WRITTEN * 4096);
    pair.bob.succeed(&["connect", RESOURCE]);
    assert_only_those_moved(&pair, before, 0);
    ledger.check(&mut pair.alice.nbd()).expect("every answered write");
}

#[test]
fn a_restarted_peer_gets_only_what_differs() {
    let mut pair = Pair::in_sync(PairOptions::default());
    pair.bob.terminate();
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let mut ledger = Ledger::default();
    write_some(&pair, &mut ledger);
    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    assert_only_those_moved(&pair, 0, 0);
}

/// The bitmap survives a clean restart of the node that holds it.
#[test]
fn a_restarted_source_still_knows_what_differs() {
    let mut pair = Pair::in_sync(PairOptions::default());
    let before = pair.bob.status().counters.resync_blocks_moved;
    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let mut ledger = Ledger::default();
    write_some(&pair, &mut ledger);
    pair.alice.succeed(&["secondary", RESOURCE]);
    pair.alice.terminate();
    pair.alice.start();
    pair.alice.succeed(&["up", RESOURCE]);
    pair.bob.succeed(&["connect", RESOURCE]);
    assert_only_those_moved(&pair, before, 0);
    pair.alice.succeed(&["primary", RESOURCE]);
    ledger.check(&mut pair.alice.nbd()).expect("every answered write");
}

/// After a crash of the node that holds the bitmap, the activity log says which extents may differ
/// beyond it: those that were being written, 4 MiB each, and no more.
#[test]
fn a_killed_source_moves_its_active_extents_at_most() {
    let mut pair = Pair::in_sync(PairOptions { size_bytes: 256 << 20, ..PairOptions::default() });
    let before = pair.bob.status().counters.resync_blocks_moved;
    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let mut ledger = Ledger::default();
    write_some(&pair, &mut ledger);
    pair.alice.kill();
    pair.alice.start();
    pair.alice.succeed(&["up", RESOURCE]);
    pair.bob.succeed(&["connect", RESOURCE]);
    // Blocks 5000..5120 lie in one extent; the first sync touched none.
    assert_only_those_moved(&pair, before, 2 * 1024);
    pair.alice.succeed(&["primary", RESOURCE]);
    ledger.check(&mut pair.alice.nbd()).expect("every answered write");
}
