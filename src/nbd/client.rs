//! One client in the transmission phase: requests to the driver, replies back.
//!
//! ```text
//!   socket -> Receiver -> admit ---- ClientEvent::Request ----> driver
//!                            \ refused here                        |
//!   socket <- Outbox <--------+<---------- Client::reply ----------+
//! ```
//!
//! Everything lives on the thread of the resource. [`Client::flush`] writes at once; only what the
//! socket does not take is left to the connection's task, which also reads.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::export::Contexts;
use super::listener::{Accepted, Origin};
use super::outbox::{Outbox, Released};
use super::receiver::{Received, Receiver};
use super::reply::{Reply, encode, encode_error, encode_nothing};
use super::request::{Ask, Cookie, Request, Rules, Violation};
use super::slots::Slots;
use super::stream::Stream;
use super::wire::Errno;
use crate::buffer::BufferPool;

/// Requests of one connection that are not answered, or whose answer is not sent: as many as the
/// kernel client has on a socket (nbd.md 5.3).
pub const REQUESTS_IN_FLIGHT: usize = 128;
/// Payload bytes of those requests: two of the largest size, or 128 of 512 KiB.
pub const BYTES_IN_FLIGHT: u64 = 64 << 20;

/// A client that closed without NBD_CMD_DISC may still read (half-closed): its answers are given
/// this long to be found and taken.
const LINGER: Duration = Duration::from_secs(5);
/// A program that is let go of gets the answers that are on their way within this time, or not at all.
const LET_GO_GRACE: Duration = Duration::from_secs(2);

/// Names a client; chosen by the driver, never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What clients tell the driver.
#[derive(Debug)]
pub enum ClientEvent {
    Request {
        client: ClientId,
        cookie: Cookie,
        request: Request,
    },
    /// The last event of a client. Its open requests need no reply any more.
    Gone {
        client: ClientId,
        reason: GoneReason,
    },
}

/// Why a client is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoneReason {
    #[error("disconnected")]
    Disconnected,
    #[error("closed the connection without a disconnect")]
    Closed,
    #[error("broke the protocol: {0}")]
    Protocol(Violation),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("let go: what it asks for is asked again where the export is served next")]
    LetGo,
    #[error("the resource has ended")]
    ShutDown,
}

/// A connected client. Dropping it closes the connection at once, without a `Gone`.
#[derive(Debug)]
pub struct Client {
    connection: Rc<Connection>,
    task: JoinHandle<()>,
    peer: String,
}

impl Client {
    /// Takes over a negotiated connection, on the `LocalSet` of the resource's thread.
    pub fn start(
        accepted: Accepted,
        pool: BufferPool,
        events: UnboundedSender<ClientEvent>,
        id: ClientId,
    ) -> io::Result<Self> {
        let Accepted { socket, negotiated, peer, permit, origin } = accepted;
        let rules = Rules::new(&negotiated.export, negotiated.structured, negotiated.contexts);
        let connection = Rc::new(Connection {
            id,
            origin,
            stream: Stream::from_socket(socket)?,
            structured: negotiated.structured,
            contexts: negotiated.contexts,
            size_bytes: Cell::new(negotiated.export.size_bytes),
            state: RefCell::default(),
        });
        let task = tokio::task::spawn_local({
            let connection = Rc::clone(&connection);
            async move {
                let receiver = Receiver::new(rules, pool);
                let reason = connection.serve(receiver, &events).await;
                connection.close();
                drop(permit);
                // Without a driver there is nobody to tell.
                let _ = events.send(ClientEvent::Gone { client: id, reason });
            }
        });
        Ok(Self { connection, task, peer })
    }

    pub fn id(&self) -> ClientId {
        self.connection.id
    }

    /// Where it comes from, for people.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Requests that wait for [`Self::reply`].
    pub fn outstanding(&self) -> usize {
        self.connection.state.borrow().slots.outstanding()
    }

    /// Queues an answer, in any order. A cookie that was answered before is ignored.
    pub fn reply(&self, cookie: Cookie, reply: Reply) {
        self.connection.reply(cookie, reply);
    }

    /// Sends what is queued, now, in one vectored write; what the socket does not take follows as
    /// soon as it does.
    pub fn flush(&self) {
        let mut state = self.connection.state.borrow_mut();
        if !state.write_blocked {
            self.connection.write(&mut state);
        }
    }

    /// Ends the connection without an error: what was taken is answered, the rest is not read, and
    /// a client that reconnects asks for it again. An error, ESHUTDOWN included, would reach the
    /// client's user: the kernel, qemu and libnbd repeat what got no answer, never what got a bad
    /// one. `answer`: otherwise what is open gets no answer either. Keep the client until its
    /// `Gone`, so that the answers arrive.
    pub fn let_go(&self, answer: bool) {
        let mut state = self.connection.state.borrow_mut();
        state.let_go = Some(if answer { LetGo::Answered } else { LetGo::Now });
        state.wake();
    }

    /// The export has this size from now on.
    pub fn resized(&self, size_bytes: u64) {
        self.connection.size_bytes.set(size_bytes);
    }

    /// Still takes requests.
    pub fn is_serving(&self) -> bool {
        let state = self.connection.state.borrow();
        !state.ending && state.let_go.is_none()
    }

    /// Over TCP.
    pub fn is_remote(&self) -> bool {
        matches!(self.connection.stream, Stream::Tcp(_))
    }

    /// Its far end is gone, whether or not everything that it sent was read.
    pub fn is_hung_up(&self) -> bool {
        self.connection.stream.is_hung_up()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
        self.connection.close();
    }
}

#[derive(Debug)]
struct Connection {
    id: ClientId,
    origin: Origin,
    stream: Stream,
    structured: bool,
    contexts: Contexts,
    size_bytes: Cell<u64>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: Slots,
    outbox: Outbox,
    /// In flight: taken from the socket, answer not sent yet.
    requests: usize,
    bytes: u64,
    /// Something was given back since the receiver found no room.
    room_freed: bool,
    /// The socket is full; the task writes on when it is not.
    write_blocked: bool,
    let_go: Option<LetGo>,
    /// Nothing more is read.
    ending: bool,
    failure: Option<io::Error>,
    /// What the task waits for, and its waker for news that do not come from the socket.
    awaits: Want,
    waker: Option<Waker>,
}

impl State {
    fn has_room(&self, held_bytes: u32) -> bool {
        self.requests < REQUESTS_IN_FLIGHT && self.bytes + u64::from(held_bytes) <= BYTES_IN_FLIGHT
    }

    fn release(&mut self, released: Released) {
        self.requests -= released.requests;
        self.bytes -= released.bytes;
        self.room_freed = true;
    }

    /// A request that nobody will answer: it was not received whole.
    fn forget(&mut self, ask: &Ask) {
        let bytes = u64::from(ask.held_bytes);
        self.release(Released { requests: 1, bytes });
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LetGo {
    /// When everything that was taken is answered.
    Answered,
    Now,
}

/// What the task waits for besides the socket being able to take replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Want {
    #[default]
    Input,
    /// Room for the next request.
    Room,
    /// That everything is answered and sent.
    Quiet,
}

/// Why the task woke.
enum News {
    Wanted,
    LetGo(LetGo),
    Failed(io::Error),
}

impl Connection {
    /// Reads and serves until the connection has ended.
    async fn serve(
        &self,
        mut receiver: Receiver,
        events: &UnboundedSender<ClientEvent>,
    ) -> GoneReason {
        let mut ending = None;
        let mut deadline: Option<Instant> = None;
        loop {
            receiver.set_size(self.size_bytes.get());
            self.state.borrow_mut().ending = ending.is_some();
            let want = match ending {
                Some(_) => Want::Quiet,
                None => match self.admit_all(&mut receiver, events) {
                    Ok(want) => want,
                    Err(reason) if reason == GoneReason::Disconnected => {
                        self.state.borrow_mut().ending = true;
                        ending = Some(reason);
                        Want::Quiet
                    }
                    Err(reason) => return reason,
                },
            };
            let news = poll_fn(|context| self.poll_news(context, want));
            let news = match deadline {
                Some(at) => match timeout_at(at, news).await {
                    Ok(news) => news,
                    Err(_) => return ending.unwrap_or(GoneReason::LetGo),
                },
                None => news.await,
            };
            match news {
                // After a disconnect a client need not wait for its answers.
                News::Failed(_) if ending == Some(GoneReason::Disconnected) => {
                    return GoneReason::Disconnected;
                }
                News::Failed(error) => return GoneReason::Lost(error.to_string()),
                News::LetGo(LetGo::Now) => return GoneReason::LetGo,
                News::LetGo(LetGo::Answered) => {
                    ending = Some(GoneReason::LetGo);
                    // The kernel takes its answers; a program may have stopped reading.
                    if self.origin == Origin::Client {
                        deadline = Some(Instant::now() + LET_GO_GRACE);
                    }
                    if let Some(ask) = receiver.unfinished() {
                        self.state.borrow_mut().forget(&ask);
                    }
                }
                News::Wanted if want == Want::Room => {}
                News::Wanted => {
                    if let Some(reason) = ending {
                        return reason;
                    }
                    match receiver.read(&self.stream) {
                        Ok(true) => {}
                        Ok(false) => {
                            ending = Some(GoneReason::Closed);
                            if let Some(ask) = receiver.unfinished() {
                                self.state.borrow_mut().forget(&ask);
                            }
                            deadline.get_or_insert_with(|| Instant::now() + LINGER);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return GoneReason::Lost(error.to_string()),
                    }
                }
            }
        }
    }

    /// Passes on every request that was received whole. The error is the end of reading.
    fn admit_all(
        &self,
        receiver: &mut Receiver,
        events: &UnboundedSender<ClientEvent>,
    ) -> Result<Want, GoneReason> {
        let mut state = self.state.borrow_mut();
        let mut answered = false;
        let outcome = loop {
            let received = receiver.next(|held_bytes| {
                let has_room = state.has_room(held_bytes);
                if has_room {
                    state.requests += 1;
                    state.bytes += u64::from(held_bytes);
                }
                has_room
            });
            match received {
                Received::Incomplete => break Ok(Want::Input),
                Received::NoRoom => {
                    state.room_freed = false;
                    break Ok(Want::Room);
                }
                Received::Request(ask, request) => {
                    let cookie = state.slots.open(ask);
                    let event = ClientEvent::Request { client: self.id, cookie, request };
                    if events.send(event).is_err() {
                        break Err(GoneReason::ShutDown);
                    }
                }
                Received::Done(ask) => {
                    state.outbox.push(u64::from(ask.held_bytes), |head| {
                        encode_nothing(&ask, self.structured, head);
                        None
                    });
                    answered = true;
                }
                Received::Refused(ask, error, text) => {
                    self.push_error(&mut state, &ask, error, text);
                    answered = true;
                }
                Received::Disconnect => break Err(GoneReason::Disconnected),
                Received::Violation(violation) => break Err(GoneReason::Protocol(violation)),
            }
        };
        if answered && !state.write_blocked {
            self.write(&mut state);
        }
        outcome
    }

    fn poll_news(&self, context: &mut TaskContext<'_>, want: Want) -> Poll<News> {
        let mut state = self.state.borrow_mut();
        while state.write_blocked {
            match self.stream.poll_write_ready(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {
                    state.write_blocked = false;
                    self.write(&mut state);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(News::Failed(error)),
            }
        }
        if let Some(error) = state.failure.take() {
            return Poll::Ready(News::Failed(error));
        }
        match state.let_go {
            Some(LetGo::Answered) if state.ending => {}
            Some(how) => return Poll::Ready(News::LetGo(how)),
            None => {}
        }
        let ready = match want {
            Want::Input => match self.stream.poll_read_ready(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(News::Failed(error)),
                Poll::Pending => false,
            },
            Want::Room => state.room_freed,
            Want::Quiet => state.requests == 0,
        };
        if ready {
            return Poll::Ready(News::Wanted);
        }
        state.awaits = want;
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn reply(&self, cookie: Cookie, reply: Reply) {
        let mut state = self.state.borrow_mut();
        let Some(ask) = state.slots.close(cookie) else { return };
        state.outbox.push(u64::from(ask.held_bytes), |head| {
            encode(&ask, self.structured, self.contexts, reply, head).unwrap_or_else(|mismatch| {
                tracing::error!(client = self.id.0, ?ask, %mismatch, "wrong reply, sending EIO");
                encode_error(&ask, self.structured, Errno::InputOutput, "internal error", head);
                None
            })
        });
    }

    fn push_error(&self, state: &mut State, ask: &Ask, error: Errno, text: &str) {
        state.outbox.push(u64::from(ask.held_bytes), |head| {
            encode_error(ask, self.structured, error, text, head);
            None
        });
    }

    /// Writes until nothing is left or the socket is full.
    fn write(&self, state: &mut State) {
        let mut sent = false;
        while !state.outbox.is_empty() {
            match state.outbox.write(|slices| self.stream.try_write_vectored(slices)) {
                Ok(released) => {
                    state.release(released);
                    sent = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.write_blocked = true;
                    state.wake();
                    return;
                }
                Err(error) => {
                    // A client that went away in mid-reply; only this connection ends.
                    state.outbox = Outbox::default();
                    state.failure = Some(error);
                    state.wake();
                    return;
                }
            }
        }
        if sent && state.awaits != Want::Input {
            state.wake();
        }
    }

    /// Ends the connection and lets go of all payloads.
    fn close(&self) {
        self.stream.shut_down();
        let mut state = self.state.borrow_mut();
        state.slots.take_all();
        state.outbox = Outbox::default();
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
