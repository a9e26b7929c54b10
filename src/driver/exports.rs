//! What NBD clients may ask for, shared between the resources' threads, which keep it up to date,
//! and the listeners, which negotiate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::nbd::ExportInfo;

/// Every export of this process by name.
#[derive(Clone, Debug, Default)]
pub struct Exports(Arc<Mutex<BTreeMap<String, ExportInfo>>>);

impl Exports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ExportInfo>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub fn publish(&self, info: ExportInfo) {
        self.lock().insert(info.name.clone(), info);
    }

    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    pub fn find(&self, name: &str) -> Option<ExportInfo> {
        self.lock().get(name).cloned()
    }
}
