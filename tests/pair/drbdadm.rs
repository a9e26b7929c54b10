//! The classic split brain with DRBD's own commands, step by step: states, roles and exit codes are
//! those that the kernel module and drbd-utils gave; then what drbdadm says where it refuses.

use rustix::process::{Pid, Signal, kill_process};

use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

/// Runs drbdadm; exit code, standard output, standard error.
fn drbdadm(node: &Node, line: &str) -> (i32, String, String) {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let output = node.run_as("drbdadm", &arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn succeed(node: &Node, line: &str) -> String {
    let (code, out, err) = drbdadm(node, line);
    assert_eq!((code, &*err), (0, ""), "drbdadm {line} on {}", node.name);
    out
}

fn overview(node: &Node) -> String {
    String::from_utf8_lossy(&node.run_as("drbd-overview", &[]).stdout).into_owned()
}

/// `role`, `cstate`, `dstate` as the walkthrough asks them.
fn states(node: &Node) -> String {
    ["role", "cstate", "dstate"]
        .map(|verb| succeed(node, &format!("{verb} {RESOURCE}")).trim().to_owned())
        .join(" ")
}

#[test]
fn the_split_brain_walkthrough() {
    let pair = Pair::in_sync(PairOptions::default());
    let (one, two) = (&pair.alice, &pair.bob);
    succeed(one, "secondary r0");
    succeed(two, "primary r0");
    one.wait("the other Primary", |status| status.peer_role.as_str() == "Primary");
    assert_eq!(
        overview(one),
        "  0:r0/0  Connected Secondary/Primary UpToDate/UpToDate C r----- \n"
    );
    assert_eq!(states(two), "Primary/Secondary Connected UpToDate/UpToDate");

    // The Primary does not answer any more.
    let stopped = Pid::from_raw(two.process_id() as i32).expect("a process");
    kill_process(stopped, Signal::STOP).expect("our child");
    one.wait("the loss", |status| status.connection.as_str() == "WFConnection");
    assert_eq!(states(one), "Secondary/Unknown WFConnection UpToDate/DUnknown");
    succeed(one, "primary r0");
    assert_eq!(
        overview(one),
        "  0:r0/0  WFConnection Primary/Unknown UpToDate/DUnknown C r----- \n"
    );
    let mut client = one.nbd();
    client.write(0, &[1; 4096]).expect("written on the first");
    drop(client);
    one.wait_without_clients();

    // It is back: split brain.
    kill_process(stopped, Signal::CONT).expect("our child");
    for node in [one, two] {
        node.wait("standing alone", |status| status.connection.as_str() == "StandAlone");
        assert_eq!(states(node), "Primary/Unknown StandAlone UpToDate/DUnknown", "{}", node.name);
        assert_eq!(
            overview(node),
            "  0:r0/0  StandAlone Primary/Unknown UpToDate/DUnknown r----- \n"
        );
        let gi = succeed(node, "get-gi r0");
        assert!(gi.trim().ends_with(":1:1:1:0:0:0:0"), "{}: {gi}", node.name);
    }

    // The first gives up its data.
    let (code, _, err) = drbdadm(one, "disconnect r0");
    assert_eq!(code, 10, "{err}");
    assert!(
        err.starts_with(
            "??: Failure: (162) Invalid configuration request\nadditional info from kernel:\n\
             unknown connection\nCommand 'drbdsetup-84 disconnect ipv4:"
        ),
        "{err}"
    );
    assert!(err.contains("' terminated with exit code 10\n"), "{err}");
    succeed(one, "secondary r0");
    assert_eq!(overview(one), "  0:r0/0  StandAlone Secondary/Unknown UpToDate/DUnknown r----- \n");
    succeed(one, "connect --discard-my-data r0");
    assert_eq!(
        overview(one),
        "  0:r0/0  WFConnection Secondary/Unknown UpToDate/DUnknown C r----- \n"
    );
    succeed(two, "connect r0");
    pair.wait_in_sync();
    assert_eq!(states(one), "Secondary/Primary Connected UpToDate/UpToDate");
    assert_eq!(states(two), "Primary/Secondary Connected UpToDate/UpToDate");
    assert_eq!(
        overview(two),
        "  0:r0/0  Connected Primary/Secondary UpToDate/UpToDate C r----- \n"
    );
    assert_eq!(pair.differing_blocks(), 0);
}

#[test]
fn what_drbdadm_refuses_and_how() {
    let pair = Pair::in_sync(PairOptions::default());
    let (one, two) = (&pair.alice, &pair.bob);
    let (code, _, err) = drbdadm(two, "primary r0");
    assert_eq!(code, 11, "{err}");
    assert!(
        err.starts_with("0: State change failed: (-1) Multiple primaries not allowed by config\n"),
        "{err}"
    );
    assert!(
        err.contains("\nCommand 'drbdsetup-84 primary 0' terminated with exit code 11\n"),
        "{err}"
    );
    let (code, _, err) = drbdadm(one, "connect r0");
    assert_eq!(code, 10, "{err}");
    assert!(err.starts_with("r0: Failure: (102) Local address(port) already in use.\n"), "{err}");
    for (verb, expected) in [("up", 1), ("attach", 20)] {
        let (code, _, err) = drbdadm(one, &format!("{verb} r0"));
        assert_eq!(code, expected, "{verb}: {err}");
        assert!(err.starts_with("Device '0' is configured!\nCommand 'drbdmeta 0 v08 "), "{err}");
        assert!(err.contains(" internal apply-al' terminated with exit code 20\n"), "{err}");
    }
    let (code, _, err) = drbdadm(one, "primary nosuch");
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("'nosuch' not defined in your config (for this host).\n"), "{err}");
    assert_eq!(
        succeed(one, "status r0"),
        "r0 role:Primary\n  disk:UpToDate\n  peer role:Secondary\n    \
         replication:Established peer-disk:UpToDate\n\n"
    );
    assert_eq!(succeed(one, "sh-resources"), "r0\n");
    assert_eq!(succeed(one, "sh-dev r0"), "/dev/drbd0\n");
    assert_eq!(succeed(one, "sh-md-idx r0"), "internal\n");
    assert!(succeed(one, "sh-status").contains("\n_cstate=Connected\n_role=Primary\n"));
    assert!(succeed(one, "-d primary r0").ends_with("primary r0\n"), "nothing is done");

    succeed(two, "down r0");
    succeed(two, "down r0");
    assert_eq!(overview(two), "  0:r0/0  Unconfigured . . . . \n");
    let (code, _, err) = drbdadm(two, "status r0");
    assert_eq!((code, err.lines().next()), (10, Some("r0: No such resource")), "{err}");
    succeed(two, "-- --discard-my-data connect all --dry-run");
    // Standard error has the warnings about the file.
    let (code, _, err) = drbdadm(two, "up all");
    assert_eq!(code, 0, "{err}");
    pair.wait_in_sync();
}
