//! One service: its coordinator, the step under way, and who waits for what.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{oneshot, watch};

use super::ServicePlan;
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::control::status::{DecisionStatus, ServiceStatus};
use crate::election::failover::{Coordinator, Data, Peer, Phase, Standing};
use crate::vrrp::InstanceStatus;

/// Shown by `status`; the log has all.
const DECISIONS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Binding {
    pub(super) plan: ServicePlan,
    pub(super) coordinator: Coordinator,
    pub(super) data: Data,
    pub(super) standing: Standing,
    /// Of the step under way.
    pub(super) cancel: watch::Sender<bool>,
    /// Who handed over, until the other node serves.
    pub(super) handovers: Vec<oneshot::Sender<Outcome>>,
    /// Who asked for standby, until everything is given up.
    pub(super) standbys: Vec<oneshot::Sender<Outcome>>,
    /// Bad trackers without weight of its instances, by instance and name.
    pub(super) bad: std::collections::BTreeMap<(usize, String), String>,
    decisions: VecDeque<DecisionStatus>,
}

impl Binding {
    pub(super) fn new(plan: ServicePlan) -> Self {
        Self {
            coordinator: Coordinator::new(plan.settings.clone()),
            plan,
            data: Data::default(),
            standing: Standing::Init,
            cancel: watch::Sender::new(false),
            handovers: Vec::new(),
            standbys: Vec::new(),
            bad: std::collections::BTreeMap::new(),
            decisions: VecDeque::new(),
        }
    }

    /// The same service in another plan. A tracker that `holds` no more says nothing any more.
    pub(super) fn with_places(
        mut self,
        plan: ServicePlan,
        holds: impl Fn(usize, &str) -> bool,
    ) -> Self {
        let moved = |instance: usize| {
            let place = self.plan.members.iter().position(|(member, _)| *member == instance)?;
            Some(plan.members[place].0)
        };
        let bad = std::mem::take(&mut self.bad).into_iter();
        let bad = bad.filter_map(|((was, name), text)| Some(((moved(was)?, name), text)));
        self.bad = bad.filter(|((instance, name), _)| holds(*instance, name)).collect();
        self.plan = plan;
        self
    }

    /// All instances of a group count as one.
    pub(super) fn standing_of(&self, instances: &[InstanceStatus]) -> Standing {
        let members = self.plan.members.iter().filter_map(|(member, _)| instances.get(*member));
        Standing::of(members.map(|instance| (instance.state, instance.is_in_doubt)))
    }

    pub(super) fn remember(&mut self, text: String) {
        let at_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        if self.decisions.len() == DECISIONS_MAX {
            self.decisions.pop_front();
        }
        self.decisions.push_back(DecisionStatus { at_s, text });
    }

    /// Answers whoever waits for what has happened by now.
    pub(super) fn answer(&mut self) {
        let is_idle = self.coordinator.phase() == Phase::Idle;
        if is_idle {
            for answer in self.standbys.drain(..) {
                let _ = answer.send(Outcome::done());
            }
        }
        let has_moved = is_idle && self.data.peer == Peer::Primary;
        let came_back =
            self.coordinator.phase() == Phase::Serving && self.standing == Standing::Master;
        for answer in self.handovers.extract_if(.., |_| has_moved || came_back) {
            let name = &self.plan.name;
            let _ = answer.send(match has_moved {
                true => Outcome::done(),
                false => Outcome::failed(
                    exit::OTHER,
                    format!("{name}: the other node did not take over, so this one serves again"),
                )
                .with_hint(
                    "does twinblk with the same vrrp_instance run there? twinblk status there",
                ),
            });
        }
    }

    pub(super) fn status(&self) -> ServiceStatus {
        let phase = self.coordinator.phase();
        let step = match phase {
            Phase::Starting(step) | Phase::Stopping(step) => {
                self.plan.settings.steps[step].name.clone()
            }
            Phase::Idle | Phase::Serving => String::new(),
        };
        let phase = match phase {
            Phase::Idle => "idle",
            Phase::Starting(_) => "starting",
            Phase::Serving => "serves",
            Phase::Stopping(_) => "stopping",
        };
        let vrrp = match self.standing {
            Standing::Init => "INIT",
            Standing::Backup => "BACKUP",
            Standing::Doubt => "DOUBT",
            Standing::Master => "MASTER",
            Standing::Fault => "FAULT",
        };
        ServiceStatus {
            instance: self.plan.name.clone(),
            resource: self.plan.resource.clone(),
            phase: phase.to_owned(),
            step,
            vrrp: vrrp.to_owned(),
            is_standby: self.coordinator.is_standby(),
            reason: self.coordinator.waits().map(ToString::to_string).unwrap_or_default(),
            decisions: self.decisions.iter().cloned().collect(),
        }
    }
}
