//! The loop: what VRRP says, what resources say, which steps ended, what operators ask.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch::{Receiver as Watched, Sender as Cancel};
use tokio::task::spawn_local;
use tokio::time::{interval, sleep, timeout};

use super::Plan;
use super::binding::Binding;
use super::data::data;
use super::handle::{Handle, Order, View};
use super::reload::Reload;
use super::steps::{Tools, tell};
use super::telling::Teller;
use super::watching::Fed;
use crate::control::outcome::exit;
use crate::control::status::InstanceStatus as ShownInstance;
use crate::control::{Command, Handler, Outcome};
use crate::election::failover::{Effect, Event, Notice, Phase};
use crate::election::{State, Time};
use crate::service::{Note, clear};
use crate::vrrp::{self, InstanceStatus, Placement, VrrpError};
use crate::watch::{self, Reading, Watch};

/// A resource that did not come up is tried again after so long.
const UP_PAUSE: Duration = Duration::from_secs(5);
/// Resources are looked at after every change, and at least this often.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// What the resources' threads hold in memory.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A step that ended, of the service on that resource.
type Ended = (String, Result<(), String>);

#[derive(Debug)]
pub struct Runner {
    plan: Plan,
    orders: mpsc::UnboundedReceiver<Order>,
    view: Rc<RefCell<View>>,
}

/// A runner that has not begun, and the end that talks to it.
pub fn new(plan: Plan) -> (Handle, Runner) {
    let (sender, orders) = mpsc::unbounded_channel();
    let view = Rc::new(RefCell::new(View::default()));
    let handle = Handle { orders: sender, view: view.clone() };
    (handle, Runner { plan, orders, view })
}

pub(super) struct Loop<H> {
    resources: Rc<H>,
    pub(super) bindings: Vec<Binding>,
    note: Note,
    pub(super) commands: mpsc::Sender<vrrp::Command>,
    instances: Watched<Vec<InstanceStatus>>,
    ended: mpsc::UnboundedSender<Ended>,
    view: Rc<RefCell<View>>,
    pub(super) is_ending: bool,
    pub(super) watching: watch::Plan,
    pub(super) fed: Vec<Fed>,
    pub(super) placements: Vec<Placement>,
    /// Asked for, and waiting for services that end with it.
    pub(super) reload: Option<Reload>,
}

impl Runner {
    /// Runs until [`Handle::shut_down`], or until VRRP fails; gives everything up before it returns,
    /// in both cases.
    pub async fn run<H: Handler + 'static>(
        mut self,
        resources: Rc<H>,
        end_device: impl Fn(&str) + Clone + Send + 'static,
    ) -> Result<(), VrrpError> {
        let estates: Vec<_> = self.plan.services.iter().map(super::ServicePlan::estate).collect();
        for cleared in clear(&self.plan.note, &estates, end_device).await {
            tracing::warn!(resource = cleared.resource, "cleared what a dead daemon left");
        }
        sleep(self.plan.startup_delay).await;
        let groups = self.plan.vrrp.groups.clone();
        let placements = self.plan.vrrp.instances.clone();
        let vrrp::Handle { commands, mut occurrences, mut status, thread } =
            vrrp::spawn(self.plan.vrrp)?;
        let (ended, mut steps) = mpsc::unbounded_channel();
        let mut changes = resources.changes();
        let bindings: Vec<Binding> = self.plan.services.into_iter().map(Binding::new).collect();
        let mut state = Loop {
            resources,
            bindings,
            note: self.plan.note,
            commands,
            instances: status.clone(),
            ended,
            view: self.view,
            is_ending: false,
            fed: self.plan.fed,
            placements,
            reload: None,
            watching: self.plan.watch.clone(),
        };
        let servers = self.plan.watch.servers.clone();
        let mut teller = Teller::start(self.plan.telling, groups, servers);
        let mut watch = Watch::start(self.plan.watch);
        let mut look = interval(LOOK_PAUSE);
        let mut vrrp_runs = true;
        (0..state.bindings.len()).for_each(|service| state.begin(service));
        loop {
            state.show();
            if state.is_ending && state.is_idle() {
                break;
            }
            if let Some(applied) = state.reload_if_due().await {
                if let Some(plan) = applied.watch {
                    let old = std::mem::replace(&mut watch, Watch::start(plan));
                    // What they find is no news any more; their programs are ended in peace.
                    spawn_local(old.stop());
                }
                teller.prepare(applied.next);
            }
            let wake = state.deadline();
            tokio::select! {
                biased;
                order = self.orders.recv() => {
                    state.obey(order.unwrap_or(Order::Shutdown));
                }
                Some((resource, result)) = steps.recv() => {
                    // What the step changed is known before its end is.
                    state.look().await;
                    if let Some(service) = state.find(&resource) {
                        state.give(service, Event::StepEnded(result));
                    }
                }
                changed = status.changed(), if vrrp_runs => {
                    vrrp_runs = changed.is_ok();
                    if vrrp_runs {
                        state.follow_vrrp();
                    } else {
                        tracing::error!("VRRP failed: services are given up, resources go on");
                        state.obey(Order::Shutdown);
                    }
                }
                Some(report) = watch.reports.recv() => {
                    teller.server(&report);
                    state.reported(&report);
                }
                Some(occurrence) = occurrences.recv() => {
                    let instances = status.borrow().clone();
                    teller.instance(&occurrence, &instances);
                    state.occurred(&occurrence);
                }
                _ = changes.changed() => state.look().await,
                _ = look.tick() => state.look().await,
                () = until(wake) => state.timers(),
            }
        }
        let _ = state.commands.send(vrrp::Command::Stop).await;
        for report in watch.stop().await {
            teller.server(&report);
        }
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        // Of the end of VRRP.
        while let Ok(occurrence) = occurrences.try_recv() {
            let instances = status.borrow().clone();
            teller.instance(&occurrence, &instances);
        }
        teller.stop().await;
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(VrrpError::Io(std::io::Error::other("the thread of VRRP died"))),
        }
    }
}

async fn until(deadline: Option<Time>) {
    match deadline {
        Some(at) => sleep(Duration::from_micros(at.since(vrrp::now()))).await,
        None => std::future::pending().await,
    }
}

impl<H: Handler + 'static> Loop<H> {
    pub(super) fn begin(&mut self, service: usize) {
        let plan = &self.bindings[service].plan;
        spawn_local(bring_up(self.resources.clone(), plan.resource.clone()));
        if plan.standby_note.exists() {
            self.give(service, Event::Standby(true));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.bindings.iter().all(|binding| binding.coordinator.phase() == Phase::Idle)
    }

    fn deadline(&self) -> Option<Time> {
        self.bindings.iter().filter_map(|binding| binding.coordinator.deadline()).min()
    }

    fn timers(&mut self) {
        for service in 0..self.bindings.len() {
            let due = self.bindings[service].coordinator.deadline();
            if due.is_some_and(|at| at <= vrrp::now()) {
                self.give(service, Event::TimerDue);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Shutdown => {
                self.is_ending = true;
                for service in 0..self.bindings.len() {
                    self.give(service, Event::Shutdown);
                }
            }
            Order::Reload { plan, answer } => self.begin_reload(*plan, answer),
            Order::Handover { service: name, answer } => {
                let Some(service) = self.find(&name) else {
                    let _ = answer.send(no_such_service(&name));
                    return;
                };
                if let Err(outcome) = self.may_hand_over(service) {
                    let _ = answer.send(outcome);
                    return;
                }
                self.bindings[service].handovers.push(answer);
                self.give(service, Event::Handover);
            }
            Order::Standby { service: name, on, answer } => {
                let Some(service) = self.find(&name) else {
                    let _ = answer.send(no_such_service(&name));
                    return;
                };
                let note = &self.bindings[service].plan.standby_note;
                let kept = match on {
                    true => std::fs::write(note, ""),
                    false => std::fs::remove_file(note),
                };
                if let Err(error) = kept
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    let text = format!("{name}: cannot keep that in {}: {error}", note.display());
                    let _ = answer.send(Outcome::failed(exit::OTHER, text));
                    return;
                }
                self.bindings[service].standbys.push(answer);
                self.give(service, Event::Standby(on));
                if !on {
                    // Nothing has to be given up first.
                    for answer in self.bindings[service].standbys.drain(..) {
                        let _ = answer.send(Outcome::done());
                    }
                }
            }
        }
    }

    /// By the name of the instance or of the resource.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.bindings
            .iter()
            .position(|binding| binding.plan.name == name || binding.plan.resource == name)
    }

    fn may_hand_over(&self, service: usize) -> Result<(), Outcome> {
        let binding = &self.bindings[service];
        let (name, resource) = (&binding.plan.name, &binding.plan.resource);
        let refuse = |why: String, hint: String| {
            Err(Outcome::failed(exit::STATE_CHANGE, why).with_hint(hint))
        };
        if binding.coordinator.phase() != Phase::Serving {
            let why = format!("{name}: the service does not run on this node");
            return refuse(why, format!("twinblk status {resource}"));
        }
        if !binding.data.can_be_handed_over() {
            let why = format!(
                "{name}: the other node is not connected and UpToDate: it could not take over"
            );
            return refuse(why, format!("twinblk wait-sync {resource}, then try again"));
        }
        Ok(())
    }

    async fn look(&mut self) {
        // One that does not answer is looked at again.
        let Ok(Ok(statuses)) = timeout(LOOK_LIMIT, self.resources.status(None)).await else {
            return;
        };
        for service in 0..self.bindings.len() {
            let binding = &self.bindings[service];
            let status = statuses.iter().find(|status| status.name == binding.plan.resource);
            let seen = data(status, &binding.data);
            if seen != binding.data {
                self.bindings[service].data = seen;
                self.give(service, Event::Data(seen));
            }
        }
    }

    fn follow_vrrp(&mut self) {
        for service in 0..self.bindings.len() {
            let standing = self.bindings[service].standing_of(&self.instances.borrow_and_update());
            if standing != self.bindings[service].standing {
                self.bindings[service].standing = standing;
                self.give(service, Event::Vrrp(standing));
            }
        }
    }

    fn reported(&mut self, report: &watch::Report) {
        // Servers have no part in the election.
        let watch::Report::Tracker { tracker, reading, reason } = report else { return };
        for (instance, tracker) in self.fed[*tracker].clone() {
            let settings = self.placements[instance].settings.trackers[tracker].clone();
            let is_member = |binding: &Binding| {
                binding.plan.members.iter().any(|(member, _)| *member == instance)
            };
            let service = self.bindings.iter().position(is_member);
            let command = match (service, *reading) {
                // First the service is given up: the tracker of the data then says so to VRRP.
                (Some(service), reading) if settings.weight == 0 => {
                    let is_bad = matches!(reading, Reading::Bad)
                        || matches!(reading, Reading::Number(number) if number != 0);
                    let text = format!("{}: {reason}", settings.name);
                    let bad = &mut self.bindings[service].bad;
                    match is_bad != settings.reverse {
                        true => drop(bad.insert((instance, settings.name.clone()), text)),
                        false => drop(bad.remove(&(instance, settings.name.clone()))),
                    }
                    let first = bad.values().next().cloned();
                    self.give(service, Event::Unfit(first));
                    vrrp::Command::Tracker { instance, tracker, good: !settings.reverse }
                }
                (_, Reading::Number(number)) => {
                    vrrp::Command::TrackerNumber { instance, tracker, number }
                }
                (_, reading) => {
                    let good = reading == Reading::Good;
                    vrrp::Command::Tracker { instance, tracker, good }
                }
            };
            self.tell(command);
        }
    }

    fn tell(&self, command: vrrp::Command) {
        tell(&self.commands, command);
    }

    fn occurred(&mut self, occurrence: &vrrp::Occurrence) {
        use crate::election::Notice as Said;
        if let vrrp::OccurrenceKind::Said(Said::SilentMaster) = occurrence.kind {
            // By name: places may be those of a plan that was replaced since.
            let name_of = |member: usize| &self.placements[member].settings.name;
            let is_member = |binding: &Binding| {
                binding.plan.members.iter().any(|(member, _)| *name_of(*member) == occurrence.name)
            };
            if let Some(service) = self.bindings.iter().position(is_member) {
                self.give(service, Event::MasterSilent);
            }
        }
    }

    pub(super) fn give(&mut self, service: usize, event: Event) {
        let mut effects = Vec::new();
        self.bindings[service].coordinator.handle(vrrp::now(), event, &mut effects);
        for effect in effects {
            self.carry_out(service, effect);
        }
        self.bindings[service].answer();
    }

    fn carry_out(&mut self, service: usize, effect: Effect) {
        let members = self.bindings[service].plan.members.clone();
        match effect {
            Effect::Perform { step } => self.begin_step(service, step, None),
            Effect::Undo { step, force } => self.begin_step(service, step, Some(force)),
            Effect::Cancel => {
                self.bindings[service].cancel.send_replace(true);
            }
            Effect::Eligible(verdict) => {
                for (instance, tracker) in members {
                    self.tell(vrrp::Command::Tracker { instance, tracker, good: verdict.is_ok() });
                }
            }
            Effect::Veto(is_vetoed) => {
                for (instance, _) in members {
                    self.tell(vrrp::Command::Veto { instance, is_vetoed });
                }
            }
            Effect::MayPreempt(may_preempt) => {
                for (instance, _) in members {
                    self.tell(vrrp::Command::MayPreempt { instance, may_preempt });
                }
            }
            Effect::Yield => {
                for (instance, _) in members {
                    self.tell(vrrp::Command::Yield { instance });
                }
            }
            Effect::ProbePeer => {
                let (resources, name) =
                    (self.resources.clone(), self.bindings[service].plan.resource.clone());
                spawn_local(async move {
                    resources.perform(Some(&name), &Command::ProbePeer).await;
                });
            }
            Effect::Report(notice) => self.report(service, &notice),
        }
    }

    fn begin_step(&mut self, service: usize, step: usize, undo: Option<bool>) {
        let plan = self.bindings[service].plan.clone();
        if step == 0
            && undo.is_none()
            && let Err(error) = self.note.hold(&plan.estate())
        {
            let result = Err(format!("cannot note what is started: {error}"));
            let _ = self.ended.send((plan.resource, result));
            return;
        }
        let binding = &mut self.bindings[service];
        binding.cancel = Cancel::new(false);
        let tools = Tools {
            resources: self.resources.clone(),
            instances: self.instances.clone(),
            commands: self.commands.clone(),
            cancel: binding.cancel.subscribe(),
        };
        let ended = self.ended.clone();
        spawn_local(async move {
            let result = match undo {
                None => tools.perform(&plan, step).await,
                Some(force) => tools.undo(&plan, step, force).await,
            };
            let _ = ended.send((plan.resource, result));
        });
    }

    fn report(&mut self, service: usize, notice: &Notice) {
        let binding = &mut self.bindings[service];
        let (name, resource) = (&binding.plan.name, &binding.plan.resource);
        if notice.is_warning() {
            tracing::warn!(resource, "({name}) {notice}");
        } else {
            tracing::info!(resource, "({name}) {notice}");
        }
        if *notice == Notice::Stopped
            && let Err(error) = self.note.release(resource)
        {
            tracing::error!(resource, %error, "cannot note that everything is stopped");
        }
        binding.remember(notice.to_string());
    }

    fn show(&mut self) {
        let word = |state: State| match state {
            State::Init => "INIT",
            State::Backup => "BACKUP",
            State::Master => "MASTER",
            State::Fault => "FAULT",
            State::Stopped => "STOP",
        };
        let shown = |instance: &InstanceStatus| ShownInstance {
            name: instance.name.clone(),
            interface: instance.interface.clone(),
            state: word(instance.state).to_owned(),
            priority: instance.effective_priority,
            master: instance.master.map(|address| address.to_string()).unwrap_or_default(),
            has_addresses: instance.has_addresses,
            adverts_received: instance.counters.adverts_received,
            adverts_sent: instance.counters.adverts_sent,
            became_master: instance.counters.became_master,
            rejected: instance.counters.rejected.total(),
        };
        let mut view = self.view.borrow_mut();
        view.instances = self.instances.borrow().iter().map(shown).collect();
        view.services = self.bindings.iter().map(Binding::status).collect();
    }
}

/// A resource that a service needs is brought up, as DRBD's start script does with all.
async fn bring_up<H: Handler>(resources: Rc<H>, name: String) {
    loop {
        let outcome = resources.perform(Some(&name), &Command::Up).await;
        if outcome.is_done() {
            return;
        }
        tracing::error!(
            resource = name,
            detail = outcome.detail,
            hint = outcome.hint,
            "not up: {}; tried again in {} s",
            outcome.message,
            UP_PAUSE.as_secs()
        );
        sleep(UP_PAUSE).await;
    }
}

fn no_such_service(name: &str) -> Outcome {
    let text = format!("'{name}': no vrrp_instance with a drbd_resource of that name");
    Outcome::failed(exit::USAGE, text).with_hint("twinblk status")
}
