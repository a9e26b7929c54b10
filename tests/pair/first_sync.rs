//! From two empty disks to two equal ones.

use crate::common::nbd::NbdClient;
use crate::common::pair::{Pair, PairOptions, RESOURCE};

fn exercise(client: &mut NbdClient) {
    let size = client.size_bytes;
    client.write(0, &[0x11; 4096]).expect("first block");
    client.write(size - 512, &[0x22; 512]).expect("last sector");
    client.write_durably(4096 * 2000 + 512, &[0x33; 1536]).expect("sectors, durably");
    client.write(1 << 20, &vec![0x44; 3 << 20]).expect("more than one engine request");
    client.write_zeroes((1 << 20) + 8192, 65536).expect("zeroes");
    client.trim(2 << 20, 131_072).expect("trim");
    client.flush().expect("flush");
    assert_eq!(client.read(0, 4096).expect("read"), [0x11; 4096]);
    assert_eq!(client.read(size - 512, 512).expect("read"), [0x22; 512]);
    assert_eq!(client.read(4096 * 2000 + 512, 1536).expect("read"), [0x33; 1536]);
    let mut large = vec![0x44; 3 << 20];
    large[8192..8192 + 65536].fill(0);
    large[1 << 20..(1 << 20) + 131_072].fill(0);
    assert!(client.read(1 << 20, 3 << 20).expect("large read") == large, "pieces in their places");
}

/// The whole device is copied once, then every write goes to both, under each protocol.
fn first_sync_and_writes(options: PairOptions) {
    let mut pair = Pair::connected(options);
    let before = pair.alice.status();
    assert_eq!((before.disk.as_str(), before.peer_disk.as_str()), ("Inconsistent", "Inconsistent"));
    pair.alice.succeed(&["primary", "--force", RESOURCE]);
    // Writing goes on while the first copy runs.
    let mut client = pair.alice.nbd();
    assert_eq!(client.size_bytes, pair.alice.status().size_bytes);
    exercise(&mut client);
    pair.alice.succeed(&["wait-sync", RESOURCE]);
    pair.wait_in_sync();
    exercise(&mut client);
    drop(client);
    pair.alice.wait_without_clients();
    // Under A and B the peer may lag: a demotion waits for it.
    pair.alice.succeed(&["secondary", RESOURCE]);
    pair.bob.succeed(&["primary", RESOURCE]);
    let mut client = pair.bob.nbd();
    assert_eq!(client.read(0, 4096).expect("read"), [0x11; 4096]);
    drop(client);
    pair.bob.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
    for node in [&pair.alice, &pair.bob] {
        node.wait_idle();
        let status = node.status();
        assert_eq!(status.out_of_sync_bytes, 0);
        assert_eq!(status.generations.bitmap, 0, "nothing remembered for the peer");
        assert!(status.generations.consistent && status.generations.was_up_to_date);
        assert!(status.counters.dw > 0 && status.counters.al + status.counters.nr > 0);
    }
    // The lowest bit says Primary.
    let [alice, bob] = [&pair.alice, &pair.bob].map(|node| node.status().generations.current & !1);
    assert_eq!(alice, bob, "one generation of data");
    pair.alice.terminate();
    pair.bob.terminate();
}

#[test]
fn first_sync_under_c() {
    first_sync_and_writes(PairOptions::default());
}

#[test]
fn first_sync_under_b_with_external_metadata() {
    first_sync_and_writes(PairOptions {
        protocol: 'B',
        external_metadata: true,
        ..PairOptions::default()
    });
}

#[test]
fn first_sync_under_a_with_secret_and_digests() {
    first_sync_and_writes(PairOptions {
        protocol: 'A',
        net: "cram-hmac-alg sha256; shared-secret \"not told\"; data-integrity-alg crc32c;"
            .to_owned(),
        ..PairOptions::default()
    });
}
