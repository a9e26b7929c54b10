//! A running keepalived.conf: VRRP on its thread, and the services that follow it.
//!
//! ```text
//!   vrrp (thread) --states--> runner --commands--> vrrp
//!                               |
//!         one per service:   binding   coordinator (sans-io) + the step under way
//!                               |
//!   resources <--verbs, states--+--steps--> mounts, programs
//! ```
//!
//! Nothing here decides when a service moves: that is [`crate::election::failover`]. Nothing that
//! waits for a disk or a program runs in the loop: steps are tasks that report when they end.

use std::path::PathBuf;
use std::time::Duration;

mod binding;
mod data;
mod handle;
pub mod plan;
mod reload;
mod runner;
mod servers;
mod steps;
pub mod telling;
mod watching;

pub use handle::Handle;
pub use runner::{Runner, new};

use crate::election::failover::ServiceSettings;
use crate::service::{Estate, FileSystem, Note, Program};
use crate::{vrrp, watch};

/// What a configuration asks for.
#[derive(Clone, Debug)]
pub struct Plan {
    pub vrrp: vrrp::Plan,
    pub services: Vec<ServicePlan>,
    pub watch: watch::Plan,
    /// For each watcher the instances and trackers that it feeds.
    pub fed: Vec<watching::Fed>,
    pub telling: telling::Telling,
    /// Of what is started and mounted, for whoever finds it after this process died.
    pub note: Note,
    /// Before VRRP begins (`vrrp_startup_delay`).
    pub startup_delay: Duration,
}

/// A service on a resource, bound to the instances of one sync group, or to one instance.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// The instance that names the resource; for people and for verbs.
    pub name: String,
    pub resource: String,
    /// Places in [`vrrp::Plan::instances`], each with the place of the tracker that says whether this
    /// node may serve (weight 0).
    pub members: Vec<(usize, usize)>,
    pub settings: ServiceSettings,
    /// One for each step of the settings.
    pub actions: Vec<Action>,
    /// Survives the daemon: the node is in standby.
    pub standby_note: PathBuf,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Promote,
    Attach,
    Mount(FileSystem),
    Addresses,
    Command(Program),
}

impl ServicePlan {
    /// What a guard has to know of it.
    fn estate(&self) -> Estate {
        let file_systems = self.actions.iter().filter_map(|action| match action {
            Action::Mount(file_system) => Some(file_system.clone()),
            _ => None,
        });
        let programs = self.actions.iter().filter_map(|action| match action {
            Action::Command(program) => Some(program.clone()),
            _ => None,
        });
        Estate {
            resource: self.resource.clone(),
            file_systems: file_systems.collect(),
            programs: programs.collect(),
        }
    }
}
