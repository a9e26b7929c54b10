//! nginx and a counting server behind a virtual address.

use std::time::Instant;

use super::lab::{Lab, STEP};

/// Without VRRP: the lab itself.
#[test]
fn moved_by_hand() {
    let Some(lab) = Lab::new() else { return };
    let [first, second] = &lab.nodes;
    let started = Instant::now();
    first.twinblk(&["primary", "r0"]);
    first.start_service();
    first.add_address();
    let client = lab.client();
    client.wait_for("web1", started, STEP);
    client.wait_for_rows(20, STEP);
    assert_eq!(lab.ask_nginx("/node").as_deref(), Some("web1"));
    assert_eq!(lab.ask_nginx("/page").as_deref(), Some("replicated"));

    let moved = Instant::now();
    first.remove_address();
    first.stop_service();
    first.twinblk(&["secondary", "r0"]);
    second.twinblk(&["primary", "r0"]);
    second.start_service();
    second.add_address();
    // What gratuitous ARP is for.
    lab.third.shell("ip neigh flush dev eth0");
    client.wait_for("web2", moved, STEP);
    client.wait_for_rows(20, STEP);
    assert_eq!(lab.ask_nginx("/node").as_deref(), Some("web2"));
    assert_eq!(lab.ask_nginx("/page").as_deref(), Some("replicated"));
    assert!(!first.is_mounted() && !first.holds_address());
    client.finish(&second.rows());
}
