//! The coordinator step by step.

use super::*;
use crate::election::Time;

const SECOND: u64 = 1_000_000;

fn settings() -> ServiceSettings {
    let step = |kind, name: &str| Step { kind, name: name.to_owned() };
    ServiceSettings {
        steps: vec![
            step(StepKind::Promote, "promote r0"),
            step(StepKind::Attach, "attach r0"),
            step(StepKind::Mount, "mount /data"),
            step(StepKind::Addresses, "addresses of VI_1"),
            step(StepKind::Command, "start mariadb"),
        ],
        is_exclusive: true,
        wait_for_peer_us: None,
    }
}

fn good() -> Data {
    Data {
        is_up: true,
        is_primary: false,
        disk: Disk::Good,
        peer: Peer::Secondary,
        peer_can_serve: true,
        is_replaced: false,
        met_peer: true,
    }
}

struct Stage {
    coordinator: Coordinator,
    now: Time,
    effects: Vec<Effect>,
    data: Data,
}

impl Stage {
    fn new(settings: ServiceSettings) -> Self {
        let coordinator = Coordinator::new(settings);
        Self { coordinator, now: Time(0), effects: Vec::new(), data: Data::default() }
    }

    /// Up, in sync, Backup.
    fn ready(settings: ServiceSettings) -> Self {
        let mut stage = Self::new(settings);
        stage.give(Event::Vrrp(Standing::Backup));
        stage.set(|data| *data = good());
        stage.effects.clear();
        stage
    }

    fn serving(settings: ServiceSettings) -> Self {
        let mut stage = Self::ready(settings);
        stage.give(Event::Vrrp(Standing::Master));
        stage.run_through();
        assert_eq!(stage.coordinator.phase(), Phase::Serving);
        stage.effects.clear();
        stage
    }

    fn give(&mut self, event: Event) {
        self.coordinator.handle(self.now, event, &mut self.effects);
    }

    fn set(&mut self, change: impl FnOnce(&mut Data)) {
        change(&mut self.data);
        self.give(Event::Data(self.data));
    }

    /// The step under way ends well, and the data follows.
    fn end_step(&mut self) {
        match self.coordinator.phase() {
            Phase::Starting(0) => self.set(|data| data.is_primary = true),
            Phase::Stopping(0) => self.set(|data| data.is_primary = false),
            _ => {}
        }
        self.give(Event::StepEnded(Ok(())));
    }

    fn run_through(&mut self) {
        for _ in 0..20 {
            if let Phase::Starting(_) | Phase::Stopping(_) = self.coordinator.phase() {
                self.end_step();
            }
        }
    }

    fn wait(&mut self, until: Time) {
        while let Some(at) = self.coordinator.deadline().filter(|at| *at <= until) {
            self.now = at;
            self.give(Event::TimerDue);
        }
        self.now = until;
    }

    /// What was performed (`+`) and undone (`-`, with force `!`), in order.
    fn steps(&self) -> String {
        let word = |effect: &Effect| match effect {
            Effect::Perform { step } => Some(format!("+{step}")),
            Effect::Undo { step, force: false } => Some(format!("-{step}")),
            Effect::Undo { step, force: true } => Some(format!("!{step}")),
            Effect::Eligible(verdict) => Some(format!("e{}", u8::from(verdict.is_ok()))),
            Effect::Yield => Some("yield".to_owned()),
            Effect::Cancel => Some("cancel".to_owned()),
            _ => None,
        };
        self.effects.iter().filter_map(word).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_master_starts_in_order_and_a_backup_stops_in_reverse() {
    let mut stage = Stage::ready(settings());
    stage.give(Event::Vrrp(Standing::Master));
    stage.run_through();
    assert_eq!(stage.steps(), "+0 +1 +2 +3 +4");
    assert_eq!(stage.coordinator.phase(), Phase::Serving);
    stage.effects.clear();
    stage.give(Event::Vrrp(Standing::Backup));
    stage.run_through();
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0");
    assert_eq!(stage.coordinator.phase(), Phase::Idle);
}

#[test]
fn vrrp_hears_of_a_fault_only_when_the_data_is_given_up() {
    let mut stage = Stage::serving(settings());
    stage.wait(stage.now.after(60 * SECOND));
    stage.give(Event::Unfit(Some("chk_nginx failed".to_owned())));
    stage.run_through();
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 e0");
    stage.effects.clear();
    stage.give(Event::Unfit(None));
    assert_eq!(stage.steps(), "e1", "not before VRRP has elected it again");
}

#[test]
fn a_candidate_is_not_promoted_while_the_peer_is_primary() {
    let mut stage = Stage::ready(settings());
    stage.set(|data| data.peer = Peer::Primary);
    assert_eq!(
        stage.effects,
        [Effect::Report(Notice::Waits(Why::PeerIsPrimary)), Effect::Veto(true)]
    );
    stage.give(Event::Vrrp(Standing::Master));
    assert!(stage.effects.contains(&Effect::ProbePeer), "{:?}", stage.effects);
    assert_eq!(stage.steps(), "");
    // It is gone: the policy is asked by promoting.
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    assert!(stage.effects.contains(&Effect::Veto(false)));
    assert_eq!(stage.steps(), "+0");
}

#[test]
fn silence_of_the_master_makes_it_look_at_the_peer() {
    let mut stage = Stage::ready(settings());
    stage.set(|data| data.peer = Peer::Primary);
    stage.effects.clear();
    stage.give(Event::MasterSilent);
    assert_eq!(stage.effects, [Effect::ProbePeer]);
}

#[test]
fn who_has_not_all_of_the_data_is_no_candidate() {
    let mut stage = Stage::ready(settings());
    stage.set(|data| data.disk = Disk::Unfit);
    assert_eq!(stage.steps(), "e0");
    stage.give(Event::Vrrp(Standing::Fault));
    stage.set(|data| data.disk = Disk::Good);
    assert_eq!(stage.steps(), "e0 e1");
}

#[test]
fn a_failed_start_is_undone_and_backs_off_longer_each_time() {
    let mut stage = Stage::ready(settings());
    stage.give(Event::Vrrp(Standing::Master));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        stage.end_step();
        stage.end_step();
        stage.effects.clear();
        stage.give(Event::StepEnded(Err("mount: wrong fs type".to_owned())));
        stage.run_through();
        // What was begun is undone as well.
        assert_eq!(stage.steps(), "-2 -1 -0 e0");
        let before = stage.now;
        let due = stage.coordinator.deadline().expect("it will try again");
        pauses.push(due.since(before) / SECOND);
        stage.wait(due);
        assert_eq!(stage.steps(), "-2 -1 -0 e0 e1");
        stage.give(Event::Vrrp(Standing::Master));
        assert_eq!(stage.coordinator.phase(), Phase::Starting(0));
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn better_data_ends_the_pause() {
    let mut stage = Stage::ready(settings());
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    stage.give(Event::Vrrp(Standing::Master));
    stage.give(Event::StepEnded(Err("the witness does not answer".to_owned())));
    stage.give(Event::StepEnded(Ok(())));
    assert_eq!(stage.coordinator.phase(), Phase::Idle);
    assert!(matches!(stage.coordinator.waits(), Some(Why::BacksOff { .. })));
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Secondary, true));
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0));
}

#[test]
fn an_operator_who_decides_does_not_wait_for_the_pause() {
    let mut stage = Stage::ready(settings());
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    stage.give(Event::Vrrp(Standing::Master));
    stage.give(Event::StepEnded(Err("takeover favour-primary: the peer is not seen".to_owned())));
    stage.give(Event::StepEnded(Ok(())));
    assert!(matches!(stage.coordinator.waits(), Some(Why::BacksOff { .. })));
    stage.set(|data| data.is_primary = true);
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0));
}

#[test]
fn a_service_that_dies_soon_after_each_start_is_not_moved_to_and_fro_for_ever() {
    let mut stage = Stage::serving(settings());
    let dies = |stage: &mut Stage| {
        stage.give(Event::Unfit(Some("chk_mysql failed".to_owned())));
        stage.run_through();
        assert_eq!(stage.coordinator.phase(), Phase::Idle);
        // Where nothing runs, its check finds nothing wrong.
        stage.give(Event::Unfit(None));
        stage.give(Event::Vrrp(Standing::Master));
    };
    for expected in [5, 10, 20] {
        dies(&mut stage);
        assert_eq!(stage.coordinator.phase(), Phase::Idle);
        let due = stage.coordinator.deadline().expect("a pause");
        assert_eq!(due.since(stage.now) / SECOND, expected);
        stage.wait(due);
        stage.give(Event::Vrrp(Standing::Master));
        stage.run_through();
        assert_eq!(stage.coordinator.phase(), Phase::Serving);
    }
    stage.wait(stage.now.after(60 * SECOND));
    dies(&mut stage);
    stage.run_through();
    assert_eq!(stage.coordinator.phase(), Phase::Serving, "it ran for a minute: no pause");
    dies(&mut stage);
    let due = stage.coordinator.deadline().expect("a pause");
    assert_eq!(due.since(stage.now) / SECOND, 5, "counted anew");
}

#[test]
fn the_other_node_s_failed_start_ends_no_pause() {
    let mut stage = Stage::ready(settings());
    stage.give(Event::Vrrp(Standing::Master));
    stage.give(Event::StepEnded(Err("no such device".to_owned())));
    stage.give(Event::StepEnded(Ok(())));
    for peer in [Peer::Primary, Peer::Secondary] {
        stage.set(|data| data.peer = peer);
        stage.give(Event::Vrrp(Standing::Master));
        assert_eq!(stage.coordinator.phase(), Phase::Idle, "{peer:?}");
    }
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0), "nobody else is left");
}

#[test]
fn a_stop_during_the_start_waits_for_the_step_and_undoes_what_was_begun() {
    let mut stage = Stage::ready(settings());
    stage.give(Event::Vrrp(Standing::Master));
    stage.end_step();
    stage.effects.clear();
    stage.give(Event::Vrrp(Standing::Backup));
    assert_eq!(stage.steps(), "cancel");
    stage.give(Event::Vrrp(Standing::Master));
    stage.give(Event::StepEnded(Err("cancelled".to_owned())));
    stage.run_through();
    assert!(stage.steps().starts_with("cancel -1 -0 +0"), "{}", stage.steps());
}

#[test]
fn a_replaced_primary_lets_go_of_addresses_and_data_before_it_stops_programs() {
    let mut stage = Stage::serving(settings());
    stage.set(|data| data.is_replaced = true);
    stage.run_through();
    assert_eq!(stage.steps(), "!3 !1 !0 !4 !2 e0");
}

#[test]
fn a_stop_that_hangs_on_frozen_data_is_forced_once_the_node_is_known_to_be_replaced() {
    let mut stage = Stage::serving(settings());
    stage.give(Event::Standby(true));
    assert_eq!(stage.steps(), "-4");
    stage.set(|data| data.is_replaced = true);
    assert_eq!(stage.steps(), "-4 cancel");
    stage.run_through();
    assert_eq!(stage.steps(), "-4 cancel !3 !1 !0 !2 e0");
}

#[test]
fn a_stop_that_was_given_up_for_frozen_data_is_done_again_without_it() {
    let mut stage = Stage::serving(settings());
    stage.give(Event::Standby(true));
    stage.end_step();
    stage.end_step();
    stage.set(|data| data.is_replaced = true);
    assert_eq!(stage.steps(), "-4 -3 -2 cancel");
    stage.give(Event::StepEnded(Err("the data is gone".to_owned())));
    stage.run_through();
    assert_eq!(stage.steps(), "-4 -3 -2 cancel !1 !0 !2 e0");
}

#[test]
fn the_role_is_given_up_before_anything_else_goes_on() {
    let mut stage = Stage::serving(settings());
    stage.give(Event::Standby(true));
    for _ in 0..4 {
        stage.end_step();
    }
    stage.give(Event::StepEnded(Err("Device is held open by someone".to_owned())));
    stage.give(Event::StepEnded(Err("still".to_owned())));
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 !0");
    let due = stage.coordinator.deadline().expect("tried again");
    stage.wait(due);
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 !0 !0");
    stage.end_step();
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 !0 !0 e0");
}

#[test]
fn a_handover_stops_gives_up_and_lets_the_other_be_master() {
    let mut stage = Stage::serving(settings());
    stage.give(Event::Handover);
    stage.run_through();
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 yield");
    assert_eq!(stage.coordinator.phase(), Phase::Idle, "not before VRRP says so");
    stage.give(Event::Vrrp(Standing::Backup));
    // Nobody was there.
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0));
}

#[test]
fn backup_without_another_that_could_serve_holds_on() {
    let mut stage = Stage::serving(settings());
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    stage.give(Event::Vrrp(Standing::Backup));
    assert_eq!(stage.coordinator.phase(), Phase::Serving, "the policy lets only one go on");
    stage.set(|data| data.peer = Peer::Secondary);
    assert_eq!(stage.coordinator.phase(), Phase::Serving, "it is not in sync yet");
    stage.set(|data| data.peer_can_serve = true);
    stage.run_through();
    assert_eq!(stage.coordinator.phase(), Phase::Idle);
    // Where both may go on, VRRP decides alone.
    let mut stage = Stage::serving(ServiceSettings { is_exclusive: false, ..settings() });
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    stage.give(Event::Vrrp(Standing::Backup));
    stage.run_through();
    assert_eq!(stage.coordinator.phase(), Phase::Idle);
}

#[test]
fn doubt_after_a_pause_ends_nothing() {
    let mut stage = Stage::serving(settings());
    stage.give(Event::Vrrp(Standing::Doubt));
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.steps(), "");
    stage.give(Event::Vrrp(Standing::Doubt));
    stage.give(Event::Vrrp(Standing::Backup));
    assert_eq!(stage.steps(), "-4");
}

#[test]
fn a_lost_role_stops_the_service() {
    let mut stage = Stage::serving(settings());
    stage.set(|data| data.is_primary = false);
    stage.run_through();
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 e0");
    stage.wait(stage.coordinator.deadline().expect("it will try again"));
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0));
}

#[test]
fn a_node_that_starts_alone_waits_for_its_peer_unless_the_policy_decides() {
    let alone = |data: &mut Data| {
        *data = Data { peer: Peer::Unseen, peer_can_serve: false, met_peer: false, ..good() };
    };
    let both = ServiceSettings { is_exclusive: false, ..settings() };
    let mut stage = Stage::new(both.clone());
    stage.set(alone);
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.waits(), Some(&Why::WaitsForPeer));
    assert_eq!(stage.coordinator.deadline(), None, "for ever, as DRBD's start script does");
    // An operator decides.
    stage.set(|data| data.is_primary = true);
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0));

    let mut stage = Stage::new(ServiceSettings { wait_for_peer_us: Some(30 * SECOND), ..both });
    stage.set(alone);
    stage.give(Event::Vrrp(Standing::Master));
    stage.wait(Time(30 * SECOND - 1));
    assert_eq!(stage.coordinator.phase(), Phase::Idle);
    stage.wait(Time(30 * SECOND));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0));

    let mut stage = Stage::new(settings());
    stage.set(alone);
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Starting(0), "the policy is asked");
}

#[test]
fn nobody_is_preempted_by_a_node_that_could_not_take_the_data_over() {
    let mut stage = Stage::ready(settings());
    stage.set(|data| (data.peer, data.peer_can_serve) = (Peer::Unseen, false));
    assert_eq!(stage.effects, [Effect::MayPreempt(false)]);
    stage.set(|data| data.peer = Peer::Primary);
    assert!(stage.effects.contains(&Effect::MayPreempt(true)));
}

#[test]
fn a_shutdown_stops_and_starts_nothing_more() {
    let mut stage = Stage::serving(settings());
    stage.give(Event::Shutdown);
    stage.run_through();
    assert_eq!(stage.steps(), "-4 -3 -2 -1 -0 e0");
    stage.give(Event::Vrrp(Standing::Backup));
    stage.give(Event::Vrrp(Standing::Master));
    assert_eq!(stage.coordinator.phase(), Phase::Idle);
}
