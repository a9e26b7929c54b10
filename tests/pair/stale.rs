//! A request that a client repeats on its next connection is never undone by the first copy
//! (docs/nbd-clients.md).

use crate::common::nbd::{NbdClient, WRITE};
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

/// As many as a connection may have open: what comes behind stays in the socket.
const OPEN_MAX: u64 = 128;
/// Where the copies go.
const PLACE: (u64, u32) = (40 << 20, 4096);

fn send_writes(client: &mut NbdClient, count: u64) {
    for block in 0..count {
        client.send(WRITE, 0, (block * 4096, 4096), &[1; 4096]).expect("sent");
    }
}

fn held(node: &Node, requests: u64) {
    node.wait("requests that wait", |status| status.held.requests == requests);
}

#[test]
fn what_a_lost_connection_left_behind_does_not_undo_what_came_after() {
    let pair = Pair::in_sync(PairOptions { size_bytes: 48 << 20, ..PairOptions::default() });
    let mut old = pair.alice.nbd();
    pair.alice.succeed(&["suspend-io", RESOURCE]);
    send_writes(&mut old, OPEN_MAX);
    held(&pair.alice, OPEN_MAX);
    // Not read before there is room; then they would come late.
    for _ in 0..8 {
        old.send(WRITE, 0, PLACE, &[1; 4096]).expect("sent");
    }
    drop(old);
    // The client is back, repeats and goes on.
    let mut new = pair.alice.nbd();
    let first = new.send(WRITE, 0, PLACE, &[1; 4096]).expect("sent");
    let second = new.send(WRITE, 0, PLACE, &[2; 4096]).expect("sent");
    pair.alice.succeed(&["resume-io", RESOURCE]);
    let answers = [new.receive().expect("an answer"), new.receive().expect("an answer")];
    let mut handles = answers.each_ref().map(|answer| (answer.handle, answer.error));
    handles.sort_unstable();
    assert_eq!(handles, [(first, 0), (second, 0)]);
    assert!(new.read(PLACE.0, PLACE.1).expect("read") == [2; 4096]);
    pair.alice.wait("the old connection's end", |status| status.nbd.clients.len() == 1);
    assert!(new.read(PLACE.0, PLACE.1).expect("read") == [2; 4096], "no copy came late");
    drop(new);
    pair.alice.wait_idle();
    pair.bob.wait_idle();
    assert_eq!(pair.differing_blocks(), 0);
}

/// The role goes while requests wait: none of them is carried out here any more, none gets an error,
/// and the other node is told nothing of them.
#[test]
fn what_waited_when_the_role_went_is_asked_again_elsewhere() {
    let pair = Pair::in_sync(PairOptions { size_bytes: 48 << 20, ..PairOptions::default() });
    let mut client = pair.alice.nbd();
    client.write(PLACE.0, &[1; 4096]).expect("written");
    pair.alice.succeed(&["suspend-io", RESOURCE]);
    client.send(WRITE, 0, PLACE, &[2; 4096]).expect("sent");
    held(&pair.alice, 1);
    // Behind it in the socket when the role goes, or after.
    for _ in 0..200 {
        if client.send(WRITE, 0, PLACE, &[3; 4096]).is_err() {
            break;
        }
    }
    pair.alice.succeed(&["secondary", "--force", RESOURCE]);
    let error = client.receive().expect_err("no answer at all");
    assert_ne!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    pair.alice.succeed(&["resume-io", RESOURCE]);
    pair.bob.succeed(&["primary", RESOURCE]);
    let mut client = pair.bob.nbd();
    assert!(client.read(PLACE.0, PLACE.1).expect("read") == [1; 4096], "nothing of it was done");
    client.write(PLACE.0, &[4; 4096]).expect("written");
    assert!(client.read(PLACE.0, PLACE.1).expect("read") == [4; 4096]);
    drop(client);
    pair.alice.wait_idle();
    pair.bob.wait_idle();
    assert_eq!(pair.differing_blocks(), 0);
}
