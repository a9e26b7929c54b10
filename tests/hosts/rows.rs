//! The rows of vrrp.md 6.2 with the limits of 6.4, for each placement of twinblk and keepalived.
//! Lower limits are exact: who takes over early would do it beside a living master.

use std::time::{Duration, Instant};

use super::lab::{Host, Lab, VIRTUAL, is_there, wait_until};
use super::node::{Kind, Node, Wanted};
use super::watch::{Seen, Sight, Watch, is_advert, priority};

/// The scheduler of a machine that also builds, on top of what 6.4 allows.
pub const SLACK: Duration = Duration::from_millis(150);
/// A timer that fires a little early is the clock of the watcher.
pub const EARLY: Duration = Duration::from_millis(10);
pub const STEP: Duration = Duration::from_secs(10);
const DOWN_90: Duration = Duration::from_micros(3_648_437);
const DOWN_100: Duration = Duration::from_micros(3_609_375);
const SKEW_90: Duration = Duration::from_micros(648_437);

pub fn assert_between(what: &str, took: Duration, from: Duration, allowed: Duration) {
    println!("{what}: {took:?}");
    assert!(took + EARLY >= from, "{what}: {took:?} is before {from:?}");
    assert!(took <= from + allowed + SLACK, "{what}: {took:?} is long after {from:?}");
}

struct Stage<'a> {
    lab: &'a Lab,
    watch: &'a Watch,
    a: Kind,
    b: Kind,
}

impl<'a> Stage<'a> {
    fn start(&self, host: Host) -> Node<'a> {
        let kind = if host == Host::A { self.a } else { self.b };
        Node::start(self.lab, host, kind, &Self::wanted(host))
    }

    fn wanted(host: Host) -> Wanted {
        let tracker = host == Host::A;
        Wanted { tracker, ..Wanted::new(if tracker { 100 } else { 90 }) }
    }

    /// B takes over from an A that fell silent.
    fn b_follows(&self, what: &str, event: Instant) -> Seen {
        let seen = self.watch.wait_for_advert(Host::B, event, STEP);
        let last = self.watch.last_advert(Host::A, seen.at);
        assert_between(what, seen.at - last, DOWN_90, Duration::from_millis(100));
        seen
    }

    /// A preempts B, which yields at once.
    fn a_returns(&self, what: &str, event: Instant) -> Seen {
        let seen = self.watch.wait_for_advert(Host::A, event, STEP);
        let until = seen.at + Duration::from_millis(2200);
        wait_until("two intervals", STEP, || Instant::now() > until);
        let yielded = seen.at + Duration::from_millis(20) + SLACK;
        let late = self.watch.count(yielded, until, |sight| is_advert(sight, Host::B));
        assert_eq!(late, 0, "{what}: B yields");
        self.holder_is(Host::A);
        seen
    }

    fn holder_is(&self, holder: Host) {
        for host in [Host::A, Host::B] {
            let what = format!("{holder:?} alone holds the address");
            wait_until(&what, STEP, || self.lab.holds_address(host) == (host == holder));
        }
    }
}

fn rows(a: Kind, b: Kind) {
    if !a.is_there() || !b.is_there() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let watch = Watch::start(&lab);
    let stage = Stage { lab: &lab, watch: &watch, a, b };

    // 1: B alone.
    let event = Instant::now();
    let _node_b = stage.start(Host::B);
    let first = watch.wait_for_advert(Host::B, event, STEP);
    assert!(first.at - event + EARLY >= DOWN_90, "1: it listened first");
    assert_eq!(fields(&first), "V2 51 90 1000000 172.16.22.219 with password");
    stage.holder_is(Host::B);

    // 2: A comes and preempts; five announcements at once, five after 5 s.
    let event = Instant::now();
    let mut node_a = stage.start(Host::A);
    let first = stage.a_returns("2 start", event);
    assert!(first.at - event + EARLY >= DOWN_100, "2: it listened first");
    assert_eq!(fields(&first), "V2 51 100 1000000 172.16.22.219 with password");
    let until = first.at + Duration::from_millis(5500) + SLACK;
    wait_until("second burst", STEP, || Instant::now() > until);
    let bursts = [(0, 1000), (1000, 4900), (4900, 5650)].map(|(from, to)| {
        let from = first.at + Duration::from_millis(from);
        let to = first.at + Duration::from_millis(to);
        watch.count(from, to, is_announcement)
    });
    assert_eq!(bursts, [5, 0, 5], "2: announcements");

    // 16: A reads the same configuration again, and nobody notices.
    let event = Instant::now();
    node_a.reload(&[Stage::wanted(Host::A)]);
    let until = event + Duration::from_millis(4200);
    wait_until("four intervals", STEP, || Instant::now() > until);
    let adverts = watch.count(event, until, |sight| is_advert(sight, Host::A));
    // keepalived says one more at once.
    let most = if a == Kind::Twinblk { 5 } else { 6 };
    assert!((4..=most).contains(&adverts), "16: {adverts} adverts in 4.2 s");
    assert_eq!(watch.count(event, until, is_announcement), 0, "16: announcements");
    assert_eq!(watch.count(event, until, |sight| is_advert(sight, Host::B)), 0, "16: B is quiet");
    stage.holder_is(Host::A);

    // 3: A stops.
    let event = node_a.stop();
    let zero = watch.wait_for_priority_zero(Host::A, event, STEP);
    assert_between("3 priority 0", zero.at - event, Duration::ZERO, Duration::from_millis(50));
    let seen = watch.wait_for_advert(Host::B, event, STEP);
    assert_between("3 stop", seen.at - zero.at, SKEW_90, Duration::from_millis(50));
    stage.holder_is(Host::B);
    node_a.ended();

    // 4: A comes again.
    let event = Instant::now();
    let mut node_a = stage.start(Host::A);
    stage.a_returns("4 restart", event);

    // 12, 13: its check fails, and is good again.
    let event = Instant::now();
    node_a.set_tracker(false);
    let zero = watch.wait_for_priority_zero(Host::A, event, STEP);
    let check_interval = Duration::from_secs(if a == Kind::Twinblk { 0 } else { 1 });
    let allowed = check_interval + Duration::from_millis(50);
    assert_between("12 priority 0", zero.at - event, Duration::ZERO, allowed);
    let seen = watch.wait_for_advert(Host::B, event, STEP);
    assert_between("12 fault", seen.at - zero.at, SKEW_90, Duration::from_millis(50));
    stage.holder_is(Host::B);
    let event = Instant::now();
    node_a.set_tracker(true);
    let seen = stage.a_returns("13 good again", event);
    assert_between("13 good again", seen.at - event, DOWN_100, allowed + Duration::from_millis(50));

    // 6, 7: its interface goes down and up.
    let event = Instant::now();
    lab.link(Host::A, false);
    stage.b_follows("6 link down", event);
    stage.holder_is(Host::B);
    let event = Instant::now();
    lab.link(Host::A, true);
    let seen = stage.a_returns("7 link up", event);
    assert!(seen.at - event + EARLY >= DOWN_100, "7: it listened first");

    // 8, 9: the cable.
    let event = Instant::now();
    lab.carrier(Host::A, false);
    stage.b_follows("8 carrier lost", event);
    stage.holder_is(Host::B);
    let event = Instant::now();
    lab.carrier(Host::A, true);
    stage.a_returns("9 carrier back", event);

    // 10, 11: a filter on A eats its adverts. Both serve; the one that is heard again wins.
    if is_there("iptables") {
        let event = Instant::now();
        lab.run_in(Host::A, "iptables -I OUTPUT -p vrrp -j DROP");
        stage.b_follows("10 filtered", event);
        wait_until("10: both hold it", STEP, || lab.holds_address(Host::B));
        assert!(lab.holds_address(Host::A), "10: A does not know");
        if a == Kind::Twinblk {
            node_a.wait_for_line("error send advert", STEP);
        }
        let event = Instant::now();
        lab.run_in(Host::A, "iptables -D OUTPUT 1");
        stage.a_returns("11 heard again", event);
    } else {
        println!("rows 10 and 11 left out: iptables is not installed");
    }

    // 14, 15: A is paused and wakes up.
    let event = node_a.pause();
    stage.b_follows("14 paused", event);
    wait_until("14: B serves", STEP, || lab.holds_address(Host::B));
    let event = node_a.resume();
    if a == Kind::Twinblk {
        let limit = Duration::from_millis(100) + SLACK;
        wait_until("15: A lets go", limit, || !lab.holds_address(Host::A));
        let seen = stage.a_returns("15 woken", event);
        assert!(seen.at - event + EARLY >= DOWN_100, "15: it listened first");
    } else {
        stage.a_returns("15 woken", event);
    }

    // 5: A is killed. Nobody leaves an address behind but keepalived.
    let event = node_a.kill();
    if a == Kind::Twinblk {
        let limit = Duration::from_millis(100) + SLACK;
        let took = wait_until("5: the guard", limit, || !lab.holds_address(Host::A));
        println!("5 address gone: {took:?}");
    }
    stage.b_follows("5 killed", event);
}

fn fields(seen: &Seen) -> String {
    let Sight::Advert { advert, .. } = &seen.sight else { unreachable!("an advertisement") };
    let password = match advert.authentication.kind() {
        0 => "without password",
        _ => "with password",
    };
    let (version, id) = (advert.version, advert.virtual_router_id);
    let (interval_us, address) = (advert.interval_us, advert.addresses[0]);
    format!("{version:?} {id} {} {interval_us} {address} {password}", priority(&seen.sight))
}

fn is_announcement(sight: &Sight) -> bool {
    matches!(sight, Sight::Announcement { address, .. } if address.to_string() == VIRTUAL)
}

#[test]
fn twinblk_beside_twinblk() {
    rows(Kind::Twinblk, Kind::Twinblk);
}

#[test]
fn twinblk_above_keepalived() {
    rows(Kind::Twinblk, Kind::Keepalived);
}

#[test]
fn keepalived_above_twinblk() {
    rows(Kind::Keepalived, Kind::Twinblk);
}
