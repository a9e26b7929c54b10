//! Where NBD clients come in. A listener serves every resource that names its address; the name
//! that a client asks for decides. Negotiation happens here, on the main thread; then the socket
//! goes to the resource's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};

use crate::driver::{Exports, IncomingClient, IncomingStream};
use crate::nbd::{self, Directory, ExportInfo, Negotiated};

/// Clients of one listener that have not finished the negotiation; more wait in the listen queue.
/// Each may keep its place for as long as the negotiation allows (nbd.md 1.5: 40 idle half-open
/// handshakes must not keep out a real one).
const NEGOTIATING_MAX: usize = 128;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Pause after a failed accept (out of file descriptors): give others time to close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Takes clients that chose an export.
pub(super) trait Reception {
    /// Whether a client from there may talk to this resource; `None`: the unix socket.
    fn admits(&self, resource: &str, address: Option<IpAddr>) -> bool;
    fn receive(&self, resource: &str, client: IncomingClient);
}

/// The exports of one listener.
#[derive(Debug, Default)]
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

    /// The empty name means the only export.
    fn find(&self, name: &str) -> Option<ExportInfo> {
        let names = self.names();
        let name = match name {
            "" if names.len() == 1 => names.first()?,
            name => names.get(name)?,
        };
        self.exports.find(name)
    }
}

#[derive(Debug)]
struct Open {
    shelf: Arc<Shelf>,
    task: AbortHandle,
    place: Place,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
        if let Place::Unix(path) = &self.place {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Every listener of the process.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: BTreeMap<Place, Open>,
    exports: Exports,
}

impl Listeners {
    pub(super) fn new(exports: Exports) -> Self {
        Self { open: BTreeMap::new(), exports }
    }

    /// Offers a resource at these places; binds those that nobody uses yet. On failure nothing is
    /// offered. Needs a `LocalSet`.
    pub(super) fn offer<R: Reception + 'static>(
        &mut self,
        resource: &str,
        places: &[Place],
        reception: &Rc<R>,
    ) -> Result<(), (Place, io::Error)> {
        for place in places {
            if let Err(error) = self.offer_at(resource, place, reception) {
                self.withdraw(resource);
                return Err((place.clone(), error));
            }
        }
        Ok(())
    }

    fn offer_at<R: Reception + 'static>(
        &mut self,
        resource: &str,
        place: &Place,
        reception: &Rc<R>,
    ) -> io::Result<()> {
        if let Some(open) = self.open.get(place) {
            open.shelf.names().insert(resource.to_owned());
            return Ok(());
        }
        let shelf = Arc::new(Shelf {
            names: Mutex::new(BTreeSet::from([resource.to_owned()])),
            exports: self.exports.clone(),
        });
        let socket = Socket::bind(place)?;
        let task = spawn_local(accept(socket, shelf.clone(), reception.clone())).abort_handle();
        self.open.insert(place.clone(), Open { shelf, task, place: place.clone() });
        Ok(())
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

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => {
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address(*address),
                    socket2::Type::STREAM,
                    None,
                )?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
            }
            Place::Unix(path) => {
                remove_stale(path)?;
                Ok(Self::Unix(UnixListener::bind(path)?))
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, address))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

/// A socket file that a killed daemon left behind. Anything else stays, and bind says that the
/// address is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// How the operator reads about it.
    fn name(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(stream) => match stream.peer_cred().ok().and_then(|peer| peer.pid()) {
                Some(pid) => format!("pid {pid}"),
                None => "unix socket".to_owned(),
            },
        }
    }

    async fn negotiate(&mut self, directory: &dyn Directory) -> Option<Negotiated> {
        let limits = nbd::NegotiationLimits::default();
        let result = match self {
            Self::Tcp(stream, _) => nbd::negotiate(stream, directory, &limits).await,
            Self::Unix(stream) => nbd::negotiate(stream, directory, &limits).await,
        };
        match result {
            Ok(negotiated) => negotiated,
            Err(error) => {
                tracing::info!(client = self.name(), "NBD negotiation ended: {error}");
                None
            }
        }
    }

    fn into_incoming(self) -> io::Result<IncomingStream> {
        Ok(match self {
            Self::Tcp(stream, address) => IncomingStream::Tcp(stream.into_std()?, address),
            Self::Unix(stream) => IncomingStream::Unix(stream.into_std()?),
        })
    }
}

async fn accept<R: Reception + 'static>(socket: Socket, shelf: Arc<Shelf>, reception: Rc<R>) {
    let places = Arc::new(Semaphore::new(NEGOTIATING_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("never closed");
        match socket.accept().await {
            Ok(accepted) => {
                let (shelf, reception) = (shelf.clone(), reception.clone());
                spawn_local(async move {
                    welcome(accepted, &*shelf, &*reception).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept an NBD client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn welcome(mut accepted: Accepted, shelf: &Shelf, reception: &impl Reception) {
    let address = accepted.address();
    let names: Vec<String> = shelf.names().iter().cloned().collect();
    if !names.iter().any(|name| reception.admits(name, address)) {
        tracing::warn!(client = accepted.name(), "NBD client turned away: not in nbd/allow");
        return;
    }
    let Some(negotiated) = accepted.negotiate(shelf).await else { return };
    let resource = negotiated.export.clone();
    let peer = accepted.name();
    if !reception.admits(&resource, address) {
        tracing::warn!(client = peer, resource, "NBD client turned away: not in nbd/allow");
        return;
    }
    match accepted.into_incoming() {
        Ok(stream) => reception.receive(&resource, IncomingClient { stream, negotiated, peer }),
        Err(error) => tracing::warn!(client = peer, "NBD client lost: {error}"),
    }
}
