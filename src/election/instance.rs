//! One virtual router on one node: the state machine of RFC 9568 with what keepalived does beyond
//! it (vrrp.md 1.4, 1.5, 1.6), and one rule that it does not have: whoever was not run for so long
//! that it may have been replaced listens again before it acts.
//!
//! ```text
//!            Start, ready            timer                  higher priority, late
//!   Init ---------------> Backup -----------> Master ---------------------------> Backup
//!     \                     |  \                 |
//!      \ tracker, link,     |   \ the same       | the same: priority 0, addresses removed
//!       \ no address        |    \               |
//!        +------> Fault <---+-----+<-------------+          Stop: priority 0 if Master, Stopped
//!                   | ready again
//!                   +------------> Backup
//! ```

use std::net::IpAddr;

use super::Time;
use super::check::{self, Counters, Received};
use super::notice::{FaultReason, Notice};
use super::packet::{Advertisement, Route, Version};
use super::settings::{
    InitialState, InstanceSettings, OWNER, Reading, TrackerSettings, WrongSettings,
};

/// Says "I stop" in an advertisement.
const PRIORITY_ZERO: u8 = 0;
const SECOND_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or a tracker without weight has not yet spoken.
    Init,
    Backup,
    Master,
    Fault,
    Stopped,
}

#[derive(Clone, Debug)]
pub enum Event<'a> {
    Start,
    /// Anything that came for protocol 112.
    Received(Received<'a>),
    /// The moment of [`Instance::deadline`] has come; too early does no harm.
    TimerDue,
    /// The interface is up and has a carrier.
    Link {
        is_up: bool,
    },
    /// The address that adverts are sent from; none: the interface has none.
    Source(Option<IpAddr>),
    /// A tracker of the settings, by its place there.
    Tracker {
        index: usize,
        good: bool,
    },
    /// The same for one that weighs by a number (`track_file`).
    TrackerNumber {
        index: usize,
        number: i64,
    },
    Group(GroupVerdict),
    /// Of a bound instance: its service runs here and wants its addresses, or wants them no more.
    Serve(bool),
    /// The master is alive by another path, the replication link: its silence alone is no reason to
    /// take over.
    Veto(bool),
    /// Whether a master of lower priority may be replaced now.
    MayPreempt(bool),
    /// Let another node be Master; it is not preempted afterwards. Nobody there: Master again.
    Yield,
    Stop,
}

/// What the group has decided for a member ([`super::Group`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupVerdict {
    Master,
    Backup,
    Fault(bool),
}

/// Performed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The message without its IP header.
    SendAdvert {
        destination: IpAddr,
        bytes: Vec<u8>,
    },
    AddAddresses,
    /// Those that are there; also at the start, where a dead process may have left some.
    RemoveAddresses,
    /// Gratuitous ARP or neighbour advertisements, so many for each address.
    Announce {
        repeat: u32,
    },
    Notify(NotifiedState),
    Report(Notice),
}

/// What notify programs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifiedState {
    Master,
    Backup,
    Fault,
    Stop,
    /// Still Master, after somebody else said it was.
    MasterHeardLowerPriority,
}

#[derive(Debug)]
pub struct Instance {
    settings: InstanceSettings,
    state: State,
    is_started: bool,
    // What it is told of the outside.
    link_is_up: bool,
    source: Option<IpAddr>,
    /// As in the settings; `None` before the first result.
    trackers: Vec<Option<Reading>>,
    group_is_faulty: bool,
    // Election.
    /// Backup: the master counts as gone. Master: the next advertisement.
    election_at: Option<Time>,
    last_advert_at: Option<Time>,
    /// Of the master, learned in version 3.
    master_interval_us: u64,
    /// From when on a master of lower priority is preempted.
    preempt_at: Option<Time>,
    /// Its timer ran out, its group has not decided.
    wants_master: bool,
    /// A master that could be preempted spoke last at.
    lower_heard_at: Option<Time>,
    /// Gave mastership away on request: preempts nobody until it is Master again.
    is_reluctant: bool,
    /// Was Master until it was late, and nobody is known to have taken over.
    is_in_doubt: bool,
    // The service of a bound instance.
    serves: bool,
    is_vetoed: bool,
    may_preempt: bool,
    /// The timer ran out under a veto.
    waits_for_veto: bool,
    /// Whom it heard last, with which priority.
    master: Option<(IpAddr, u8)>,
    // Announcements, as Master.
    second_burst: Option<(Time, u32)>,
    refresh_at: Option<Time>,
    counters: Counters,
}

impl Instance {
    pub fn new(settings: InstanceSettings) -> Result<Self, WrongSettings> {
        settings.check()?;
        Ok(Self {
            state: State::Init,
            is_started: false,
            link_is_up: true,
            source: None,
            trackers: vec![None; settings.trackers.len()],
            group_is_faulty: false,
            election_at: None,
            last_advert_at: None,
            master_interval_us: settings.advert_interval_us,
            preempt_at: None,
            wants_master: false,
            lower_heard_at: None,
            is_reluctant: false,
            is_in_doubt: false,
            serves: false,
            is_vetoed: false,
            may_preempt: true,
            waits_for_veto: false,
            master: None,
            second_burst: None,
            refresh_at: None,
            counters: Counters::default(),
            settings,
        })
    }

    /// Goes on as it is under other settings of the same router. A tracker is known by its name; one
    /// that is new counts once it has spoken.
    pub fn adopt(&mut self, now: Time, settings: InstanceSettings, effects: &mut Vec<Effect>) {
        assert!(self.settings.is_same_router(&settings), "another router begins again");
        let old: Vec<(String, Option<Reading>)> = self
            .settings
            .trackers
            .iter()
            .map(|tracker| tracker.name.clone())
            .zip(std::mem::take(&mut self.trackers))
            .collect();
        let reading = |tracker: &TrackerSettings| {
            old.iter().find(|(name, _)| *name == tracker.name).and_then(|(_, reading)| *reading)
        };
        self.trackers = settings.trackers.iter().map(reading).collect();
        let refresh_us = settings.announcements.refresh_us;
        if refresh_us != self.settings.announcements.refresh_us {
            let announces = self.state == State::Master && (!settings.bound || self.serves);
            self.refresh_at = (announces && refresh_us > 0).then(|| now.after(refresh_us));
        }
        self.settings = settings;
        self.look_at_standing(now, effects);
        self.check_invariants();
    }

    pub fn settings(&self) -> &InstanceSettings {
        &self.settings
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The node that was heard as master last, with its priority.
    pub fn heard_master(&self) -> Option<(IpAddr, u8)> {
        self.master
    }

    pub fn wants_master(&self) -> bool {
        self.wants_master
    }

    /// Was Master until it was late, listens now, and has not heard that somebody took over.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// What trackers leave of the priority; an owner's never changes.
    pub fn effective_priority(&self) -> u8 {
        let base = self.settings.priority;
        if base == OWNER {
            return OWNER;
        }
        let change: i64 = self.readings().map(|(tracker, reading)| tracker.change(reading)).sum();
        (i64::from(base) + change).clamp(1, i64::from(OWNER) - 1) as u8
    }

    /// What keeps it from taking part, apart from its group.
    pub fn own_fault(&self) -> Option<FaultReason> {
        if !self.link_is_up {
            return Some(FaultReason::LinkDown);
        }
        if self.source.is_none() {
            return Some(FaultReason::NoSourceAddress);
        }
        let bad = self.readings().find(|(tracker, reading)| tracker.is_fault(*reading));
        bad.map(|(tracker, _)| FaultReason::Tracker(tracker.name.clone()))
    }

    /// Trackers that have spoken.
    fn readings(&self) -> impl Iterator<Item = (&TrackerSettings, Reading)> {
        let trackers = self.settings.trackers.iter().zip(&self.trackers);
        trackers.filter_map(|(tracker, reading)| Some((tracker, (*reading)?)))
    }

    /// In Fault because of another member, or would be.
    pub fn is_held_by_group(&self) -> bool {
        self.group_is_faulty
    }

    /// When [`Event::TimerDue`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let second_burst = self.second_burst.map(|(at, _)| at);
        [self.election_at, second_burst, self.refresh_at].into_iter().flatten().min()
    }

    pub fn handle(&mut self, now: Time, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.look_for_lateness(now, effects);
        match event {
            Event::Start => {
                self.is_started = true;
                // A process that died may have left them, and has no right to them now.
                self.remove_addresses(effects);
                self.look_at_standing(now, effects);
            }
            Event::Received(received) => self.receive(now, &received, effects),
            Event::TimerDue => self.timers_due(now, effects),
            Event::Link { is_up } => {
                self.link_is_up = is_up;
                self.look_at_standing(now, effects);
            }
            Event::Source(source) => {
                self.source = source;
                self.look_at_standing(now, effects);
            }
            Event::Tracker { index, good } => {
                self.trackers[index] = Some(if good { Reading::Good } else { Reading::Bad });
                self.look_at_standing(now, effects);
            }
            Event::TrackerNumber { index, number } => {
                self.trackers[index] = Some(Reading::Number(number));
                self.look_at_standing(now, effects);
            }
            Event::Group(GroupVerdict::Fault(is_faulty)) => {
                self.group_is_faulty = is_faulty;
                self.look_at_standing(now, effects);
            }
            Event::Group(GroupVerdict::Master) if self.state == State::Backup => {
                self.become_master(now, effects);
            }
            Event::Group(GroupVerdict::Backup) if self.state == State::Master => {
                self.leave_master(effects);
                self.become_backup(now, self.master_down_us(), effects);
            }
            Event::Group(_) => {}
            Event::Serve(serves) => self.serve(now, serves, effects),
            Event::Veto(is_vetoed) => {
                self.is_vetoed = is_vetoed;
                if !is_vetoed && std::mem::take(&mut self.waits_for_veto) {
                    self.take_over(now, effects);
                }
            }
            Event::MayPreempt(may_preempt) => self.may_preempt = may_preempt,
            Event::Yield if self.state == State::Master => {
                self.send_priority_zero(effects);
                self.leave_master(effects);
                self.is_reluctant = true;
                self.become_backup(now, self.master_down_us(), effects);
            }
            Event::Yield => {}
            Event::Stop => self.stop(effects),
        }
        self.check_invariants();
    }

    // ---- time

    /// The larger the priority, the earlier it takes over.
    fn skew_us(&self) -> u64 {
        let unit_us = match self.settings.version {
            Version::V2 => SECOND_US,
            Version::V3 => self.master_interval_us,
        };
        (256 - u64::from(self.effective_priority())) * unit_us / 256
    }

    fn master_down_us(&self) -> u64 {
        u64::from(self.settings.down_timer_adverts) * self.master_interval_us + self.skew_us()
    }

    /// A process that is not run for long (a stopped virtual machine, a stalled disk below a swap)
    /// does not know what happened meanwhile, and its timers tell it to act (vrrp.md 6.2 rows 14,
    /// 15; section 7). A Master that was silent for as long as others wait may have been replaced.
    /// A Backup whose timer is late has had no chance to hear the master.
    fn look_for_lateness(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let by_us = match (self.state, self.last_advert_at, self.election_at) {
            (State::Master, Some(last), _) => {
                let others_wait_us =
                    u64::from(self.settings.down_timer_adverts) * self.settings.advert_interval_us;
                let silent_us = now.since(last);
                if silent_us < others_wait_us {
                    return;
                }
                silent_us - self.settings.advert_interval_us
            }
            (State::Backup, _, Some(due)) if now.since(due) >= self.master_interval_us => {
                now.since(due)
            }
            _ => return,
        };
        self.counters.late_timers += 1;
        let was_master = self.state == State::Master;
        effects.push(Effect::Report(Notice::Late { by_us, was_master }));
        if was_master {
            self.leave_master(effects);
            self.become_backup(now, self.master_down_us(), effects);
            self.is_in_doubt = true;
        } else {
            self.listen(now, self.master_down_us());
        }
    }

    fn timers_due(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.election_at.is_some_and(|at| at <= now) {
            match self.state {
                State::Backup if self.is_vetoed && !self.preempts(now) => {
                    self.listen(now, self.master_down_us());
                    self.waits_for_veto = true;
                    effects.push(Effect::Report(Notice::SilentMaster));
                }
                State::Backup => self.take_over(now, effects),
                State::Master => self.advertise(now, effects),
                State::Init | State::Fault | State::Stopped => self.election_at = None,
            }
        }
        if let Some((at, repeat)) = self.second_burst
            && at <= now
        {
            self.second_burst = None;
            effects.push(Effect::Announce { repeat });
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            let announcements = &self.settings.announcements;
            self.refresh_at = Some(now.after(announcements.refresh_us));
            effects.push(Effect::Announce { repeat: announcements.refresh_repeat });
        }
    }

    /// A master of lower priority speaks: that it is alive is no reason to wait.
    fn preempts(&self, now: Time) -> bool {
        self.lower_heard_at.is_some_and(|at| now.since(at) < self.master_down_us())
    }

    fn take_over(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.settings.grouped {
            self.election_at = None;
            self.wants_master = true;
        } else {
            self.become_master(now, effects);
        }
    }

    // ---- adverts of others

    fn receive(&mut self, now: Time, received: &Received<'_>, effects: &mut Vec<Effect>) {
        let advert = match check::check(&self.settings, self.source, received) {
            Ok(advert) => advert,
            Err(rejection) => {
                let times = self.counters.rejected.count(&rejection);
                // A flood of nonsense must not become a flood of lines.
                if !rejection.is_expected() && times.is_power_of_two() {
                    let source = received.source;
                    effects.push(Effect::Report(Notice::Rejected { source, rejection, times }));
                }
                return;
            }
        };
        self.counters.adverts_received += 1;
        if advert.priority == PRIORITY_ZERO {
            self.counters.priority_zero_received += 1;
        }
        match self.state {
            State::Backup => self.heard_as_backup(now, received.source, &advert, effects),
            State::Master => self.heard_as_master(now, received.source, &advert, effects),
            State::Init | State::Fault | State::Stopped => {}
        }
    }

    fn heard_as_backup(
        &mut self,
        now: Time,
        source: IpAddr,
        advert: &Advertisement,
        effects: &mut Vec<Effect>,
    ) {
        let (theirs, ours) = (advert.priority, self.effective_priority());
        if theirs == PRIORITY_ZERO {
            self.wants_master = false;
            self.election_at = Some(now.after(self.skew_us()));
            return;
        }
        let is_new = self.master != Some((source, theirs));
        self.master = Some((source, theirs));
        self.is_in_doubt = false;
        let is_lower = theirs < ours;
        let preempts = self.settings.preempt && self.may_preempt && !self.is_reluctant;
        if is_lower && preempts && self.settings.preempt_delay_us > 0 {
            // The delay begins with the first advertisement that could be preempted.
            if self.preempt_at.is_none() {
                let delay_us = self.settings.preempt_delay_us;
                self.preempt_at = Some(now.after(delay_us));
                effects.push(Effect::Report(Notice::PreemptDelay { delay_us }));
            }
        } else if !is_lower || !preempts {
            self.preempt_at = None;
        }
        let is_delayed = self.preempt_at.is_some_and(|at| now < at);
        if is_lower && preempts && !is_delayed {
            self.lower_heard_at = Some(now);
            if is_new {
                effects.push(Effect::Report(Notice::LowerPriority { theirs, ours, source }));
            }
            return;
        }
        self.learn_interval(advert, effects);
        self.listen(now, self.master_down_us());
    }

    fn heard_as_master(
        &mut self,
        now: Time,
        source: IpAddr,
        advert: &Advertisement,
        effects: &mut Vec<Effect>,
    ) {
        let (theirs, ours) = (advert.priority, self.effective_priority());
        if theirs == PRIORITY_ZERO {
            return self.advertise(now, effects);
        }
        let is_higher =
            theirs > ours || (theirs == ours && self.source.is_some_and(|own| source > own));
        if is_higher {
            effects.push(Effect::Report(Notice::HigherPriority { theirs, ours, source }));
            if self.settings.higher_priority_send_advert {
                self.advertise(now, effects);
            }
            self.leave_master(effects);
            self.learn_interval(advert, effects);
            self.master = Some((source, theirs));
            self.become_backup(now, self.master_down_us(), effects);
        } else if !self.settings.lower_priority_no_advert {
            effects.push(Effect::Report(Notice::ForcingElection { theirs, ours, source }));
            self.advertise(now, effects);
            // The loser's announcements may have been the last ones that switches heard.
            let announcements = self.settings.announcements;
            let repeat = announcements.lower_priority_repeat;
            if !self.settings.bound || self.serves {
                self.announce(now, repeat, announcements.lower_priority_delay_us, effects);
            }
            effects.push(Effect::Notify(NotifiedState::MasterHeardLowerPriority));
        }
    }

    fn learn_interval(&mut self, advert: &Advertisement, effects: &mut Vec<Effect>) {
        let (theirs_us, ours_us) = (advert.interval_us, self.settings.advert_interval_us);
        if theirs_us != ours_us && theirs_us != self.master_interval_us {
            effects.push(Effect::Report(Notice::OtherInterval { theirs_us, ours_us }));
        }
        self.master_interval_us = theirs_us;
    }

    // ---- changes of state

    /// Whether it may take part, after something outside has changed.
    fn look_at_standing(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.is_started || self.state == State::Stopped {
            return;
        }
        let group_fault = self.group_is_faulty.then_some(FaultReason::Group);
        if let Some(reason) = self.own_fault().or(group_fault) {
            return self.become_faulty(reason, effects);
        }
        if !matches!(self.state, State::Init | State::Fault) {
            return;
        }
        let mut trackers = self.settings.trackers.iter().zip(&self.trackers);
        if trackers.any(|(tracker, reading)| tracker.weight == 0 && reading.is_none()) {
            return;
        }
        self.master_interval_us = self.settings.advert_interval_us;
        let hint = self.settings.initial_state == InitialState::Master;
        let is_owner = self.settings.priority == OWNER && hint;
        if is_owner && !self.settings.grouped {
            return self.become_master(now, effects);
        }
        // `state MASTER` shortens only the first wait, and only where nothing had to be waited for
        // (vrrp.md 1.5).
        let is_hinted = hint && self.state == State::Init && self.trackers.is_empty();
        let wait_us = if is_owner {
            0
        } else if is_hinted {
            self.settings.advert_interval_us + self.shortest_skew_us()
        } else {
            self.master_down_us()
        };
        self.become_backup(now, wait_us, effects);
    }

    fn shortest_skew_us(&self) -> u64 {
        match self.settings.version {
            Version::V2 => SECOND_US / 256,
            Version::V3 => self.settings.advert_interval_us / 256,
        }
    }

    fn become_backup(&mut self, now: Time, wait_us: u64, effects: &mut Vec<Effect>) {
        self.state = State::Backup;
        self.preempt_at = None;
        self.listen(now, wait_us);
        effects.push(Effect::Report(Notice::EnteringBackup));
        effects.push(Effect::Notify(NotifiedState::Backup));
    }

    fn listen(&mut self, now: Time, wait_us: u64) {
        self.wants_master = false;
        self.waits_for_veto = false;
        self.election_at = Some(now.after(wait_us));
    }

    fn become_master(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.state = State::Master;
        self.wants_master = false;
        self.waits_for_veto = false;
        self.is_reluctant = false;
        self.is_in_doubt = false;
        self.lower_heard_at = None;
        self.preempt_at = None;
        self.master = None;
        self.master_interval_us = self.settings.advert_interval_us;
        self.counters.became_master += 1;
        effects.push(Effect::Report(Notice::TransitionToMaster));
        // First the advertisement: it quiets the others while addresses are still being added.
        self.advertise(now, effects);
        effects.push(Effect::Report(Notice::EnteringMaster));
        if !self.settings.bound || self.serves {
            self.add_addresses(now, effects);
        }
        effects.push(Effect::Notify(NotifiedState::Master));
    }

    fn add_addresses(&mut self, now: Time, effects: &mut Vec<Effect>) {
        effects.push(Effect::Report(Notice::SettingAddresses));
        effects.push(Effect::AddAddresses);
        let announcements = self.settings.announcements;
        self.announce(now, announcements.repeat, announcements.delay_us, effects);
        if announcements.refresh_us > 0 {
            self.refresh_at = Some(now.after(announcements.refresh_us));
        }
    }

    fn serve(&mut self, now: Time, serves: bool, effects: &mut Vec<Effect>) {
        assert!(self.settings.bound, "an address of its own waits for nobody");
        if std::mem::replace(&mut self.serves, serves) == serves {
            return;
        }
        if !serves {
            self.second_burst = None;
            self.refresh_at = None;
            self.remove_addresses(effects);
        } else if self.state == State::Master {
            self.add_addresses(now, effects);
        }
    }

    /// What every way out of Master has in common. The state is set by the caller.
    fn leave_master(&mut self, effects: &mut Vec<Effect>) {
        assert_eq!(self.state, State::Master);
        self.counters.released_master += 1;
        self.last_advert_at = None;
        self.second_burst = None;
        self.refresh_at = None;
        // Those of a service stay until it has been stopped in order.
        if !self.serves {
            self.remove_addresses(effects);
        }
    }

    fn remove_addresses(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Report(Notice::RemovingAddresses));
        effects.push(Effect::RemoveAddresses);
    }

    fn become_faulty(&mut self, reason: FaultReason, effects: &mut Vec<Effect>) {
        if self.state == State::Fault {
            return;
        }
        if self.state == State::Master {
            // Nothing leaves an interface that is down.
            if self.link_is_up && self.source.is_some() {
                self.send_priority_zero(effects);
            }
            self.leave_master(effects);
        }
        self.go_silent(State::Fault);
        effects.push(Effect::Report(Notice::EnteringFault(reason)));
        effects.push(Effect::Notify(NotifiedState::Fault));
    }

    fn stop(&mut self, effects: &mut Vec<Effect>) {
        if self.state == State::Stopped {
            return;
        }
        if self.state == State::Master {
            self.send_priority_zero(effects);
            self.leave_master(effects);
        }
        self.go_silent(State::Stopped);
        effects.push(Effect::Notify(NotifiedState::Stop));
        effects.push(Effect::Report(Notice::Stopped));
    }

    fn go_silent(&mut self, state: State) {
        self.state = state;
        self.election_at = None;
        self.wants_master = false;
        self.waits_for_veto = false;
        self.is_in_doubt = false;
        self.preempt_at = None;
        self.master = None;
    }

    // ---- what is sent

    fn advertise(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.last_advert_at = Some(now);
        self.election_at = Some(now.after(self.settings.advert_interval_us));
        self.send(self.effective_priority(), effects);
    }

    fn send_priority_zero(&mut self, effects: &mut Vec<Effect>) {
        self.counters.priority_zero_sent += 1;
        self.send(PRIORITY_ZERO, effects);
        effects.push(Effect::Report(Notice::SentPriorityZero));
    }

    fn send(&mut self, priority: u8, effects: &mut Vec<Effect>) {
        let source = self.source.expect("without a source it is in Fault");
        let settings = &self.settings;
        let advert = Advertisement {
            version: settings.version,
            virtual_router_id: settings.virtual_router_id,
            priority,
            interval_us: settings.advert_interval_us,
            authentication: settings.authentication,
            addresses: settings.addresses.iter().map(|address| address.address).collect(),
        };
        let group = [settings.group()];
        let destinations: &[IpAddr] =
            if settings.unicast_peers.is_empty() { &group } else { &settings.unicast_peers };
        for &destination in destinations {
            let route = Route { source, destination };
            let bytes = advert.encode(route, settings.checksum_form);
            effects.push(Effect::SendAdvert { destination, bytes });
            self.counters.adverts_sent += 1;
        }
    }

    fn announce(&mut self, now: Time, repeat: u32, delay_us: u64, effects: &mut Vec<Effect>) {
        if repeat == 0 {
            return;
        }
        effects.push(Effect::Announce { repeat });
        self.second_burst = (delay_us > 0).then(|| (now.after(delay_us), repeat));
    }

    fn check_invariants(&self) {
        let is_master = self.state == State::Master;
        assert_eq!(self.last_advert_at.is_some(), is_master, "only a Master advertises");
        assert!(is_master || self.second_burst.is_none() && self.refresh_at.is_none());
        match self.state {
            State::Backup => assert!(self.election_at.is_some() != self.wants_master),
            State::Master => assert!(self.election_at.is_some()),
            State::Init | State::Fault | State::Stopped => assert!(self.election_at.is_none()),
        }
    }
}

#[cfg(test)]
#[path = "instance_tests/mod.rs"]
mod tests;
