//! nginx and a counting server behind a virtual address: every way in which a node can be lost, with
//! what it costs. No acknowledged row may be missing, ever.

use std::time::{Duration, Instant};

use super::client::Client;
use super::host::wait_until;
use super::lab::{Lab, STEP};
use super::network::Net;
use super::service::{DATA, Service};

/// The service is at `node` from now on, and nowhere else.
fn moves(lab: &Lab, client: &Client, node: &str, since: Instant, what: &str) {
    let taken = client.wait_for(node, since, STEP);
    println!("measured: {what}: {:.1} s", taken.as_secs_f64());
    client.wait_for_rows(20, STEP);
    assert_eq!(lab.ask_nginx("/node").as_deref(), Some(node));
    assert_eq!(lab.ask_nginx("/page").as_deref(), Some("replicated"));
}

/// Nothing of the service is left there.
fn is_clear(lab: &Lab, index: usize) {
    let node = &lab.nodes[index];
    let what = format!("{} has given everything up", node.name);
    wait_until(&what, STEP, || !node.is_mounted() && !node.holds_address());
}

#[test]
fn processes_die() {
    let Some((mut lab, client)) = Lab::serving(Service::Nginx) else { return };

    let at = Instant::now();
    lab.nodes[0].host.shell("kill -9 $(cat /run/nginx.pid); pkill -9 nginx");
    moves(&lab, &client, "web2", at, "nginx killed");
    is_clear(&lab, 0);
    lab.wait_ready();

    let at = Instant::now();
    lab.nodes[1].stop_daemon();
    moves(&lab, &client, "web1", at, "daemon stopped");
    is_clear(&lab, 1);
    lab.nodes[1].start_failover();
    lab.wait_ready();

    let at = Instant::now();
    lab.nodes[0].kill_daemon();
    is_clear(&lab, 0);
    println!("measured: cleared after kill -9: {:.1} s", at.elapsed().as_secs_f64());
    moves(&lab, &client, "web2", at, "daemon killed");
    lab.nodes[0].start_failover();
    lab.wait_ready();
    client.wait_for_rows(20, STEP);

    let at = Instant::now();
    lab.nodes[1].host.kill();
    moves(&lab, &client, "web1", at, "host killed");
    lab.boot(1);
    lab.nodes[1].start_failover();
    lab.wait_ready();
    client.finish(&lab.nodes[0]);
}

#[test]
fn cables_are_pulled() {
    let Some((lab, client)) = Lab::serving(Service::Nginx) else { return };
    let [first, second] = &lab.nodes;

    // The replication link alone: the one that serves goes on.
    let at = Instant::now();
    lab.network.unplug(&first.host, Net::Replication);
    client.wait_for_rows(20, STEP);
    wait_until("the loss is noticed", STEP, || {
        first.twinblk(&["cstate", "r0"]).trim() != "Connected"
    });
    client.wait_for("web1", Instant::now(), STEP);
    let gap = client.longest_gap(at).as_secs_f64();
    println!("measured: replication link cut: served on, longest pause {gap:.1} s");
    lab.network.plug(&first.host, Net::Replication);
    lab.wait_ready();

    // The service network of the one that serves.
    let at = Instant::now();
    lab.network.unplug(&first.host, Net::Service);
    moves(&lab, &client, "web2", at, "service network cut");
    is_clear(&lab, 0);
    lab.network.plug(&first.host, Net::Service);
    lab.wait_ready();

    // Both: the witness lets the other one go on.
    let at = Instant::now();
    for net in Net::BOTH {
        lab.network.unplug(&second.host, net);
    }
    moves(&lab, &client, "web1", at, "both networks cut");
    is_clear(&lab, 1);
    for net in Net::BOTH {
        lab.network.plug(&second.host, net);
    }
    lab.wait_ready();
    client.wait_for_rows(20, STEP);
    client.finish(first);
}

#[test]
fn a_paused_node_does_not_come_back_as_if_nothing_had_been() {
    let Some((lab, client)) = Lab::serving(Service::Nginx) else { return };
    let at = Instant::now();
    lab.nodes[0].host.pause();
    moves(&lab, &client, "web2", at, "host paused");
    wait_until("ten seconds", STEP, || at.elapsed() >= Duration::from_secs(10));
    lab.resume(0);
    is_clear(&lab, 0);
    lab.wait_ready();
    client.wait_for("web2", Instant::now(), STEP);
    client.finish(&lab.nodes[1]);
}

/// Adverts of the one that serves are lost, nothing else: the data knows better than VRRP.
#[test]
fn loss_in_one_direction_changes_nothing() {
    if !super::lab::is_there("nft") {
        println!("skipped: no nft (nftables)");
        return;
    }
    let Some((lab, client)) = Lab::serving(Service::Nginx) else { return };
    let at = Instant::now();
    lab.network.lose(221, &lab.nodes[1].host, Net::Service);
    let before = client.acknowledged().len();
    wait_until("three times what VRRP waits", STEP, || at.elapsed() >= Duration::from_secs(11));
    assert!(client.acknowledged().len() > before + 100, "it is served on");
    assert!(!lab.nodes[1].holds_address() && !lab.nodes[1].is_mounted());
    lab.network.heal();
    client.wait_for("web1", Instant::now(), STEP);
    client.finish(&lab.nodes[0]);
}

#[test]
fn a_full_file_system_moves_nothing() {
    let Some((lab, client)) = Lab::serving(Service::Nginx) else { return };
    let node = &lab.nodes[0];
    node.host.shell(&format!("dd if=/dev/zero of={DATA}/filler bs=64k 2>/dev/null || true"));
    wait_until("rows are refused", STEP, || {
        let acknowledged = client.acknowledged();
        acknowledged.last().is_some_and(|last| last.at.elapsed() > Duration::from_secs(1))
    });
    assert_eq!(lab.ask_nginx("/page").as_deref(), Some("replicated"));
    node.host.shell(&format!("rm {DATA}/filler"));
    client.wait_for("web1", Instant::now(), STEP);
    client.finish(node);
}
