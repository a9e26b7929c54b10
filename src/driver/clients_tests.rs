//! Requests of NBD clients cut for the engine and answered as a whole.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::nbd::{
    Accepted, ClientEvent, Contexts, ExportInfo, GoneReason, Negotiated, Origin, Request, Socket,
};

struct Bench {
    clients: Clients,
    payloads: Slab<Payload>,
    pool: BufferPool,
    events: UnboundedReceiver<ClientEvent>,
    socket: UnixStream,
}

const MIB: usize = 1 << 20;

impl Bench {
    fn new() -> Self {
        Self::with(Origin::Client)
    }

    /// One client with a plain socket at the other end.
    fn with(origin: Origin) -> Self {
        let (near, socket) = UnixStream::pair().expect("a pair of sockets");
        near.set_nonblocking(true).expect("nonblocking");
        let accepted = Accepted {
            socket: Socket::Unix(near),
            negotiated: Negotiated {
                export: ExportInfo::new("r0", 64 << 20),
                structured: false,
                contexts: Contexts::default(),
            },
            peer: "test".to_owned(),
            permit: None,
            origin,
        };
        let (sender, events) = unbounded_channel();
        let pool = BufferPool::default();
        let mut clients = Clients::default();
        clients
            .add(origin, |id| Client::start(accepted, pool.clone(), sender, id))
            .expect("a client");
        Self { clients, payloads: Slab::default(), pool, events, socket }
    }

    /// Sends a request over the socket and takes what the driver would hear of it.
    async fn ask(&mut self, command: u16, offset: u64, length: u32, data: Vec<u8>) -> ClientEvent {
        let mut message = 0x2560_9513u32.to_be_bytes().to_vec();
        message.extend(0u16.to_be_bytes());
        message.extend(command.to_be_bytes());
        message.extend(7u64.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(data);
        let mut socket = self.socket.try_clone().expect("a second handle");
        let sender = std::thread::spawn(move || socket.write_all(&message).expect("sent"));
        let event = self.events.recv().await.expect("an event");
        sender.join().expect("a sender");
        event
    }

    fn admit(&mut self, event: ClientEvent) -> Vec<(RequestId, ClientOperation)> {
        let ClientEvent::Request { client, cookie, request } = event else {
            panic!("{event:?} is no request")
        };
        let (span, transfer) = match request {
            Request::Read { offset, length } => ((offset, u64::from(length)), Transfer::Read),
            Request::Write { offset, payload, fua } => {
                ((offset, payload.len() as u64), Transfer::Write { payload, fua })
            }
            other => panic!("{other:?} is not asked here"),
        };
        let mut admitted = Vec::new();
        self.clients.admit(
            (client, cookie),
            span,
            transfer,
            &mut self.payloads,
            &self.pool,
            &mut admitted,
        );
        admitted
    }

    /// Flushes, and reads a simple reply with `length` bytes of data.
    async fn reply(&mut self, length: usize) -> (u32, Vec<u8>) {
        self.clients.flush();
        let mut socket = self.socket.try_clone().expect("a second handle");
        tokio::task::spawn_blocking(move || {
            let mut header = [0; 16];
            socket.read_exact(&mut header).expect("a reply");
            let mut data = vec![0; length];
            socket.read_exact(&mut data).expect("its data");
            (u32::from_be_bytes([header[4], header[5], header[6], header[7]]), data)
        })
        .await
        .expect("a reader")
    }

    fn payload(&self, byte: u8, length: usize) -> Payload {
        let mut buffer = self.pool.take(length);
        buffer.fill(byte);
        buffer.freeze()
    }
}

fn run(test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    tokio::task::LocalSet::new().block_on(&runtime, async { test(Bench::new()).await });
}

#[test]
fn a_large_read_is_cut_and_put_together_in_any_order() {
    run(async |mut bench| {
        let event = bench.ask(0, 4096, 2 * MIB as u32 + 512, Vec::new()).await;
        let pieces = bench.admit(event);
        let ranges: Vec<SectorRange> = pieces
            .iter()
            .map(|(_, operation)| match operation {
                ClientOperation::Read { range } => *range,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            ranges,
            [
                SectorRange::new(8, 2048),
                SectorRange::new(8 + 2048, 2048),
                SectorRange::new(8 + 4096, 1),
            ]
        );
        assert_eq!(bench.clients.open_requests(), 1);
        for (index, length) in [(2, 512), (0, MIB), (1, MIB)] {
            let part = bench.payload(index as u8 + 1, length);
            bench.clients.answered(pieces[index].0, Ok(Some(part)));
        }
        assert_eq!(bench.clients.open_requests(), 0);
        let (error, data) = bench.reply(2 * MIB + 512).await;
        assert_eq!(error, 0);
        assert!(data[..MIB].iter().all(|byte| *byte == 1));
        assert!(data[MIB..2 * MIB].iter().all(|byte| *byte == 2));
        assert!(data[2 * MIB..].iter().all(|byte| *byte == 3));
    });
}

#[test]
fn a_large_write_is_cut_and_fails_as_a_whole() {
    run(async |mut bench| {
        let mut data = vec![1; 2 * MIB];
        data[MIB..].fill(2);
        let event = bench.ask(1, 0, 2 * MIB as u32, data).await;
        let pieces = bench.admit(event);
        assert_eq!(pieces.len(), 2);
        for (index, (_, operation)) in pieces.iter().enumerate() {
            let ClientOperation::Write { range, payload, fua: false } = operation else {
                panic!("{operation:?}")
            };
            assert_eq!(range.start.0, index as u64 * 2048);
            let payload = bench.payloads.remove(payload.0).expect("held for the engine");
            assert!(payload.len() == MIB && payload.iter().all(|byte| *byte == index as u8 + 1));
        }
        bench.clients.answered(pieces[0].0, Err(ClientError::Io));
        assert_eq!(bench.clients.open_requests(), 1, "the other piece is still under way");
        bench.clients.answered(pieces[1].0, Ok(None));
        assert_eq!(bench.reply(0).await.0, 5, "EIO");
        assert_eq!(bench.clients.seats().next().expect("the client").in_flight, 0);
    });
}

#[test]
fn answers_to_vanished_clients_are_dropped_and_their_requests_forgotten() {
    run(async |mut bench| {
        let event = bench.ask(1, 0, 4096, vec![9; 4096]).await;
        let ClientEvent::Request { client, .. } = event else { panic!("{event:?}") };
        let pieces = bench.admit(event);
        assert!(bench.clients.remove(client).is_some());
        assert_eq!((bench.clients.count(), bench.clients.open_requests()), (0, 1));
        bench.clients.answered(pieces[0].0, Ok(None));
        assert_eq!(bench.clients.open_requests(), 0);
        bench.clients.flush();
    });
}

fn run_kernel(test: impl AsyncFnOnce(Bench)) {
    run_as(Origin::KernelDevice, test);
}

fn run_as(origin: Origin, test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let bench = async { test(Bench::with(origin)).await };
    tokio::task::LocalSet::new().block_on(&runtime, bench);
}

/// A write that an ended connection left over must be done before the next connection is served:
/// its client sends it again, acknowledged writes follow, and the first copy would undo them.
#[test]
fn what_an_ended_connection_left_over_is_known_until_it_is_done() {
    run(async |mut bench| {
        assert!(!bench.clients.has_left_over());
        let event = bench.ask(1, 0, 4096, vec![9; 4096]).await;
        let ClientEvent::Request { client, .. } = event else { panic!("{event:?}") };
        let pieces = bench.admit(event);
        assert!(!bench.clients.has_left_over(), "its connection lives");
        bench.socket.shutdown(std::net::Shutdown::Both).expect("open");
        let gone = bench.events.recv().await.expect("an event");
        assert!(matches!(gone, ClientEvent::Gone { .. }), "{gone:?}");
        assert!(bench.clients.has_left_over(), "nothing more is read from it");
        bench.clients.remove(client);
        assert!(bench.clients.has_left_over());
        bench.clients.answered(pieces[0].0, Ok(None));
        assert!(!bench.clients.has_left_over());
    });
}

/// The kernel would make an I/O error of it, and so would any program.
#[test]
fn clients_hear_no_error_when_the_role_is_given_up() {
    for origin in [Origin::Client, Origin::KernelDevice] {
        run_as(origin, let_go_of_one);
    }
}

async fn let_go_of_one(mut bench: Bench) {
    let event = bench.ask(1, 0, 4096, vec![9; 4096]).await;
    let pieces = bench.admit(event);
    bench.clients.let_go();
    bench.clients.flush();
    bench.clients.answered(pieces[0].0, Err(ClientError::NotPrimary));
    let gone = bench.events.recv().await.expect("an event");
    let ClientEvent::Gone { reason, .. } = gone else { panic!("{gone:?}") };
    assert_eq!(reason, GoneReason::LetGo);
    let mut rest = Vec::new();
    bench.socket.read_to_end(&mut rest).expect("closed");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn what_must_arrive_is_counted() {
    run_kernel(async |mut bench| {
        let flush = Transfer::Flush;
        let write = Transfer::Write { payload: bench.payload(1, 512), fua: true };
        let zero = Transfer::Zero { may_unmap: true, fua: false };
        let mut admitted = Vec::new();
        let id = ClientId(0);
        for (transfer, length) in [(flush, 0), (write, 512), (zero, 4096), (Transfer::Read, 512)] {
            let Bench { clients, payloads, pool, .. } = &mut bench;
            clients.admit((id, Cookie(9)), (0, length), transfer, payloads, pool, &mut admitted);
        }
        let seat = bench.clients.seats().next().expect("the client");
        assert_eq!(seat.asked, Asked { flushes: 1, fuas: 1, zeroes: 1 });
        assert_eq!(seat.requests, 4);
    });
}
