//! One connection that outlives its server: requests come from a socket pair whose other end is the
//! kernel's, are kept until they are answered, and are sent again on each new connection.
//!
//! ```text
//!   near socket -> take_requests -> Waiting (by number) -> send -> TCP
//!   near socket <- give_answers  <- channel  <------------ hear <- TCP
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream as PlainUnixStream;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Limits;
use super::dial::{Offer, abandon, dial, still_fits};
use super::target::Target;
use crate::nbd::wire::{
    Errno, REQUEST_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, command, feature,
};

/// Kept at a time: as many as the kernel has on a socket. A server of ours takes 128 of a
/// connection; the sign of life needs a place among them.
const REQUESTS_MAX: usize = 120;
/// Their payloads: half of what a server of ours takes, so that it never stops reading. A single
/// request may be larger.
const BYTES_MAX: usize = 32 << 20;
/// The kernel sends up to what `max_sectors_kb` says, at most 32 MiB.
const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Asked for this many times within the limit of silence.
const SIGNS_OF_LIFE: u32 = 4;
/// Each connection that is given up for silence makes the next ones more patient, up to here: a slow
/// server must not be dialled for ever...
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// ...until one has lived this many times longer.
const CALM: u32 = 20;
/// Numbers of requests that ask for a sign of life; those of real ones count up from 0.
const LIFE: u64 = 1 << 63;
/// Read at once from the server.
const PIECE_BYTES: usize = 256 << 10;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the lanes of one device share.
#[derive(Debug)]
pub struct Lanes {
    pub target: Target,
    pub limits: Limits,
    known: Cell<Offer>,
    grown: Notify,
    /// The last complaint about a server, said once.
    complaint: RefCell<String>,
}

impl Lanes {
    /// `known`: what the users of the device were told.
    pub fn new(target: Target, limits: Limits, known: Offer) -> Self {
        let (grown, complaint) = (Notify::new(), RefCell::default());
        Self { target, limits, known: Cell::new(known), grown, complaint }
    }

    /// Waits until the export has become larger; its new size.
    pub async fn grown(&self) -> u64 {
        self.grown.notified().await;
        self.known.get().size_bytes
    }

    pub fn size_bytes(&self) -> u64 {
        self.known.get().size_bytes
    }

    fn complain(&self, complaint: String) {
        let mut last = self.complaint.borrow_mut();
        if *last != complaint {
            tracing::info!(target = %self.target, "{complaint}");
            *last = complaint;
        }
    }
}

/// A request without an answer.
#[derive(Debug)]
struct Request {
    /// The kernel's name for it.
    handle: [u8; 8],
    /// As it is sent, but for the handle.
    flags_and_command: [u8; 4],
    span: [u8; 12],
    payload: Rc<[u8]>,
    /// Bytes that a good answer carries.
    answer_bytes: usize,
}

impl Request {
    fn head(&self, number: u64) -> [u8; REQUEST_BYTES] {
        let mut head = [0; REQUEST_BYTES];
        head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&self.flags_and_command);
        head[8..16].copy_from_slice(&number.to_be_bytes());
        head[16..].copy_from_slice(&self.span);
        head
    }

    fn bytes(&self) -> usize {
        self.payload.len() + self.answer_bytes
    }
}

#[derive(Debug)]
struct Answer {
    handle: [u8; 8],
    error: u32,
    data: Vec<u8>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: RefCell<BTreeMap<u64, Request>>,
    next: Cell<u64>,
    bytes: Cell<usize>,
    /// A request was added, or goodbye was said.
    changed: Notify,
    room: Notify,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.requests.borrow().len() < REQUESTS_MAX && self.bytes.get() < BYTES_MAX
    }

    fn add(&self, request: Request) {
        let number = self.next.replace(self.next.get() + 1);
        self.bytes.set(self.bytes.get() + request.bytes());
        self.requests.borrow_mut().insert(number, request);
        self.changed.notify_one();
    }

    fn take(&self, number: u64) -> Option<Request> {
        let request = self.requests.borrow_mut().remove(&number)?;
        self.bytes.set(self.bytes.get() - request.bytes());
        self.room.notify_one();
        Some(request)
    }

    /// The first from `number` on, ready to be sent.
    fn from(&self, number: u64) -> Option<(u64, [u8; REQUEST_BYTES], Rc<[u8]>)> {
        let requests = self.requests.borrow();
        let (number, request) = requests.range(number..).next()?;
        Some((*number, request.head(*number), request.payload.clone()))
    }
}

/// Serves the near socket until its other end is closed or says goodbye. True: it said goodbye.
pub async fn serve(lanes: &Lanes, near: PlainUnixStream) -> io::Result<bool> {
    near.set_nonblocking(true)?;
    let (near_reader, near_writer) = UnixStream::from_std(near)?.into_split();
    let waiting = Rc::new(Waiting::default());
    let (answers, answered) = mpsc::unbounded_channel();
    // A task: an answer that was begun is never broken off while the near end lives.
    let mut giving = JoinSet::new();
    giving.spawn_local(give_answers(near_writer, answered));
    let hears_goodbye = Cell::new(false);
    let taking = async {
        let said = take_requests(near_reader, &waiting).await;
        hears_goodbye.set(matches!(said, Ok(true)));
        said
    };
    let far = keep_connected(lanes, &waiting, &answers, &hears_goodbye);
    tokio::pin!(far);
    let said = tokio::select! {
        said = taking => said?,
        never = &mut far => match never {},
        Some(given) = giving.join_next() => {
            given.map_err(io::Error::other)??;
            return Ok(false);
        }
    };
    if said {
        // Whoever says goodbye has all its answers; the server hears it from the loss otherwise.
        waiting.changed.notify_one();
        let _ = timeout(GOODBYE, far).await;
    }
    Ok(said)
}

/// True: NBD_CMD_DISC; false: closed.
async fn take_requests(mut near: OwnedReadHalf, waiting: &Waiting) -> io::Result<bool> {
    loop {
        let mut head = [0; REQUEST_BYTES];
        match near.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        let (magic, rest) = head.split_at(4);
        if magic != REQUEST_MAGIC.to_be_bytes() {
            return Err(io::Error::other("a request does not begin with the magic"));
        }
        let number = u16::from_be_bytes([rest[2], rest[3]]);
        let length = u32::from_be_bytes([rest[20], rest[21], rest[22], rest[23]]);
        if number == command::DISCONNECT {
            return Ok(true);
        }
        let carries = matches!(number, command::READ | command::WRITE);
        if carries && length > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other(format!("a request of {length} bytes")));
        }
        let mut payload = vec![0; if number == command::WRITE { length as usize } else { 0 }];
        near.read_exact(&mut payload).await?;
        waiting.add(Request {
            handle: rest[4..12].try_into().expect("eight bytes"),
            flags_and_command: rest[..4].try_into().expect("four bytes"),
            span: rest[12..].try_into().expect("twelve bytes"),
            payload: payload.into(),
            answer_bytes: if number == command::READ { length as usize } else { 0 },
        });
        while !waiting.has_room() {
            waiting.room.notified().await;
        }
    }
}

async fn give_answers(
    mut near: OwnedWriteHalf,
    mut answers: mpsc::UnboundedReceiver<Answer>,
) -> io::Result<()> {
    while let Some(Answer { handle, error, data }) = answers.recv().await {
        let mut head = [0; SIMPLE_REPLY_BYTES];
        head[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&error.to_be_bytes());
        head[8..].copy_from_slice(&handle);
        near.write_all(&head).await?;
        near.write_all(&data).await?;
    }
    Ok(())
}

enum Never {}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Stream(#[from] io::Error),
    #[error("nothing was heard for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("it does not serve the export any more")]
    NotServed,
    #[error("it answers what was not asked")]
    Nonsense,
}

/// One connection after the other.
async fn keep_connected(
    lanes: &Lanes,
    waiting: &Waiting,
    answers: &mpsc::UnboundedSender<Answer>,
    hears_goodbye: &Cell<bool>,
) -> Never {
    let mut silence = lanes.limits.silence;
    let mut is_first = true;
    loop {
        let lost_at = Instant::now();
        let fit = |offer: &Offer| still_fits(&lanes.known.get(), offer);
        let failed = |error: super::DialError| lanes.complain(error.to_string());
        let dialled = dial(&lanes.target, fit, failed);
        tokio::pin!(dialled);
        let (mut stream, offer) = tokio::select! {
            connected = &mut dialled => connected,
            never = fail_after(lost_at + lanes.limits.dead, waiting, answers) => match never {},
        };
        lanes.complaint.borrow_mut().clear();
        let known = lanes.known.get();
        if offer.size_bytes > known.size_bytes {
            lanes.known.set(Offer { size_bytes: offer.size_bytes, ..known });
            lanes.grown.notify_one();
        }
        let open = waiting.requests.borrow().len();
        let pause_ms = lost_at.elapsed().as_millis() as u64;
        if !std::mem::take(&mut is_first) {
            let peer = stream.peer_addr().ok();
            tracing::info!(?peer, pause_ms, open, "connected again, what was open is repeated");
        }
        let connected_at = Instant::now();
        let lost = converse(&mut stream, &offer, silence, waiting, answers, hears_goodbye).await;
        abandon(&stream);
        tracing::info!(target = %lanes.target, reason = %lost, "connection lost");
        silence = match lost {
            Lost::Silent(_) => (silence * 2).min(SILENCE_MAX),
            _ if connected_at.elapsed() > silence * CALM => lanes.limits.silence,
            _ => silence,
        };
    }
}

/// Whoever waits for longer than the limit gets an error, until there is a server again.
async fn fail_after(
    limit: Instant,
    waiting: &Waiting,
    answers: &mpsc::UnboundedSender<Answer>,
) -> Never {
    sleep_until(limit).await;
    tracing::error!("no server for too long: requests fail");
    loop {
        while let Some((number, ..)) = waiting.from(0) {
            let handle = waiting.take(number).expect("just seen").handle;
            let error = Errno::InputOutput.code();
            let _ = answers.send(Answer { handle, error, data: Vec::new() });
        }
        waiting.changed.notified().await;
    }
}

/// Sends everything that is open, and what comes, until the connection is lost.
async fn converse(
    stream: &mut TcpStream,
    offer: &Offer,
    silence: Duration,
    waiting: &Waiting,
    answers: &mpsc::UnboundedSender<Answer>,
    hears_goodbye: &Cell<bool>,
) -> Lost {
    let heard = Cell::new(Instant::now());
    let (reader, writer) = stream.split();
    let can_tell = offer.flags & feature::SEND_CACHE != 0;
    let pulse = can_tell.then_some(silence / SIGNS_OF_LIFE);
    let watch = async {
        loop {
            let limit = heard.get() + silence;
            if Instant::now() >= limit {
                return Lost::Silent(silence);
            }
            sleep_until(limit).await;
        }
    };
    tokio::select! {
        lost = send(writer, waiting, pulse, hears_goodbye) => lost,
        lost = hear(reader, waiting, answers, &heard) => lost,
        // Of a server that cannot be asked nothing can be expected: TCP's keepalive has to do.
        lost = watch, if can_tell => lost,
    }
}

async fn send(
    mut far: WriteHalf<'_>,
    waiting: &Waiting,
    pulse: Option<Duration>,
    hears_goodbye: &Cell<bool>,
) -> Lost {
    let life = Request {
        handle: [0; 8],
        flags_and_command: [0, 0, 0, command::CACHE as u8],
        // The first 512 bytes: any export has them.
        span: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
        payload: Rc::from([]),
        answer_bytes: 0,
    };
    let mut due = Instant::now();
    let mut next = 0;
    loop {
        if let Some(pulse) = pulse
            && Instant::now() >= due
        {
            due = Instant::now() + pulse;
            if let Err(error) = far.write_all(&life.head(LIFE)).await {
                return error.into();
            }
        }
        if let Some((number, head, payload)) = waiting.from(next) {
            next = number + 1;
            let sent = async {
                far.write_all(&head).await?;
                far.write_all(&payload).await
            };
            if let Err(error) = sent.await {
                return error.into();
            }
            continue;
        }
        if hears_goodbye.get() {
            let mut goodbye = life.head(0);
            goodbye[7] = command::DISCONNECT as u8;
            let _ = far.write_all(&goodbye).await;
            let _ = far.shutdown().await;
            // The server closes in turn, which the other half hears.
            std::future::pending::<()>().await;
        }
        let pulse = async {
            match pulse {
                Some(_) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = waiting.changed.notified() => {}
            () = pulse => {}
        }
    }
}

async fn hear(
    mut far: ReadHalf<'_>,
    waiting: &Waiting,
    answers: &mpsc::UnboundedSender<Answer>,
    heard: &Cell<Instant>,
) -> Lost {
    loop {
        let mut head = [0; SIMPLE_REPLY_BYTES];
        if let Err(error) = far.read_exact(&mut head).await {
            return error.into();
        }
        heard.set(Instant::now());
        let (magic, rest) = head.split_at(4);
        let (error, number) = rest.split_at(4);
        let error = u32::from_be_bytes(error.try_into().expect("four bytes"));
        let number = u64::from_be_bytes(number.try_into().expect("eight bytes"));
        if magic != SIMPLE_REPLY_MAGIC.to_be_bytes() {
            return Lost::Nonsense;
        }
        if number == LIFE {
            continue;
        }
        // Not an answer to be passed on: somebody else serves, or will.
        if error == Errno::ShutDown.code() {
            return Lost::NotServed;
        }
        let wanted = match waiting.requests.borrow().get(&number) {
            Some(request) if error == 0 => request.answer_bytes,
            Some(_) => 0,
            None => return Lost::Nonsense,
        };
        let mut data = vec![0; wanted];
        let mut filled = 0;
        while filled < wanted {
            let piece = (filled + PIECE_BYTES).min(wanted);
            match far.read(&mut data[filled..piece]).await {
                Ok(0) => return io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                Ok(count) => filled += count,
                Err(error) => return error.into(),
            }
            heard.set(Instant::now());
        }
        if let Some(request) = waiting.take(number) {
            let _ = answers.send(Answer { handle: request.handle, error, data });
        }
        // A server that answers without end must not keep its own watch from running.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
