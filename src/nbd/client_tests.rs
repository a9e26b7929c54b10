//! A client over a socket pair, with the test as the driver.

use std::os::unix::net::UnixStream as StdStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;

use super::*;
use crate::nbd::export::{Context, ExportInfo};
use crate::nbd::listener::{Accepted, Origin};
use crate::nbd::negotiation::Negotiated;
use crate::nbd::reply::Extent;
use crate::nbd::stream::Socket;
use crate::nbd::wire::{REQUEST_MAGIC, command};

const SIZE: u64 = 1 << 30;

struct Bench {
    client: Client,
    events: UnboundedReceiver<ClientEvent>,
    peer: UnixStream,
    pool: BufferPool,
}

impl Bench {
    fn start(structured: bool) -> Self {
        let (ours, theirs) = StdStream::pair().expect("socket pair");
        theirs.set_nonblocking(true).expect("socket option");
        let mut contexts = Contexts::default();
        if structured {
            contexts.insert(Context::Allocation);
        }
        let negotiated = Negotiated { export: ExportInfo::new("r0", SIZE), structured, contexts };
        let accepted = Accepted {
            socket: Socket::Unix(ours),
            negotiated,
            peer: "test".to_owned(),
            permit: None,
            origin: Origin::Client,
        };
        let pool = BufferPool::default();
        let (sender, events) = unbounded_channel();
        let client = Client::start(accepted, pool.clone(), sender, ClientId(5)).expect("started");
        let peer = UnixStream::from_std(theirs).expect("registered");
        Self { client, events, peer, pool }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).await.expect("sent");
    }

    async fn request(&mut self) -> (Cookie, Request) {
        match self.events.recv().await.expect("client lives") {
            ClientEvent::Request { cookie, request, client } => {
                assert_eq!(client, ClientId(5));
                (cookie, request)
            }
            ClientEvent::Gone { reason, .. } => panic!("gone: {reason}"),
        }
    }

    async fn gone(&mut self) -> GoneReason {
        match self.events.recv().await.expect("client lives") {
            ClientEvent::Gone { reason, .. } => reason,
            ClientEvent::Request { request, .. } => panic!("a request: {request:?}"),
        }
    }

    async fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.peer.read_exact(&mut bytes).await.expect("received");
        bytes
    }

    fn answer(&self, cookie: Cookie, reply: Reply) {
        self.client.reply(cookie, reply);
        self.client.flush();
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, async {
        timeout_at(Instant::now() + Duration::from_secs(30), test).await.expect("not stuck");
    });
}

fn header(command: u16, handle: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&handle.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn simple(error: u32, handle: u64) -> Vec<u8> {
    [&SIMPLE[..], &error.to_be_bytes(), &handle.to_be_bytes()].concat()
}

const SIMPLE: [u8; 4] = crate::nbd::wire::SIMPLE_REPLY_MAGIC.to_be_bytes();

#[test]
fn requests_go_up_and_replies_come_back_in_any_order() {
    run(async {
        let mut bench = Bench::start(false);
        let write = [header(command::WRITE, 7, 4096, 1024), vec![9; 1024]].concat();
        bench.send(&[header(command::READ, 6, 512, 512), write].concat()).await;
        let (read_cookie, request) = bench.request().await;
        assert!(matches!(request, Request::Read { offset: 512, length: 512 }));
        let (write_cookie, request) = bench.request().await;
        let Request::Write { offset: 4096, payload, fua: false } = request else {
            panic!("{request:?}")
        };
        assert_eq!(payload[..], [9; 1024]);
        assert_eq!(bench.client.outstanding(), 2);

        bench.answer(write_cookie, Reply::Done);
        assert_eq!(bench.receive(16).await, simple(0, 7));
        let mut data = bench.pool.take(512);
        data.fill(3);
        bench.answer(read_cookie, Reply::Data(data.freeze()));
        assert_eq!(bench.receive(16 + 512).await, [simple(0, 6), vec![3; 512]].concat());
        assert_eq!(bench.client.outstanding(), 0);
    });
}

/// Payloads of every size arrive whole, however the stream is cut.
#[test]
fn writes_survive_any_fragmentation() {
    run(async {
        let mut bench = Bench::start(false);
        let sizes = [512, 4096, 200 << 10, 512, 1 << 20, 300 << 10, 64 << 10, 512, 8192];
        let mut stream = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            stream.extend(header(command::WRITE, number as u64, 0, *size as u32));
            stream.extend((0..*size).map(|at| (at * 7 + number) as u8));
        }
        let (mut peer, mut cut) = (bench.peer, 1);
        let sender = tokio::task::spawn_local(async move {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                cut = (cut * 5 + 3) % 70_001;
                let (now, later) = rest.split_at(cut.min(rest.len()));
                peer.write_all(now).await.expect("sent");
                tokio::task::yield_now().await;
                rest = later;
            }
            peer
        });
        for (number, size) in sizes.iter().enumerate() {
            let Some(ClientEvent::Request { cookie, request, .. }) = bench.events.recv().await
            else {
                panic!("no request")
            };
            let Request::Write { payload, .. } = request else { panic!("no write") };
            let expected = (0..*size).map(|at| (at * 7 + number) as u8);
            assert!(payload.len() == *size && payload.iter().copied().eq(expected), "{number}");
            bench.client.reply(cookie, Reply::Done);
            bench.client.flush();
        }
        bench.peer = sender.await.expect("no panic");
        let replies: Vec<u8> = (0..sizes.len() as u64).flat_map(|at| simple(0, at)).collect();
        assert_eq!(bench.receive(replies.len()).await, replies);
    });
}

#[test]
fn malformed_requests_are_answered_here_and_their_payload_skipped() {
    run(async {
        let mut bench = Bench::start(false);
        let past_end = [header(command::WRITE, 1, SIZE, 1 << 20), vec![1; 1 << 20]].concat();
        let unaligned = [header(command::WRITE, 2, 1, 1000), vec![1; 1000]].concat();
        let good = header(command::FLUSH, 4, 0, 0);
        let unknown = header(77, 3, 0, 0);
        let empty = header(command::READ, 5, 0, 0);
        let (mut peer, bytes) = (bench.peer, [past_end, unaligned, unknown, empty, good].concat());
        let sender = tokio::task::spawn_local(async move {
            peer.write_all(&bytes).await.expect("sent");
            peer
        });
        let Some(ClientEvent::Request { cookie, request: Request::Flush, .. }) =
            bench.events.recv().await
        else {
            panic!("no flush")
        };
        bench.peer = sender.await.expect("no panic");
        bench.answer(cookie, Reply::Done);
        let expected =
            [simple(28, 1), simple(22, 2), simple(22, 3), simple(0, 5), simple(0, 4)].concat();
        assert_eq!(bench.receive(expected.len()).await, expected);
    });
}

#[test]
fn no_more_than_the_allowed_requests_are_taken() {
    run(async {
        let mut bench = Bench::start(false);
        let reads: Vec<u8> =
            (0..500).flat_map(|handle| header(command::READ, handle, 0, 512)).collect();
        bench.send(&reads).await;
        let mut open = Vec::new();
        for _ in 0..REQUESTS_IN_FLIGHT {
            open.push(bench.request().await.0);
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(bench.events.is_empty(), "the 129th request waits");
        let mut answered = 0;
        while answered < 500 {
            let cookie = match open.pop() {
                Some(cookie) => cookie,
                None => bench.request().await.0,
            };
            bench.answer(cookie, Reply::Data(bench.pool.take_zeroed(512).freeze()));
            bench.receive(16 + 512).await;
            answered += 1;
        }
    });
}

#[test]
fn no_more_than_the_allowed_bytes_are_taken() {
    run(async {
        let mut bench = Bench::start(false);
        let reads: Vec<u8> =
            (0..3).flat_map(|handle| header(command::READ, handle, 0, 32 << 20)).collect();
        bench.send(&reads).await;
        let (first, _) = bench.request().await;
        bench.request().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(bench.events.is_empty(), "two reads fill the allowance");
        bench.answer(first, Reply::Error(Errno::InputOutput));
        bench.request().await;
    });
}

/// Replies that the socket does not take at once arrive whole, and hold their allowance so long.
#[test]
fn a_slow_reader_gets_everything() {
    run(async {
        let mut bench = Bench::start(true);
        let count = 40;
        let length = 1 << 20;
        let reads: Vec<u8> =
            (0..count).flat_map(|handle| header(command::READ, handle, 0, length)).collect();
        bench.send(&reads).await;
        for number in 0..count {
            let (cookie, _) = bench.request().await;
            let mut data = bench.pool.take(length as usize);
            data.fill(number as u8);
            bench.answer(cookie, Reply::Data(data.freeze()));
        }
        assert_eq!(bench.client.outstanding(), 0);
        assert!(bench.client.connection.state.borrow().bytes > 0, "not sent yet");
        for number in 0..count {
            let reply = bench.receive(28 + length as usize).await;
            assert_eq!(reply[8..16], number.to_be_bytes());
            assert!(reply[28..].iter().all(|byte| *byte == number as u8));
        }
        bench.send(&header(command::DISCONNECT, 0, 0, 0)).await;
        assert_eq!(bench.gone().await, GoneReason::Disconnected);
        assert_eq!(bench.client.connection.state.borrow().bytes, 0);
    });
}

#[test]
fn disconnect_answers_everything_first() {
    run(async {
        let mut bench = Bench::start(false);
        let mut bytes: Vec<u8> = (0..16)
            .flat_map(|handle| [header(command::WRITE, handle, 0, 512), vec![0; 512]].concat())
            .collect();
        bytes.extend(header(command::DISCONNECT, 99, 0, 0));
        bytes.extend(header(command::READ, 100, 0, 512));
        bench.send(&bytes).await;
        let mut cookies = Vec::new();
        for _ in 0..16 {
            cookies.push(bench.request().await.0);
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(bench.events.is_empty(), "not gone while requests are open");
        cookies.into_iter().for_each(|cookie| bench.client.reply(cookie, Reply::Done));
        bench.client.flush();
        let replies: Vec<u8> = (0..16).flat_map(|handle| simple(0, handle)).collect();
        assert_eq!(bench.receive(replies.len()).await, replies);
        assert_eq!(bench.gone().await, GoneReason::Disconnected);
        let mut rest = Vec::new();
        // A request after the disconnect is not read; the socket may report that as a reset.
        let _ = bench.peer.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    });
}

#[test]
fn a_half_closed_client_still_gets_its_answers() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::FLUSH, 1, 0, 0)).await;
        bench.peer.shutdown().await.expect("open");
        let (cookie, _) = bench.request().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        bench.answer(cookie, Reply::Done);
        assert_eq!(bench.receive(16).await, simple(0, 1));
        assert_eq!(bench.gone().await, GoneReason::Closed);
    });
}

/// An error would reach the user of the client; what has no answer is asked again elsewhere.
#[test]
fn letting_go_answers_what_was_taken_and_nothing_else() {
    run(async {
        let mut bench = Bench::start(true);
        bench.send(&header(command::WRITE_ZEROES, 1, 0, 512)).await;
        let (zeroes, _) = bench.request().await;
        assert!(bench.client.is_serving());
        bench.client.let_go(true);
        assert!(!bench.client.is_serving());
        bench.send(&[header(command::WRITE, 3, 0, 512), vec![0; 512]].concat()).await;
        bench.answer(zeroes, Reply::Done);
        assert_eq!(bench.receive(16).await, simple(0, 1));
        assert_eq!(bench.gone().await, GoneReason::LetGo);
        assert!(bench.events.is_empty(), "what came later was not taken");
        let end = bench.peer.read(&mut [0]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    });
}

#[test]
fn a_program_that_waits_for_an_answer_is_closed_soon_when_it_is_let_go() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::FLUSH, 1, 0, 0)).await;
        bench.request().await;
        bench.client.let_go(true);
        assert_eq!(bench.gone().await, GoneReason::LetGo);
        assert_eq!(bench.peer.read(&mut [0]).await.expect("closed in order"), 0);
    });
}

#[test]
fn a_client_that_hung_up_is_known_before_its_requests_are_read() {
    run(async {
        let mut bench = Bench::start(false);
        assert!(!bench.client.is_hung_up());
        bench.send(&header(command::FLUSH, 1, 0, 0)).await;
        bench.peer.shutdown().await.expect("open");
        assert!(bench.client.is_hung_up(), "nothing was read yet");
        bench.client.let_go(true);
        assert_eq!(bench.gone().await, GoneReason::LetGo);
        assert!(bench.events.is_empty(), "it was not taken");
    });
}

#[test]
fn one_cookie_for_many_requests_and_many_replies_for_one() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::FLUSH, 1, 0, 0).repeat(2)).await;
        let (first, _) = bench.request().await;
        let (second, _) = bench.request().await;
        bench.answer(first, Reply::Done);
        bench.answer(first, Reply::Done);
        bench.answer(second, Reply::Error(Errno::NoSpace));
        let expected = [simple(0, 1), simple(28, 1)].concat();
        assert_eq!(bench.receive(32).await, expected);
    });
}

#[test]
fn garbage_ends_the_connection() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(b"GET / HTTP/1.1\r\n\r\n").await;
        let reason = bench.gone().await;
        assert!(matches!(reason, GoneReason::Protocol(Violation::BadMagic(_))), "{reason}");
        let mut bench = Bench::start(false);
        bench.send(&header(command::WRITE, 1, 0, 1 << 30)).await;
        let reason = bench.gone().await;
        assert!(matches!(reason, GoneReason::Protocol(Violation::OversizedWrite(_))), "{reason}");
    });
}

#[test]
fn a_client_that_vanishes_in_mid_reply_is_only_gone() {
    run(async {
        let mut bench = Bench::start(false);
        let reads: Vec<u8> =
            (0..16).flat_map(|handle| header(command::READ, handle, 0, 1 << 20)).collect();
        bench.send(&reads).await;
        for _ in 0..16 {
            let (cookie, _) = bench.request().await;
            bench.answer(cookie, Reply::Data(bench.pool.take_zeroed(1 << 20).freeze()));
        }
        let (other, _) = UnixStream::pair().expect("socket pair");
        drop(std::mem::replace(&mut bench.peer, other));
        let reason = bench.gone().await;
        assert!(matches!(reason, GoneReason::Lost(_)), "{reason}");
        bench.client.flush();
        bench.client.let_go(true);
    });
}

#[test]
fn a_client_that_vanishes_in_mid_request_is_only_gone() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&[header(command::WRITE, 1, 0, 4096), vec![0; 100]].concat()).await;
        bench.peer.shutdown().await.expect("open");
        assert_eq!(bench.gone().await, GoneReason::Closed);
    });
}

#[test]
fn wrong_replies_of_the_driver_become_errors() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::READ, 1, 0, 1024)).await;
        let (cookie, _) = bench.request().await;
        bench.answer(cookie, Reply::Data(bench.pool.take_zeroed(512).freeze()));
        assert_eq!(bench.receive(16).await, simple(5, 1));
    });
}

#[test]
fn block_status_is_answered_for_the_selected_contexts() {
    run(async {
        let mut bench = Bench::start(true);
        bench.send(&header(command::BLOCK_STATUS, 1, 0, 8192)).await;
        let (cookie, request) = bench.request().await;
        let Request::BlockStatus { contexts, request_one: false, .. } = request else {
            panic!("{request:?}")
        };
        assert!(contexts.contains(Context::Allocation) && !contexts.contains(Context::OutOfSync));
        let extents = vec![Extent { length: 4096, flags: 3 }, Extent { length: 4096, flags: 0 }];
        bench.answer(cookie, Reply::BlockStatus(vec![(Context::Allocation, extents)]));
        let reply = bench.receive(20 + 4 + 16).await;
        assert_eq!(reply[4..8], [0, 1, 0, 5]);
        assert_eq!(reply[20..], [0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3, 0, 0, 16, 0, 0, 0, 0, 0]);
    });
}

/// The kernel sends again what was not answered, so nothing may be answered with an error and
/// nothing may be taken that nobody will answer.
#[test]
fn what_is_let_go_answers_what_it_took_and_reads_no_more() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::FLUSH, 1, 0, 0)).await;
        let (cookie, _) = bench.request().await;
        // The beginning of a write, which will never be whole.
        bench.send(&[header(command::WRITE, 2, 0, 4096), vec![0; 100]].concat()).await;
        tokio::task::yield_now().await;
        bench.client.let_go(true);
        bench.send(&header(command::FLUSH, 3, 0, 0)).await;
        while bench.client.is_serving() {
            tokio::task::yield_now().await;
        }
        bench.answer(cookie, Reply::Done);
        assert_eq!(bench.receive(16).await, simple(0, 1));
        assert_eq!(bench.gone().await, GoneReason::LetGo);
        let mut rest = Vec::new();
        let end = bench.peer.read_to_end(&mut rest).await;
        // Closing with bytes unread shows as a reset.
        assert!(rest.is_empty(), "{end:?} {rest:?}");
    });
}

#[test]
fn what_is_dropped_without_an_answer_is_only_closed() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::FLUSH, 1, 0, 0)).await;
        let (cookie, _) = bench.request().await;
        bench.client.let_go(false);
        assert_eq!(bench.gone().await, GoneReason::LetGo);
        bench.answer(cookie, Reply::Done);
        let mut rest = Vec::new();
        bench.peer.read_to_end(&mut rest).await.expect("closed in good order");
        assert!(rest.is_empty(), "{rest:?}");
    });
}

#[test]
fn a_new_size_holds_for_the_next_request() {
    run(async {
        let mut bench = Bench::start(false);
        bench.send(&header(command::READ, 1, SIZE, 4096)).await;
        assert_eq!(bench.receive(16).await, simple(22, 1), "EINVAL: behind the end");
        bench.client.resized(2 * SIZE);
        bench.send(&header(command::READ, 2, SIZE, 4096)).await;
        let (cookie, request) = bench.request().await;
        assert!(matches!(request, Request::Read { offset: SIZE, length: 4096 }), "{request:?}");
        bench.answer(cookie, Reply::Data(bench.pool.take_zeroed(4096).freeze()));
        assert_eq!(bench.receive(16 + 4096).await[..16], simple(0, 2));
        bench.client.resized(SIZE);
        bench.send(&header(command::READ, 3, SIZE, 4096)).await;
        assert_eq!(bench.receive(16).await, simple(22, 3));
    });
}
