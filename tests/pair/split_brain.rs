//! Both nodes were Primary without each other: never merged silently, mended by command.

use crate::common::ledger::Ledger;
use crate::common::pair::{Pair, PairOptions, RESOURCE};

#[test]
fn split_brain_is_detected_and_mended_by_command() {
    let pair = Pair::in_sync(PairOptions::default());
    pair.alice.succeed(&["disconnect", RESOURCE]);
    pair.bob.wait("the loss", |status| status.peer_role.as_str() == "Unknown");
    let mut kept = Ledger::default();
    let mut discarded = Ledger::default();
    let mut client = pair.alice.nbd();
    for block in 100..130 {
        kept.write(&mut client, block).expect("alice's write");
    }
    drop(client);
    pair.bob.succeed(&["primary", RESOURCE]);
    let mut client = pair.bob.nbd();
    for block in 120..160 {
        discarded.write(&mut client, block).expect("bob's write");
    }
    drop(client);
    pair.bob.wait_without_clients();

    // Neither side gives in.
    pair.alice.succeed(&["connect", RESOURCE]);
    for node in [&pair.alice, &pair.bob] {
        let status = node.wait("standing alone", |status| {
            status.connection.as_str() == "StandAlone"
                && status.reason.to_lowercase().contains("split")
        });
        assert!(status.hint.contains("discard-my-data"), "what to do: {}", status.hint);
    }
    kept.check(&mut pair.alice.nbd()).expect("alice's data");
    pair.alice.wait_without_clients();

    // Bob is told to give his changes up.
    pair.bob.succeed(&["secondary", RESOURCE]);
    pair.bob.succeed(&["connect", "--discard-my-data", RESOURCE]);
    pair.alice.succeed(&["connect", RESOURCE]);
    pair.wait_in_sync();
    kept.check(&mut pair.alice.nbd()).expect("alice's data");
    pair.alice.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
}
