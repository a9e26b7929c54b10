//! Another keepalived.conf while services run: what it leaves alone goes on, what it ends is given up
//! in order before VRRP hears of the new plan, and what is new begins as after a start.

use tokio::sync::oneshot;

use super::binding::Binding;
use super::runner::Loop;
use super::steps::tell;
use super::telling::Next;
use super::{Plan, ServicePlan};
use crate::control::outcome::exit;
use crate::control::{Handler, Outcome};
use crate::election::failover::{Event, Phase};
use crate::election::settings::TrackerSettings;
use crate::vrrp::{self, Change, Difference};
use crate::watch;

/// Asked for; begins when the services have stopped that it ends.
pub(super) struct Reload {
    plan: Plan,
    answer: oneshot::Sender<Outcome>,
}

/// What others go on with after a reload.
pub(super) struct Applied {
    /// Absent: those that run serve the new plan as well.
    pub(super) watch: Option<watch::Plan>,
    pub(super) next: Next,
}

/// The same things on the same data, by instances that go on: only its places are others.
fn goes_on(old: &ServicePlan, new: &ServicePlan, difference: &Difference) -> bool {
    let was = |member: usize| match difference.instances[member] {
        Change::Unchanged { was } | Change::Adopted { was } => Some(was),
        Change::Changed { .. } | Change::New => None,
    };
    let members: Option<Vec<usize>> = new.members.iter().map(|(member, _)| was(*member)).collect();
    let before: Vec<usize> = old.members.iter().map(|(member, _)| *member).collect();
    old.resource == new.resource
        && old.name == new.name
        && old.actions == new.actions
        && old.settings == new.settings
        && members == Some(before)
}

fn trackers(placements: &[vrrp::Placement]) -> impl Iterator<Item = &[TrackerSettings]> {
    placements.iter().map(|placement| placement.settings.trackers.as_slice())
}

/// For people: what becomes of each instance.
fn summary(difference: &Difference, old: &[vrrp::Placement], new: &[vrrp::Placement]) -> String {
    let word = |change: &Change| match change {
        Change::Unchanged { .. } => "goes on",
        Change::Adopted { .. } => "goes on under other settings",
        Change::Changed { .. } => "begins again",
        Change::New => "is new",
    };
    let said = difference.instances.iter().zip(new);
    let said = said.map(|(change, one)| format!("{} {}", one.settings.name, word(change)));
    let gone = difference.gone.iter().map(|was| format!("{} ends", old[*was].settings.name));
    said.chain(gone).collect::<Vec<_>>().join(", ")
}

impl<H: Handler + 'static> Loop<H> {
    pub(super) fn begin_reload(&mut self, plan: Plan, answer: oneshot::Sender<Outcome>) {
        let refusal = match vrrp::check(&plan.vrrp) {
            Err(error) => Some(error.to_string()),
            Ok(()) if self.is_ending => Some("the daemon is ending".to_owned()),
            Ok(()) if self.reload.is_some() => Some("a reload is under way".to_owned()),
            Ok(()) => None,
        };
        if let Some(why) = refusal {
            let _ = answer.send(Outcome::failed(exit::OTHER, format!("not reloaded: {why}")));
            return;
        }
        let difference = vrrp::difference(&self.placements, &plan.vrrp.instances);
        for service in 0..self.bindings.len() {
            if !plan
                .services
                .iter()
                .any(|new| goes_on(&self.bindings[service].plan, new, &difference))
            {
                self.give(service, Event::Shutdown);
            }
        }
        self.reload = Some(Reload { plan, answer });
    }

    /// Carries out what was asked for, once no step is under way.
    pub(super) async fn reload_if_due(&mut self) -> Option<Applied> {
        let plan = &self.reload.as_ref()?.plan;
        let difference = vrrp::difference(&self.placements, &plan.vrrp.instances);
        // A step under way knows its instances by their places.
        let is_ready = |binding: &Binding| match binding.coordinator.phase() {
            Phase::Idle => true,
            Phase::Serving => {
                plan.services.iter().any(|new| goes_on(&binding.plan, new, &difference))
            }
            Phase::Starting(_) | Phase::Stopping(_) => false,
        };
        if self.is_ending || !self.bindings.iter().all(is_ready) {
            return None;
        }
        let Reload { plan, answer } = self.reload.take().expect("just seen");
        let text = summary(&difference, &self.placements, &plan.vrrp.instances);
        if let Err(why) = self.tell_plan(plan.vrrp.clone()).await {
            let _ = answer.send(Outcome::failed(exit::OTHER, format!("not reloaded: {why}")));
            return None;
        }
        tracing::info!("configuration reloaded: {text}");
        let next = Next {
            telling: plan.telling,
            groups: plan.vrrp.groups,
            servers: plan.watch.servers.clone(),
            names: plan.vrrp.instances.iter().map(|one| one.settings.name.clone()).collect(),
        };
        // Whoever is fed for the first time must hear the first finding.
        let has_heard =
            |change: &Change| matches!(change, Change::Unchanged { .. } | Change::Adopted { .. });
        let is_same = difference.instances.iter().all(has_heard)
            && self.watching == plan.watch
            && self.fed == plan.fed
            && trackers(&self.placements).eq(trackers(&plan.vrrp.instances));
        self.placements = plan.vrrp.instances;
        self.fed = plan.fed;
        self.watching = plan.watch;
        self.bind(plan.services, &difference);
        let _ = answer.send(Outcome::done().with_detail(text));
        Some(Applied { watch: (!is_same).then(|| self.watching.clone()), next })
    }

    async fn tell_plan(&self, plan: vrrp::Plan) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let command = vrrp::Command::Reload { plan, answer };
        self.commands.send(command).await.map_err(|_| "VRRP has ended".to_owned())?;
        let outcome = answered.await.map_err(|_| "VRRP has ended".to_owned())?;
        outcome.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Those that go on keep what they know.
    fn bind(&mut self, services: Vec<ServicePlan>, difference: &Difference) {
        let mut old: Vec<Binding> = self.bindings.drain(..).collect();
        let mut fresh = Vec::new();
        let placements = &self.placements;
        let holds = |instance: usize, name: &str| {
            let mut trackers = placements[instance].settings.trackers.iter();
            trackers.any(|tracker| tracker.name == name && tracker.weight == 0)
        };
        for (service, new) in services.into_iter().enumerate() {
            let kept = old.iter().position(|binding| goes_on(&binding.plan, &new, difference));
            self.bindings.push(match kept {
                Some(place) => old.remove(place).with_places(new, holds),
                None => {
                    fresh.push(service);
                    Binding::new(new)
                }
            });
        }
        for service in fresh {
            // Its instances may go on, with what the coordinator before this one had said.
            for (instance, _) in self.bindings[service].plan.members.clone() {
                tell(&self.commands, vrrp::Command::Veto { instance, is_vetoed: false });
            }
            self.begin(service);
        }
        for service in 0..self.bindings.len() {
            let first = self.bindings[service].bad.values().next().cloned();
            self.give(service, Event::Unfit(first));
        }
    }
}
