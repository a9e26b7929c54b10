//! `pause-sync`, and the order of resyncs on one node (`resync-after`).

use std::time::{Duration, Instant};

use twinblk::control::{Client, ResourceStatus};

use crate::common::ledger::Ledger;
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

const SECOND: &str = "r1";

/// A second resource on the same two nodes, which is to be resynced after the first.
fn with_second_resource(pair: &Pair) {
    let disk = |node: &Node| node.disk.with_file_name(format!("{}-second.img", node.name));
    for node in [&pair.alice, &pair.bob] {
        let file = std::fs::File::create(disk(node)).expect("disk");
        file.set_len(64 << 20).expect("sparse file");
    }
    let host = |node: &Node| {
        format!(
            "    on {} {{ device /dev/drbd1; disk {}; meta-disk internal; address {}:7789; }}\n",
            node.name,
            disk(node).display(),
            node.address
        )
    };
    let second = format!(
        "resource {SECOND} {{\n    disk {{ resync-after {RESOURCE}; }}\n{}{}}}\n",
        host(&pair.alice),
        host(&pair.bob)
    );
    pair.rewrite_config(|first| first + &second);
    for node in [&pair.alice, &pair.bob] {
        node.succeed(&["create-md", "--force", SECOND]);
        node.succeed(&["up", SECOND]);
    }
    for node in [&pair.alice, &pair.bob] {
        node.succeed(&["wait-connect", SECOND]);
    }
}

fn status_of(node: &Node, resource: &str) -> ResourceStatus {
    let mut client = Client::connect(&node.run_dir).expect("a daemon");
    let mut found = client.status(Some(resource)).expect("an answer").expect("is up");
    found.pop().expect("one resource")
}

fn wait_for(node: &Node, resource: &str, what: &str, reached: impl Fn(&ResourceStatus) -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let status = status_of(node, resource);
        if reached(&status) {
            return;
        }
        assert!(Instant::now() < limit, "{}: {resource}: never {what}: {status:?}", node.name);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_resource_waits_until_the_one_before_it_is_in_sync() {
    let pair = Pair::connected(PairOptions::default());
    with_second_resource(&pair);
    pair.alice.succeed(&["pause-sync", RESOURCE]);
    pair.alice.succeed(&["primary", "--force", RESOURCE]);
    pair.alice.wait("the first is held on", |status| status.connection.as_str() == "PausedSyncS");
    pair.alice.succeed(&["primary", "--force", SECOND]);
    for node in [&pair.alice, &pair.bob] {
        wait_for(node, SECOND, "the second waits", |status| {
            status.connection.as_str().starts_with("PausedSync") && status.paused_dependency
        });
    }
    assert_eq!(status_of(&pair.bob, SECOND).counters.resync_blocks_moved, 0);
    let again = pair.alice.run(&["pause-sync", RESOURCE]);
    assert_eq!(again.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&again.stderr).contains("(134)"));
    pair.alice.succeed(&["resume-sync", RESOURCE]);
    for resource in [RESOURCE, SECOND] {
        for node in [&pair.alice, &pair.bob] {
            wait_for(node, resource, "in sync", |status| {
                status.connection.as_str() == "Connected"
                    && status.disk.as_str() == "UpToDate"
                    && !status.paused_dependency
            });
        }
    }
}

/// A resync that is paused on one node is shown, and goes on where it was.
#[test]
fn a_checksum_resync_is_paused_and_resumed() {
    let net = "csums-alg sha1;".to_owned();
    let pair = Pair::in_sync(PairOptions { net, ..PairOptions::default() });
    let before = pair.bob.status().counters.resync_blocks_moved;
    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let mut ledger = Ledger::default();
    let mut client = pair.alice.nbd();
    for block in 0..100 {
        ledger.write(&mut client, block * 50).expect("a write without the peer");
    }
    client.flush().expect("flush");
    drop(client);
    pair.bob.succeed(&["pause-sync", RESOURCE]);
    pair.bob.succeed(&["connect", RESOURCE]);
    pair.alice.wait("held on by the peer", |status| {
        status.connection.as_str() == "PausedSyncS" && status.paused_peer
    });
    assert_eq!(pair.bob.status().counters.resync_blocks_moved, before);
    pair.bob.succeed(&["resume-sync", RESOURCE]);
    pair.wait_in_sync();
    assert_eq!(pair.bob.status().counters.resync_blocks_moved, before + 100);
    assert_eq!(pair.differing_blocks(), 0);
    ledger.check(&mut pair.alice.nbd()).expect("every answered write");
}
