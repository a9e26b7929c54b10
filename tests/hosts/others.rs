//! Other settings, vrrp.md 6.3: nopreempt, different passwords, version 3, unicast, IPv6.

use std::thread;
use std::time::{Duration, Instant};

use super::lab::{Host, Lab, VIRTUAL, wait_until};
use super::node::{Kind, Node, Wanted};
use super::rows::{STEP, assert_between};
use super::watch::{Sight, Watch, is_advert, priority};

/// Runs for twinblk as A and as B, beside keepalived; and once with both twinblk. At once: nodes
/// mostly wait.
fn each_placement(act: impl Fn(&Lab, &Watch, Kind, Kind) + Sync) {
    let placements = [
        (Kind::Twinblk, Kind::Twinblk),
        (Kind::Twinblk, Kind::Keepalived),
        (Kind::Keepalived, Kind::Twinblk),
    ];
    let placements = placements.into_iter().filter(|(a, b)| a.is_there() && b.is_there());
    let placed: Vec<_> = placements.map_while(|(a, b)| Some((a, b, Lab::new()?))).collect();
    let act = &act;
    thread::scope(|scope| {
        for (a, b, lab) in &placed {
            scope.spawn(move || {
                println!("A {a:?}, B {b:?}");
                act(lab, &Watch::start(lab), *a, *b);
            });
        }
    });
}

#[test]
fn who_does_not_preempt_stays_backup_after_its_return() {
    each_placement(|lab, watch, a, b| {
        let wanted = |priority| Wanted { preempt: false, ..Wanted::new(priority) };
        let event = Instant::now();
        let node_a = Node::start(lab, Host::A, a, &wanted(100));
        // Started together, the first to run would win and keep it.
        let first = watch.wait_for_advert(Host::A, event, STEP);
        let _node_b = Node::start(lab, Host::B, b, &wanted(90));
        let until = first.at + Duration::from_secs(3);
        wait_until("B listens", STEP, || Instant::now() > until);
        let event = node_a.stop();
        let zero = watch.wait_for_priority_zero(Host::A, event, STEP);
        let seen = watch.wait_for_advert(Host::B, event, STEP);
        let skew = Duration::from_micros(648_437);
        assert_between("taken over", seen.at - zero.at, skew, Duration::from_millis(50));
        node_a.ended();
        let event = Instant::now();
        let _node_a = Node::start(lab, Host::A, a, &wanted(100));
        let until = event + Duration::from_secs(6);
        wait_until("longer than A waits", STEP, || Instant::now() > until);
        let of_a = watch.count(event, until, |sight| is_advert(sight, Host::A));
        assert_eq!(of_a, 0, "A stays Backup");
    });
}

#[test]
fn different_passwords_make_two_masters() {
    each_placement(|lab, watch, a, b| {
        let event = Instant::now();
        let _node_a = Node::start(lab, Host::A, a, &Wanted::new(100));
        let other = Wanted { password: Some("another"), ..Wanted::new(90) };
        let _node_b = Node::start(lab, Host::B, b, &other);
        for host in [Host::A, Host::B] {
            watch.wait_for_advert(host, event, STEP);
            wait_until("it serves", STEP, || lab.holds_address(host));
        }
        let later = Instant::now();
        for host in [Host::A, Host::B] {
            watch.wait_for_advert(host, later, STEP);
            assert!(lab.holds_address(host), "neither hears the other");
        }
    });
}

#[test]
fn version_3_takes_over_in_hundredths_of_a_second() {
    each_placement(|lab, watch, a, b| {
        let wanted = |priority| Wanted {
            version: 3,
            interval_ms: 100,
            password: None,
            ..Wanted::new(priority)
        };
        let event = Instant::now();
        let node_a = Node::start(lab, Host::A, a, &wanted(100));
        let seen = watch.wait_for_advert(Host::A, event, STEP);
        assert_eq!(priority(&seen.sight), 100);
        let _node_b = Node::start(lab, Host::B, b, &wanted(90));
        let until = Instant::now() + Duration::from_secs(1);
        wait_until("B listens", STEP, || Instant::now() > until);
        let event = node_a.kill();
        let seen = watch.wait_for_advert(Host::B, event, STEP);
        let last = watch.last_advert(Host::A, seen.at);
        let down = Duration::from_micros(364_843);
        assert_between("killed", seen.at - last, down, Duration::from_millis(100));
    });
}

#[test]
fn unicast_takes_over_as_multicast_does() {
    each_placement(|lab, _, a, b| {
        let wanted =
            |priority, peer: Host| Wanted { peer: Some(peer.address()), ..Wanted::new(priority) };
        // A stranger does not hear them: only what they hold can be seen.
        let node_a = Node::start(lab, Host::A, a, &wanted(100, Host::B));
        let _node_b = Node::start(lab, Host::B, b, &wanted(90, Host::A));
        wait_until("A serves", STEP, || lab.holds_address(Host::A));
        let until = Instant::now() + Duration::from_secs(2);
        wait_until("B hears it", STEP, || Instant::now() > until);
        assert!(!lab.holds_address(Host::B));
        node_a.kill();
        let took = wait_until("B serves", STEP, || lab.holds_address(Host::B));
        // The last advertisement was up to an interval before.
        let from = Duration::from_micros(2_648_437);
        assert_between("killed", took, from, Duration::from_millis(1100));
    });
}

#[test]
fn ipv6_is_served_from_link_local_addresses() {
    each_placement(|lab, watch, a, b| {
        let addresses = vec!["fe80::219", "2001:db8:22::219"];
        let wanted = |priority| Wanted {
            version: 3,
            interval_ms: 500,
            password: None,
            addresses: addresses.clone(),
            ..Wanted::new(priority)
        };
        for host in [Host::A, Host::B] {
            wait_until("link-local addresses", STEP, || {
                let shown = lab.ip(host, "-6 -o addr show dev eth0 scope link");
                shown.contains("fe80::") && !shown.contains("tentative")
            });
        }
        let is_from = |sight: &Sight, wanted: u8| match sight {
            Sight::Advert { source, advert } => source.is_ipv6() && advert.priority == wanted,
            Sight::Announcement { .. } => false,
        };
        let event = Instant::now();
        let node_a = Node::start(lab, Host::A, a, &wanted(100));
        let first = watch.wait_for("an advertisement of A", event, STEP, |it| is_from(it, 100));
        let _node_b = Node::start(lab, Host::B, b, &wanted(90));
        for address in &addresses {
            wait_until("A serves", STEP, || lab.holds(Host::A, address));
        }
        let until = first.at + Duration::from_secs(3);
        wait_until("B listens", STEP, || Instant::now() > until);
        for address in &addresses {
            let announced = watch.count(first.at, until, |sight| {
                matches!(sight, Sight::Announcement { address: found, .. }
                         if found.to_string() == *address)
            });
            // keepalived has been seen to send none when it starts on a busy machine.
            if a == Kind::Twinblk {
                assert_eq!(announced, 5, "{address}");
            }
        }
        let event = node_a.stop();
        let zero = watch.wait_for("priority 0", event, STEP, |sight| is_from(sight, 0));
        let seen = watch.wait_for("an advertisement of B", event, STEP, |it| is_from(it, 90));
        let skew = Duration::from_micros(166 * 500_000 / 256);
        assert_between("stopped", seen.at - zero.at, skew, Duration::from_millis(50));
        for address in &addresses {
            wait_until("B serves", STEP, || lab.holds(Host::B, address));
            wait_until("A does not", STEP, || !lab.holds(Host::A, address));
        }
    });
}

#[test]
fn addresses_of_a_dead_process_are_taken_away_at_the_start() {
    let Some(lab) = Lab::new() else { return };
    lab.ip(Host::A, &format!("addr add {VIRTUAL}/32 dev eth0"));
    let node = Node::start(&lab, Host::A, Kind::Twinblk, &Wanted::new(100));
    node.wait_for_line("notify Backup", STEP);
    assert!(!lab.holds_address(Host::A));
    wait_until("it serves", STEP, || lab.holds_address(Host::A));
}
