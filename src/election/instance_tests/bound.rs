//! An instance whose addresses belong to a service with data (DESIGN.md 6).

use super::stage::{HIGHER, LOWER, Stage, settings};
use super::*;

fn bound(priority: u8) -> InstanceSettings {
    InstanceSettings { bound: true, ..settings(priority) }
}

#[test]
fn its_addresses_come_and_go_with_the_service() {
    let mut stage = Stage::master(bound(100));
    stage.run_until(10 * SECOND);
    assert!(!stage.saw(&Effect::AddAddresses), "the data is not there yet");
    assert_eq!(stage.count(&Effect::Announce { repeat: 5 }), 0);
    stage.hear(LOWER, 90);
    assert_eq!(stage.count(&Effect::Announce { repeat: 5 }), 0, "nothing to announce");
    stage.handle(Event::Serve(true));
    assert!(stage.saw(&Effect::AddAddresses));
    stage.run_until(20 * SECOND);
    assert_eq!(stage.count(&Effect::Announce { repeat: 5 }), 2);
    stage.effects.clear();
    stage.hear(HIGHER, 200);
    assert_eq!(stage.state(), State::Backup);
    assert!(!stage.saw(&Effect::RemoveAddresses), "first the service is stopped");
    stage.handle(Event::Serve(false));
    assert!(stage.saw(&Effect::RemoveAddresses));
}

#[test]
fn a_service_that_starts_while_it_is_not_master_waits_with_its_addresses() {
    let mut stage = Stage::new(bound(100));
    stage.handle(Event::Serve(true));
    assert!(!stage.saw(&Effect::AddAddresses));
    stage.run_until(DOWN_100);
    assert!(stage.saw(&Effect::AddAddresses));
}

#[test]
fn a_veto_keeps_it_backup_until_it_is_lifted() {
    let mut stage = Stage::new(bound(100));
    stage.handle(Event::Veto(true));
    stage.run_until(DOWN_100);
    assert_eq!(stage.state(), State::Backup);
    assert!(stage.saw(&Effect::Report(Notice::SilentMaster)));
    stage.run_until(3 * DOWN_100);
    assert_eq!(stage.count(&Effect::Report(Notice::SilentMaster)), 3, "asked again each time");
    assert_eq!(stage.state(), State::Backup);
    stage.handle(Event::Veto(false));
    assert_eq!(stage.state(), State::Master, "it has waited long enough");

    // Heard again meanwhile: nothing was waited for.
    let mut stage = Stage::new(bound(100));
    stage.handle(Event::Veto(true));
    stage.run_until(DOWN_100);
    stage.hear(HIGHER, 200);
    stage.handle(Event::Veto(false));
    assert_eq!(stage.state(), State::Backup);
}

#[test]
fn a_veto_does_not_forbid_to_preempt_who_is_heard() {
    let mut stage = Stage::new(bound(100));
    stage.handle(Event::Veto(true));
    for second in 1..4 {
        stage.run_until(second * SECOND);
        stage.hear(LOWER, 90);
    }
    stage.run_until(DOWN_100);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn who_may_not_preempt_waits_for_a_lower_master_too() {
    let mut stage = Stage::new(bound(100));
    stage.handle(Event::MayPreempt(false));
    for second in 1..10 {
        stage.run_until(second * SECOND);
        stage.hear(LOWER, 90);
    }
    assert_eq!(stage.state(), State::Backup);
    stage.handle(Event::MayPreempt(true));
    stage.hear(LOWER, 90);
    stage.run_until(20 * SECOND);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn whoever_yielded_does_not_come_back_while_the_other_is_there() {
    let mut stage = Stage::master(bound(100));
    stage.effects.clear();
    stage.handle(Event::Yield);
    assert_eq!(stage.adverts(), [0]);
    assert_eq!(stage.state(), State::Backup);
    let start = stage.now.0;
    for second in 1..10 {
        stage.run_until(start + second * SECOND);
        stage.hear(LOWER, 90);
    }
    assert_eq!(stage.state(), State::Backup, "a handover would be undone at once");
    // The other is gone: Master again, and as eager as before.
    stage.run_until(start + 9 * SECOND + DOWN_100);
    assert_eq!(stage.state(), State::Master);
    stage.hear(HIGHER, 200);
    let start = stage.now.0;
    stage.hear(LOWER, 90);
    stage.run_until(start + DOWN_100);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn lateness_is_doubt_until_somebody_is_heard() {
    let mut stage = Stage::master(bound(100));
    stage.handle(Event::Serve(true));
    stage.effects.clear();
    stage.wake_at(60 * SECOND);
    assert_eq!(stage.state(), State::Backup);
    assert!(stage.instance.is_in_doubt());
    assert!(!stage.saw(&Effect::RemoveAddresses), "the data decides");
    stage.run_until(60 * SECOND + DOWN_100);
    assert_eq!(stage.state(), State::Master);
    assert!(!stage.instance.is_in_doubt() && stage.saw(&Effect::AddAddresses));
    stage.wake_at(120 * SECOND);
    stage.hear(HIGHER, 200);
    assert!(!stage.instance.is_in_doubt());
}
