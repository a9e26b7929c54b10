//! The backing disks grow while the device is in use.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::ledger::Ledger;
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

const SMALL: u64 = 64 << 20;
const LARGE: u64 = 200 << 20;
/// Of 64 and 200 MiB with internal metadata.
const SMALL_USABLE: u64 = SMALL - (40 << 10);
const LARGE_USABLE: u64 = LARGE - (44 << 10);

/// The disk becomes larger, and what is new holds something of its own.
fn grow(node: &Node, size: u64) {
    let disk = File::options().write(true).open(&node.disk).expect("disk");
    let old = disk.metadata().expect("a file").len();
    disk.set_len(size).expect("sparse file");
    for offset in (old..size).step_by(8 << 20) {
        disk.write_all_at(&[node.name.as_bytes()[0]; 4096], offset).expect("rubbish");
    }
}

fn wait_for_size(pair: &Pair, size: u64) {
    for node in [&pair.alice, &pair.bob] {
        node.wait("the new size", |status| status.size_bytes == size);
    }
    pair.wait_in_sync();
}

fn moved(node: &Node) -> u64 {
    node.status().counters.resync_blocks_moved
}

/// From either node, with either metadata, while clients write: what is new is resynced, and nothing
/// else; both disks are equal, also after a restart.
#[test]
fn the_device_grows_under_writes() {
    for (external_metadata, asked_of_bob) in [(false, false), (true, true), (false, true)] {
        let options =
            PairOptions { size_bytes: SMALL, external_metadata, ..PairOptions::default() };
        let mut pair = Pair::in_sync(options);
        let old = pair.alice.status().size_bytes;
        let (wanted, moved_before) = if external_metadata {
            (LARGE, moved(&pair.bob))
        } else {
            (LARGE_USABLE, moved(&pair.bob))
        };
        assert_eq!(old, if external_metadata { SMALL } else { SMALL_USABLE });
        let mut ledger = Ledger::default();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut client = pair.alice.nbd();
                let mut block = 0;
                while !stop.load(Ordering::Relaxed) {
                    block = (block + 997) % (old / 4096);
                    ledger.write(&mut client, block).expect("served while it grows");
                }
                client
            });
            grow(&pair.alice, LARGE);
            grow(&pair.bob, LARGE);
            let asked = if asked_of_bob { &pair.bob } else { &pair.alice };
            asked.succeed(&["resize", RESOURCE]);
            wait_for_size(&pair, wanted);
            stop.store(true, Ordering::Relaxed);
            let mut client = writer.join().expect("the writer");
            // Who was connected all the time may use what is new.
            client.write(wanted - 4096, &[7; 4096]).expect("the last block");
            client.flush().expect("flush");
        });
        let blocks = moved(&pair.bob) - moved_before;
        assert!(blocks >= 17, "the rubbish was replaced: {blocks}");
        assert!(blocks <= (wanted - old) / 4096, "{blocks} blocks moved");
        assert_eq!(pair.differing_blocks(), 0);
        let mut client = pair.alice.nbd();
        assert_eq!(client.size_bytes, wanted);
        ledger.check(&mut client).expect("every answered write");
        drop(client);

        pair.alice.wait_without_clients();
        pair.alice.kill();
        pair.bob.kill();
        for node in [&mut pair.alice, &mut pair.bob] {
            node.start();
            node.succeed(&["up", RESOURCE]);
        }
        wait_for_size(&pair, wanted);
        pair.alice.succeed(&["primary", RESOURCE]);
        ledger.check(&mut pair.alice.nbd()).expect("every answered write");
        assert_eq!(pair.differing_blocks(), 0);
    }
}

/// What grew while nobody used it is used as before, until somebody says so.
#[test]
fn disks_that_grew_at_rest_keep_their_metadata() {
    let mut pair = Pair::in_sync(PairOptions { size_bytes: SMALL, ..PairOptions::default() });
    pair.bob.succeed(&["down", RESOURCE]);
    grow(&pair.bob, LARGE);
    let dump = pair.bob.succeed(&["dump-md", "--force", RESOURCE]);
    assert!(dump.contains(&format!("la-size-sect {};", SMALL_USABLE / 512)), "{dump}");
    pair.bob.kill();
    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    wait_for_size(&pair, SMALL_USABLE);
    assert_eq!(moved(&pair.bob), 0, "its generation and its bitmap were found");
    assert!(pair.bob.log().contains("until `twinblk resize"), "{}", pair.bob.log());

    // One disk alone is not enough.
    let (code, text) = pair.bob.refused(&["resize", RESOURCE]);
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("(111) Low.dev. smaller than requested DRBD-dev. size."), "{text}");
    assert!(text.contains("grow the peer's backing disk too"), "{text}");
    wait_for_size(&pair, SMALL_USABLE);
    grow(&pair.alice, LARGE);
    pair.alice.succeed(&["resize", RESOURCE]);
    wait_for_size(&pair, LARGE_USABLE);
    assert_eq!(pair.differing_blocks(), 0);
    pair.alice.succeed(&["resize", RESOURCE]);
    assert_eq!(pair.alice.status().size_bytes, LARGE_USABLE, "nothing left to do");
}

#[test]
fn the_operator_chooses_size_and_resync() {
    let pair = Pair::in_sync(PairOptions { size_bytes: SMALL, ..PairOptions::default() });
    let before = moved(&pair.bob);
    for node in [&pair.alice, &pair.bob] {
        File::options().write(true).open(&node.disk).expect("disk").set_len(LARGE).expect("zeroes");
    }
    pair.alice.succeed(&["resize", "--size", "100M", "--assume-clean", RESOURCE]);
    wait_for_size(&pair, 100 << 20);
    assert_eq!(moved(&pair.bob), before, "declared equal");
    let output = pair.alice.run_as("drbdadm", &["resize", "r0", "--", "--size=120M"]);
    assert!(output.status.success(), "{output:?}");
    wait_for_size(&pair, 120 << 20);
    assert_eq!(moved(&pair.bob) - before, (20 << 20) / 4096);
    let (_, text) = pair.alice.refused(&["resize", "--size", "1G", RESOURCE]);
    assert!(text.contains("(111) Low.dev. smaller"), "{text}");
    pair.bob.succeed(&["resize", "--size", "110M", RESOURCE]);
    wait_for_size(&pair, 110 << 20);
    pair.alice.succeed(&["resize", RESOURCE]);
    wait_for_size(&pair, LARGE_USABLE);
    assert_eq!(pair.differing_blocks(), 0);
}

#[test]
fn what_does_not_make_sense_is_refused() {
    let pair = Pair::in_sync(PairOptions {
        size_bytes: SMALL,
        external_metadata: true,
        ..PairOptions::default()
    });
    pair.alice.succeed(&["secondary", RESOURCE]);
    let (code, text) = pair.alice.refused(&["resize", RESOURCE]);
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("r0: Failure: (131) Need one Primary node to resize."), "{text}");
    pair.alice.succeed(&["primary", RESOURCE]);
    // 4 MiB of metadata have room for 127 GiB and a bit.
    for node in [&pair.alice, &pair.bob] {
        File::options()
            .write(true)
            .open(&node.disk)
            .expect("disk")
            .set_len(1 << 38)
            .expect("holes");
    }
    let (_, text) = pair.alice.refused(&["resize", RESOURCE]);
    let needed = 4096 + 32768 + (1u64 << 38) / (128 << 20) * 4096;
    assert!(text.contains(&format!("expected at least {needed}")), "{text}");
    pair.alice.succeed(&["resize", "--size", "80M", RESOURCE]);
    wait_for_size(&pair, 80 << 20);

    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let (_, text) = pair.alice.refused(&["resize", "--size", "90M", RESOURCE]);
    assert!(text.contains("--assume-peer-has-space"), "{text}");
    pair.alice.succeed(&["resize", "--size", "90M", "--assume-peer-has-space", RESOURCE]);
    assert_eq!(pair.alice.status().size_bytes, 90 << 20);
    pair.bob.succeed(&["resize", "--size", "90M", "--assume-peer-has-space", RESOURCE]);
    pair.bob.succeed(&["connect", RESOURCE]);
    wait_for_size(&pair, 90 << 20);
    assert_eq!(pair.differing_blocks(), 0);
}

/// Killed at any moment, on either side: what was answered is there, both open again, and the next
/// attempt succeeds.
#[test]
fn a_kill_while_it_grows_loses_nothing() {
    for (round, pause_ms) in [0, 2, 5, 9, 14, 30].into_iter().enumerate() {
        let mut pair = Pair::in_sync(PairOptions { size_bytes: SMALL, ..PairOptions::default() });
        let mut ledger = Ledger::default();
        let mut client = pair.alice.nbd();
        for block in 0..50 {
            ledger.write(&mut client, block * 300).expect("a write");
        }
        drop(client);
        grow(&pair.alice, LARGE);
        grow(&pair.bob, LARGE);
        let asked = if round % 3 == 2 { &pair.bob } else { &pair.alice };
        let mut resize = asked.command(&["resize", RESOURCE]).spawn().expect("the program");
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        let victim = if round % 2 == 0 { &mut pair.alice } else { &mut pair.bob };
        victim.kill();
        resize.wait().expect("our child");
        victim.start();
        victim.succeed(&["up", RESOURCE]);
        pair.wait_in_sync();
        pair.alice.succeed(&["primary", RESOURCE]);
        pair.alice.succeed(&["resize", RESOURCE]);
        wait_for_size(&pair, LARGE_USABLE);
        ledger.check(&mut pair.alice.nbd()).expect("every answered write");
        assert_eq!(pair.differing_blocks(), 0);
    }
}
