//! The command line's side of the control socket: plain blocking calls, each with a time limit.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::message::{Command, LINE_BYTES_MAX, Request, Response};
use super::outcome::Outcome;
use super::server::VERB_TIMEOUT;
use super::status::{InstanceStatus, ResourceStatus};

/// Longest wait for room in the daemon's listen queue, and for it to take a request.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What the daemon gets on top of the time limit that it keeps itself.
const GRACE: Duration = Duration::from_secs(5);
/// Watches and waits hear something every half second; silence for this long is a dead daemon.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon is running: nobody listens on {path}")]
    NotRunning { path: PathBuf },
    #[error("cannot reach the daemon on {path}: {source}")]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the daemon did not answer within {0:?}")]
    Silent(Duration),
    #[error("the daemon closed the connection without an answer")]
    Closed,
    #[error("the daemon's answer is not understood: {0}")]
    Malformed(String),
    #[error("talking to the daemon: {0}")]
    Io(io::Error),
}

/// A connection to the daemon; requests go one after another.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(run_dir: &Path) -> Result<Self, ClientError> {
        let path = super::socket_path(run_dir);
        let stream = connect(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path: path.clone() }
            }
            _ => ClientError::Unreachable { path: path.clone(), source },
        })?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Carries out a verb; `time_limit` is the daemon's, [`VERB_TIMEOUT`] when absent.
    pub fn perform(
        &mut self,
        resource: Option<&str>,
        command: Command,
        time_limit: Option<Duration>,
    ) -> Result<Outcome, ClientError> {
        self.send(resource, command, time_limit)?;
        let silence = time_limit.unwrap_or(VERB_TIMEOUT) + GRACE;
        match self.receive(silence)? {
            Response::Outcome(outcome) => Ok(outcome),
            _ => Err(ClientError::Malformed("a status, unasked".to_owned())),
        }
    }

    /// The named resource, or all that are up.
    pub fn status(
        &mut self,
        resource: Option<&str>,
    ) -> Result<Result<Vec<ResourceStatus>, Outcome>, ClientError> {
        let mut seen = None;
        let outcome = self.follow(resource, Command::Status, None, |resources| {
            seen = Some(resources);
            true
        })?;
        match (seen, outcome) {
            (Some(resources), Some(outcome)) if outcome.is_done() => Ok(Ok(resources)),
            (_, Some(outcome)) if !outcome.is_done() => Ok(Err(outcome)),
            _ => Err(ClientError::Malformed("neither a status nor a reason".to_owned())),
        }
    }

    /// The VRRP instances of the node.
    pub fn instances(&mut self) -> Result<Vec<InstanceStatus>, ClientError> {
        self.send(None, Command::Instances, None)?;
        let Response::Instances { instances } = self.receive(SILENCE_LIMIT)? else {
            return Err(ClientError::Malformed("no instances".to_owned()));
        };
        match self.receive(SILENCE_LIMIT)? {
            Response::Outcome(outcome) if outcome.is_done() => Ok(instances),
            other => Err(ClientError::Malformed(format!("{other:?}"))),
        }
    }

    /// `Watch`, `WaitConnect`, `WaitSync`: hands every status to `look`, which says whether to go
    /// on. `None` when `look` ended it; the client is of no further use then.
    pub fn follow(
        &mut self,
        resource: Option<&str>,
        command: Command,
        time_limit: Option<Duration>,
        mut look: impl FnMut(Vec<ResourceStatus>) -> bool,
    ) -> Result<Option<Outcome>, ClientError> {
        self.send(resource, command, time_limit)?;
        loop {
            match self.receive(SILENCE_LIMIT)? {
                Response::Outcome(outcome) => return Ok(Some(outcome)),
                Response::Status { resources } => {
                    if !look(resources) {
                        return Ok(None);
                    }
                }
                Response::Instances { .. } => {
                    return Err(ClientError::Malformed("instances, unasked".to_owned()));
                }
            }
        }
    }

    fn send(
        &mut self,
        resource: Option<&str>,
        command: Command,
        time_limit: Option<Duration>,
    ) -> Result<(), ClientError> {
        let request = Request {
            resource: resource.map(str::to_owned),
            timeout_ms: time_limit.map(|limit| limit.as_millis() as u64),
            command,
        };
        let mut line = serde_json::to_vec(&request)
            .map_err(|error| ClientError::Malformed(error.to_string()))?;
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).map_err(|error| silent_or_io(error, CONNECT_LIMIT))
    }

    /// One response; the limit holds for the whole line, not for each piece of it.
    fn receive(&mut self, limit: Duration) -> Result<Response, ClientError> {
        let deadline = Instant::now() + limit;
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Silent(limit));
            }
            self.reader.get_ref().set_read_timeout(Some(left)).map_err(ClientError::Io)?;
            let piece = match self.reader.fill_buf() {
                Ok([]) => return Err(ClientError::Closed),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(silent_or_io(error, limit)),
            };
            let end = piece.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(piece.len(), |at| at + 1);
            line.extend_from_slice(&piece[..taken]);
            self.reader.consume(taken);
            if line.len() > LINE_BYTES_MAX {
                return Err(ClientError::Malformed("a line without end".to_owned()));
            }
            if end.is_some() {
                return serde_json::from_slice(&line)
                    .map_err(|error| ClientError::Malformed(error.to_string()));
            }
        }
    }

    /// Reads until the daemon closes: it has then given up everything it held.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<(), ClientError> {
        let deadline = Instant::now() + limit;
        let mut rest = [0; 512];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Silent(limit));
            }
            self.reader.get_ref().set_read_timeout(Some(left)).map_err(ClientError::Io)?;
            match self.reader.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(silent_or_io(error, limit)),
            }
        }
    }
}

/// A blocking connect to a unix socket waits for room in the listen queue for as long as the send
/// timeout says, so that one is set first.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_write_timeout(Some(CONNECT_LIMIT))?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(UnixStream::from(socket))
}

fn silent_or_io(error: io::Error, limit: Duration) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(limit),
        _ => ClientError::Io(error),
    }
}
