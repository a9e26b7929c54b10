//! What must not be taken: each ends in one sentence with a way on, and changes no byte of data.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use twinblk::control::ResourceStatus;

use crate::common::ledger::{Ledger, Random};
use crate::common::pair::{Node, Pair, PairOptions, REPLICATION_PORT, RESOURCE};

fn disk_bytes(node: &Node) -> Vec<u8> {
    std::fs::read(&node.disk).expect("disk")
}

fn data_of(node: &Node, size_bytes: u64) -> Vec<u8> {
    let mut data = disk_bytes(node);
    data.truncate(size_bytes as usize);
    data
}

/// Up to date, with something on it, and down again; the size of the device.
fn used_pair() -> (Pair, u64) {
    let pair = Pair::in_sync(PairOptions::default());
    let mut ledger = Ledger::default();
    let mut client = pair.alice.nbd();
    for block in 0..40 {
        ledger.write(&mut client, block * 97).expect("a write");
    }
    client.flush().expect("a flush");
    drop(client);
    let size_bytes = pair.alice.status().size_bytes;
    pair.alice.wait_idle();
    pair.bob.wait_idle();
    pair.alice.succeed(&["down", RESOURCE]);
    pair.bob.succeed(&["down", RESOURCE]);
    (pair, size_bytes)
}

fn explained(status: &ResourceStatus, word: &str) -> bool {
    status.connection.as_str() == "StandAlone"
        && status.reason.contains(word)
        && !status.hint.is_empty()
}

/// One of the two gives up for good and says why; the data of neither changes.
fn refuses_to_connect(pair: &Pair, size_bytes: u64, word: &str) {
    let before = [&pair.alice, &pair.bob].map(|node| data_of(node, size_bytes));
    pair.alice.succeed(&["up", RESOURCE]);
    pair.bob.succeed(&["up", RESOURCE]);
    for node in [&pair.alice, &pair.bob] {
        node.wait(word, |status| explained(status, word));
    }
    let after = [&pair.alice, &pair.bob].map(|node| data_of(node, size_bytes));
    assert!(before == after, "no data was changed");
}

#[test]
fn another_protocol_is_refused() {
    let (pair, size_bytes) = used_pair();
    pair.alice.succeed(&["up", RESOURCE]);
    pair.rewrite_config(|text| text.replace("protocol C", "protocol A"));
    refuses_to_connect(&pair, size_bytes, "protocol");
}

#[test]
fn a_smaller_disk_than_the_data_is_refused() {
    let (pair, size_bytes) = used_pair();
    let file = File::options().write(true).open(&pair.bob.disk).expect("disk");
    file.set_len(48 << 20).expect("a smaller disk");
    pair.bob.succeed(&["create-md", "--force", RESOURCE]);
    let before = data_of(&pair.alice, size_bytes);
    pair.alice.succeed(&["up", RESOURCE]);
    pair.bob.succeed(&["up", RESOURCE]);
    pair.alice.wait("too small", |status| explained(status, "too small"));
    assert_eq!(pair.alice.status().size_bytes, size_bytes);
    assert!(before == data_of(&pair.alice, size_bytes), "no data was changed");
    pair.alice.succeed(&["primary", RESOURCE]);
}

#[test]
fn garbage_on_the_replication_port_disturbs_nobody() {
    let (pair, _) = used_pair();
    pair.alice.succeed(&["up", RESOURCE]);
    let port = SocketAddr::from((pair.alice.address, REPLICATION_PORT));
    let mut random = Random(0xbad);
    for length in [1, 8, 16, 4096, 1 << 20] {
        // The node dials and listens in turns.
        let mut stream = loop {
            match TcpStream::connect(port) {
                Ok(stream) => break stream,
                Err(_) => std::thread::yield_now(),
            }
        };
        let garbage: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        stream.set_write_timeout(Some(Duration::from_secs(10))).expect("a limit");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        // The other side may hang up in the middle of it.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    pair.bob.succeed(&["up", RESOURCE]);
    pair.wait_in_sync();
    pair.alice.succeed(&["primary", RESOURCE]);
    let mut client = pair.alice.nbd();
    Ledger::default().write(&mut client, 5).expect("a write");
    // And while they are connected.
    if let Ok(mut stream) = TcpStream::connect(port) {
        let _ = stream.write_all(&[0xff; 4096]);
    }
    Ledger::default().write(&mut client, 6).expect("a write");
    assert_eq!(pair.alice.status().connection.as_str(), "Connected");
}

#[test]
fn garbage_where_metadata_was_is_left_alone() {
    let (pair, size_bytes) = used_pair();
    let length = disk_bytes(&pair.alice).len() as u64;
    let metadata = data_of_metadata(&pair.alice, size_bytes);
    let file = File::options().write(true).open(&pair.alice.disk).expect("disk");
    let mut random = Random(0xdead);
    let garbage: Vec<u8> = (size_bytes..length).map(|_| random.next() as u8).collect();
    let superblock = metadata.len() - 4096;
    let mut flipped = metadata.clone();
    // The bytes of a bitmap: more than the device has.
    flipped[superblock + 60..superblock + 64].fill(0xff);
    let mut half = metadata.clone();
    half[superblock + 256..].copy_from_slice(&garbage[superblock + 256..]);
    half[superblock..superblock + 40].fill(0xaa);
    for (name, bytes) in [("garbage", garbage), ("flipped", flipped), ("half", half)] {
        file.write_all_at(&bytes, size_bytes).expect("spoiled");
        let before = disk_bytes(&pair.alice);
        let (code, text) = pair.alice.refused(&["up", RESOURCE]);
        assert!(code != 0 && text.contains(RESOURCE), "{name}: {text}");
        assert!(text.contains("create-md") || text.contains("dump-md"), "{name}: {text}");
        assert!(before == disk_bytes(&pair.alice), "{name}: nothing was written");
        assert!(pair.alice.try_status().is_none(), "{name}: nothing is left behind");
    }
    file.write_all_at(&metadata, size_bytes).expect("mended");
    pair.alice.succeed(&["up", RESOURCE]);
}

fn data_of_metadata(node: &Node, size_bytes: u64) -> Vec<u8> {
    disk_bytes(node).split_off(size_bytes as usize)
}
