//! What a node has beside its engine: VRRP, a coordinator, the step under way.

use std::net::{IpAddr, Ipv4Addr};

use twinblk::election::failover::{
    Coordinator, Data, Phase, ServiceSettings, Standing, Step as StepSettings, StepKind,
};
use twinblk::election::settings::{InstanceSettings, TrackerSettings, VirtualAddress};
use twinblk::election::{Instance, State};
use twinblk::engine::event::CommandId;

use super::Setup;

/// What happens on a node, or comes to it.
#[derive(Clone, Debug)]
pub enum Happening {
    Advert {
        bytes: Vec<u8>,
    },
    /// VRRP's thread takes what the coordinator wants.
    Told(Told),
    /// VRRP's timer.
    Elect,
    /// The loop looks at the states of VRRP.
    Follow,
    /// At those of the resource.
    Look,
    /// VRRP said that the master is silent.
    MasterSilent,
    /// The coordinator's timer.
    Reconsider,
    Step,
    BringUp,
}

#[derive(Clone, Copy, Debug)]
pub enum Told {
    Eligible(bool),
    Veto(bool),
    MayPreempt(bool),
    Serve(bool),
    Yield,
}

/// What the step under way waits for.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    Time,
    Verb(CommandId),
    Request(u64),
    /// Until nothing is under way on the device.
    Device,
    Addresses(bool),
}

#[derive(Clone, Debug)]
pub struct Step {
    pub index: usize,
    /// With force.
    pub undo: Option<bool>,
    pub is_cancelled: bool,
    pub since_us: u64,
    /// Not over before.
    pub until_us: u64,
    pub wait: Wait,
}

/// As [`twinblk::failover`] brings a resource up.
#[derive(Clone, Copy, Debug, Default)]
pub enum BringUp {
    #[default]
    Attach,
    Attaching(CommandId),
    Connecting(CommandId),
    Done,
}

#[derive(Debug, Default)]
pub struct Seat {
    pub instance: Option<Instance>,
    pub coordinator: Option<Coordinator>,
    pub data: Data,
    pub standing: Standing,
    pub has_addresses: bool,
    /// Counts attachments; odd: the device is there.
    pub device: u64,
    pub program_runs: bool,
    pub step: Option<Step>,
    pub bring_up: BringUp,
    /// What came while the process was not run.
    pub held: Vec<Happening>,
    /// When the timers of VRRP and of the coordinator were planned for.
    pub elects_us: Option<u64>,
    pub reconsiders_us: Option<u64>,
    pub follows: bool,
    pub looks: bool,
    /// What VRRP is told arrives in order.
    pub told_until_us: u64,
}

impl Seat {
    pub fn start(setup: &Setup, node: usize) -> Self {
        let instance = Instance::new(instance_settings(setup, node)).expect("good settings");
        let coordinator = Coordinator::new(service_settings(setup));
        Self { instance: Some(instance), coordinator: Some(coordinator), ..Self::default() }
    }

    pub fn phase(&self) -> Phase {
        self.coordinator.as_ref().map_or(Phase::Idle, Coordinator::phase)
    }

    pub fn is_master(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.state() == State::Master)
    }

    pub fn has_device(&self) -> bool {
        self.device % 2 == 1
    }

    /// A client that comes to its address is answered.
    pub fn serves(&self) -> bool {
        self.has_addresses && self.program_runs && self.has_device()
    }
}

pub fn address_of(node: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1 + node as u8).into()
}

/// As the plan of a keepalived.conf binds an instance to a service.
fn instance_settings(setup: &Setup, node: usize) -> InstanceSettings {
    let addresses = vec![VirtualAddress::host(Ipv4Addr::new(10, 0, 0, 100).into())];
    InstanceSettings {
        priority: setup.priorities[node],
        preempt: setup.preempt,
        bound: true,
        trackers: vec![TrackerSettings { name: "data".to_owned(), weight: 0, reverse: false }],
        ..InstanceSettings::new("VI_1", 51, addresses)
    }
}

fn service_settings(setup: &Setup) -> ServiceSettings {
    let step = |kind, name: &str| StepSettings { kind, name: name.to_owned() };
    ServiceSettings {
        steps: vec![
            step(StepKind::Promote, "promote"),
            step(StepKind::Attach, "attach"),
            step(StepKind::Mount, "mount"),
            step(StepKind::Addresses, "addresses"),
            step(StepKind::Command, "start"),
        ],
        is_exclusive: setup.policy.is_exclusive(),
        wait_for_peer_us: None,
    }
}
