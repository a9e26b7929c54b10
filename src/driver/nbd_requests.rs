//! NBD clients and what they ask, on their way to the engine.

use rustix::process::configure_io_flusher_behavior;
use twinblk_proto::units::BLOCK_BYTES;

use super::allocation;
use super::clients::Transfer;
use super::run::Driver;
use super::serving::local_disk_is_authoritative;
use crate::engine::event::{Event, Time};
use crate::nbd::Socket;
use crate::nbd::reply::EXTENT_LIMIT;
use crate::nbd::stream::is_hung_up;
use crate::nbd::{
    Accepted, CONNECTION_LIMIT, Client, ClientEvent, ClientId, Context, Contexts, Cookie, Extent,
    Origin, Reply, Request,
};

/// Bytes that one answer about out-of-sync blocks looks at: 262144 bits, well under a millisecond.
const OUT_OF_SYNC_LOOK_BYTES: u64 = 1 << 30;

/// Connections that wait for what others left over: as many as there may be, and twice those of the
/// kernel's device, which has at most 4.
const PARKED_MAX: usize = CONNECTION_LIMIT + 8;

/// `base:allocation` (nbd.md 1.3): a hole that reads as zeroes.
const HOLE_AND_ZERO: u32 = 1 | 2;
/// `twinblk:out-of-sync`: the peer does not have these blocks.
const OUT_OF_SYNC: u32 = 1;

impl Driver {
    /// A client waits behind what ended connections left over: they may have been its own.
    pub(super) fn take_client(&mut self, now: Time, accepted: Accepted) {
        self.clients.let_go_of_hung_up();
        // A client that hears nothing for too long dials again.
        self.parked.retain(|parked| !is_hung_up(&parked.socket));
        if self.clients.has_left_over() {
            if self.parked.len() == PARKED_MAX {
                // Its client has given it up long ago, or notices that it has to.
                self.parked.pop_front();
            }
            self.parked.push_back(accepted);
            self.changed = true;
            return;
        }
        self.seat_client(now, accepted);
    }

    pub(super) fn serve_parked(&mut self, now: Time) {
        if self.clients.has_left_over() {
            return;
        }
        for accepted in std::mem::take(&mut self.parked) {
            self.seat_client(now, accepted);
        }
    }

    fn seat_client(&mut self, now: Time, accepted: Accepted) {
        let origin = accepted.origin;
        if origin == Origin::KernelDevice {
            // File systems of this machine wait for this thread: memory that it asks for must not
            // be made free by writing to them (nbd.md 3.5). Needs CAP_SYS_RESOURCE.
            if let Err(error) = configure_io_flusher_behavior(true) {
                tracing::info!(resource = self.setup.name, %error, "not marked as a flusher");
            }
        }
        let peer = accepted.peer.clone();
        if self.is_leaving && matches!(accepted.socket, Socket::Tcp(_)) {
            tracing::info!(
                resource = self.setup.name,
                peer,
                "client sent away: the role is given up"
            );
            return;
        }
        // The role may have changed since the negotiation.
        if let Err(reason) = self.export().serving {
            tracing::info!(resource = self.setup.name, peer, "client turned away: {reason}");
            return;
        }
        let (pool, events) = (self.pool.clone(), self.client_events.clone());
        match self.clients.add(origin, |id| Client::start(accepted, pool, events, id)) {
            Ok(()) => {
                tracing::info!(resource = self.setup.name, peer, "client connected");
                self.clients_changed(now);
            }
            Err(error) => {
                tracing::warn!(resource = self.setup.name, peer, "client lost: {error}");
            }
        }
    }

    fn clients_changed(&mut self, now: Time) {
        self.changed = true;
        self.handle(now, Event::ClientsChanged { open: self.clients.count() });
    }

    pub(super) fn take_client_event(&mut self, now: Time, event: ClientEvent) {
        match event {
            ClientEvent::Request { client, cookie, request } => {
                self.take_request(now, client, cookie, request);
            }
            ClientEvent::Gone { client, reason } => {
                if let Some(seat) = self.clients.remove(client) {
                    let peer = seat.peer();
                    tracing::info!(resource = self.setup.name, peer, %reason, "client gone");
                    self.clients_changed(now);
                }
            }
        }
    }

    fn take_request(&mut self, now: Time, client: ClientId, cookie: Cookie, request: Request) {
        let (span, transfer) = match request {
            Request::Read { offset, length } => ((offset, u64::from(length)), Transfer::Read),
            Request::Write { offset, payload, fua } => {
                ((offset, payload.len() as u64), Transfer::Write { payload, fua })
            }
            Request::Trim { offset, length, fua } => {
                ((offset, u64::from(length)), Transfer::Zero { may_unmap: true, fua })
            }
            Request::WriteZeroes { offset, length, may_unmap, fua } => {
                ((offset, u64::from(length)), Transfer::Zero { may_unmap, fua })
            }
            Request::Flush => ((0, 0), Transfer::Flush),
            Request::BlockStatus { offset, length, request_one, contexts } => {
                let limit = if request_one { 1 } else { EXTENT_LIMIT };
                let reply = self.block_status(contexts, (offset, u64::from(length)), limit);
                return self.clients.reply(client, cookie, reply);
            }
        };
        let mut admitted = std::mem::take(&mut self.admitted);
        self.clients.admit(
            (client, cookie),
            span,
            transfer,
            &mut self.payloads,
            &self.pool,
            &mut admitted,
        );
        for (request, operation) in admitted.drain(..) {
            self.handle(now, Event::ClientRequested { request, operation });
        }
        self.admitted = admitted;
    }

    fn block_status(
        &self,
        contexts: Contexts,
        (offset, length): (u64, u64),
        limit: usize,
    ) -> Reply {
        let answers = contexts.iter().map(|context| {
            let extents = match context {
                Context::Allocation => self.allocation(offset, length, limit),
                Context::OutOfSync => self.out_of_sync(offset, length, limit),
            };
            (context, extents)
        });
        Reply::BlockStatus(answers.collect())
    }

    /// Holes of the local file count only while the local disk holds the newest data everywhere.
    fn allocation(&self, offset: u64, length: u64, limit: usize) -> Vec<Extent> {
        let file = self.backing.as_ref().map(|backing| &backing.file);
        match file {
            Some(file) if local_disk_is_authoritative(&self.engine.state()) => {
                let runs = allocation::runs(file, offset, length, limit);
                let extent = |run: allocation::Run| Extent {
                    length: run.length as u32,
                    flags: if run.hole { HOLE_AND_ZERO } else { 0 },
                };
                runs.into_iter().map(extent).collect()
            }
            _ => vec![Extent { length: length as u32, flags: 0 }],
        }
    }

    fn out_of_sync(&self, offset: u64, length: u64, limit: usize) -> Vec<Extent> {
        let end = offset + length.min(OUT_OF_SYNC_LOOK_BYTES);
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_BYTES;
            let next = ((block + 1) * BLOCK_BYTES).min(end);
            let flags = if self.engine.is_out_of_sync(block) { OUT_OF_SYNC } else { 0 };
            let bytes = (next - at) as u32;
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.length += bytes,
                _ if count == limit => break,
                _ => extents.push(Extent { length: bytes, flags }),
            }
            at = next;
        }
        extents
    }
}
