//! An established pair of sockets, until one is lost or closed.
//!
//! ```text
//!   engine's effects -> send_data, send_meta -> queues -> flush -> sockets
//!                                                  \-> writer tasks (when a socket is full)
//!   LinkEvent <- reader task <- both sockets
//! ```
//!
//! Everything is on one thread. Dropping the session closes both sockets and no event follows.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio::time::timeout;
use twinblk_proto::codec::Framing;
use twinblk_proto::packet::Packet;

use super::handshake::Established;
use super::integrity::Integrity;
use super::reader::Reader;
use super::sender::{SendError, Sender};
use super::settings::LinkSettings;
use super::{CloseManner, LinkEvent, LossCause};
use crate::buffer::{Account, BufferPool, Payload};

/// What the tasks of a session share.
#[derive(Debug)]
pub(super) struct Core {
    pub data: Rc<TcpStream>,
    pub meta: Rc<TcpStream>,
    data_sender: Sender,
    meta_sender: Sender,
    /// How my packets are framed.
    framing: Framing,
    /// Digest that my data carries, and its length in `framing`.
    integrity: Cell<Integrity>,
    /// Memory of received payloads.
    pub received: Account,
    pub receive_budget_bytes: usize,
    /// Found by a sender; the reader reports it, after what the peer sent before it went away.
    failure: RefCell<Option<LossCause>>,
    reader: RefCell<Option<Waker>>,
}

impl Core {
    pub(super) fn take_failure(&self) -> Option<LossCause> {
        self.failure.take()
    }

    /// Whether there is a failure; `waker` hears of the next one.
    pub(super) fn poll_failure(&self, waker: &Waker) -> bool {
        match &mut *self.reader.borrow_mut() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        self.failure.borrow().is_some()
    }

    fn fail(&self, cause: LossCause) {
        self.failure.borrow_mut().get_or_insert(cause);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn note(&self, socket: &str, result: Result<(), SendError>) {
        match result {
            Ok(()) => {}
            Err(error @ SendError::Io(_)) => {
                self.fail(LossCause::BrokenPipe(format!("{socket} socket: {error}")));
            }
            Err(error) => self.fail(LossCause::Timeout(format!("{socket} socket: {error}"))),
        }
    }

    fn shut_down(&self, how: Shutdown) {
        // The meta socket first: the last acknowledgements are there, and a peer that sees the
        // end of the data socket may look no further. An error says that it is closed already.
        let _ = SockRef::from(&*self.meta).shutdown(how);
        let _ = SockRef::from(&*self.data).shutdown(how);
    }
}

/// Two sockets in use.
#[derive(Debug)]
pub struct Session {
    core: Rc<Core>,
    tasks: Vec<AbortHandle>,
    /// Cleared when someone else takes care of the sockets' end.
    shut_down_on_drop: bool,
    close_limit: Duration,
}

impl Session {
    /// Starts reading. Must be called inside a `LocalSet`.
    pub fn start(
        established: Established,
        settings: &LinkSettings,
        pool: BufferPool,
        events: UnboundedSender<LinkEvent>,
    ) -> Self {
        let Established { data, meta, version, features, resolve: _ } = established;
        let framing = Framing { version, features, ..Framing::default() };
        let (data, meta) = (Rc::new(data), Rc::new(meta));
        let core = Rc::new(Core {
            data_sender: Sender::new(data.clone()),
            meta_sender: Sender::new(meta.clone()),
            data,
            meta,
            framing,
            integrity: Cell::new(Integrity::Off),
            received: Account::default(),
            receive_budget_bytes: settings.receive_budget_bytes,
            failure: RefCell::default(),
            reader: RefCell::default(),
        });
        let limit = settings.send_timeout;
        let chances = (settings.ko_count > 0).then_some(settings.ko_count);
        let reader = Reader::new(core.clone(), framing, pool, events, settings.ping_timeout);
        let on_data = core.clone();
        let on_meta = core.clone();
        let tasks = vec![
            spawn_local(reader.run()).abort_handle(),
            spawn_local(async move {
                let error = on_data.data_sender.run(limit, chances).await;
                on_data.note("data", Err(error));
            })
            .abort_handle(),
            // No second chance here: without acknowledgements nothing goes on (wire.md 1.3).
            spawn_local(async move {
                let error = on_meta.meta_sender.run(limit, Some(1)).await;
                on_meta.note("meta", Err(error));
            })
            .abort_handle(),
        ];
        Self { core, tasks, shut_down_on_drop: true, close_limit: settings.send_timeout }
    }

    /// Queues a packet for the data socket, with the payload when it carries data. A packet that
    /// names a data-integrity-alg is the first thing that the algorithm applies behind.
    pub fn send_data(&self, packet: &Packet, payload: Option<Payload>) {
        let core = &self.core;
        let integrity = core.integrity.get();
        let framing = Framing { integrity_bytes: integrity.length(), ..core.framing };
        let carries_data = matches!(
            packet,
            Packet::Data(_) | Packet::DataReply(_) | Packet::ResyncReply(_) | Packet::WriteSame(_)
        );
        let pushed = if carries_data {
            // A write without data, for its flush, has a digest all the same.
            let data = payload.as_deref().unwrap_or_default();
            integrity.with_digest(data, |digest| {
                core.data_sender.push(packet, &framing, digest, payload.clone())
            })
        } else {
            core.data_sender.push(packet, &framing, &[], payload)
        };
        core.note("data", pushed);
        if let Packet::Protocol(protocol) | Packet::ProtocolUpdate(protocol) = packet {
            self.use_integrity(&protocol.integrity_alg);
        }
    }

    /// Queues a packet for the meta socket.
    pub fn send_meta(&self, packet: &Packet) {
        let pushed = self.core.meta_sender.push(packet, &self.core.framing, &[], None);
        self.core.note("meta", pushed);
    }

    /// Hands what is queued to the system, one vectored write for each socket; what does not fit
    /// follows as the sockets take it.
    pub fn flush(&self) {
        self.core.note("data", self.core.data_sender.flush());
        self.core.note("meta", self.core.meta_sender.flush());
    }

    /// Bytes that wait for the data socket.
    pub fn queued_bytes(&self) -> usize {
        self.core.data_sender.queued_bytes()
    }

    /// Memory of received payloads that somebody still holds.
    pub fn received_bytes(&self) -> usize {
        self.core.received.alive_bytes()
    }

    /// From now on my data carries digests of this algorithm; empty = none. Follows by itself from
    /// the `P_PROTOCOL` and `P_PROTOCOL_UPDATE` that are sent; the peer's direction follows from
    /// those received (wire.md 3.3).
    pub fn use_integrity(&self, algorithm: &str) {
        match Integrity::from_name(algorithm) {
            Integrity::Unknown => self.core.fail(LossCause::ProtocolError(format!(
                "data-integrity-alg {algorithm} is not known to this node"
            ))),
            known => self.core.integrity.set(known),
        }
    }

    /// Ends the session; no further event is heard. Ignoring what is returned is fine unless the
    /// process is about to end.
    pub fn close(mut self, manner: CloseManner) -> Closing {
        if manner == CloseManner::Now {
            return Closing(None);
        }
        self.shut_down_on_drop = false;
        let core = self.core.clone();
        let limit = self.close_limit;
        Closing(Some(spawn_local(async move {
            let _ = timeout(limit, flush_and_part(&core, limit, manner)).await;
        })))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if self.shut_down_on_drop {
            self.core.shut_down(Shutdown::Both);
        }
    }
}

/// A session on its way out.
#[derive(Debug)]
pub struct Closing(Option<JoinHandle<()>>);

impl Closing {
    /// Waits until the sockets are closed.
    pub async fn finished(self) {
        if let Some(task) = self.0 {
            let _ = task.await;
        }
    }
}

/// Closing a socket with unread bytes in it resets the connection, and what the peer has not yet
/// received is lost. So: send everything, say that no more comes, read until the peer closes too.
async fn flush_and_part(core: &Core, limit: Duration, manner: CloseManner) {
    let (meta, data) = tokio::join!(
        core.meta_sender.drain(limit, Some(1)),
        core.data_sender.drain(limit, Some(1))
    );
    if meta.is_err() || data.is_err() {
        return;
    }
    // The kernel gives up when its meta socket ends, with what it has not looked at yet, and would
    // go on connecting rather than stand alone with a reason of its own (session.md 1.1, 6.5).
    if manner == CloseManner::Refused {
        let _ = SockRef::from(&*core.data).shutdown(Shutdown::Write);
        read_to_end(&core.data).await;
    }
    core.shut_down(Shutdown::Write);
    tokio::join!(read_to_end(&core.meta), read_to_end(&core.data));
}

async fn read_to_end(stream: &TcpStream) {
    let mut sink = vec![0; 64 << 10];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut sink) {
            Ok(0) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
