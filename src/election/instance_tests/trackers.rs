//! What scripts, processes and interfaces outside change (vrrp.md 2.4).

use super::super::super::settings::TrackerSettings;
use super::stage::{LOWER, Stage, settings};
use super::*;

fn tracked(priority: u8, weights: &[i16]) -> InstanceSettings {
    let tracker = |weight: &i16| {
        let name = format!("check {weight}");
        TrackerSettings { name, weight: *weight, reverse: false }
    };
    InstanceSettings { trackers: weights.iter().map(tracker).collect(), ..settings(priority) }
}

#[test]
fn a_tracker_without_weight_is_waited_for_and_its_failure_is_a_fault() {
    let mut hinted = tracked(100, &[0]);
    hinted.initial_state = InitialState::Master;
    let mut stage = Stage::new(hinted);
    assert_eq!((stage.state(), stage.instance.deadline()), (State::Init, None));
    stage.now = Time(2 * SECOND);
    stage.handle(Event::Tracker { index: 0, good: true });
    assert_eq!(stage.state(), State::Backup);
    assert_eq!(stage.instance.deadline(), Some(Time(2 * SECOND + DOWN_100)), "no short wait");
    stage.run_until(20 * SECOND);
    stage.effects.clear();
    stage.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(stage.state(), State::Fault);
    assert_eq!(stage.adverts(), [0]);
    stage.handle(Event::Tracker { index: 0, good: true });
    assert_eq!(stage.state(), State::Backup);
}

#[test]
fn a_failure_before_the_first_success_is_a_fault_too() {
    let mut stage = Stage::new(tracked(100, &[0]));
    stage.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(stage.state(), State::Fault);
}

#[test]
fn weights_change_the_priority_and_not_the_state() {
    let mut stage = Stage::master(tracked(100, &[-20, 5]));
    let priority = |stage: &Stage| stage.instance.effective_priority();
    assert_eq!(priority(&stage), 100);
    stage.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(priority(&stage), 80);
    stage.handle(Event::Tracker { index: 1, good: true });
    assert_eq!((priority(&stage), stage.state()), (85, State::Master));
    stage.hear(LOWER, 90);
    assert_eq!(stage.state(), State::Backup);
    // Bad again in its own way: the timer is that of the priority it has now.
    let skew_us = (256 - 85) * SECOND / 256;
    assert_eq!(stage.instance.deadline(), Some(stage.now.after(3 * SECOND + skew_us)));
}

#[test]
fn weights_stay_within_what_a_message_can_say_and_off_an_owner() {
    let mut stage = Stage::new(tracked(100, &[-253, 253]));
    stage.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(stage.instance.effective_priority(), 1);
    stage.handle(Event::Tracker { index: 0, good: true });
    stage.handle(Event::Tracker { index: 1, good: true });
    assert_eq!(stage.instance.effective_priority(), 254);

    let mut owner = Stage::new(tracked(OWNER, &[-253]));
    owner.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(owner.instance.effective_priority(), OWNER);
}

#[test]
fn a_reversed_weight_counts_the_other_way_round() {
    let mut reversed = tracked(100, &[-20]);
    reversed.trackers[0].reverse = true;
    let mut stage = Stage::new(reversed);
    stage.handle(Event::Tracker { index: 0, good: true });
    assert_eq!(stage.instance.effective_priority(), 80);
    stage.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(stage.instance.effective_priority(), 100);
}

/// keepalived.conf(5), "Track files": with weight 0 any number but 0 is a fault; otherwise the product
/// is added to the priority, and is a fault below -253.
#[test]
fn a_number_is_multiplied_by_the_weight() {
    for (weight, reverse, number, expected) in [
        (0, false, 0, Some(100)),
        (0, false, 1, None),
        (0, false, -1, None),
        (0, true, 0, None),
        (0, true, 1, Some(100)),
        (1, false, 20, Some(120)),
        (1, false, -20, Some(80)),
        (1, true, 20, Some(80)),
        (2, false, -10, Some(80)),
        (-2, false, -10, Some(120)),
        (1, false, 200, Some(254)),
        (1, false, -253, Some(1)),
        (1, false, -254, None),
        (-254, false, 1, None),
        (254, false, i64::MAX, Some(254)),
        (254, false, i64::MIN, None),
        (-1, true, i64::MIN, None),
    ] {
        let mut settings = tracked(100, &[weight]);
        settings.trackers[0].reverse = reverse;
        let mut stage = Stage::new(settings);
        stage.handle(Event::TrackerNumber { index: 0, number: 0 });
        stage.handle(Event::TrackerNumber { index: 0, number });
        let found = match stage.instance.own_fault() {
            None => Some(stage.instance.effective_priority()),
            Some(_) => None,
        };
        assert_eq!(found, expected, "weight {weight}, reverse {reverse}: {number}");
    }
    // Numbers of several trackers add up before they are cut.
    let mut stage = Stage::new(tracked(100, &[1, 1]));
    stage.handle(Event::TrackerNumber { index: 0, number: 200 });
    stage.handle(Event::TrackerNumber { index: 1, number: -150 });
    assert_eq!(stage.instance.effective_priority(), 150);
}

#[test]
fn weight_0_can_be_reversed_and_minus_254_is_a_fault() {
    let mut reversed = tracked(100, &[0]);
    reversed.trackers[0].reverse = true;
    let mut stage = Stage::new(reversed);
    stage.handle(Event::Tracker { index: 0, good: false });
    assert_eq!(stage.instance.own_fault(), None);
    stage.handle(Event::Tracker { index: 0, good: true });
    assert!(stage.instance.own_fault().is_some());
    let mut stage = Stage::new(tracked(100, &[-254]));
    stage.handle(Event::Tracker { index: 0, good: true });
    assert_eq!(stage.instance.own_fault(), None);
    stage.handle(Event::Tracker { index: 0, good: false });
    assert!(stage.instance.own_fault().is_some());
}
