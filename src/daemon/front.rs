//! What stands before the resources when a keepalived.conf is run: verbs of its services, and a
//! shutdown that gives them up first.

use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::manager::{Desk, Manager, no_keepalived};
use super::options::DaemonOptions;
use crate::config::{self, keepalived, view};
use crate::control::outcome::exit;
use crate::control::status::InstanceStatus;
use crate::control::{Command, Handler, Outcome, ResourceStatus};
use crate::failover::plan::{Places, PlanError, ResourceFacts, plan};
use crate::failover::{self, Handle, Plan, Runner};
use crate::nbd::kernel;
use crate::service::guard::Guard;
use crate::vrrp::GuardProgram;

/// All steps of a service with their limits: stop commands of minutes are the administrator's wish.
const RELEASE_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("{0}")]
    Config(config::Diagnostics),
    #[error("{0}")]
    Plan(#[from] PlanError),
}

#[derive(Debug)]
pub(super) struct Front {
    desk: Desk,
    services: Option<Handle>,
    options: DaemonOptions,
    /// The runner has given everything up.
    released: watch::Receiver<bool>,
}

/// Reads the keepalived.conf of the options, if there is one.
pub(super) fn prepare(options: &DaemonOptions) -> Result<Option<(Handle, Runner)>, FrontError> {
    Ok(read_plan(options)?.map(failover::new))
}

fn read_plan(options: &DaemonOptions) -> Result<Option<Plan>, FrontError> {
    let Some(path) = &options.keepalived else { return Ok(None) };
    let config = keepalived::load(path, &options.node).map_err(FrontError::Config)?;
    // Addresses alone need no resource.
    let has_data = config.instances.iter().any(|instance| instance.drbd_resource.is_some());
    let drbd = match has_data {
        true => Some(config::load(&options.config).map_err(FrontError::Config)?),
        false => None,
    };
    let places = Places { run_dir: options.run_dir.clone(), address_guard: Some(address_guard()) };
    let facts = |name: &str| {
        let resource = drbd
            .as_ref()
            .and_then(|drbd| drbd.resource(name))
            .ok_or_else(|| format!("{} has no such resource", options.config.display()))?;
        let view = resource.for_node(&options.node).map_err(|error| error.to_string())?;
        let seconds = view.startup.wfc_timeout_s;
        Ok(ResourceFacts {
            is_attached: view.me.nbd.attach,
            is_exclusive: view.options.takeover != view::Takeover::Both,
            wait_for_peer: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
        })
    };
    Ok(Some(plan(&config, &places, facts)?))
}

fn own_program() -> PathBuf {
    // Of a program that was replaced meanwhile, the one that runs.
    PathBuf::from("/proc/self/exe")
}

fn address_guard() -> GuardProgram {
    GuardProgram {
        program: own_program(),
        arguments: vec![OsString::from("address-guard")],
        environment: Vec::new(),
    }
}

/// Stops and unmounts what the services left when this process dies.
pub(super) fn service_guard(options: &DaemonOptions) -> std::io::Result<Guard> {
    let mut command = std::process::Command::new(own_program());
    command.arg("-c").arg(&options.config).arg("--run-dir").arg(&options.run_dir);
    command.args(["--node", &options.node, "service-guard"]);
    Guard::start(command)
}

/// What ends the kernel's device of a resource whose daemon died: nobody would answer it.
pub fn end_device(options: &DaemonOptions) -> impl Fn(&str) + Clone + Send + 'static {
    let (node, run_dir) = (options.node.clone(), options.run_dir.clone());
    move |resource: &str| {
        let note = run_dir.join(format!("{resource}.device"));
        let identifier = kernel::identifier(&node, resource, &run_dir);
        let Some(index) = kernel::find(&identifier, kernel::remembered(&note)) else { return };
        match kernel::disconnect(index) {
            Ok(()) => kernel::forget(&note),
            Err(error) => tracing::error!(resource, %error, "cannot end the kernel device"),
        }
    }
}

impl Front {
    pub(super) fn new(
        manager: Rc<Manager>,
        services: Option<Handle>,
        options: DaemonOptions,
        released: watch::Receiver<bool>,
    ) -> Self {
        Self { desk: Desk(manager), services, options, released }
    }

    /// A file that does not load changes nothing.
    pub(super) async fn reload(&self) -> Outcome {
        let Some(services) = &self.services else { return no_keepalived() };
        match read_plan(&self.options) {
            Ok(Some(plan)) => services.reload(plan).await,
            Ok(None) => no_keepalived(),
            Err(error) => Outcome::failed(exit::FAILURE, format!("not reloaded: {error}"))
                .with_detail("everything goes on as it was")
                .with_hint("twinblk check"),
        }
    }

    /// What runs, for the log.
    pub(super) fn log_instances(&self) {
        for instance in self.instances() {
            tracing::info!(
                "({}) {} priority {} on {}",
                instance.name,
                instance.state,
                instance.priority,
                instance.interface
            );
        }
    }

    /// Services first: what they use is taken down afterwards.
    pub(super) async fn release(&self) {
        let Some(services) = &self.services else { return };
        services.shut_down();
        let mut released = self.released.clone();
        if timeout(RELEASE_LIMIT, released.wait_for(|released| *released)).await.is_err() {
            tracing::error!("services do not stop; going on without them");
        }
    }
}

impl Handler for Front {
    async fn perform(&self, resource: Option<&str>, command: &Command) -> Outcome {
        match (command, &self.services, resource) {
            (Command::Shutdown, services, _) => {
                // First: a service is what uses the device.
                self.release().await;
                let mut outcome = self.desk.perform(resource, command).await;
                if !outcome.is_done() && services.is_some() {
                    outcome.detail = format!(
                        "{}; the services of keepalived.conf were given up already and VRRP has \
                         ended",
                        outcome.detail
                    );
                }
                outcome
            }
            (Command::Reload, ..) => self.reload().await,
            (Command::Handover, Some(services), Some(name)) => services.handover(name).await,
            (Command::Standby { on }, Some(services), Some(name)) => {
                services.standby(name, *on).await
            }
            (Command::Handover | Command::Standby { .. }, Some(_), None) => {
                Outcome::failed(exit::USAGE, "which resource?")
            }
            _ => self.desk.perform(resource, command).await,
        }
    }

    async fn status(&self, resource: Option<&str>) -> Result<Vec<ResourceStatus>, Outcome> {
        let mut statuses = self.desk.status(resource).await?;
        if let Some(services) = &self.services {
            services.show_in(&mut statuses);
        }
        Ok(statuses)
    }

    async fn send_programs_away(&self, resource: &str) {
        self.desk.send_programs_away(resource).await;
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        self.services.as_ref().map(Handle::instances).unwrap_or_default()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.desk.changes()
    }
}
