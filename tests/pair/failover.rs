//! The main job: the primary dies, the other goes on with every answered byte, the dead returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::common::ledger::{BLOCK_BYTES, Ledger, Random};
use crate::common::nbd::NbdClient;
use crate::common::pair::{Pair, PairOptions, RESOURCE};

/// Writes in the background until the server goes away or it is told to stop.
struct Storm {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<Ledger>,
}

impl Storm {
    fn start(mut client: NbdClient, mut ledger: Ledger, depth: usize, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, answers) = (stop.clone(), answers.clone());
            std::thread::spawn(move || {
                let blocks = client.size_bytes / BLOCK_BYTES as u64;
                // Fails when the server dies, which is what most callers want.
                let _ =
                    ledger.storm(&mut client, blocks, depth, &mut Random(seed), &stop, &answers);
                ledger
            })
        };
        Self { stop, answers, thread }
    }

    fn wait_for_answers(&self, wanted: u64) {
        while self.answers.load(Ordering::Relaxed) < wanted {
            assert!(!self.thread.is_finished(), "the server went away early");
            std::thread::yield_now();
        }
    }

    fn end(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer")
    }
}

/// SIGKILL of the primary in the middle of the writing: nothing that was answered is lost, and
/// both disks are equal again in the end.
#[test]
fn killing_the_primary_loses_nothing_answered() {
    let mut pair = Pair::in_sync(PairOptions::default());
    let mut ledger = Ledger::default();
    for round in 0..3 {
        let storm = Storm::start(pair.alice.nbd(), ledger, 16, 0x1234_5678 + round);
        storm.wait_for_answers(300 + 211 * round);
        pair.alice.kill();
        ledger = storm.end();
        assert!(ledger.answered_blocks() > 100, "something was written");

        pair.bob.wait("the loss", |status| status.connection.as_str() != "Connected");
        pair.bob.succeed(&["primary", RESOURCE]);
        let mut client = pair.bob.nbd();
        ledger.check(&mut client).expect("every answered write");
        ledger.adopt(&mut client);
        for block in 0..50 {
            ledger.write(&mut client, block * 7).expect("a write on the survivor");
        }

        pair.alice.start();
        pair.alice.succeed(&["up", RESOURCE]);
        pair.wait_in_sync();
        ledger.check(&mut client).expect("every answered write, after the resync");
        drop(client);
        pair.bob.wait_idle();
        pair.alice.wait_idle();
        assert_eq!(pair.differing_blocks(), 0);

        pair.bob.succeed(&["secondary", RESOURCE]);
        pair.alice.succeed(&["primary", RESOURCE]);
        let mut client = pair.alice.nbd();
        ledger.check(&mut client).expect("every answered write, on the node that had died");
    }
}

/// SIGKILL of the secondary: the primary goes on without an error, and what it wrote meanwhile
/// reaches the other when it is back.
#[test]
fn killing_the_secondary_disturbs_nobody() {
    let mut pair = Pair::in_sync(PairOptions::default());
    let storm = Storm::start(pair.alice.nbd(), Ledger::default(), 16, 99);
    storm.wait_for_answers(300);
    pair.bob.kill();
    let seen = storm.answers.load(Ordering::Relaxed);
    storm.wait_for_answers(seen + 300);
    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    pair.bob.succeed(&["wait-connect", RESOURCE]);
    let seen = storm.answers.load(Ordering::Relaxed);
    storm.wait_for_answers(seen + 300);
    assert!(!storm.thread.is_finished(), "no write failed");
    let ledger = storm.end();
    pair.wait_in_sync();
    ledger.check(&mut pair.alice.nbd()).expect("every answered write");
    pair.alice.wait_idle();
    pair.bob.wait_idle();
    assert_eq!(pair.differing_blocks(), 0);
}

/// SIGTERM of a primary with a client: the client is told, the resource goes down cleanly, and the
/// other takes over.
#[test]
fn a_terminated_primary_says_goodbye() {
    let mut pair = Pair::in_sync(PairOptions::default());
    let mut client = pair.alice.nbd();
    let mut ledger = Ledger::default();
    for block in 0..20 {
        ledger.write(&mut client, block).expect("a write");
    }
    pair.alice.terminate();
    assert!(client.read(0, 4096).is_err(), "the old connection is of no use");
    pair.bob.wait("the peer to leave", |status| status.peer_role.as_str() == "Unknown");
    pair.bob.succeed(&["primary", RESOURCE]);
    ledger.check(&mut pair.bob.nbd()).expect("every answered write");
}
