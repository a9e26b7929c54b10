//! A changed configuration counts without taking the resource down, as far as it can.

use crate::common::pair::{Pair, PairOptions, RESOURCE};

#[test]
fn what_nobody_else_has_to_know_counts_at_once() {
    let pair = Pair::in_sync(PairOptions::default());
    let generation = pair.alice.status().generations.current;
    let mut client = pair.alice.nbd();
    pair.alice.succeed(&["adjust", RESOURCE]);
    pair.rewrite_config(|text| {
        text.replace("disk {", "disk { resync-rate 33M; on-io-error pass_on;")
    });
    assert_eq!(pair.alice.succeed(&["adjust", RESOURCE]), "", "nothing to say");
    let status = pair.alice.status();
    assert_eq!(status.connection.as_str(), "Connected", "not touched");
    assert_eq!(status.generations.current, generation, "the peer was there all the time");
    client.write(0, &[3; 4096]).expect("served as before");

    // What the disk was attached with stays: all or nothing.
    pair.rewrite_config(|text| {
        text.replace("disk {", "disk { al-extents 257; on-io-error detach;")
    });
    let (code, text) = pair.alice.refused(&["adjust", RESOURCE]);
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("al-extents cannot be changed while the resource is up"), "{text}");
    assert!(text.contains("twinblk down r0, then: twinblk up r0"), "{text}");
}

#[test]
fn what_both_nodes_agree_on_counts_with_a_new_connection() {
    let pair = Pair::in_sync(PairOptions::default());
    pair.rewrite_config(|text| text.replace("protocol C", "protocol A"));
    // The first finds the other with protocol C still, and both give up.
    pair.alice.succeed(&["adjust", RESOURCE]);
    pair.alice.wait("giving up", |status| status.connection.as_str() == "StandAlone");
    assert_eq!(pair.alice.status().protocol, "A");
    pair.bob.wait("giving up", |status| status.connection.as_str() == "StandAlone");
    pair.bob.succeed(&["adjust", RESOURCE]);
    pair.alice.succeed(&["adjust", RESOURCE]);
    pair.wait_in_sync();
    assert_eq!(pair.bob.status().protocol, "A");

    // A resource that is down comes up.
    pair.bob.succeed(&["down", RESOURCE]);
    pair.bob.succeed(&["adjust", RESOURCE]);
    pair.wait_in_sync();
}
