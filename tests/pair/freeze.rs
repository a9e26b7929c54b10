//! Frozen I/O between real daemons: by command, and until the peer is fenced.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::common::nbd::NbdClient;
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

/// Writes one block beside the test; tells when it is answered.
fn write_beside(mut client: NbdClient, offset: u64) -> Receiver<std::io::Result<NbdClient>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let outcome = client.write(offset, &[0x77; 4096]);
        let _ = sender.send(outcome.map(|()| client));
    });
    receiver
}

fn wait_for_a_waiting_request(node: &Node) {
    node.wait("a request that waits", |status| status.held.requests > 0);
}

#[test]
fn suspended_io_waits_and_status_says_why() {
    let pair = Pair::in_sync(PairOptions::default());
    let client = pair.alice.nbd();
    pair.alice.succeed(&["suspend-io", RESOURCE]);
    let answer = write_beside(client, 8192);
    wait_for_a_waiting_request(&pair.alice);
    assert!(answer.try_recv().is_err(), "frozen");
    let text = pair.alice.succeed(&["status", RESOURCE]);
    assert!(text.contains("suspended:user"), "{text}");
    assert!(text.contains("frozen: by command") && text.contains("twinblk resume-io r0"), "{text}");
    pair.alice.succeed(&["resume-io", RESOURCE]);
    let mut client = answer.recv_timeout(Duration::from_secs(60)).expect("answer").expect("done");
    assert_eq!(client.read(8192, 4096).expect("a read"), vec![0x77; 4096]);
    drop(client);
    pair.alice.wait_idle();
    pair.bob.wait_idle();
    assert_eq!(pair.differing_blocks(), 0);
}

/// A Primary whose peer dies answers when the handler has spoken, and the peer that returns gets
/// what it missed.
#[test]
fn a_lost_peer_is_fenced_before_clients_are_answered() {
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str| -> PathBuf { folder.path().join(name) };
    let (spoken, undone) = (file("spoken"), file("undone"));
    let sections = format!(
        "handlers {{
            fence-peer \"until test -e {}; do sleep 0.05; done; exit 4\";
            unfence-peer \"touch {}\";
        }}",
        spoken.display(),
        undone.display()
    );
    let disk = "fencing resource-and-stonith;".to_owned();
    let mut pair = Pair::in_sync(PairOptions { sections, disk, ..PairOptions::default() });
    let mut client = pair.alice.nbd();
    client.write(0, &[1; 4096]).expect("a write");
    pair.bob.kill();
    pair.alice.wait("the freeze", |status| status.suspended_fencing);
    let answer = write_beside(client, 4096);
    wait_for_a_waiting_request(&pair.alice);
    let status = pair.alice.status();
    let frozen = status.frozen.expect("frozen");
    assert!(frozen.why.contains("fence-peer runs"), "{frozen:?}");
    assert_eq!(status.handlers_running, ["fence-peer"]);
    assert!(answer.try_recv().is_err(), "frozen");
    std::fs::write(&spoken, "").expect("file");
    let client = answer.recv_timeout(Duration::from_secs(60)).expect("answer").expect("done");
    let status = pair.alice.status();
    assert!(!status.is_suspended());
    assert_eq!(status.peer_disk.as_str(), "Outdated");
    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    pair.wait_in_sync();
    pair.alice.wait("unfence-peer", |_| undone.exists());
    drop(client);
    pair.alice.wait_idle();
    assert_eq!(pair.differing_blocks(), 0);

    // Who leaves gracefully is Outdated, and not promoted.
    pair.bob.succeed(&["disconnect", RESOURCE]);
    assert_eq!(pair.bob.status().disk.as_str(), "Outdated");
    let (code, text) = pair.bob.refused(&["primary", RESOURCE]);
    assert_eq!(code, 17, "{text}");
}
