//! Online verify between two daemons: real bytes, real digests, real disks.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::common::ledger::Ledger;
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

/// Blocks changed behind the daemons' backs, neighbours among them.
const PLANTED: [u64; 5] = [3, 700, 701, 5000, 9999];

/// Goes through the page cache: the daemons' disks are files, and their reads see it.
fn plant(node: &Node) {
    let disk = File::options().write(true).open(&node.disk).expect("disk");
    for block in PLANTED {
        disk.write_all_at(&[0xEE; 4096], block * 4096).expect("written");
    }
    disk.sync_all().expect("on disk");
}

fn wait_verified(node: &Node) -> u64 {
    let status = node.wait("the end of the verify", |status| {
        status.connection.as_str() == "Connected" && status.verified.is_some()
    });
    let verified = status.verified.expect("just seen");
    assert!(verified.complete, "{verified:?}");
    verified.found_bytes / 4096
}

#[test]
fn equal_disks_have_no_differences_while_a_client_writes() {
    for algorithm in ["", "verify-alg md5;", "verify-alg sha256;", "verify-alg crc32c;"] {
        let pair =
            Pair::in_sync(PairOptions { net: algorithm.to_owned(), ..PairOptions::default() });
        let mut ledger = Ledger::default();
        let mut client = pair.alice.nbd();
        pair.bob.succeed(&["verify", RESOURCE]);
        for block in 0..500 {
            ledger.write(&mut client, block * 31).expect("a write");
        }
        assert_eq!(wait_verified(&pair.bob), 0, "{algorithm}");
        assert_eq!(wait_verified(&pair.alice), 0, "{algorithm}");
        drop(client);
        pair.alice.wait_idle();
        assert_eq!(pair.differing_blocks(), 0);
    }
}

#[test]
fn differences_are_found_and_mended_by_reconnecting() {
    let pair = Pair::in_sync(PairOptions::default());
    plant(&pair.bob);
    let before = pair.bob.status().counters.resync_blocks_moved;
    pair.alice.succeed(&["verify", RESOURCE]);
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(wait_verified(node), PLANTED.len() as u64);
        let status = node.status();
        assert_eq!(status.out_of_sync_bytes, PLANTED.len() as u64 * 4096);
        assert!(status.hint.contains("verify --repair"), "{}", status.hint);
    }
    assert_eq!(pair.differing_blocks(), PLANTED.len() as u64, "nothing is mended unasked");
    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.bob.succeed(&["connect", RESOURCE]);
    pair.bob.wait("mended", |status| status.out_of_sync_bytes == 0);
    pair.wait_in_sync();
    let moved = pair.bob.status().counters.resync_blocks_moved - before;
    assert_eq!(moved, PLANTED.len() as u64);
    assert_eq!(pair.differing_blocks(), 0);
}

#[test]
fn repair_mends_exactly_what_differs_from_the_side_that_is_named() {
    let pair = Pair::in_sync(PairOptions::default());
    plant(&pair.bob);
    pair.bob.succeed(&["verify", "--repair", RESOURCE]);
    pair.bob.wait("mended", |status| {
        status.verified.is_some() && status.counters.oos == 0 && status.disk.as_str() == "UpToDate"
    });
    pair.wait_in_sync();
    assert_eq!(pair.differing_blocks(), 0);
    let moved = |node: &Node| node.status().counters.resync_blocks_moved;
    let (first, full) = (moved(&pair.alice), pair.alice.status().size_bytes / 4096);
    assert_eq!(first, full + PLANTED.len() as u64);

    // Without a Primary somebody must say whose data is right; here it is bob's.
    pair.alice.succeed(&["secondary", RESOURCE]);
    plant(&pair.alice);
    let refused = pair.alice.run(&["verify", "--repair", RESOURCE]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{text}");
    assert!(text.contains("--from"), "{text}");
    let unknown = pair.alice.run(&["verify", "--repair", "--from", "carol", RESOURCE]);
    assert_eq!(unknown.status.code(), Some(1));
    pair.alice.succeed(&["verify", "--repair", "--from", "bob", RESOURCE]);
    pair.alice.wait("mended", |status| moved_by(status, first) == PLANTED.len() as u64);
    pair.wait_in_sync();
    assert_eq!(pair.differing_blocks(), 0);
    let block = File::open(&pair.alice.disk).expect("disk");
    let mut bytes = [1; 4096];
    block.read_exact_at(&mut bytes, PLANTED[0] * 4096).expect("read");
    assert_eq!(bytes, [0; 4096], "bob's data, not alice's");
}

fn moved_by(status: &twinblk::control::ResourceStatus, before: u64) -> u64 {
    status.counters.resync_blocks_moved - before
}
