//! Programs of the `handlers` section, run by real daemons.

use std::path::Path;

use crate::common::pair::{Pair, PairOptions, RESOURCE};

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The moments of a resync, in order, with DRBD's environment; and a program that refuses.
#[test]
fn a_resync_runs_its_handlers_in_order() {
    let folder = tempfile::tempdir().expect("folder");
    let record = folder.path().join("ran");
    let veto = folder.path().join("veto");
    let note = |what: &str| {
        format!(
            "{what} \"echo {what} $DRBD_NODENAME $DRBD_RESOURCE $DRBD_MINOR $DRBD_VOLUME \
             $DRBD_PEER $DRBD_PEER_AF $DRBD_PEER_ADDRESS >> {}; test ! -e {}\";",
            record.display(),
            veto.display()
        )
    };
    let handlers =
        ["before-resync-source", "before-resync-target", "after-resync-target"].map(note);
    let sections = format!("handlers {{ {} }}", handlers.join("\n"));
    let pair = Pair::in_sync(PairOptions { sections, ..PairOptions::default() });
    pair.bob.wait("its handlers to end", |status| status.handlers_running.is_empty());
    let (alice, bob) = (pair.alice.address, pair.bob.address);
    assert_eq!(
        lines(&record),
        [
            format!("before-resync-source alice {RESOURCE} 0 0 bob ipv4 {bob}"),
            format!("before-resync-target bob {RESOURCE} 0 0 alice ipv4 {alice}"),
            format!("after-resync-target bob {RESOURCE} 0 0 alice ipv4 {alice}"),
        ]
    );

    std::fs::write(&veto, "").expect("veto");
    pair.bob.succeed(&["disconnect", RESOURCE]);
    pair.alice.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    let mut client = pair.alice.nbd();
    client.write(4096, &[7; 4096]).expect("a write without the peer");
    client.flush().expect("flush");
    pair.bob.succeed(&["connect", RESOURCE]);
    let status = pair.alice.wait("refusal", |status| status.connection.as_str() == "StandAlone");
    assert!(status.reason.contains("before-resync-source handler returned 1"), "{status:?}");
    std::fs::remove_file(&veto).expect("veto");
    pair.alice.succeed(&["connect", RESOURCE]);
    pair.wait_in_sync();
    drop(client);
    pair.alice.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
}

/// Who is told of a split brain, and of what a verify found: each handler once on each node.
#[test]
fn split_brain_and_differences_run_their_handlers() {
    let folder = tempfile::tempdir().expect("folder");
    let note = |what: &str| {
        format!("{what} \"echo {what} >> {}/$DRBD_NODENAME\";", folder.path().display())
    };
    let handlers =
        ["initial-split-brain", "split-brain", "pri-lost", "out-of-sync"].map(note).join("\n");
    let sections = format!("handlers {{ {handlers} }}");
    let pair = Pair::in_sync(PairOptions { sections, ..PairOptions::default() });
    let nodes = [(&pair.alice, "alice"), (&pair.bob, "bob")];
    let ran = |name: &str| lines(&folder.path().join(name));

    let disk = std::fs::File::options().write(true).open(&pair.bob.disk).expect("disk");
    std::os::unix::fs::FileExt::write_all_at(&disk, &[0xEE; 4096], 40960).expect("written");
    disk.sync_all().expect("on disk");
    pair.alice.succeed(&["verify", "--repair", RESOURCE]);
    for (node, name) in nodes {
        node.wait("the end of its handlers", |status| {
            status.handlers_running.is_empty() && ran(name).len() == 1
        });
        assert_eq!(ran(name), ["out-of-sync"], "{name}");
    }
    pair.wait_in_sync();

    pair.alice.succeed(&["disconnect", RESOURCE]);
    pair.bob.wait("the loss", |status| status.peer_role.as_str() == "Unknown");
    pair.bob.succeed(&["primary", RESOURCE]);
    for (node, _) in nodes {
        let mut client = node.nbd();
        client.write(8192, &[7; 4096]).expect("a write without the peer");
        client.flush().expect("flush");
        drop(client);
        node.wait_without_clients();
    }
    pair.alice.succeed(&["connect", RESOURCE]);
    for (node, name) in nodes {
        node.wait("standing alone", |status| {
            status.connection.as_str() == "StandAlone"
                && status.handlers_running.is_empty()
                && ran(name).len() == 3
        });
        let mut told = ran(name);
        told.sort();
        assert_eq!(told, ["initial-split-brain", "out-of-sync", "split-brain"], "{name}");
    }
}
