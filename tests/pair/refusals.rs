//! What is not allowed is refused in one clear sentence, and nothing is changed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::common::nbd::Refused;
use crate::common::pair::{Pair, PairOptions, RESOURCE};

#[test]
fn a_secondary_tells_nbd_clients_where_the_primary_is() {
    let pair = Pair::in_sync(PairOptions::default());
    pair.bob.wait("the primary's name", |status| status.peer_role.as_str() == "Primary");
    match pair.bob.try_nbd() {
        Err(Refused::Option { message, .. }) => {
            assert!(message.contains("Secondary"), "{message}");
            assert!(message.contains(&pair.alice.uri()), "{message}");
        }
        other => panic!("a secondary answered {other:?}"),
    }
}

#[test]
fn two_primaries_are_refused_and_so_is_a_demotion_in_use() {
    let pair = Pair::in_sync(PairOptions::default());
    let (code, text) = pair.bob.refused(&["primary", RESOURCE]);
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("State change failed: (-1)"), "{text}");

    let client = pair.alice.nbd();
    pair.alice.wait("a client", |status| status.nbd.clients.len() == 1);
    let (code, text) = pair.alice.refused(&["secondary", RESOURCE]);
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("State change failed: (-12) Device is held open by someone"), "{text}");
    assert!(text.contains("127."), "the client is named: {text}");
    let (code, text) = pair.alice.refused(&["down", RESOURCE]);
    assert_eq!(code, 11, "{text}");
    drop(client);
    pair.alice.wait_without_clients();
    pair.alice.succeed(&["secondary", RESOURCE]);
}

#[test]
fn a_forced_demotion_cuts_clients_off() {
    let pair = Pair::in_sync(PairOptions::default());
    let mut client = pair.alice.nbd();
    client.write(0, &[7; 4096]).expect("a write of the primary");
    let text = pair.alice.succeed(&["secondary", "--force", RESOURCE]);
    assert_eq!(text, "", "nothing to say");
    let error = client.write(0, &[8; 4096]).expect_err("not served any more");
    // An error number would reach the users of clients that reconnect.
    let hung_up = [
        std::io::ErrorKind::UnexpectedEof,
        std::io::ErrorKind::ConnectionReset,
        std::io::ErrorKind::BrokenPipe,
    ];
    assert!(hung_up.contains(&error.kind()), "hung up on, not answered: {error}");
    pair.alice.wait_idle();
    pair.bob.succeed(&["primary", RESOURCE]);
    let mut client = pair.bob.nbd();
    assert!(client.read(0, 4096).expect("read") == [7; 4096], "what was answered");
}

#[test]
fn an_empty_disk_is_not_promoted_without_force() {
    let pair = Pair::connected(PairOptions::default());
    let (code, text) = pair.alice.refused(&["primary", RESOURCE]);
    assert_eq!(code, 17, "{text}");
    assert!(text.contains("State change failed: (-2) Need access to UpToDate data"), "{text}");
    assert!(text.contains("--force"), "what to do: {text}");
}

#[test]
fn a_disk_without_metadata_stays_as_it_is() {
    let pair = Pair::prepare(PairOptions::default());
    let size = std::fs::metadata(&pair.alice.disk).expect("disk").len();
    let file = File::options().write(true).open(&pair.alice.disk).expect("disk");
    file.write_all_at(&vec![0; 1 << 20], size - (1 << 20)).expect("no metadata any more");
    let before = std::fs::read(&pair.alice.disk).expect("disk");
    let (_, text) = pair.alice.refused(&["up", RESOURCE]);
    assert!(text.contains("create-md"), "what to do: {text}");
    assert!(std::fs::read(&pair.alice.disk).expect("disk") == before, "nothing was written");
    assert!(pair.alice.try_status().is_none(), "nothing is left behind");
}

#[test]
fn one_run_directory_has_one_daemon_and_one_disk_one_user() {
    let mut pair = Pair::connected(PairOptions::default());
    let (_, text) = pair.alice.refused(&["daemon"]);
    assert!(text.contains("a daemon already runs"), "{text}");
    // The same disk under another node's name.
    let taken = pair.alice.disk.clone();
    pair.bob.terminate();
    std::fs::remove_file(&pair.bob.disk).expect("bob's disk");
    std::fs::hard_link(&taken, &pair.bob.disk).expect("a second name");
    pair.bob.start();
    let (_, text) = pair.bob.refused(&["up", RESOURCE]);
    assert!(text.contains("is in use: locked by process"), "{text}");
}

#[test]
fn another_secret_is_named_on_both_sides() {
    let pair = Pair::prepare(PairOptions {
        net: "cram-hmac-alg sha1; shared-secret \"right\";".to_owned(),
        ..PairOptions::default()
    });
    pair.alice.succeed(&["up", RESOURCE]);
    pair.rewrite_config(|text| text.replace("right", "wrong"));
    pair.bob.succeed(&["up", RESOURCE]);
    for node in [&pair.alice, &pair.bob] {
        let status = node.wait("giving up", |status| {
            status.connection.as_str() == "StandAlone" || status.reason.contains("authentic")
        });
        assert!(!status.reason.is_empty(), "a reason");
    }
}
