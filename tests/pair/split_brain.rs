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

/// Both wrote while apart; both refuse each other now.
fn parted(kept: &mut Ledger, discarded: &mut Ledger) -> Pair {
    let pair = Pair::in_sync(PairOptions::default());
    pair.alice.succeed(&["disconnect", RESOURCE]);
    pair.bob.wait("the loss", |status| status.peer_role.as_str() == "Unknown");
    let mut client = pair.alice.nbd();
    for block in 100..130 {
        kept.write(&mut client, block).expect("alice's write");
    }
    drop(client);
    pair.alice.wait_without_clients();
    pair.bob.succeed(&["primary", RESOURCE]);
    let mut client = pair.bob.nbd();
    for block in 120..160 {
        discarded.write(&mut client, block).expect("bob's write");
    }
    drop(client);
    pair.bob.wait_without_clients();
    pair
}

#[test]
fn a_split_brain_is_shown_and_resolved_by_one_verb() {
    let (mut kept, mut discarded) = (Ledger::default(), Ledger::default());
    let pair = parted(&mut kept, &mut discarded);
    let (code, text) = pair.bob.refused(&["resolve", "--discard-local", "--yes", RESOURCE]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no split brain was met so far"), "{text}");
    pair.alice.succeed(&["connect", RESOURCE]);
    for node in [&pair.alice, &pair.bob] {
        let status = node.wait("the split brain", |status| {
            status.connection.as_str() == "StandAlone" && status.split_brain.is_some()
        });
        let found = status.split_brain.expect("just seen");
        assert!(found.local_changed_bytes > 0 && found.peer_changed_bytes > 0, "{found:?}");
        assert_eq!(found.local_was_primary, node.name == "alice", "{found:?}");
        assert!(status.last_primary.from_s.is_some());
        let text = node.succeed(&["status", RESOURCE]);
        assert!(text.contains("split-brain: both nodes were written to"), "{text}");
        assert!(text.contains(&format!("{} changed:", node.name)), "{text}");
        assert!(text.contains("twinblk resolve r0 --discard-local"), "{text}");
        let json = node.succeed(&["status", "--json", RESOURCE]);
        assert!(json.contains("\"split-brain\": {"), "{json}");
    }

    // Not a terminal, and nobody said yes: nothing happens.
    let (code, text) = pair.bob.refused(&["resolve", "--discard-local", RESOURCE]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Operation cancelled"), "{text}");
    assert_eq!(pair.bob.status().role.as_str(), "Primary");
    let (code, text) = pair.bob.refused(&["resolve", "--keep", "carol", RESOURCE]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("alice") && text.contains("bob"), "{text}");

    // Each on its own node, in any order.
    let keep = std::thread::scope(|scope| {
        let keep =
            scope.spawn(|| pair.alice.succeed(&["resolve", "--keep", "alice", "--yes", RESOURCE]));
        let gave = pair.bob.succeed(&["resolve", "--discard-local", "--yes", RESOURCE]);
        assert!(gave.contains("What only bob wrote will be thrown away"), "{gave}");
        assert!(gave.contains("resolved:"), "{gave}");
        keep.join().expect("alice's side")
    });
    assert!(keep.contains("resolved:"), "{keep}");
    pair.wait_in_sync();
    kept.check(&mut pair.alice.nbd()).expect("alice's data");
    pair.alice.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
    assert!(pair.bob.status().split_brain.is_none());
}

#[test]
fn a_tentative_connect_tells_and_changes_nothing() {
    let (mut kept, mut discarded) = (Ledger::default(), Ledger::default());
    let pair = parted(&mut kept, &mut discarded);
    let identifiers = |node: &crate::common::pair::Node| node.status().generations.current;
    let before = [identifiers(&pair.alice), identifiers(&pair.bob)];
    let text = pair.alice.succeed(&["connect", "--tentative", RESOURCE]);
    assert!(text.contains("would be refused: Split-Brain detected"), "{text}");
    assert!(text.contains("alice changed:"), "{text}");
    assert_eq!(pair.alice.status().connection.as_str(), "StandAlone");
    pair.bob.wait("waiting again", |status| status.connection.as_str() == "WFConnection");
    assert_eq!([identifiers(&pair.alice), identifiers(&pair.bob)], before);
    let (code, text) = pair.bob.refused(&["connect", "--tentative", RESOURCE]);
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("(125)"), "{text}");
}
