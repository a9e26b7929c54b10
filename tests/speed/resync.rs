//! How fast a resync is, and what the application feels of it: ratios of one run.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::common::device::{copy_over_tcp, fill};
use crate::common::nbd::NbdClient;
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

const SIZE_BYTES: u64 = 256 << 20;
/// Of each; the best counts, since a machine that runs tests does other things too.
const ROUNDS: usize = 5;
/// More, on a machine whose noise is larger than what is measured: the same binary gave 0.72 to 0.98.
const ROUNDS_MAX: usize = 15;
/// Asked of a resync beside a plain copy.
const RATIO: f64 = 0.8;
/// Writes whose latency is looked at, in each round and each way.
const WRITES: usize = 1500;

/// One measurement at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_in_sync(node: &Node) -> bool {
    let status = node.status();
    status.connection.as_str() == "Connected"
        && status.disk.as_str() == "UpToDate"
        && status.peer_disk.as_str() == "UpToDate"
}

/// A full resync of an idle pair, in its default settings, reaches 0.8 of a plain copy of the same
/// disk over TCP.
#[test]
fn a_resync_is_nearly_a_copy() {
    let _alone = alone();
    let mut pair = Pair::prepare(PairOptions { size_bytes: SIZE_BYTES, ..PairOptions::default() });
    let copy = pair.alice.disk.with_file_name("copy.img");
    // Both are written once before: new blocks of a file cost its file system more.
    for path in [&pair.alice.disk, &pair.bob.disk, &copy] {
        std::fs::File::create(path).and_then(|file| file.set_len(SIZE_BYTES)).expect("a file");
        fill(path);
    }
    let mut best = [Duration::MAX; 2];
    for round in 1..=ROUNDS_MAX {
        let begun = Instant::now();
        copy_over_tcp(&pair.alice.disk, &copy);
        best[0] = best[0].min(begun.elapsed());

        for node in [&pair.alice, &pair.bob] {
            node.succeed(&["create-md", "--force", RESOURCE]);
            node.succeed(&["up", RESOURCE]);
        }
        pair.alice.succeed(&["wait-connect", RESOURCE]);
        pair.bob.succeed(&["wait-connect", RESOURCE]);
        let begun = Instant::now();
        pair.alice.succeed(&["primary", "--force", RESOURCE]);
        for node in [&pair.alice, &pair.bob] {
            node.succeed(&["wait-sync", RESOURCE]);
        }
        best[1] = best[1].min(begun.elapsed());
        assert!(is_in_sync(&pair.alice));
        for node in [&pair.alice, &pair.bob] {
            node.succeed(&["down", RESOURCE]);
        }
        let [copied, resynced] = best.map(|took| took.as_secs_f64());
        if round >= ROUNDS && copied / resynced >= RATIO {
            break;
        }
    }
    pair.alice.terminate();
    pair.bob.terminate();
    let [copied, resynced] = best.map(|took| took.as_secs_f64());
    println!("copy {copied:.3} s, resync {resynced:.3} s, ratio {:.2}", copied / resynced);
    assert!(copied / resynced >= RATIO, "copy {copied:.3} s, resync {resynced:.3} s");
}

/// Latency that 99 of 100 of these writes stay below, in microseconds.
fn p99_us(client: &mut NbdClient, mut goes_on: impl FnMut() -> bool) -> (u128, usize) {
    let mut latencies = Vec::new();
    let mut place = 7_u64;
    while latencies.len() < WRITES && goes_on() {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = (place >> 20) % (SIZE_BYTES / 4096 - 64) * 4096;
        let begun = Instant::now();
        client.write(offset, &[0x77; 4096]).expect("a write");
        latencies.push(begun.elapsed().as_micros());
    }
    latencies.sort_unstable();
    (latencies[latencies.len() * 99 / 100], latencies.len())
}

/// While a resync runs, writes of the application take less than twice as long as without.
#[test]
fn the_application_hardly_feels_a_resync() {
    let _alone = alone();
    let mut pair = Pair::in_sync(PairOptions { size_bytes: SIZE_BYTES, ..PairOptions::default() });
    let mut client = pair.alice.nbd();
    let mut content = vec![0x33_u8; 1 << 20];
    for offset in (0..client.size_bytes - (1 << 20)).step_by(1 << 20) {
        content[0] = content[0].wrapping_add(1);
        client.write(offset, &content).expect("a write");
    }
    p99_us(&mut client, || true);
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (without, _) = p99_us(&mut client, || true);
        let before = pair.bob.status().counters.resync_blocks_moved;
        pair.bob.succeed(&["invalidate", RESOURCE]);
        let mut looks = 0_u32;
        let (with, writes) = p99_us(&mut client, || {
            looks += 1;
            // A look costs the daemon time too.
            !looks.is_multiple_of(100) || !is_in_sync(&pair.bob)
        });
        let moved = pair.bob.status().counters.resync_blocks_moved - before;
        println!("p99 {without} us without, {with} us with, {writes} writes, {moved} blocks moved");
        assert!(writes >= WRITES / 5, "the resync was over after {writes} writes");
        assert!(moved >= 1000, "it does go on: {moved} blocks in the time of {writes} writes");
        ratios.push(with as f64 / without as f64);
        pair.alice.succeed(&["wait-sync", RESOURCE]);
        pair.bob.succeed(&["wait-sync", RESOURCE]);
    }
    drop(client);
    pair.alice.wait_without_clients();
    pair.alice.terminate();
    pair.bob.terminate();
    let best = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    println!("p99 with a resync is {best:.2} of p99 without");
    assert!(best < 2.0, "{ratios:?}");
}
