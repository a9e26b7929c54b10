//! The daemon's side of the control socket: accepts, reads requests, answers waits and watches out
//! of the handler's status, and never lets one client hold up another.

use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::message::{Command, Request, Response};
use super::outcome::{Outcome, exit};
use super::status::{InstanceStatus, ResourceStatus};
use super::wait::{self, Progress};

/// Clients served at the same time; the next one waits in the listen queue.
const CLIENTS_MAX: usize = 64;
/// Longest request: a verb with its flags is under 200 bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// A connection on which nothing is asked for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// A client that does not take a response for this long is dropped.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a verb may take unless the request says otherwise. Longer than `timeout` x `ko-count`
/// (42 s with DRBD's defaults), after which a dead peer is given up and the verb gets its answer.
pub const VERB_TIMEOUT: Duration = Duration::from_secs(120);
/// A wait without a time limit ends when nothing moved for this long.
pub const STALL_LIMIT: Duration = Duration::from_secs(120);
/// A status is put together from what the resources' threads hold in memory.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// Watches and waits look again at least this often: resync counters move without a state change.
const TICK: Duration = Duration::from_millis(500);
/// Fastest rate of responses to a watch.
const WATCH_PAUSE: Duration = Duration::from_millis(50);

/// What the daemon puts behind the socket.
pub trait Handler {
    /// Carries out a verb; `resource` is absent for what concerns the daemon as a whole
    /// ([`Command::Shutdown`], [`Command::Reload`]). Never called with `Status`, `Watch`, `WaitConnect` or `WaitSync`. Dropped when the time limit runs out: the
    /// command itself may go on.
    fn perform(&self, resource: Option<&str>, command: &Command) -> impl Future<Output = Outcome>;

    /// The named resource, or all that are up. A name that is not up is
    /// [`Outcome::no_such_resource`].
    fn status(
        &self,
        resource: Option<&str>,
    ) -> impl Future<Output = Result<Vec<ResourceStatus>, Outcome>>;

    /// Clients from elsewhere are sent away while their connections can still be closed: the address
    /// that they came to is about to go. Ends when they are gone, or soon.
    fn send_programs_away(&self, _resource: &str) -> impl Future<Output = ()> {
        async {}
    }

    /// The VRRP instances.
    fn instances(&self) -> Vec<InstanceStatus> {
        Vec::new()
    }

    /// Changes its value whenever a state, flag, reason or the set of resources changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The bound socket. Its file is removed when the listener is dropped.
#[derive(Debug)]
pub struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
    /// Held for life: one daemon per run directory.
    _lock: std::fs::File,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot create the run directory {path}: {source}")]
    RunDirectory { path: PathBuf, source: io::Error },
    #[error("a daemon already runs in {path}")]
    AlreadyRunning { path: PathBuf },
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot listen on {path}: {source}")]
    Bind { path: PathBuf, source: io::Error },
}

/// Creates the run directory if need be and binds its control socket, for the owner only. Must be
/// called inside a tokio runtime.
pub fn listen(run_dir: &Path) -> Result<ControlListener, ListenError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(run_dir)
        .map_err(|source| ListenError::RunDirectory { path: run_dir.to_owned(), source })?;
    let lock = lock_run_directory(run_dir)?;
    let path = super::socket_path(run_dir);
    let bound =
        bind_private(&path).map_err(|source| ListenError::Bind { path: path.clone(), source })?;
    Ok(ControlListener { listener: bound, path, _lock: lock })
}

/// The lock ends with the process, however it ends: a socket file that a killed daemon left behind
/// is then known to be stale.
fn lock_run_directory(run_dir: &Path) -> Result<std::fs::File, ListenError> {
    let path = run_dir.join("twinblk.lock");
    let failed = |source| ListenError::Lock { path: path.clone(), source };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        // Whoever can open it can lock it, and with that keep the daemon from starting.
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(ListenError::AlreadyRunning { path: run_dir.to_owned() })
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // The mode of the socket before bind becomes the mode of the file: there is no moment in which
    // others could connect.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(CLIENTS_MAX as i32)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // The lock is still held here, so the file is this daemon's own.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves clients until the future is dropped. Needs a `LocalSet`.
pub async fn serve<H: Handler + 'static>(listener: ControlListener, handler: Rc<H>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    clients.spawn_local(async move {
                        let mut client = ClientConnection::new(stream);
                        if let Err(error) = client.run(&*handler).await {
                            tracing::debug!(%error, "control client gone");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close some.
                    tracing::warn!(%error, "cannot accept a control client");
                    sleep(TICK).await;
                }
            },
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
        }
    }
}

struct ClientConnection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl ClientConnection {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    async fn run<H: Handler>(&mut self, handler: &H) -> io::Result<()> {
        while let Some(line) = self.read_line().await? {
            let outcome = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.answer(handler, &request).await?,
                Err(error) => Outcome::failed(exit::USAGE, format!("unreadable request: {error}")),
            };
            self.send(&Response::Outcome(outcome)).await?;
        }
        Ok(())
    }

    /// `None` when the client closed or has nothing to ask.
    async fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(REQUEST_BYTES_MAX);
        match timeout(IDLE_LIMIT, limited.read_until(b'\n', &mut line)).await {
            Err(_) => Ok(None),
            Ok(Err(error)) => Err(error),
            Ok(Ok(0)) => Ok(None),
            Ok(Ok(length)) if length as u64 == REQUEST_BYTES_MAX && !line.ends_with(b"\n") => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "request too long"))
            }
            Ok(Ok(_)) => Ok(Some(line)),
        }
    }

    async fn send(&mut self, response: &Response) -> io::Result<()> {
        let mut line = serde_json::to_vec(response)?;
        line.push(b'\n');
        timeout(WRITE_LIMIT, self.writer.write_all(&line))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn answer<H: Handler>(&mut self, handler: &H, request: &Request) -> io::Result<Outcome> {
        let resource = request.resource.as_deref();
        match request.command {
            Command::Status => match status(handler, resource).await {
                Ok(resources) => {
                    self.send(&Response::Status { resources }).await?;
                    Ok(Outcome::done())
                }
                Err(outcome) => Ok(outcome),
            },
            Command::Instances => {
                let instances = handler.instances();
                self.send(&Response::Instances { instances }).await?;
                Ok(Outcome::done())
            }
            Command::Watch => self.watch(handler, request).await,
            Command::WaitConnect => self.wait(handler, request, wait::connected).await,
            Command::WaitSync => self.wait(handler, request, wait::synchronised).await,
            _ => Ok(perform(handler, request).await),
        }
    }

    async fn watch<H: Handler>(&mut self, handler: &H, request: &Request) -> io::Result<Outcome> {
        let mut changes = handler.changes();
        let deadline = request.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        loop {
            changes.borrow_and_update();
            match status(handler, request.resource.as_deref()).await {
                Ok(resources) => self.send(&Response::Status { resources }).await?,
                Err(outcome) => return Ok(outcome),
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Outcome::done());
            }
            sleep(WATCH_PAUSE).await;
            if let Some(ending) = next_look(&mut changes, deadline).await {
                return Ok(ending);
            }
        }
    }

    async fn wait<H: Handler>(
        &mut self,
        handler: &H,
        request: &Request,
        judge: fn(&ResourceStatus) -> Progress,
    ) -> io::Result<Outcome> {
        let mut changes = handler.changes();
        let started = Instant::now();
        let deadline = request.timeout_ms.map(|ms| started + Duration::from_millis(ms));
        let mut last_move = started;
        let mut last_seen = None;
        loop {
            changes.borrow_and_update();
            let resources = match status(handler, request.resource.as_deref()).await {
                Ok(resources) => resources,
                Err(outcome) => return Ok(outcome),
            };
            let hopeless = resources.iter().find(|status| judge(status) == Progress::Hopeless);
            if let Some(status) = hopeless {
                return Ok(hopeless_outcome(status));
            }
            let Some(pending) =
                resources.iter().find(|status| judge(status) == Progress::Pending).cloned()
            else {
                return Ok(Outcome::done());
            };
            let now = Instant::now();
            let seen = moving_parts(&resources);
            if last_seen.as_ref() != Some(&seen) {
                last_seen = Some(seen);
                last_move = now;
            }
            let over = match deadline {
                Some(deadline) => now >= deadline,
                None => now - last_move >= STALL_LIMIT,
            };
            if over {
                return Ok(timed_out_outcome(&pending, now - started));
            }
            self.send(&Response::Status { resources }).await?;
            if let Some(ending) = next_look(&mut changes, deadline).await {
                return Ok(ending);
            }
        }
    }
}

/// Sleeps until there may be something new; an outcome when there never will be.
async fn next_look(
    changes: &mut watch::Receiver<u64>,
    deadline: Option<Instant>,
) -> Option<Outcome> {
    let tick = Instant::now() + TICK;
    let until = deadline.map_or(tick, |deadline| deadline.min(tick));
    tokio::select! {
        changed = changes.changed() => changed
            .is_err()
            .then(|| Outcome::failed(exit::OTHER, "the daemon is ending")),
        () = tokio::time::sleep_until(until) => None,
    }
}

async fn status<H: Handler>(
    handler: &H,
    resource: Option<&str>,
) -> Result<Vec<ResourceStatus>, Outcome> {
    timeout(STATUS_LIMIT, handler.status(resource)).await.unwrap_or_else(|_| {
        let object = resource.unwrap_or("twinblk");
        Err(Outcome::failed(exit::OTHER, format!("{object}: no status within {STATUS_LIMIT:?}"))
            .with_detail("the resource's thread does not answer; its log says what it does"))
    })
}

async fn perform<H: Handler>(handler: &H, request: &Request) -> Outcome {
    let resource = request.resource.as_deref();
    let limit = request.timeout_ms.map_or(VERB_TIMEOUT, Duration::from_millis);
    let name = resource.unwrap_or("twinblk");
    let is_of_daemon = matches!(request.command, Command::Shutdown | Command::Reload);
    if resource.is_none() && !is_of_daemon {
        return Outcome::failed(exit::USAGE, "the request names no resource");
    }
    timeout(limit, handler.perform(resource, &request.command)).await.unwrap_or_else(|_| {
        Outcome::failed(exit::TIMEOUT, format!("{name}: not finished within {limit:?}"))
            .with_detail("the daemon may still be working on it")
            .with_hint(format!("twinblk status {name}"))
    })
}

fn hopeless_outcome(status: &ResourceStatus) -> Outcome {
    let hint = if status.hint.is_empty() {
        format!("twinblk connect {}", status.name)
    } else {
        status.hint.clone()
    };
    let message = format!("{}: {}: waiting would not help", status.name, status.connection);
    Outcome::failed(exit::TIMEOUT, message).with_detail(status.reason.clone()).with_hint(hint)
}

fn timed_out_outcome(status: &ResourceStatus, waited: Duration) -> Outcome {
    let seconds = waited.as_secs_f64().round();
    let message = format!("{}: still {} after {seconds} s", status.name, status.connection);
    Outcome::failed(exit::TIMEOUT, message)
        .with_detail(status.reason.clone())
        .with_hint(status.hint.clone())
}

/// What changes while there is progress.
fn moving_parts(resources: &[ResourceStatus]) -> Vec<(String, String, u64, u64)> {
    let part = |status: &ResourceStatus| {
        let connection = status.connection.to_string();
        let moved = status.counters.resync_blocks_moved;
        (status.name.clone(), connection, status.out_of_sync_bytes, moved)
    };
    resources.iter().map(part).collect()
}
