//! A lane between a test that is the kernel and a test that is the server.

use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::nbd::export::{Directory, ExportInfo};
use crate::nbd::negotiation::{self, negotiate};

const SIZE: u64 = 1 << 20;
const SILENCE: Duration = Duration::from_millis(200);

/// What the server exports at the moment.
struct Shelf(Option<ExportInfo>);

impl Directory for Shelf {
    fn list(&self) -> Vec<ExportInfo> {
        self.0.iter().cloned().collect()
    }

    fn find(&self, _: &str) -> Option<ExportInfo> {
        self.0.clone()
    }
}

fn export() -> ExportInfo {
    ExportInfo::new("r0", SIZE)
}

struct Bench {
    listener: TcpListener,
    lanes: Rc<Lanes>,
    kernel: UnixStream,
}

fn run(dead: Duration, test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let whole = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let target = format!("nbd://127.0.0.1:{port}/r0").parse().expect("a URI");
        let known = Offer {
            size_bytes: SIZE,
            flags: export().transmission_flags(false),
            minimum_block_bytes: 512,
        };
        let lanes = Rc::new(Lanes::new(target, Limits { silence: SILENCE, dead }, known));
        let (near, kernel) = PlainUnixStream::pair().expect("a pair");
        kernel.set_nonblocking(true).expect("an option");
        let kernel = UnixStream::from_std(kernel).expect("registered");
        let shared = lanes.clone();
        tokio::task::spawn_local(async move { serve(&shared, near).await });
        timeout(Duration::from_secs(30), test(Bench { listener, lanes, kernel })).await
    };
    LocalSet::new().block_on(&runtime, whole).expect("not stuck");
}

impl Bench {
    /// The next connection that gets the export.
    async fn accept(&mut self) -> TcpStream {
        self.accept_with(export()).await.expect("served")
    }

    async fn accept_with(&mut self, export: ExportInfo) -> Option<TcpStream> {
        loop {
            let (mut stream, _) = self.listener.accept().await.expect("a client");
            let limits = negotiation::Limits::default();
            match negotiate(&mut stream, &Shelf(Some(export.clone())), &limits).await {
                Ok(Some(_)) => return Some(stream),
                _ if export.serving.is_err() => return None,
                // An attempt that came too late.
                _ => {}
            }
        }
    }

    async fn ask(&mut self, command: u16, handle: u64, length: u32, payload: &[u8]) {
        let request = head(command, handle, length);
        self.kernel.write_all(&[&request[..], payload].concat()).await.expect("sent");
    }

    async fn answer(&mut self, length: usize) -> (u32, u64, Vec<u8>) {
        let mut head = [0; SIMPLE_REPLY_BYTES];
        self.kernel.read_exact(&mut head).await.expect("an answer");
        let mut data = vec![0; length];
        self.kernel.read_exact(&mut data).await.expect("data");
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four"));
        (error, u64::from_be_bytes(head[8..].try_into().expect("eight")), data)
    }
}

fn head(command: u16, handle: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(handle.to_be_bytes());
    bytes.extend(4096_u64.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// The next request that is no sign of life, at the server: command, number, length, payload. Signs
/// of life are answered on the way.
async fn next(far: &mut TcpStream) -> (u16, u64, u32, Vec<u8>) {
    loop {
        let mut head = [0; REQUEST_BYTES];
        far.read_exact(&mut head).await.expect("a request");
        let command = u16::from_be_bytes([head[6], head[7]]);
        let number = u64::from_be_bytes(head[8..16].try_into().expect("eight"));
        let length = u32::from_be_bytes(head[24..].try_into().expect("four"));
        if number == LIFE {
            answer(far, number, 0, &[]).await;
            continue;
        }
        let mut payload = vec![0; if command == command::WRITE { length as usize } else { 0 }];
        far.read_exact(&mut payload).await.expect("a payload");
        return (command, number, length, payload);
    }
}

async fn answer(far: &mut TcpStream, number: u64, error: u32, data: &[u8]) {
    let mut bytes = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(error.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend(data);
    far.write_all(&bytes).await.expect("sent");
}

#[test]
fn what_was_open_is_repeated_in_order_and_answered_once() {
    run(Duration::from_secs(60), async |mut bench| {
        let mut first = bench.accept().await;
        bench.ask(command::WRITE, 70, 512, &[7; 512]).await;
        bench.ask(command::READ, 80, 1024, &[]).await;
        bench.ask(command::FLUSH, 90, 0, &[]).await;
        let (_, number, ..) = next(&mut first).await;
        next(&mut first).await;
        let (_, flush, ..) = next(&mut first).await;
        answer(&mut first, flush, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (0, 90, vec![]));
        drop(first);
        let mut second = bench.accept().await;
        let write = next(&mut second).await;
        assert_eq!(write, (command::WRITE, number, 512, vec![7; 512]));
        let (command, read, length, _) = next(&mut second).await;
        assert_eq!((command, length), (command::READ, 1024));
        answer(&mut second, read, 0, &[8; 1024]).await;
        answer(&mut second, write.1, 28, &[]).await;
        assert_eq!(bench.answer(1024).await, (0, 80, vec![8; 1024]));
        assert_eq!(bench.answer(0).await, (28, 70, vec![]), "an error of the request is passed on");
    });
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    run(Duration::from_secs(60), async |mut bench| {
        let first = bench.accept().await;
        bench.ask(command::FLUSH, 1, 0, &[]).await;
        let begun = Instant::now();
        let mut second = bench.accept().await;
        let (_, number, ..) = next(&mut second).await;
        assert!(begun.elapsed() < SILENCE * 5, "{:?}", begun.elapsed());
        answer(&mut second, number, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (0, 1, vec![]));
        drop(first);
    });
}

/// Slow is not silent: frozen I/O takes as long as it takes.
#[test]
fn a_server_that_is_slow_is_waited_for() {
    run(Duration::from_secs(60), async |mut bench| {
        let mut far = bench.accept().await;
        bench.ask(command::FLUSH, 1, 0, &[]).await;
        let (_, number, ..) = next(&mut far).await;
        // Signs of life are answered, the request is not.
        let nothing = timeout(SILENCE * 5, next(&mut far)).await;
        assert!(nothing.is_err(), "{nothing:?}");
        answer(&mut far, number, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (0, 1, vec![]));
    });
}

#[test]
fn a_server_that_does_not_serve_is_not_listened_to() {
    run(Duration::from_secs(60), async |mut bench| {
        let mut first = bench.accept().await;
        bench.ask(command::FLUSH, 1, 0, &[]).await;
        let (_, number, ..) = next(&mut first).await;
        answer(&mut first, number, Errno::ShutDown.code(), &[]).await;
        let secondary = ExportInfo { serving: Err("secondary".to_owned()), ..export() };
        assert!(bench.accept_with(secondary).await.is_none());
        let smaller = ExportInfo { size_bytes: SIZE / 2, ..export() };
        let mut other = bench.accept_with(smaller).await.expect("negotiated");
        let nothing = other.read(&mut [0]).await;
        assert!(
            matches!(nothing, Ok(0) | Err(_)),
            "nothing is asked of a smaller one: {nothing:?}"
        );
        let larger = ExportInfo { size_bytes: SIZE * 2, ..export() };
        let mut second = bench.accept_with(larger).await.expect("negotiated");
        let (_, number, ..) = next(&mut second).await;
        answer(&mut second, number, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (0, 1, vec![]));
        assert_eq!(bench.lanes.grown().await, SIZE * 2);
    });
}

#[test]
fn requests_fail_when_there_is_no_server_for_too_long() {
    run(Duration::from_millis(300), async |mut bench| {
        let mut first = bench.accept().await;
        bench.ask(command::FLUSH, 1, 0, &[]).await;
        let (_, number, ..) = next(&mut first).await;
        answer(&mut first, number, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (0, 1, vec![]));
        drop(first);
        bench.ask(command::FLUSH, 2, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (5, 2, vec![]), "EIO");
        bench.ask(command::FLUSH, 3, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (5, 3, vec![]), "at once");
        let mut second = bench.accept().await;
        // The lane knows it, too: it asks for a sign of life.
        second.peek(&mut [0]).await.expect("open");
        bench.ask(command::FLUSH, 4, 0, &[]).await;
        let (_, number, ..) = next(&mut second).await;
        answer(&mut second, number, 0, &[]).await;
        assert_eq!(bench.answer(0).await, (0, 4, vec![]), "there is a server again");
    });
}

#[test]
fn a_goodbye_is_passed_on() {
    run(Duration::from_secs(60), async |mut bench| {
        let mut far = bench.accept().await;
        bench.ask(command::DISCONNECT, 0, 0, &[]).await;
        let (command, ..) = next(&mut far).await;
        assert_eq!(command, command::DISCONNECT);
        assert_eq!(far.read(&mut [0]).await.expect("closed in order"), 0);
    });
}
