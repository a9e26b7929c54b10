//! The receiving half of a session: one task takes both sockets apart into packets.
//!
//! ```text
//!   socket -> buffer: | header, fixed part | bulk data | header, ... |
//!                            |                  |
//!                            v                  v  copied when it is all there,
//!                         Packet             Payload  else received straight into place
//! ```
//!
//! Packets of one socket are reported in order. The data socket is left unread while too much
//! memory of earlier payloads is still held; the meta socket never is, its acknowledgements are
//! what frees that memory.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use twinblk_proto::codec::command::{
    P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY, P_SIZES, P_STATE, P_SYNC_PARAM89, P_UNPLUG_REMOTE,
    P_UUIDS, P_WSAME,
};
use twinblk_proto::codec::{self, BodyLength, Framing, Header, Socket};
use twinblk_proto::packet::Packet;

use super::integrity::Integrity;
use super::session::Core;
use super::{LinkEvent, LossCause};
use crate::buffer::{Account, Buffer, BufferPool, Payload};

/// Room for about 60 writes of 4 KiB, or thousands of acknowledgements, per system call.
const DATA_BUFFER_BYTES: usize = 256 << 10;
/// 1600 acknowledgements of 40 bytes.
const META_BUFFER_BYTES: usize = 64 << 10;
/// The most that a header and its fixed part may have; the largest is a bitmap chunk, 4096 bytes
/// in all (wire.md 2.1).
const FIXED_BYTES_MAX: usize = 8 << 10;
/// The most bulk data of one packet (wire.md 2.1).
const BULK_BYTES_MAX: usize = 1 << 20;
/// While this much of a packet's bulk data is missing, little is read past its end: the next
/// packet is likely as large, and what is read into the buffer has to be copied.
const STRAIGHT_BYTES: usize = 64 << 10;
/// What is read past the end of such a packet: the next header and fixed part.
const PAST_STRAIGHT_BYTES: usize = 512;

/// The reading task's state.
#[derive(Debug)]
pub(super) struct Reader {
    core: Rc<Core>,
    data: Incoming,
    meta: Incoming,
    events: UnboundedSender<LinkEvent>,
    /// How long the peer's last words may take.
    patience: Duration,
}

/// What one look at a socket brought.
#[derive(Debug)]
enum Pumped {
    /// Nothing more for now.
    Dry,
    /// There may be more to read at once.
    More,
    /// Too much memory is held; goes on when some is given back.
    Paused,
    Ended(LossCause),
}

impl Pumped {
    fn ended(self) -> Option<LossCause> {
        match self {
            Self::Ended(cause) => Some(cause),
            Self::Dry | Self::More | Self::Paused => None,
        }
    }
}

impl Reader {
    pub(super) fn new(
        core: Rc<Core>,
        framing: Framing,
        pool: BufferPool,
        events: UnboundedSender<LinkEvent>,
        patience: Duration,
    ) -> Self {
        let intake = Intake {
            pool,
            account: core.received.clone(),
            budget_bytes: core.receive_budget_bytes,
            events: events.clone(),
        };
        let incoming = |stream: &Rc<TcpStream>, socket, buffer_bytes| Incoming {
            stream: stream.clone(),
            socket,
            buffer: vec![0; buffer_bytes].into_boxed_slice(),
            start: 0,
            end: 0,
            bulk: None,
            framing,
            integrity: Integrity::Off,
            intake: intake.clone(),
        };
        Self {
            data: incoming(&core.data, Socket::Data, DATA_BUFFER_BYTES),
            meta: incoming(&core.meta, Socket::Meta, META_BUFFER_BYTES),
            core,
            events,
            patience,
        }
    }

    /// Reads until the session is lost, and says so; or until nobody listens.
    pub(super) async fn run(mut self) {
        let cause = loop {
            if self.events.is_closed() {
                return;
            }
            // Acknowledgements first: they let go of what the data socket may need.
            let meta = self.meta.pump();
            let data = self.data.pump();
            let paused = matches!(data, Pumped::Paused);
            let more = matches!(meta, Pumped::More) || matches!(data, Pumped::More);
            if let Some(cause) =
                self.core.take_failure().or_else(|| meta.ended()).or_else(|| data.ended())
            {
                break cause;
            }
            if more {
                // The engine handles what was just reported before there is more of it.
                tokio::task::yield_now().await;
            } else {
                self.wait(paused).await;
            }
        };
        self.hear_last_words(&cause).await;
        // The driver may be gone by now; then nobody needs to know.
        let _ = self.events.send(LinkEvent::Lost(cause));
    }

    /// A peer that closes both sockets may be seen to end one while what it sent before over the
    /// other is still on its way: the reply to a disconnect, say, or the last writes. After an end
    /// in peace that is heard first, for as long as a ping may take.
    async fn hear_last_words(&mut self, cause: &LossCause) {
        if matches!(cause, LossCause::BrokenPipe(_)) {
            let to_the_end =
                async { tokio::join!(self.data.pump_to_end(), self.meta.pump_to_end()) };
            let _ = timeout(self.patience, to_the_end).await;
        }
    }

    /// Until a socket has something, memory came back (when `paused`), or a sender failed.
    async fn wait(&self, paused: bool) {
        poll_fn(|context| {
            let mut ready = self.core.poll_failure(context.waker());
            ready |= self.meta.stream.poll_read_ready(context).is_ready();
            ready |= if paused {
                self.data.intake.poll_room(context).is_ready()
            } else {
                self.data.stream.poll_read_ready(context).is_ready()
            };
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Where packets and payloads go.
#[derive(Clone, Debug)]
struct Intake {
    pool: BufferPool,
    account: Account,
    budget_bytes: usize,
    events: UnboundedSender<LinkEvent>,
}

impl Intake {
    fn is_full(&self) -> bool {
        self.account.alive_bytes() >= self.budget_bytes
    }

    /// Ready when there is room for one more payload.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.account.wake_on_release(context.waker());
        if self.is_full() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn take(&self, length: usize) -> Buffer {
        let mut buffer = self.pool.take(length);
        buffer.charge(&self.account);
        buffer
    }

    fn report(&self, packet: Packet, payload: Option<Payload>) {
        // A driver that dropped its end has closed the session; the task is about to be told.
        let _ = self.events.send(LinkEvent::Packet { packet, payload });
    }
}

/// Bulk data under way, received straight into its buffer.
#[derive(Debug)]
struct Bulk {
    packet: Packet,
    digest: Option<Vec<u8>>,
    buffer: Buffer,
    filled: usize,
}

/// One socket and the bytes that were read from it but not yet understood.
#[derive(Debug)]
struct Incoming {
    stream: Rc<TcpStream>,
    socket: Socket,
    buffer: Box<[u8]>,
    /// Bytes not yet understood are `buffer[start..end]`.
    start: usize,
    end: usize,
    bulk: Option<Bulk>,
    framing: Framing,
    /// What the peer's data carries.
    integrity: Integrity,
    intake: Intake,
}

/// How far the bytes at hand went.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    NeedMore,
    Paused,
}

impl Incoming {
    /// Understands what is there, reads once, understands that.
    fn pump(&mut self) -> Pumped {
        match self.parse() {
            Ok(Parsed::NeedMore) => {}
            Ok(Parsed::Paused) => return Pumped::Paused,
            Err(cause) => return Pumped::Ended(cause),
        }
        let drained = match self.receive() {
            Ok(Some(drained)) => drained,
            Ok(None) => return Pumped::Dry,
            Err(error) => {
                let name = self.name();
                return Pumped::Ended(LossCause::BrokenPipe(format!("{name} socket: {error}")));
            }
        };
        match self.parse() {
            Ok(Parsed::NeedMore) if drained => Pumped::Dry,
            Ok(Parsed::NeedMore) => Pumped::More,
            Ok(Parsed::Paused) => Pumped::Paused,
            Err(cause) => Pumped::Ended(cause),
        }
    }

    /// Reports what still comes, until the end of the socket.
    async fn pump_to_end(&mut self) {
        loop {
            match self.pump() {
                Pumped::Ended(_) => return,
                Pumped::Paused => poll_fn(|context| self.intake.poll_room(context)).await,
                Pumped::Dry if self.stream.readable().await.is_err() => return,
                Pumped::Dry => {}
                Pumped::More => tokio::task::yield_now().await,
            }
        }
    }

    fn name(&self) -> &'static str {
        match self.socket {
            Socket::Data => "data",
            Socket::Meta => "meta",
        }
    }

    fn malformed(&self, text: impl std::fmt::Display) -> LossCause {
        LossCause::ProtocolError(format!("{} socket: {text}", self.name()))
    }

    /// One read. `None`: nothing was there. `Some(true)`: all that was there has been read.
    fn receive(&mut self) -> io::Result<Option<bool>> {
        // What is left is less than a header with its fixed part: moving it is cheap.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.buffer.len() - self.end;
        assert!(room > 0, "a packet's fixed part fits the buffer");

        let bulk_missing = self.bulk.as_ref().map_or(0, |bulk| bulk.buffer.len() - bulk.filled);
        let past_bulk = if bulk_missing >= STRAIGHT_BYTES { PAST_STRAIGHT_BYTES } else { room };
        let wanted = bulk_missing + past_bulk;
        let (bulk, end) = (&mut self.bulk, self.end);
        let free = &mut self.buffer[end..end + past_bulk];
        let mut received = Ok(0);
        let tried = self.stream.try_io(Interest::READABLE, || {
            received = match bulk {
                Some(bulk) => rustix::io::readv(
                    &*self.stream,
                    &mut [IoSliceMut::new(&mut bulk.buffer[bulk.filled..]), IoSliceMut::new(free)],
                ),
                None => rustix::io::read(&*self.stream, free),
            };
            match received {
                // Less than there was room for: the socket is empty. Saying so here spares the
                // read that would only learn that.
                Ok(count) if 0 < count && count < wanted => Err(io::ErrorKind::WouldBlock.into()),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
        match (tried, received) {
            (Ok(()), Ok(0)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by peer")),
            (tried, Ok(count)) if count > 0 => {
                let into_bulk = count.min(bulk_missing);
                if let Some(bulk) = &mut self.bulk {
                    bulk.filled += into_bulk;
                }
                self.end += count - into_bulk;
                Ok(Some(tried.is_err()))
            }
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // Nothing read, more may be there: not drained.
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(false)),
            (Err(error), _) => Err(error),
            (Ok(()), _) => unreachable!("a read that failed is an error"),
        }
    }

    /// Reports every packet that is complete.
    fn parse(&mut self) -> Result<Parsed, LossCause> {
        loop {
            if let Some(bulk) = self.bulk.take_if(|bulk| bulk.filled == bulk.buffer.len()) {
                self.finish(bulk)?;
            }
            if self.bulk.is_some() {
                return Ok(Parsed::NeedMore);
            }
            let bytes = &self.buffer[self.start..self.end];
            let Some((header, header_bytes)) =
                codec::decode_header(bytes, Some(self.framing.version))
                    .map_err(|error| self.malformed(error))?
            else {
                return Ok(Parsed::NeedMore);
            };
            self.check_use(&header)?;
            let BodyLength { fixed, bulk } = codec::body_length(&header, &self.framing)
                .map_err(|error| self.malformed(error))?;
            if header_bytes + fixed > FIXED_BYTES_MAX || bulk > BULK_BYTES_MAX {
                let Header { command, length, .. } = header;
                return Err(self.malformed(format!("packet {command:#06x} of {length} bytes")));
            }
            let Some(body) = bytes.get(header_bytes..header_bytes + fixed) else {
                return Ok(Parsed::NeedMore);
            };
            if bulk > 0 && self.intake.is_full() {
                return Ok(Parsed::Paused);
            }
            if is_for_another_volume(&header) {
                tracing::warn!(header.command, header.volume, "volume not known: packet skipped");
                self.start += header_bytes + fixed;
                continue;
            }
            let decoded = codec::decode_body(&header, body, &self.framing)
                .map_err(|error| self.malformed(error))?;
            self.start += header_bytes + fixed;
            if bulk > 0 {
                let mut buffer = self.intake.take(bulk);
                let filled = bulk.min(self.end - self.start);
                buffer[..filled].copy_from_slice(&self.buffer[self.start..self.start + filled]);
                self.start += filled;
                let (packet, digest) = (decoded.packet, decoded.digest);
                self.bulk = Some(Bulk { packet, digest, buffer, filled });
                continue;
            }
            self.take_up(decoded.packet)?;
        }
    }

    /// Refuses packets of the other socket, and of volumes that are not there (wire.md 2).
    fn check_use(&self, header: &Header) -> Result<(), LossCause> {
        let wrong = match codec::socket_of(header.command) {
            Some(socket) if socket != self.socket => "belongs on the other socket",
            _ if header.volume != 0 && !is_for_another_volume(header) => "is for no volume of ours",
            _ if self.integrity == Integrity::Unknown && carries_data(header.command) => {
                "carries digests of an algorithm that is not known here"
            }
            _ => return Ok(()),
        };
        Err(self.malformed(format!("packet {:#06x} {wrong}", header.command)))
    }

    /// Bulk data is complete: checked while it is still in the processor's cache.
    fn finish(&mut self, bulk: Bulk) -> Result<(), LossCause> {
        let Bulk { packet, digest, buffer, .. } = bulk;
        if let Some(digest) = digest
            && !self.integrity.with_digest(&buffer, |expected| expected == digest)
        {
            return Err(self.malformed("digest integrity check failed"));
        }
        self.intake.report(packet, Some(buffer.freeze()));
        Ok(())
    }

    /// A packet without bulk data.
    fn take_up(&mut self, packet: Packet) -> Result<(), LossCause> {
        match &packet {
            // The peer's data behind this packet carries the digests that it names (wire.md 3.3),
            // whatever the engine will think of the choice.
            Packet::Protocol(protocol) | Packet::ProtocolUpdate(protocol) => {
                self.integrity = Integrity::from_name(&protocol.integrity_alg);
                self.framing.integrity_bytes = self.integrity.length();
            }
            Packet::AuthChallenge(_) => {
                return Err(self.malformed(
                    "unexpected P_AUTH_CHALLENGE: the peer has a cram-hmac-alg, this node has not",
                ));
            }
            Packet::InitialData
            | Packet::InitialMeta
            | Packet::ConnectionFeatures(_)
            | Packet::AuthResponse(_) => {
                return Err(self.malformed("handshake packet after the handshake"));
            }
            // Kept by the protocol for old peers; nobody uses it (wire.md 4).
            Packet::DelayProbe => return Ok(()),
            _ => {}
        }
        self.intake.report(packet, None);
        Ok(())
    }
}

/// Configuration of a volume that this node does not have is skipped, and so is the hint to
/// submit its I/O; all else must not be ignored (wire.md 2).
fn is_for_another_volume(header: &Header) -> bool {
    let may_be_skipped =
        matches!(header.command, P_UNPLUG_REMOTE | P_UUIDS | P_SIZES | P_STATE | P_SYNC_PARAM89);
    header.volume != 0 && may_be_skipped
}

const fn carries_data(command: u16) -> bool {
    matches!(command, P_DATA | P_DATA_REPLY | P_RS_DATA_REPLY | P_WSAME)
}
