//! Where NBD clients come in. A listener serves every resource that names its address; the export
//! that a client asks for decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::{AbortHandle, spawn_local};

use crate::driver::Exports;
use crate::nbd::allow::Network;
use crate::nbd::{
    Accepted, Directory, ExportInfo, Handover, Listener, ListenerError, ListenerLimits, UnixOptions,
};

/// Permission bits of the socket in the run directory: who may write to the device is root's (or
/// the daemon's user's) business.
const SOCKET_MODE: u32 = 0o600;

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OfferError {
    #[error(transparent)]
    Listen(#[from] ListenerError),
    #[error("{address} is shared with {other}, whose nbd section allows other networks")]
    OtherNetworks { address: SocketAddr, other: String },
}

/// The exports of one listener.
#[derive(Debug)]
struct Shelf {
    names: Mutex<BTreeSet<String>>,
    exports: Exports,
}

impl Shelf {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Directory for Shelf {
    fn list(&self) -> Vec<ExportInfo> {
        self.names().iter().filter_map(|name| self.exports.find(name)).collect()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        let names = self.names();
        let name = match name {
            "" if names.len() == 1 => names.first()?,
            name => names.get(name)?,
        };
        self.exports.find(name)
    }
}

impl Handover for Shelf {
    fn hand_over(&self, accepted: Accepted) {
        self.exports.hand_over(accepted);
    }
}

#[derive(Debug)]
struct Open {
    shelf: Arc<Shelf>,
    allow: Vec<Network>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every listener of the process.
#[derive(Debug)]
pub(super) struct Listeners {
    open: BTreeMap<Place, Open>,
    exports: Exports,
    limits: ListenerLimits,
}

impl Listeners {
    pub(super) fn new(exports: Exports) -> Self {
        Self { open: BTreeMap::new(), exports, limits: ListenerLimits::default() }
    }

    /// Offers a resource at these places; binds those that nobody uses yet. On failure it is
    /// offered nowhere. Needs a `LocalSet`.
    pub(super) fn offer(
        &mut self,
        resource: &str,
        places: &[Place],
        allow: &[Network],
    ) -> Result<(), OfferError> {
        let offered = places.iter().try_for_each(|place| self.offer_at(resource, place, allow));
        if offered.is_err() {
            self.withdraw(resource);
        }
        offered
    }

    fn offer_at(
        &mut self,
        resource: &str,
        place: &Place,
        allow: &[Network],
    ) -> Result<(), OfferError> {
        if let Some(open) = self.open.get(place) {
            let mut names = open.shelf.names();
            if let Place::Tcp(address) = place
                && open.allow != allow
            {
                let other = names.first().cloned().unwrap_or_default();
                return Err(OfferError::OtherNetworks { address: *address, other });
            }
            names.insert(resource.to_owned());
            return Ok(());
        }
        let listener = match place {
            Place::Tcp(address) => Listener::tcp(*address, allow.to_vec())?,
            Place::Unix(path) => {
                Listener::unix(&UnixOptions { path: path.clone(), mode: SOCKET_MODE })?
            }
        };
        let shelf = Arc::new(Shelf {
            names: Mutex::new(BTreeSet::from([resource.to_owned()])),
            exports: self.exports.clone(),
        });
        let serving = listener.serve(shelf.clone(), shelf.clone(), self.limits.clone());
        let task = spawn_local(serving).abort_handle();
        self.open.insert(place.clone(), Open { shelf, allow: allow.to_vec(), task });
        Ok(())
    }

    /// Closes TCP listeners without another resource, until it is offered again: who connects from now
    /// on is refused at once, by a host that still has the address to say so from.
    pub(super) fn close_to_others(&mut self, resource: &str) {
        self.open.retain(|place, open| match place {
            Place::Unix(_) => true,
            Place::Tcp(_) => open.shelf.names().iter().any(|name| name != resource),
        });
    }

    /// Offers a resource no longer; closes listeners without one.
    pub(super) fn withdraw(&mut self, resource: &str) {
        self.open.retain(|_, open| {
            let mut names = open.shelf.names();
            names.remove(resource);
            !names.is_empty()
        });
    }
}
