//! Listening sockets: accept, negotiate, hand the client over to the thread of its resource.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use super::allow::{Network, allows};
use super::export::Directory;
use super::negotiation::{Limits, Negotiated, NegotiationError, negotiate};
use super::stream::{Socket, Stream};

/// Connections in transmission, over all listeners that share the limits: a kernel client has up
/// to 4, nbdcopy 4, qemu 1. Each may hold 64 MiB of payload (`client::BYTES_IN_FLIGHT`) and
/// 256 KiB to read into: 128 hostile ones hold 8 GiB.
pub const CONNECTION_LIMIT: usize = 128;
/// Handshakes under way per listener. A newcomer ends the oldest one: 40 idle half-open
/// connections must not keep a real client out (nbd.md 1.5), nor may 400.
const HANDSHAKE_LIMIT: usize = 64;
/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;
/// Wait after accept failed, for want of file descriptors for example.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A negotiated client on its way to its resource's thread.
#[derive(Debug)]
pub struct Accepted {
    pub socket: Socket,
    pub negotiated: Negotiated,
    /// Where it comes from, for people.
    pub peer: String,
    /// Its place among [`ListenerLimits::connections`]; given up when the client is gone.
    pub permit: Option<OwnedSemaphorePermit>,
    pub origin: Origin,
}

/// What stands behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A program, which is told when the export is no longer served.
    Client,
    /// A device of this machine's kernel, which takes up a connection that ends where it was.
    KernelDevice,
}

/// Where negotiated clients go. Called on the accepting runtime; must not block.
pub trait Handover: Send + Sync {
    fn hand_over(&self, accepted: Accepted);
}

#[derive(Clone, Debug)]
pub struct ListenerLimits {
    pub connections: Arc<Semaphore>,
    pub handshakes: usize,
    pub negotiation: Limits,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
            handshakes: HANDSHAKE_LIMIT,
            negotiation: Limits::default(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct UnixOptions {
    pub path: PathBuf,
    /// Permission bits of the socket.
    pub mode: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    #[error("cannot listen on {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {}: {source}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot listen on {}: another process serves this socket", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: it exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// A bound socket. Dropping it closes the socket and removes a unix socket's file.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp { listener: TcpListener, address: SocketAddr, allow: Vec<Network> },
    Unix { listener: UnixListener, file: SocketFile },
}

impl Listener {
    /// On an address of this host. `allow`: who may connect; empty = everybody.
    pub fn tcp(address: SocketAddr, allow: Vec<Network>) -> Result<Self, ListenerError> {
        let bind = || -> io::Result<(TcpListener, SocketAddr)> {
            let domain = Domain::for_address(address);
            let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            // A virtual address is not here before the service is; clients ask for it afterwards.
            match address {
                SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
            }
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) =
            bind().map_err(|source| ListenerError::Tcp { address, source })?;
        Ok(Self { kind: Kind::Tcp { listener, address, allow } })
    }

    /// On a path. The file of a server that died is replaced; that of a living one is not.
    pub fn unix(options: &UnixOptions) -> Result<Self, ListenerError> {
        let path = &options.path;
        let failed = |source| ListenerError::Unix { path: path.clone(), source };
        refuse_occupied(path)?;
        // Bound under another name first: with its permissions set, it appears in one step.
        let mut hidden = path.clone().into_os_string();
        hidden.push("~");
        let hidden = PathBuf::from(hidden);
        remove_if_there(&hidden).map_err(failed)?;
        let listener = UnixListener::bind(&hidden).map_err(failed)?;
        let publish = || {
            std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(options.mode))?;
            let inode = std::fs::metadata(&hidden)?.ino();
            std::fs::rename(&hidden, path)?;
            Ok(SocketFile { path: path.clone(), inode })
        };
        match publish() {
            Ok(file) => Ok(Self { kind: Kind::Unix { listener, file } }),
            Err(source) => {
                let _ = std::fs::remove_file(&hidden);
                Err(failed(source))
            }
        }
    }

    /// Where clients find it, as a URI without an export name.
    pub fn uri(&self) -> String {
        match &self.kind {
            Kind::Tcp { address, .. } => format!("nbd://{address}"),
            Kind::Unix { file, .. } => format!("nbd+unix:///?socket={}", file.path.display()),
        }
    }

    /// Accepts clients until the future is dropped; handshakes under way end with it.
    pub async fn serve(
        self,
        directory: Arc<dyn Directory>,
        handover: Arc<dyn Handover>,
        limits: ListenerLimits,
    ) {
        let mut handshakes = Handshakes::default();
        loop {
            let (stream, peer) = match self.accept().await {
                Ok(Some(client)) => client,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(listener = self.uri(), %error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            handshakes.make_place(limits.handshakes);
            let (directory, handover) = (Arc::clone(&directory), Arc::clone(&handover));
            handshakes.start(welcome(stream, peer, directory, handover, limits.clone()));
        }
    }

    /// `None`: somebody who may not connect.
    async fn accept(&self) -> io::Result<Option<(Stream, String)>> {
        match &self.kind {
            Kind::Tcp { listener, allow, .. } => {
                let (stream, peer) = listener.accept().await?;
                if !allows(allow, peer.ip()) {
                    tracing::info!(%peer, listener = self.uri(), "client is not allowed");
                    return Ok(None);
                }
                // The answers of the handshake are small and awaited one by one.
                SockRef::from(&stream).set_tcp_nodelay(true)?;
                Ok(Some((Stream::Tcp(stream), peer.to_string())))
            }
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let process = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
                let peer = match process {
                    Some(process) => format!("local process {process}"),
                    None => "local process".to_owned(),
                };
                Ok(Some((Stream::Unix(stream), peer)))
            }
        }
    }
}

/// Handshakes under way, oldest first.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn make_place(&mut self, limit: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|handshake| !handshake.is_finished());
        while self.order.len() >= limit.max(1) {
            if let Some(oldest) = self.order.pop_front() {
                oldest.abort();
            }
        }
    }

    fn start(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        self.order.push_back(self.tasks.spawn(handshake));
    }
}

/// One client from accept to hand-over.
async fn welcome(
    mut stream: Stream,
    peer: String,
    directory: Arc<dyn Directory>,
    handover: Arc<dyn Handover>,
    limits: ListenerLimits,
) {
    let outcome = match &mut stream {
        Stream::Tcp(stream) => negotiate(stream, &*directory, &limits.negotiation).await,
        Stream::Unix(stream) => negotiate(stream, &*directory, &limits.negotiation).await,
    };
    let negotiated = match outcome {
        Ok(Some(negotiated)) => negotiated,
        Ok(None) => return,
        Err(error @ (NegotiationError::Stream(_) | NegotiationError::Idle)) => {
            tracing::debug!(peer, %error, "handshake ended");
            return;
        }
        Err(error) => {
            tracing::info!(peer, %error, "handshake refused");
            return;
        }
    };
    let Ok(permit) = Arc::clone(&limits.connections).try_acquire_owned() else {
        tracing::warn!(peer, "too many NBD clients, closing the newest");
        return;
    };
    match stream.into_socket() {
        Ok(socket) => {
            socket.tune();
            let origin = Origin::Client;
            handover.hand_over(Accepted { socket, negotiated, peer, permit: Some(permit), origin });
        }
        Err(error) => tracing::warn!(peer, %error, "cannot hand over a client"),
    }
}

/// The file of a unix socket; removed with it, unless somebody else's has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn refuse_occupied(path: &Path) -> Result<(), ListenerError> {
    let failed = |source| ListenerError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => {
            Err(ListenerError::NotASocket(path.to_owned()))
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(ListenerError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(failed(error)),
        },
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
