//! MariaDB with one flush a commit, and its node lost: every commit that a client was told of is
//! there.

use std::time::Instant;

use super::host::wait_until;
use super::lab::{Lab, STEP};
use super::service::Service;

#[test]
fn no_commit_is_lost_with_its_node() {
    let Some((mut lab, client)) = Lab::serving(Service::MariaDb) else { return };

    let at = Instant::now();
    lab.nodes[0].kill_daemon();
    let taken = client.wait_for("db2", at, STEP);
    println!("measured: MariaDB, daemon killed: {:.1} s", taken.as_secs_f64());
    client.wait_for_rows(20, STEP);
    assert!(!lab.nodes[0].holds_address());
    // Its stop command asks a server that waits for a device without a daemon: up to its own limit.
    wait_until("the dead daemon's file system is unmounted", STEP, || !lab.nodes[0].is_mounted());
    lab.nodes[0].start_failover();
    lab.wait_ready();
    client.wait_for_rows(20, STEP);

    let at = Instant::now();
    lab.nodes[1].host.kill();
    let taken = client.wait_for("db1", at, STEP);
    println!("measured: MariaDB, host killed: {:.1} s", taken.as_secs_f64());
    client.wait_for_rows(20, STEP);
    client.finish(&lab.nodes[0]);
}
