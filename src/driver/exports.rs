//! What NBD clients may ask for, shared between the resources' threads, which keep it up to date,
//! and the listeners, which negotiate and hand clients over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc::UnboundedSender;

use super::handle::Order;
use crate::nbd::{Accepted, ExportInfo};

/// Every export of this process by name.
#[derive(Clone, Debug, Default)]
pub struct Exports(Arc<Mutex<BTreeMap<String, Export>>>);

#[derive(Debug)]
struct Export {
    info: ExportInfo,
    /// To the resource's thread.
    orders: UnboundedSender<Order>,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Export>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn add(&self, info: ExportInfo, orders: UnboundedSender<Order>) {
        self.lock().insert(info.name.clone(), Export { info, orders });
    }

    /// Changes what is said of an export that is still there.
    pub(super) fn update(&self, info: ExportInfo) {
        if let Some(export) = self.lock().get_mut(&info.name) {
            export.info = info;
        }
    }

    pub(super) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    pub fn find(&self, name: &str) -> Option<ExportInfo> {
        self.lock().get(name).map(|export| export.info.clone())
    }

    /// Hands a client to the thread of the resource that it chose; closes it when that is gone.
    pub fn hand_over(&self, accepted: Accepted) {
        if let Some(export) = self.lock().get(&accepted.negotiated.export.name) {
            let _ = export.orders.send(Order::Serve(Box::new(accepted)));
        }
    }
}
