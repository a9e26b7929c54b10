//! Without VRRP: the lab itself, and what the verbs alone promise.

use std::time::Instant;

use super::lab::{Lab, STEP};
use super::service::Service;

fn moved(lab: &Lab) {
    let [first, second] = &lab.nodes;
    let started = Instant::now();
    first.twinblk(&["primary", "r0"]);
    first.start_service();
    first.add_address();
    let client = lab.client();
    client.wait_for(first.name, started, STEP);
    client.wait_for_rows(20, STEP);

    let moved = Instant::now();
    first.remove_address();
    first.stop_service();
    first.twinblk(&["secondary", "r0"]);
    second.twinblk(&["primary", "r0"]);
    second.start_service();
    second.add_address();
    // What gratuitous ARP is for.
    lab.third.shell("ip neigh flush dev eth0");
    client.wait_for(second.name, moved, STEP);
    client.wait_for_rows(20, STEP);
    assert!(!first.is_mounted() && !first.holds_address());
    client.finish(second);
}

#[test]
fn nginx_moves() {
    let Some(lab) = Lab::new(Service::Nginx) else { return };
    moved(&lab);
    assert_eq!(lab.ask_nginx("/node").as_deref(), Some("web2"));
    assert_eq!(lab.ask_nginx("/page").as_deref(), Some("replicated"));
}

#[test]
fn mariadb_moves() {
    let Some(lab) = Lab::new(Service::MariaDb) else { return };
    moved(&lab);
}
