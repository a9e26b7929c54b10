//! The state table of vrrp.md 1.5, row by row, and what keepalived does beyond it.

mod bound;
mod groups;
mod stage;
mod trackers;

use super::super::packet::ChecksumForm;
use super::super::settings::{AnnouncementSettings, OWNER};
use super::*;
use stage::{HIGHER, LOWER, Stage, settings};

const SECOND: u64 = 1_000_000;
/// Of priority 100: 3 x 1 s + 156/256 s.
const DOWN_100: u64 = 3_609_375;
const SKEW_100: u64 = 609_375;

#[test]
fn a_start_waits_for_the_master_and_then_takes_over_advert_first() {
    let mut stage = Stage::new(settings(100));
    assert!(stage.saw(&Effect::RemoveAddresses), "what a dead process left");
    assert_eq!(stage.state(), State::Backup);
    assert_eq!(stage.instance.deadline(), Some(Time(DOWN_100)));
    stage.run_until(DOWN_100 - 1);
    assert_eq!(stage.state(), State::Backup);
    stage.effects.clear();
    stage.run_until(DOWN_100);
    assert_eq!(stage.state(), State::Master);
    let actions: Vec<_> =
        stage.effects.iter().filter(|effect| !matches!(effect, Effect::Report(_))).collect();
    let [Effect::SendAdvert { destination, bytes }, rest @ ..] = &actions[..] else {
        panic!("first the advertisement: {actions:?}");
    };
    assert_eq!(destination.to_string(), "224.0.0.18");
    assert_eq!(bytes[..6], [0x21, 51, 100, 1, 0, 1]);
    let expected = [
        &Effect::AddAddresses,
        &Effect::Announce { repeat: 5 },
        &Effect::Notify(NotifiedState::Master),
    ];
    assert_eq!(rest, expected);
}

#[test]
fn a_master_advertises_each_interval_and_announces_again_after_5_s() {
    let mut stage = Stage::master(settings(100));
    stage.effects.clear();
    stage.run_until(DOWN_100 + 10 * SECOND);
    assert_eq!(stage.adverts(), vec![100; 10]);
    assert_eq!(stage.count(&Effect::Announce { repeat: 5 }), 1);
}

#[test]
fn announcements_are_as_many_as_configured() {
    let mut quiet = settings(100);
    quiet.announcements = AnnouncementSettings {
        repeat: 2,
        delay_us: 0,
        refresh_us: 2 * SECOND,
        refresh_repeat: 3,
        ..AnnouncementSettings::default()
    };
    let mut stage = Stage::master(quiet);
    stage.run_until(DOWN_100 + 9 * SECOND);
    assert_eq!(stage.count(&Effect::Announce { repeat: 2 }), 1);
    assert_eq!(stage.count(&Effect::Announce { repeat: 3 }), 4);
}

#[test]
fn an_owner_that_is_to_be_master_serves_at_once() {
    let mut owner = settings(OWNER);
    owner.initial_state = InitialState::Master;
    let stage = Stage::new(owner);
    assert_eq!(stage.state(), State::Master);
    assert_eq!(stage.adverts(), [255]);
}

#[test]
fn the_hint_master_shortens_the_first_wait_only() {
    let mut hinted = settings(100);
    hinted.initial_state = InitialState::Master;
    let mut stage = Stage::new(hinted);
    assert_eq!(stage.instance.deadline(), Some(Time(SECOND + SECOND / 256)));
    stage.handle(Event::Link { is_up: false });
    stage.handle(Event::Link { is_up: true });
    assert_eq!(stage.instance.deadline(), Some(Time(DOWN_100)));
}

#[test]
fn a_backup_is_kept_by_adverts_of_its_own_or_a_higher_priority() {
    for priority in [100, 150] {
        let mut stage = Stage::new(settings(100));
        stage.run_until(2 * SECOND);
        stage.hear(LOWER, priority);
        assert_eq!(stage.instance.deadline(), Some(Time(2 * SECOND + DOWN_100)));
    }
}

#[test]
fn a_backup_lets_its_timer_run_under_a_lower_priority() {
    let mut stage = Stage::new(settings(100));
    stage.hear(HIGHER, 90);
    stage.run_until(SECOND);
    stage.hear(HIGHER, 90);
    assert_eq!(stage.instance.deadline(), Some(Time(DOWN_100)));
    let said = |effect: &&Effect| matches!(effect, Effect::Report(Notice::LowerPriority { .. }));
    assert_eq!(stage.effects.iter().filter(said).count(), 1, "once for each master");
}

#[test]
fn without_preemption_any_master_keeps_a_backup() {
    let mut stage = Stage::new(InstanceSettings { preempt: false, ..settings(100) });
    for second in 1..20 {
        stage.run_until(second * SECOND);
        stage.hear(LOWER, 1);
    }
    assert_eq!(stage.state(), State::Backup);
    stage.run_until(19 * SECOND + DOWN_100);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn preemption_can_be_delayed() {
    let mut stage = Stage::new(InstanceSettings { preempt_delay_us: 10 * SECOND, ..settings(100) });
    for second in 1..=11 {
        stage.run_until(second * SECOND);
        stage.hear(LOWER, 90);
        assert_eq!(stage.state(), State::Backup);
    }
    // The advertisement at 11 s, 10 s after the first, no longer restarts the timer.
    assert_eq!(stage.instance.deadline(), Some(Time(10 * SECOND + DOWN_100)));
    stage.run_until(10 * SECOND + DOWN_100);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn a_delay_begins_anew_after_a_master_that_may_not_be_preempted() {
    let mut stage = Stage::new(InstanceSettings { preempt_delay_us: 3 * SECOND, ..settings(100) });
    stage.hear(LOWER, 90);
    stage.run_until(2 * SECOND);
    stage.hear(HIGHER, 200);
    stage.run_until(4 * SECOND);
    stage.hear(LOWER, 90);
    assert_eq!(stage.instance.deadline(), Some(Time(4 * SECOND + DOWN_100)));
}

#[test]
fn a_delay_of_preemption_does_not_delay_taking_over_from_nobody() {
    let mut stage = Stage::new(InstanceSettings { preempt_delay_us: 60 * SECOND, ..settings(100) });
    stage.hear(LOWER, 90);
    stage.run_until(DOWN_100);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn a_master_that_stops_is_followed_after_the_skew() {
    for preempt in [true, false] {
        let mut stage = Stage::new(InstanceSettings { preempt, ..settings(100) });
        stage.run_until(SECOND);
        stage.hear(HIGHER, 200);
        stage.hear(HIGHER, 0);
        assert_eq!(stage.instance.deadline(), Some(Time(SECOND + SKEW_100)));
        stage.run_until(SECOND + SKEW_100);
        assert_eq!(stage.state(), State::Master);
    }
}

#[test]
fn a_master_answers_one_that_stops_at_once() {
    let mut stage = Stage::master(settings(100));
    stage.run_until(DOWN_100 + SECOND / 2);
    stage.effects.clear();
    stage.hear(LOWER, 0);
    assert_eq!(stage.adverts(), [100]);
    assert_eq!(stage.instance.deadline(), Some(Time(DOWN_100 + SECOND * 3 / 2)));
}

#[test]
fn a_master_yields_to_a_higher_priority_or_address() {
    for (source, priority) in [(LOWER, 101), (HIGHER, 100)] {
        let mut stage = Stage::master(settings(100));
        stage.effects.clear();
        stage.hear(source, priority);
        assert_eq!(stage.state(), State::Backup);
        assert!(stage.saw(&Effect::RemoveAddresses));
        assert!(stage.saw(&Effect::Notify(NotifiedState::Backup)));
        assert!(stage.adverts().is_empty(), "no priority 0: there is a master");
        assert_eq!(stage.instance.deadline(), Some(Time(2 * DOWN_100)));
    }
}

#[test]
fn a_master_forces_a_new_election_on_a_lower_priority_or_address() {
    for (source, priority) in [(HIGHER, 99), (LOWER, 100)] {
        let mut stage = Stage::master(settings(100));
        stage.run_until(DOWN_100 + SECOND / 2);
        stage.effects.clear();
        stage.hear(source, priority);
        assert_eq!(stage.state(), State::Master);
        assert_eq!(stage.adverts(), [100]);
        assert!(stage.saw(&Effect::Announce { repeat: 5 }));
        assert!(stage.saw(&Effect::Notify(NotifiedState::MasterHeardLowerPriority)));
        stage.effects.clear();
        stage.run_until(DOWN_100 + 6 * SECOND);
        assert_eq!(stage.count(&Effect::Announce { repeat: 5 }), 1, "again after 5 s");
    }
    let rfc = InstanceSettings { lower_priority_no_advert: true, ..settings(100) };
    let mut stage = Stage::master(rfc);
    stage.effects.clear();
    stage.hear(LOWER, 90);
    assert_eq!(stage.effects, []);
}

#[test]
fn a_master_may_tell_a_higher_one_of_itself_before_it_yields() {
    let told = InstanceSettings { higher_priority_send_advert: true, ..settings(100) };
    let mut stage = Stage::master(told);
    stage.effects.clear();
    stage.hear(LOWER, 101);
    assert_eq!(stage.adverts(), [100]);
    assert_eq!(stage.state(), State::Backup);
}

#[test]
fn a_stop_releases_with_priority_0_and_is_the_end() {
    let mut stage = Stage::master(settings(100));
    stage.effects.clear();
    stage.handle(Event::Stop);
    assert_eq!(stage.adverts(), [0]);
    assert!(stage.saw(&Effect::RemoveAddresses));
    assert!(stage.saw(&Effect::Notify(NotifiedState::Stop)));
    stage.effects.clear();
    stage.handle(Event::Link { is_up: false });
    stage.handle(Event::Stop);
    assert_eq!((stage.state(), stage.instance.deadline()), (State::Stopped, None));
    assert_eq!(stage.effects, []);

    let mut backup = Stage::new(settings(100));
    backup.handle(Event::Stop);
    assert!(backup.adverts().is_empty());
}

#[test]
fn faults_silence_a_node_and_leave_to_backup() {
    let mut stage = Stage::master(settings(100));
    stage.effects.clear();
    stage.handle(Event::Link { is_up: false });
    assert_eq!((stage.state(), stage.instance.deadline()), (State::Fault, None));
    assert!(stage.saw(&Effect::RemoveAddresses));
    assert!(stage.saw(&Effect::Notify(NotifiedState::Fault)));
    assert!(stage.adverts().is_empty(), "nothing leaves an interface that is down");
    stage.hear(HIGHER, 200);
    stage.hear(HIGHER, 0);
    assert_eq!(stage.instance.deadline(), None);
    let now = stage.now;
    stage.handle(Event::Link { is_up: true });
    assert_eq!(stage.state(), State::Backup);
    assert_eq!(stage.instance.deadline(), Some(now.after(DOWN_100)));

    stage.handle(Event::Source(None));
    assert_eq!(stage.state(), State::Fault);
}

#[test]
fn rejected_packets_never_touch_the_state() {
    let mut stage = Stage::new(settings(100));
    stage.run_until(SECOND);
    stage.effects.clear();
    for _ in 0..9 {
        stage.hear_bytes(HIGHER, &[0x21, 51, 255]);
    }
    assert_eq!(stage.instance.deadline(), Some(Time(DOWN_100)));
    assert_eq!(stage.instance.counters().rejected.length, 9);
    assert_eq!(stage.effects.len(), 4, "the 1st, 2nd, 4th and 8th: {:?}", stage.effects);
}

#[test]
fn version_3_follows_the_interval_of_the_master() {
    let v3 = InstanceSettings { version: Version::V3, ..settings(90) };
    let mut stage = Stage::new(v3);
    stage.hear_every(HIGHER, 100, 100_000);
    // 3 x 0.1 s + 166/256 x 0.1 s (vrrp.md 6.3).
    assert_eq!(stage.instance.deadline(), Some(Time(364_843)));
    stage.run_until(364_843);
    assert_eq!(stage.state(), State::Master);
    let Some(Effect::SendAdvert { bytes, .. }) =
        stage.effects.iter().find(|effect| matches!(effect, Effect::SendAdvert { .. }))
    else {
        panic!("no advertisement");
    };
    assert_eq!(bytes[4..6], 100u16.to_be_bytes(), "its own interval");
}

#[test]
fn a_master_that_was_paused_for_as_long_as_others_wait_listens_first() {
    let mut stage = Stage::master(settings(100));
    stage.run_until(10 * SECOND);
    let last = stage.instance.last_advert_at.expect("a master");
    stage.effects.clear();
    stage.wake_at(last.0 + 3 * SECOND);
    assert_eq!(stage.state(), State::Backup);
    assert!(stage.adverts().is_empty());
    assert!(stage.saw(&Effect::RemoveAddresses));
    assert_eq!(stage.instance.counters().late_timers, 1);
    assert!(matches!(
        stage.effects[0],
        Effect::Report(Notice::Late { by_us: 2_000_000, was_master: true })
    ));
    assert_eq!(stage.instance.deadline(), Some(stage.now.after(DOWN_100)));
}

#[test]
fn whatever_wakes_a_late_master_comes_after_it_has_stepped_back() {
    let mut stage = Stage::master(settings(100));
    stage.effects.clear();
    stage.now = Time(60 * SECOND);
    stage.hear(LOWER, 90);
    assert_eq!(stage.state(), State::Backup);
    assert!(stage.adverts().is_empty(), "it must not force an election it may have lost");
}

#[test]
fn a_master_that_was_paused_for_less_goes_on_at_once() {
    let mut stage = Stage::master(settings(100));
    let last = stage.instance.last_advert_at.expect("a master");
    stage.effects.clear();
    stage.wake_at(last.0 + 3 * SECOND - 1);
    assert_eq!(stage.adverts(), [100]);
}

#[test]
fn a_backup_that_slept_through_its_timer_listens_again() {
    let mut stage = Stage::new(settings(100));
    stage.wake_at(DOWN_100 + SECOND);
    assert_eq!(stage.state(), State::Backup);
    let again = DOWN_100 + SECOND + DOWN_100;
    assert_eq!(stage.instance.deadline(), Some(Time(again)));
    stage.run_until(again);
    assert_eq!(stage.state(), State::Master);
}

#[test]
fn unicast_goes_to_each_peer() {
    let mut unicast = settings(100);
    unicast.unicast_peers = vec![LOWER, HIGHER];
    let stage = Stage::master(unicast);
    let destinations: Vec<_> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::SendAdvert { destination, .. } => Some(*destination),
            _ => None,
        })
        .collect();
    assert_eq!(destinations, [LOWER, HIGHER]);
}

#[test]
fn settings_that_no_message_can_carry_are_refused() {
    let refused = |change: fn(&mut InstanceSettings)| {
        let mut wrong = settings(100);
        change(&mut wrong);
        Instance::new(wrong).expect_err("refused")
    };
    assert_eq!(refused(|s| s.virtual_router_id = 0), WrongSettings::VirtualRouterId);
    assert_eq!(refused(|s| s.priority = 0), WrongSettings::Priority);
    assert_eq!(refused(|s| s.addresses.clear()), WrongSettings::AddressCount);
    assert!(matches!(refused(|s| s.advert_interval_us = 500_000), WrongSettings::Interval { .. }));
    assert_eq!(refused(|s| s.down_timer_adverts = 0), WrongSettings::DownTimer);
    assert_eq!(
        refused(|s| s.family = super::super::settings::Family::V6),
        WrongSettings::VersionOfFamily
    );
    let hinted = refused(|s| {
        s.initial_state = InitialState::Master;
        s.preempt = false;
    });
    assert_eq!(hinted, WrongSettings::NopreemptMaster);
}

#[test]
fn messages_carry_the_checksum_that_was_asked_for() {
    let mut v3 = InstanceSettings { version: Version::V3, ..settings(100) };
    v3.checksum_form = ChecksumForm::MessageOnly;
    let stage = Stage::master(v3);
    let Effect::SendAdvert { bytes, .. } =
        stage.effects.iter().find(|effect| matches!(effect, Effect::SendAdvert { .. })).unwrap()
    else {
        unreachable!()
    };
    assert_eq!(super::super::packet::internet_checksum(bytes), 0);
}
