//! Another configuration while VRRP runs: what it leaves alone goes on, the rest begins again.

use std::time::Instant;

use super::lab::{Host, Lab, VIRTUAL, wait_until};
use super::node::{Kind, Node, Wanted};
use super::rows::STEP;
use super::watch::{Sight, Watch, is_advert, priority};

const SECOND: &str = "172.16.22.218";
const THIRD: &str = "172.16.22.220";

/// Of the second instance, if it is one.
fn is_of(sight: &Sight, address: &str) -> bool {
    match sight {
        Sight::Advert { advert, .. } => advert.addresses.iter().any(|it| it.to_string() == address),
        _ => false,
    }
}

#[test]
fn only_what_changes_begins_again() {
    let Some(lab) = Lab::new() else { return };
    let watch = Watch::start(&lab);
    let first = Wanted::new(100);
    let second = Wanted { addresses: vec![SECOND], ..Wanted::new(100) };
    let mut node = Node::start(&lab, Host::A, Kind::Twinblk, &first);
    wait_until("the first is Master", STEP, || lab.holds(Host::A, VIRTUAL));

    // One more.
    let event = Instant::now();
    node.reload(&[first.clone(), second.clone()]);
    wait_until("the second is Master", STEP, || lab.holds(Host::A, SECOND));
    assert!(lab.holds(Host::A, VIRTUAL), "the first stays");
    let now = Instant::now();
    let zeroes = |from, to, address: &str| {
        watch.count(from, to, |sight| is_of(sight, address) && priority(sight) == 0)
    };
    assert_eq!(zeroes(event, now, VIRTUAL), 0, "the first goes on");
    let seconds = (now - event).as_secs() as usize;
    let adverts = watch.count(event, now, |sight| is_of(sight, VIRTUAL));
    assert!(adverts >= seconds, "{adverts} adverts in {seconds} s");

    // The second with another priority: neighbours see it, and nothing else.
    let event = Instant::now();
    let raised = Wanted { priority: 120, ..second };
    node.reload(&[first.clone(), raised.clone()]);
    assert!(lab.holds(Host::A, SECOND), "only its priority changes");
    wait_until("it advertises the new priority", STEP, || {
        let now = Instant::now();
        watch.count(event, now, |sight| is_of(sight, SECOND) && priority(sight) == 120) > 0
    });
    assert!(lab.holds(Host::A, SECOND), "only its priority changes");
    assert_eq!(zeroes(event, Instant::now(), SECOND), 0, "it never stopped");

    // The second with another address: released, and taken again later; the first goes on.
    let event = Instant::now();
    node.reload(&[first.clone(), Wanted { addresses: vec![THIRD], ..raised }]);
    assert!(!lab.holds(Host::A, SECOND), "what changes is released at once");
    wait_until("the second is Master again", STEP, || lab.holds(Host::A, THIRD));
    let now = Instant::now();
    assert_eq!(zeroes(event, now, SECOND), 1, "it stopped");
    assert_eq!(zeroes(event, now, VIRTUAL), 0, "the first goes on");
    let seen = watch.wait_for_advert(Host::A, now, STEP);
    assert!(is_advert(&seen.sight, Host::A));

    // The second is gone.
    let event = Instant::now();
    node.reload(&[first]);
    assert!(!lab.holds(Host::A, THIRD), "what is gone is released");
    assert!(lab.holds(Host::A, VIRTUAL), "the first stays");
    assert_eq!(zeroes(event, Instant::now(), VIRTUAL), 0);
}
