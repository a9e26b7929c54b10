//! NBD clients and their open requests. A request of a client is one or more requests of the
//! engine: what is larger than the engine takes is cut into pieces and answered as a whole.

use std::io;
use std::time::Instant;

use twinblk_proto::units::{SECTOR_BYTES, SectorRange};

use super::slab::Slab;
use crate::buffer::{Buffer, BufferPool, Payload};
use crate::engine::effect::ClientError;
use crate::engine::event::{ClientOperation, PayloadId, RequestId};
use crate::engine::limits::{MAX_REQUEST_SECTORS, MAX_ZERO_SECTORS};
use crate::nbd::{Client, ClientId, Cookie, Errno, Origin, Reply};

/// A client on this resource.
#[derive(Debug)]
pub(super) struct Seat {
    client: Client,
    origin: Origin,
    pub since: Instant,
    pub requests: u64,
    pub in_flight: u64,
    pub asked: Asked,
    touched: bool,
}

/// How often a client asked for what a device must not lose on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub flushes: u64,
    /// Writes and zeroes with FUA.
    pub fuas: u64,
    /// TRIM and WRITE_ZEROES.
    pub zeroes: u64,
}

impl Seat {
    /// Address, or process id on the unix socket.
    pub(super) fn peer(&self) -> &str {
        self.client.peer()
    }

    /// A connection of a device of this machine's kernel, rather than a client of its own.
    pub(super) fn is_kernel(&self) -> bool {
        self.origin == Origin::KernelDevice
    }

    /// Over TCP.
    pub(super) fn is_remote(&self) -> bool {
        self.client.is_remote()
    }

    /// Still takes requests.
    pub(super) fn is_serving(&self) -> bool {
        self.client.is_serving()
    }
}

/// A client's request, answered when its last piece is.
#[derive(Debug)]
struct Whole {
    client: ClientId,
    cookie: Cookie,
    pieces: usize,
    failure: Option<ClientError>,
    /// Where the pieces of a large read are put together.
    assembly: Option<Buffer>,
}

/// What the engine knows as a request.
#[derive(Debug)]
struct Piece {
    whole: u64,
    /// Offset of the piece in the request.
    offset_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    seats: Slab<Seat>,
    wholes: Slab<Whole>,
    pieces: Slab<Piece>,
    touched: Vec<ClientId>,
}

/// What a client wants done with data.
#[derive(Debug)]
pub(super) enum Transfer {
    Read,
    Write { payload: Payload, fua: bool },
    Zero { may_unmap: bool, fua: bool },
    Flush,
}

impl Clients {
    /// `start` gets the number of the new client and starts its tasks.
    pub(super) fn add(
        &mut self,
        origin: Origin,
        start: impl FnOnce(ClientId) -> io::Result<Client>,
    ) -> io::Result<()> {
        // The number must be known before there is a client.
        let id = ClientId(self.seats.next_number());
        let seat = Seat {
            client: start(id)?,
            origin,
            since: Instant::now(),
            requests: 0,
            in_flight: 0,
            asked: Asked::default(),
            touched: false,
        };
        assert_eq!(self.seats.insert(seat), id.0);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: ClientId) -> Option<Seat> {
        self.seats.remove(id.0)
    }

    pub(super) fn count(&self) -> u32 {
        self.seats.len() as u32
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().map(|(_, seat)| seat)
    }

    /// Requests that are not answered, those of vanished clients included.
    pub(super) fn open_requests(&self) -> usize {
        self.wholes.len()
    }

    /// Takes a request and cuts it for the engine. Payloads of writes go into `payloads`.
    pub(super) fn admit(
        &mut self,
        (client, cookie): (ClientId, Cookie),
        (offset, length): (u64, u64),
        transfer: Transfer,
        payloads: &mut Slab<Payload>,
        pool: &BufferPool,
        requests: &mut Vec<(RequestId, ClientOperation)>,
    ) {
        if let Some(seat) = self.seats.get_mut(client.0) {
            seat.requests += 1;
            seat.in_flight += 1;
            match transfer {
                Transfer::Flush => seat.asked.flushes += 1,
                Transfer::Write { fua, .. } => seat.asked.fuas += u64::from(fua),
                Transfer::Zero { fua, .. } => {
                    seat.asked.zeroes += 1;
                    seat.asked.fuas += u64::from(fua);
                }
                Transfer::Read => {}
            }
        }
        let limit_sectors = match transfer {
            Transfer::Zero { .. } => MAX_ZERO_SECTORS,
            _ => MAX_REQUEST_SECTORS,
        };
        let limit = u64::from(limit_sectors) * SECTOR_BYTES;
        let pieces = length.div_ceil(limit).max(1);
        let assembly =
            (matches!(transfer, Transfer::Read) && pieces > 1).then(|| pool.take(length as usize));
        let whole = self.wholes.insert(Whole {
            client,
            cookie,
            pieces: pieces as usize,
            failure: None,
            assembly,
        });
        for piece in 0..pieces {
            let start = piece * limit;
            let bytes = (length - start).min(limit);
            let range = SectorRange::from_bytes(offset + start, bytes)
                .expect("the NBD layer lets only whole sectors pass");
            let operation = match &transfer {
                Transfer::Read => ClientOperation::Read { range },
                Transfer::Write { payload, fua } => {
                    let part = if pieces == 1 {
                        payload.clone()
                    } else {
                        let mut part = pool.take(bytes as usize);
                        part.copy_from_slice(&payload[start as usize..(start + bytes) as usize]);
                        part.freeze()
                    };
                    let payload = PayloadId(payloads.insert(part));
                    ClientOperation::Write { range, payload, fua: *fua }
                }
                Transfer::Zero { may_unmap, fua } => {
                    ClientOperation::Zero { range, may_unmap: *may_unmap, fua: *fua }
                }
                Transfer::Flush => ClientOperation::Flush,
            };
            let request = self.pieces.insert(Piece { whole, offset_bytes: start as usize });
            requests.push((RequestId(request), operation));
        }
    }

    /// The engine's answer for one request of it.
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        result: Result<Option<Payload>, ClientError>,
    ) {
        let piece = self.pieces.remove(request.0);
        let piece = piece.unwrap_or_else(|| panic!("{request:?} is answered once"));
        let whole = self.wholes.get_mut(piece.whole).expect("a whole outlives its pieces");
        let mut data = None;
        match (result, &mut whole.assembly) {
            (Ok(Some(part)), Some(assembly)) => {
                assembly[piece.offset_bytes..piece.offset_bytes + part.len()]
                    .copy_from_slice(&part);
            }
            (Ok(part), _) => data = part,
            (Err(error), _) => whole.failure = Some(error),
        }
        whole.pieces -= 1;
        if whole.pieces > 0 {
            return;
        }
        let whole = self.wholes.remove(piece.whole).expect("found above");
        let reply = match (whole.failure, data.or_else(|| whole.assembly.map(Buffer::freeze))) {
            (Some(ClientError::Io), _) => Reply::Error(Errno::InputOutput),
            (Some(ClientError::NotPrimary), _) => Reply::Error(Errno::ShutDown),
            (None, Some(data)) => Reply::Data(data),
            (None, None) => Reply::Done,
        };
        if let Some(seat) = self.seats.get_mut(whole.client.0) {
            seat.in_flight -= 1;
            // Clients hand an error to the application. Without an answer they ask again where the
            // device is served next.
            if whole.failure == Some(ClientError::NotPrimary) {
                return seat.client.let_go(false);
            }
        }
        self.reply(whole.client, whole.cookie, reply);
    }

    /// Queues a reply. A client that is gone does not get one; what it asked for was done anyway.
    pub(super) fn reply(&mut self, id: ClientId, cookie: Cookie, reply: Reply) {
        let Some(seat) = self.seats.get_mut(id.0) else { return };
        seat.client.reply(cookie, reply);
        if !seat.touched {
            seat.touched = true;
            self.touched.push(id);
        }
    }

    /// Sends what was queued since the last call: one write for each client.
    pub(super) fn flush(&mut self) {
        for id in self.touched.drain(..) {
            if let Some(seat) = self.seats.get_mut(id.0) {
                seat.touched = false;
                seat.client.flush();
            }
        }
    }

    /// Closes everybody: this node is not Primary any more, or will not be soon. Each gets the
    /// answers that are on their way, and asks for the rest where the device is served next.
    pub(super) fn let_go(&mut self) {
        self.seats().for_each(|seat| seat.client.let_go(true));
    }

    /// Those from elsewhere; what this machine itself uses stays.
    pub(super) fn let_go_of_remote(&mut self) {
        let remote = self.seats().filter(|seat| seat.is_remote());
        remote.for_each(|seat| seat.client.let_go(true));
    }

    /// Nothing more is read from connections that their client has given up: what it sent there it
    /// sends again on the next one.
    pub(super) fn let_go_of_hung_up(&mut self) {
        for seat in self.seats().filter(|seat| seat.client.is_serving() && seat.client.is_hung_up())
        {
            seat.client.let_go(true);
        }
    }

    /// The device has this size from now on.
    pub(super) fn resized(&self, size_bytes: u64) {
        self.seats().for_each(|seat| seat.client.resized(size_bytes));
    }

    /// Requests of a connection that has ended are still being carried out. Its client sends them
    /// again on the next one, which must find them done: a write that is left over would otherwise
    /// overwrite what was written and acknowledged after it (nbd.md 0.4).
    pub(super) fn has_left_over(&self) -> bool {
        let is_open = |client: ClientId| self.seats.get(client.0).is_some_and(Seat::is_serving);
        self.wholes.iter().any(|(_, whole)| !is_open(whole.client))
    }
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
