//! Carries out one step, or undoes it. Every one ends within a time of its own.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{Action, ServicePlan};
use crate::control::{Command, Handler, Outcome};
use crate::vrrp::{self, InstanceStatus};

/// A promotion may have to ask a witness and wait for a connection to be given up: `timeout` x
/// `ko-count` is 42 s with DRBD's defaults.
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
/// Writes that the peer has not confirmed are waited for.
const DEMOTE_LIMIT: Duration = Duration::from_secs(60);
/// The kernel's answers are limited to 40 s.
const DEVICE_LIMIT: Duration = Duration::from_secs(50);
/// The router does it at once; what it cannot do it says in the log.
const ADDRESS_LIMIT: Duration = Duration::from_secs(2);

/// What steps need; a copy for each step under way.
#[derive(Debug)]
pub(super) struct Tools<H> {
    pub(super) resources: Rc<H>,
    pub(super) instances: watch::Receiver<Vec<InstanceStatus>>,
    pub(super) commands: mpsc::Sender<vrrp::Command>,
    /// True: the step is not wanted any more.
    pub(super) cancel: watch::Receiver<bool>,
}

impl<H: Handler> Tools<H> {
    pub(super) async fn perform(mut self, plan: &ServicePlan, step: usize) -> Result<(), String> {
        match &plan.actions[step] {
            Action::Promote => {
                self.verb(plan, Command::Primary { force: false }, PROMOTE_LIMIT).await
            }
            Action::Attach => self.verb(plan, Command::AttachDevice, DEVICE_LIMIT).await,
            Action::Mount(file_system) => {
                file_system.perform().await.map_err(|error| error.to_string())
            }
            Action::Addresses => {
                self.serve(plan, true);
                self.addresses(plan, true).await;
                Ok(())
            }
            // A start may take minutes: it ends when it is not wanted any more.
            Action::Command(program) => {
                let mut cancel = self.cancel.clone();
                tokio::select! {
                    result = program.perform() => result.map_err(|error| error.to_string()),
                    _ = cancel.wait_for(|cancel| *cancel) => Err("it is not wanted any more".to_owned()),
                }
            }
        }
    }

    pub(super) async fn undo(
        mut self,
        plan: &ServicePlan,
        step: usize,
        force: bool,
    ) -> Result<(), String> {
        match &plan.actions[step] {
            Action::Promote => self.verb(plan, Command::Secondary { force }, DEMOTE_LIMIT).await,
            Action::Attach => self.verb(plan, Command::DetachDevice { force }, DEVICE_LIMIT).await,
            // So would what writes to frozen data; it is done again without the data.
            Action::Mount(file_system) => {
                let mut cancel = self.cancel.clone();
                tokio::select! {
                    result = file_system.undo() => result.map(|_| ()).map_err(|error| error.to_string()),
                    _ = cancel.wait_for(|cancel| *cancel) => Err("the data is gone".to_owned()),
                }
            }
            Action::Addresses => {
                // A connection whose address is gone cannot be closed: its client would not hear of it.
                if !force {
                    self.resources.send_programs_away(&plan.resource).await;
                }
                self.serve(plan, false);
                self.addresses(plan, false).await;
                Ok(())
            }
            // What hangs on frozen data would never stop: see the coordinator's order by force.
            Action::Command(program) => {
                let mut cancel = self.cancel.clone();
                tokio::select! {
                    result = program.undo() => result.map_err(|error| error.to_string()),
                    _ = cancel.wait_for(|cancel| *cancel) => Err("the data is gone".to_owned()),
                }
            }
        }
    }

    async fn verb(
        &self,
        plan: &ServicePlan,
        command: Command,
        limit: Duration,
    ) -> Result<(), String> {
        let performed = self.resources.perform(Some(&plan.resource), &command);
        match timeout(limit, performed).await {
            Ok(outcome) if outcome.is_done() => Ok(()),
            Ok(outcome) => Err(sentence(&outcome)),
            Err(_) => Err(format!("not finished within {} s", limit.as_secs())),
        }
    }

    fn serve(&self, plan: &ServicePlan, serves: bool) {
        for (instance, _) in &plan.members {
            tell(&self.commands, vrrp::Command::Serve { instance: *instance, serves });
        }
    }

    /// A program that binds to an address must find it there.
    async fn addresses(&mut self, plan: &ServicePlan, wanted: bool) {
        let are_so = |instances: &Vec<InstanceStatus>| {
            let mut members = plan.members.iter().filter_map(|(member, _)| instances.get(*member));
            members.all(|instance| instance.has_addresses == wanted)
        };
        let _ = timeout(ADDRESS_LIMIT, self.instances.wait_for(are_so)).await;
    }
}

pub(super) fn tell(commands: &mpsc::Sender<vrrp::Command>, command: vrrp::Command) {
    if let Err(error) = commands.try_send(command) {
        // It takes a thousand commands that are not taken: the thread is gone or stuck.
        tracing::error!("VRRP does not listen: {error}");
    }
}

fn sentence(outcome: &Outcome) -> String {
    let parts = [&outcome.message, &outcome.detail, &outcome.hint];
    let parts: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}
