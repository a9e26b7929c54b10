//! The daemon's end of the runner: what operators ask, and what they see.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use super::Plan;
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::control::status::{InstanceStatus, ResourceStatus, ServiceStatus};

/// What is asked of a service.
#[derive(Debug)]
pub(super) enum Order {
    Handover {
        service: String,
        answer: oneshot::Sender<Outcome>,
    },
    Standby {
        service: String,
        on: bool,
        answer: oneshot::Sender<Outcome>,
    },
    /// Run another plan from now on.
    Reload {
        plan: Box<Plan>,
        answer: oneshot::Sender<Outcome>,
    },
    /// Give everything up, then end.
    Shutdown,
}

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) instances: Vec<InstanceStatus>,
    pub(super) services: Vec<ServiceStatus>,
}

#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) view: Rc<RefCell<View>>,
}

impl Handle {
    pub async fn handover(&self, service: &str) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Handover { service: service.to_owned(), answer });
        answered.await.unwrap_or_else(|_| ending())
    }

    pub async fn standby(&self, service: &str, on: bool) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Standby { service: service.to_owned(), on, answer });
        answered.await.unwrap_or_else(|_| ending())
    }

    /// What `plan` leaves alone goes on; what it ends is given up in order first.
    pub async fn reload(&self, plan: Plan) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Reload { plan: Box::new(plan), answer });
        answered.await.unwrap_or_else(|_| ending())
    }

    /// Has everything given up in order; [`super::Runner::run`] then returns.
    pub fn shut_down(&self) {
        let _ = self.orders.send(Order::Shutdown);
    }

    pub fn instances(&self) -> Vec<InstanceStatus> {
        self.view.borrow().instances.clone()
    }

    /// Adds to each resource what runs on top of it.
    pub fn show_in(&self, statuses: &mut [ResourceStatus]) {
        let view = self.view.borrow();
        for status in statuses {
            let service = view.services.iter().find(|service| service.resource == status.name);
            status.service = service.cloned();
        }
    }
}

fn ending() -> Outcome {
    Outcome::failed(exit::OTHER, "the daemon is ending")
}
