//! From a resource's own words to the status of the control socket.

use super::translate::Plan;
use crate::control::ResourceStatus;
use crate::driver::Snapshot;

pub(super) fn status(plan: &Plan, snapshot: &Snapshot) -> ResourceStatus {
    let mut status = ResourceStatus { name: plan.setup.name.clone(), ..ResourceStatus::default() };
    status.set_state(snapshot.engine.state);
    status
}
