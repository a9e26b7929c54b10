//! The state machine of one service on one node.

use std::collections::VecDeque;

use super::{Data, Disk, Notice, Peer, Phase, ServiceSettings, Standing, StepKind, Why};
use crate::election::Time;

const SECOND_US: u64 = 1_000_000;
/// After the first failed start; twice as long after each further one.
const FIRST_PAUSE_US: u64 = 5 * SECOND_US;
const LONGEST_PAUSE_US: u64 = 300 * SECOND_US;
/// A service that ran for so long was started well: an earlier end on its own counts as a failure,
/// or one that dies at once would be moved to and fro for ever.
const SETTLED_US: u64 = 60 * SECOND_US;
/// Until the role that could not be given up is tried again.
const DEMOTE_PAUSE_US: u64 = 2 * SECOND_US;
/// 5 s doubled six times is beyond the longest pause.
const DOUBLINGS_MAX: u32 = 6;

#[derive(Clone, Debug)]
pub enum Event {
    Vrrp(Standing),
    Data(Data),
    /// The first tracker without weight that is bad; none: all are good.
    Unfit(Option<String>),
    /// What the coordinator asked for is done, or could not be.
    StepEnded(Result<(), String>),
    /// The VRRP timer ran out under a veto: is the peer alive?
    MasterSilent,
    Standby(bool),
    Handover,
    Shutdown,
    TimerDue,
}

/// Performed in order. One step at a time: the next is asked for when the last has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Perform {
        step: usize,
    },
    Undo {
        step: usize,
        /// Whoever holds it loses it.
        force: bool,
    },
    /// The step under way is not wanted any more: it may end sooner, and must end.
    Cancel,
    /// VRRP: may this node be Master? `Err` with the reason.
    Eligible(Result<(), String>),
    /// VRRP: the silence of the master is not enough.
    Veto(bool),
    /// VRRP: a master of lower priority is to be replaced.
    MayPreempt(bool),
    /// VRRP: let the other be Master.
    Yield,
    /// Have the resource find out whether its peer answers.
    ProbePeer,
    Report(Notice),
}

#[derive(Debug)]
pub struct Coordinator {
    settings: ServiceSettings,
    phase: Phase,
    /// Steps that are done or were begun.
    done: usize,
    /// While stopping: what is to be undone, the first of it under way.
    queue: VecDeque<usize>,
    force: bool,
    /// Starting is to end.
    stop_wanted: Option<Why>,
    standing: Standing,
    data: Data,
    unfit: Option<String>,
    is_standby: bool,
    is_shutdown: bool,
    hands_over: bool,
    // Failures.
    failures: u32,
    last_failure: String,
    paused_until: Option<Time>,
    serving_since: Option<Time>,
    demote_at: Option<Time>,
    // Startup.
    up_since: Option<Time>,
    // What was said, so that it is said once.
    eligible: Option<bool>,
    veto: bool,
    may_preempt: Option<bool>,
    waits: Option<Why>,
    holds_on: bool,
}

impl Coordinator {
    pub fn new(settings: ServiceSettings) -> Self {
        assert!(!settings.steps.is_empty(), "a service has at least the data");
        assert_eq!(settings.steps[0].kind, StepKind::Promote, "nothing before the data");
        Self {
            settings,
            phase: Phase::Idle,
            done: 0,
            queue: VecDeque::new(),
            force: false,
            stop_wanted: None,
            standing: Standing::Init,
            data: Data::default(),
            unfit: None,
            is_standby: false,
            is_shutdown: false,
            hands_over: false,
            failures: 0,
            last_failure: String::new(),
            paused_until: None,
            serving_since: None,
            demote_at: None,
            up_since: None,
            eligible: None,
            veto: false,
            may_preempt: None,
            waits: None,
            holds_on: false,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    pub fn is_standby(&self) -> bool {
        self.is_standby
    }

    /// Why it does not serve, while it does not.
    pub fn waits(&self) -> Option<&Why> {
        self.waits.as_ref()
    }

    /// When [`Event::TimerDue`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let patience = match (self.phase, self.startup_ends()) {
            (Phase::Idle, Some(end)) if self.waits_for_peer() => Some(end),
            _ => None,
        };
        [self.paused_until, self.demote_at, patience].into_iter().flatten().min()
    }

    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Vrrp(standing) => {
                let was = std::mem::replace(&mut self.standing, standing);
                let is_new = standing == Standing::Master && was != Standing::Master;
                if is_new && self.phase == Phase::Idle && self.data.peer == Peer::Primary {
                    effects.push(Effect::ProbePeer);
                }
            }
            Event::Data(data) => {
                if data.is_up && !self.data.is_up {
                    self.up_since = Some(now);
                }
                // What could not be started may be possible now.
                if got_better(&self.data, &data) && self.phase == Phase::Idle {
                    self.paused_until = None;
                }
                self.data = data;
            }
            Event::Unfit(unfit) => self.unfit = unfit,
            Event::StepEnded(result) => self.step_ended(now, result, effects),
            Event::MasterSilent if self.data.peer != Peer::Unseen => {
                effects.push(Effect::ProbePeer);
            }
            Event::MasterSilent => {}
            Event::Standby(is_standby) => self.is_standby = is_standby,
            Event::Handover => {
                if matches!(self.phase, Phase::Starting(_) | Phase::Serving) {
                    self.hands_over = true;
                }
            }
            Event::Shutdown => self.is_shutdown = true,
            Event::TimerDue => self.timers_due(now, effects),
        }
        self.reconsider(now, effects);
        self.check_invariants();
    }

    fn timers_due(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.paused_until.is_some_and(|at| at <= now) {
            self.paused_until = None;
        }
        if self.demote_at.is_some_and(|at| at <= now) {
            self.demote_at = None;
            if let Some(&step) = self.queue.front() {
                effects.push(Effect::Undo { step, force: true });
            }
        }
    }

    // ---- what should be

    fn reconsider(&mut self, now: Time, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Idle => self.reconsider_idle(now, effects),
            Phase::Starting(step) => {
                if let Some(why) = self.why_stop(step > 0, effects)
                    && self.stop_wanted.is_none()
                {
                    self.stop_wanted = Some(why);
                    effects.push(Effect::Cancel);
                }
            }
            Phase::Serving => {
                if let Some(why) = self.why_stop(true, effects) {
                    self.stop(now, why, effects);
                }
            }
            Phase::Stopping(_) => {
                if self.data.is_replaced && !self.force {
                    // What waits for frozen I/O would wait for ever.
                    self.force = true;
                    effects.push(Effect::Cancel);
                }
            }
        }
        self.tell_vrrp(effects);
    }

    fn reconsider_idle(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let why = self.why_not_start(now);
        if why.is_none() {
            self.waits = None;
            self.done = 0;
            self.force = false;
            self.phase = Phase::Starting(0);
            effects.push(Effect::Report(Notice::Starting));
            effects.push(Effect::Perform { step: 0 });
            return;
        }
        // A pause that shrinks is no news.
        let is_same = match (&self.waits, &why) {
            (Some(Why::BacksOff { after, .. }), Some(Why::BacksOff { after: new, .. })) => {
                after == new
            }
            (old, new) => old == new,
        };
        if !is_same {
            effects.extend(why.clone().map(|why| Effect::Report(Notice::Waits(why))));
        }
        self.waits = why;
    }

    /// What keeps this node from being a candidate at all, apart from VRRP.
    fn why_not_eligible(&self) -> Option<Why> {
        if self.is_shutdown {
            Some(Why::Shutdown)
        } else if self.is_standby {
            Some(Why::Standby)
        } else if let Some(what) = &self.unfit {
            Some(Why::Unfit(what.clone()))
        } else if !self.data.is_up {
            Some(Why::NotUp)
        } else if self.data.is_replaced {
            Some(Why::Replaced)
        } else if self.data.disk == Disk::Unfit && !self.data.is_primary {
            Some(Why::Disk)
        } else {
            let after = self.last_failure.clone();
            self.paused_until.map(|at| Why::BacksOff { after, for_us: at.0 })
        }
    }

    fn why_not_start(&self, now: Time) -> Option<Why> {
        match self.why_not_eligible() {
            Some(Why::BacksOff { after, for_us: at }) => {
                return Some(Why::BacksOff { after, for_us: Time(at).since(now) });
            }
            Some(why) => return Some(why),
            None => {}
        }
        if self.data.peer == Peer::Primary {
            Some(Why::PeerIsPrimary)
        } else if self.standing != Standing::Master {
            Some(Why::NotMaster)
        } else if self.waits_for_peer() && self.startup_ends().is_none_or(|end| now < end) {
            Some(Why::WaitsForPeer)
        } else {
            None
        }
    }

    /// A node that starts alone may have been replaced while it was away, and only its policy or
    /// its peer could tell.
    fn waits_for_peer(&self) -> bool {
        let data = &self.data;
        !self.settings.is_exclusive && data.is_up && !data.met_peer && !data.is_primary
    }

    fn startup_ends(&self) -> Option<Time> {
        self.up_since.zip(self.settings.wait_for_peer_us).map(|(since, wait)| since.after(wait))
    }

    fn why_stop(&mut self, was_promoted: bool, effects: &mut Vec<Effect>) -> Option<Why> {
        if self.data.is_replaced {
            return Some(Why::Replaced);
        }
        if self.is_shutdown {
            return Some(Why::Shutdown);
        }
        if self.is_standby {
            return Some(Why::Standby);
        }
        if self.hands_over {
            return Some(Why::Handover);
        }
        if let Some(what) = &self.unfit {
            return Some(Why::Unfit(what.clone()));
        }
        if was_promoted && !self.data.is_primary {
            return Some(Why::LostPrimary);
        }
        match self.standing {
            Standing::Master | Standing::Doubt => {
                self.holds_on = false;
                None
            }
            // Nobody else may serve this data, whatever VRRP says.
            _ if was_promoted && self.is_irreplaceable() => {
                if !std::mem::replace(&mut self.holds_on, true) {
                    effects.push(Effect::Report(Notice::HoldsOn));
                }
                None
            }
            Standing::Init | Standing::Backup | Standing::Fault => Some(Why::NotMaster),
        }
    }

    fn is_irreplaceable(&self) -> bool {
        match self.data.peer {
            Peer::Unseen => self.settings.is_exclusive,
            Peer::Secondary | Peer::Primary => !self.data.peer_can_serve,
        }
    }

    fn tell_vrrp(&mut self, effects: &mut Vec<Effect>) {
        // Whoever holds something goes on saying so until it is given up.
        let why = if self.phase == Phase::Idle { self.why_not_eligible() } else { None };
        if self.eligible != Some(why.is_none()) {
            self.eligible = Some(why.is_none());
            if why.is_some() {
                // Until VRRP says so itself: what it said before is over.
                self.standing = Standing::Fault;
            }
            let verdict = why.map_or(Ok(()), |why| Err(why.to_string()));
            effects.push(Effect::Eligible(verdict));
        }
        let veto = self.data.peer == Peer::Primary;
        if self.veto != veto {
            self.veto = veto;
            effects.push(Effect::Veto(veto));
        }
        // A service is moved only where it arrives: both connected, both with all of the data.
        let may_preempt = self.data.peer != Peer::Unseen && self.data.disk == Disk::Good;
        if self.may_preempt != Some(may_preempt) {
            self.may_preempt = Some(may_preempt);
            effects.push(Effect::MayPreempt(may_preempt));
        }
    }

    // ---- what is done

    fn step_ended(&mut self, now: Time, result: Result<(), String>, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Starting(step) => self.start_step_ended(now, step, result, effects),
            Phase::Stopping(step) => self.stop_step_ended(now, step, result, effects),
            Phase::Idle | Phase::Serving => unreachable!("no step was asked for"),
        }
    }

    fn start_step_ended(
        &mut self,
        now: Time,
        step: usize,
        result: Result<(), String>,
        effects: &mut Vec<Effect>,
    ) {
        self.done = step + 1;
        if let Some(why) = self.stop_wanted.take() {
            return self.stop(now, why, effects);
        }
        match result {
            Ok(()) if self.done == self.settings.steps.len() => {
                self.phase = Phase::Serving;
                self.serving_since = Some(now);
                effects.push(Effect::Report(Notice::Serving));
            }
            Ok(()) => {
                self.phase = Phase::Starting(self.done);
                effects.push(Effect::Perform { step: self.done });
            }
            Err(error) => {
                let name = self.settings.steps[step].name.clone();
                let why = Why::StepFailed { step: name, error };
                effects.push(Effect::Report(Notice::StartFailed(why.clone())));
                self.count_failure(now, why.to_string());
                self.stop(now, why, effects);
            }
        }
    }

    /// The service ran and ends, by its own fault or not.
    fn count_end(&mut self, now: Time, since: Time, why: &Why) {
        if now.since(since) >= SETTLED_US {
            self.failures = 0;
        } else if let Why::Unfit(_) | Why::LostPrimary = why {
            self.count_failure(now, why.to_string());
        }
    }

    fn count_failure(&mut self, now: Time, what: String) {
        let doublings = self.failures.min(DOUBLINGS_MAX);
        self.failures += 1;
        let pause_us = (FIRST_PAUSE_US << doublings).min(LONGEST_PAUSE_US);
        self.paused_until = Some(now.after(pause_us));
        self.last_failure = what;
    }

    fn stop(&mut self, now: Time, why: Why, effects: &mut Vec<Effect>) {
        if let Some(since) = self.serving_since.take() {
            self.count_end(now, since, &why);
        }
        self.force = why == Why::Replaced;
        self.holds_on = false;
        self.queue = (0..self.done).rev().collect();
        effects.push(Effect::Report(Notice::Stopping(why)));
        self.order_by_force();
        self.undo_next(effects);
    }

    /// The other node writes already: first what the world sees, then the data, so that programs
    /// that wait for it get an error instead of waiting for ever; then those.
    fn order_by_force(&mut self) {
        if self.force {
            let steps = &self.settings.steps;
            let rank = |step: &usize| match steps[*step].kind {
                StepKind::Addresses => 0,
                StepKind::Attach => 1,
                StepKind::Promote => 2,
                StepKind::Mount | StepKind::Command => 3,
            };
            self.queue.make_contiguous().sort_by_key(rank);
        }
    }

    fn has_data_to_give_up(&self) -> bool {
        self.queue.iter().any(|step| self.settings.steps[*step].kind == StepKind::Promote)
    }

    fn undo_next(&mut self, effects: &mut Vec<Effect>) {
        match self.queue.front() {
            Some(&step) => {
                self.phase = Phase::Stopping(step);
                effects.push(Effect::Undo { step, force: self.force });
            }
            None => {
                self.phase = Phase::Idle;
                self.done = 0;
                self.waits = None;
                effects.push(Effect::Report(Notice::Stopped));
                if std::mem::take(&mut self.hands_over) {
                    effects.push(Effect::Yield);
                    // Until VRRP says so itself: it would start again at once.
                    self.standing = Standing::Backup;
                }
            }
        }
    }

    fn stop_step_ended(
        &mut self,
        now: Time,
        step: usize,
        result: Result<(), String>,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(error) = result {
            let name = self.settings.steps[step].name.clone();
            if self.settings.steps[step].kind == StepKind::Promote {
                // The one thing that must not be skipped.
                let was_forced = std::mem::replace(&mut self.force, true);
                effects.push(Effect::Report(Notice::Forced { step: name, error }));
                if was_forced {
                    self.demote_at = Some(now.after(DEMOTE_PAUSE_US));
                } else {
                    effects.push(Effect::Undo { step, force: true });
                }
                return;
            }
            effects.push(Effect::Report(Notice::Forced { step: name, error }));
            self.force = true;
            if self.data.is_replaced && self.has_data_to_give_up() {
                // It waited for frozen I/O, and may have been left half done: once more after that.
                self.order_by_force();
                return self.undo_next(effects);
            }
        }
        self.queue.pop_front();
        if self.data.is_replaced {
            self.order_by_force();
        }
        self.undo_next(effects);
    }

    fn check_invariants(&self) {
        assert!(self.done <= self.settings.steps.len());
        match self.phase {
            Phase::Idle => assert!(self.done == 0 && self.queue.is_empty()),
            Phase::Starting(step) => assert!(self.done <= step && self.queue.is_empty()),
            Phase::Serving => assert_eq!(self.done, self.settings.steps.len()),
            Phase::Stopping(step) => assert_eq!(self.queue.front(), Some(&step)),
        }
    }
}

/// Whether a start that failed with the one may succeed with the other: the own disk is nearer to good,
/// the peer came or went, or an operator decided that this node goes on (`primary --force`). Its role alone is no reason: two nodes that both fail to start would
/// end each other's pauses for ever.
fn got_better(old: &Data, new: &Data) -> bool {
    let is_decided = new.is_primary && !old.is_primary;
    new.disk > old.disk || is_decided || (old.peer == Peer::Unseen) != (new.peer == Peer::Unseen)
}
