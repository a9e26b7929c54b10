//! Health checks against servers of this process, good ones and hostile ones. Each test waits for
//! reports.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::http::{BodyDigest, HttpProtocol};
use super::pool::Change;
use super::*;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(10);

const UP: Change = Change::Server { server: 0, is_up: true };
const DOWN: Change = Change::Server { server: 0, is_up: false };
const GAINED: Change = Change::Quorum { is_gained: true, threshold: 1, weight: 1 };
const LOST: Change = Change::Quorum { is_gained: false, threshold: 1, weight: 0 };

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn target(address: SocketAddr) -> Target {
    Target { address, source: None, connect_timeout: Duration::from_millis(500) }
}

fn checker(check: Check) -> Checker {
    Checker {
        check,
        delay_loop: SHORT,
        retry: 1,
        delay_before_retry: SHORT,
        warmup: Duration::ZERO,
        begins_down: true,
        logs_all_failures: false,
    }
}

/// One real server with one checker, and a program for everything that happens.
fn server(address: SocketAddr, checker: Checker) -> VirtualServer {
    let service = Service::Address { address, protocol: Protocol::Tcp };
    let real = RealServer {
        service: service.clone(),
        weight: 1,
        checkers: vec![checker],
        notify_up: Some(Program::shell("up")),
        notify_down: Some(Program::shell("down")),
    };
    VirtualServer {
        service,
        quorum: 1,
        hysteresis: 0,
        quorum_up: Some(Program::shell("gained")),
        quorum_down: Some(Program::shell("lost")),
        is_omega: false,
        real_servers: vec![real],
    }
}

fn start(server: VirtualServer) -> Watch {
    Watch::start(Plan { trackers: Vec::new(), servers: vec![server] })
}

/// The change, its reason, and the program to run.
fn parts(report: Report) -> (Change, String, String) {
    let Report::Server { server: 0, change, reason, run } = report else {
        panic!("{report:?}");
    };
    let run = run.map(|program| match program.invocation {
        crate::program::Invocation::Shell(text) => text,
        other => panic!("{other:?}"),
    });
    (change, reason, run.unwrap_or_default())
}

async fn next(watch: &mut Watch) -> (Change, String, String) {
    let report = timeout(LONG, watch.reports.recv()).await.expect("a report in time");
    parts(report.expect("watchers at work"))
}

async fn expect(watch: &mut Watch, expected: &[(Change, &str)]) {
    for (change, program) in expected {
        let (found, reason, run) = next(watch).await;
        assert_eq!((found, run.as_str()), (*change, *program), "{reason}");
    }
}

/// Answers each connection with what `answer` does. Aborted, it listens no more.
fn serve<F>(
    listener: TcpListener,
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    })
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Reads a request, then writes `bytes` and closes.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
        request.push(byte[0]);
    }
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    request
}

#[test]
fn a_port_that_opens_and_closes() {
    on_runtime(async {
        let (listener, address) = listener().await;
        let serving = serve(listener, |_| async {});
        let mut watch = start(server(address, checker(Check::Tcp(target(address)))));
        expect(&mut watch, &[(UP, "up"), (GAINED, "gained")]).await;
        serving.abort();
        let (change, reason, run) = next(&mut watch).await;
        assert_eq!((change, run.as_str()), (DOWN, "down"));
        let begin = format!("TCP connection to [127.0.0.1]:tcp:{} failed: ", address.port());
        assert!(reason.starts_with(&begin), "{reason}");
        expect(&mut watch, &[(LOST, "lost")]).await;
        let listener = TcpListener::bind(address).await.expect("the port is free again");
        let _serving = serve(listener, |_| async {});
        expect(&mut watch, &[(UP, "up"), (GAINED, "gained")]).await;
        assert!(watch.stop().await.is_empty());
    });
}

/// vrrp.md 2.4: up to `delay_loop`, then `retry` times `delay_before_retry`.
#[test]
fn a_server_that_counts_as_up_is_given_its_retries() {
    on_runtime(async {
        let (listener, address) = listener().await;
        drop(listener);
        let mut checker = checker(Check::Tcp(target(address)));
        checker.begins_down = false;
        checker.retry = 3;
        checker.delay_before_retry = Duration::from_millis(50);
        let begin = Instant::now();
        let mut watch = start(server(address, checker));
        expect(&mut watch, &[(GAINED, "gained"), (DOWN, "down"), (LOST, "lost")]).await;
        assert!(begin.elapsed() >= Duration::from_millis(150), "{:?}", begin.elapsed());
        watch.stop().await;
    });
}

#[test]
fn the_source_of_a_check_can_be_chosen() {
    on_runtime(async {
        let (listener, address) = listener().await;
        let (peers, mut seen) = mpsc::unbounded_channel();
        let _serving = serve(listener, move |stream| {
            let _ = peers.send(stream.peer_addr().map(|peer| peer.ip()));
            async {}
        });
        let mut target = target(address);
        target.source = Some("127.7.7.7:0".parse().expect("an address"));
        let watch = start(server(address, checker(Check::Tcp(target))));
        let peer = timeout(LONG, seen.recv()).await.expect("in time").expect("a connection");
        assert_eq!(peer.expect("it has an address").to_string(), "127.7.7.7");
        watch.stop().await;
    });
}

#[test]
fn omega_tells_at_the_end_what_goes_down() {
    on_runtime(async {
        let (listener, address) = listener().await;
        let _serving = serve(listener, |_| async {});
        let mut server = server(address, checker(Check::Tcp(target(address))));
        server.is_omega = true;
        let mut watch = start(server);
        expect(&mut watch, &[(UP, "up"), (GAINED, "gained")]).await;
        let last: Vec<_> = watch.stop().await.into_iter().map(parts).collect();
        let last: Vec<_> = last.iter().map(|(change, _, run)| (*change, run.as_str())).collect();
        assert_eq!(last, [(DOWN, "down"), (LOST, "lost")]);
    });
}

fn get(address: SocketAddr) -> GetCheck {
    let url = Url {
        path: "/health".to_owned(),
        virtual_host: None,
        status_codes: Vec::new(),
        digest: None,
    };
    let protocol = HttpProtocol::V1_0;
    GetCheck {
        target: target(address),
        is_tls: false,
        sends_name: false,
        protocol,
        urls: vec![url],
    }
}

/// One look at a server that gives this answer.
async fn look(bytes: &'static [u8], change: impl FnOnce(&mut GetCheck)) -> Result<(), String> {
    let (listener, address) = listener().await;
    let serving = serve(listener, move |stream| async move {
        answer(stream, bytes).await;
    });
    let mut check = get(address);
    change(&mut check);
    let looked = check.look().await.map_err(|error| error.to_string());
    serving.abort();
    let port = format!("[127.0.0.1]:tcp:{}", address.port());
    looked.map_err(|text| text.replace(&port, "S"))
}

#[test]
fn status_codes_and_digests() {
    const OK: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nabc";
    const MOVED: &[u8] = b"HTTP/1.0 301 Moved\r\n\r\n";
    let abc = BodyDigest::from_text("900150983cd24fb0d6963f7d28e17f72");
    on_runtime(async {
        assert_eq!(look(OK, |_| {}).await, Ok(()));
        assert_eq!(look(OK, |check| check.urls[0].digest = abc).await, Ok(()));
        let text = "HTTP status code error to S url(/health), status_code (301).".to_owned();
        assert_eq!(look(MOVED, |_| {}).await, Err(text));
        let codes = vec![200..=200, 300..=303];
        assert_eq!(look(MOVED, |check| check.urls[0].status_codes = codes).await, Ok(()));
        let digest = BodyDigest::from_text(&"0".repeat(32));
        let text = "MD5 digest error to S url[/health], MD5SUM [900150983cd24fb0d6963f7d28e17f72].";
        let found = look(OK, |check| check.urls[0].digest = digest).await;
        assert_eq!(found, Err(text.to_owned()));
        let second = |check: &mut GetCheck| {
            let second = Url { status_codes: vec![204..=204], ..check.urls[0].clone() };
            check.urls.push(second);
        };
        assert!(look(OK, second).await.is_err(), "the second url is looked at as well");
        let text = "Read error with server S: the answer is not HTTP.".to_owned();
        assert_eq!(look(b"220 mail.example.com ESMTP\r\n", |_| {}).await, Err(text));
    });
}

#[test]
fn the_host_is_the_address_or_the_virtual_one() {
    on_runtime(async {
        let (listener, address) = listener().await;
        let (requests, mut seen) = mpsc::unbounded_channel();
        let _serving = serve(listener, move |stream| {
            let requests = requests.clone();
            async move {
                let _ = requests.send(answer(stream, b"HTTP/1.0 200 OK\r\n\r\n").await);
            }
        });
        let mut check = get(address);
        check
            .urls
            .push(Url { virtual_host: Some("www.example.com".into()), ..check.urls[0].clone() });
        check.look().await.expect("good answers");
        for host in [address.to_string(), "www.example.com".to_owned()] {
            let request = String::from_utf8(seen.recv().await.expect("asked")).expect("text");
            let line = format!("\r\nHost: {host}\r\n");
            assert!(request.contains(&line), "{request}");
        }
    });
}

/// Whatever a server sends, and however slowly: the look ends, with an error.
#[test]
fn hostile_answers_are_bounded() {
    let digest = BodyDigest::from_text(&"0".repeat(32));
    on_runtime(async {
        for (name, begin, piece, pause, expected) in [
            (
                "endless body",
                "HTTP/1.0 200 OK\r\n\r\n",
                "x".repeat(64 << 10),
                0,
                "more than 16777216",
            ),
            (
                "endless header",
                "HTTP/1.0 200 OK\r\n",
                "X: y\r\n".repeat(1000),
                0,
                "more than 32768",
            ),
            ("endless line", "", "HTTP/1.0 ".repeat(1000), 0, "more than 32768"),
            ("slow drip", "HTTP/1.0 200 OK\r\n", "X".to_owned(), 20, "takes more than"),
            ("silence", "HTTP/1.0 200 OK\r\n", String::new(), 5000, "Timeout HTTP read server"),
        ] {
            let (listener, address) = listener().await;
            let serving = serve(listener, move |mut stream| {
                let piece = piece.clone();
                async move {
                    let _ = stream.write_all(begin.as_bytes()).await;
                    while stream.write_all(piece.as_bytes()).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                }
            });
            let mut check = get(address);
            check.target.connect_timeout =
                Duration::from_millis(if pause > 0 { 100 } else { 10_000 });
            check.urls[0].digest = digest;
            let looked = timeout(LONG, check.look()).await.expect(name);
            let error = looked.expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
            serving.abort();
        }
    });
}

fn acceptor() -> TlsAcceptor {
    let certificate =
        CertificateDer::from(&include_bytes!("../../tests/data/tls/certificate.der")[..]);
    let key = &include_bytes!("../../tests/data/tls/key.der")[..];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}

#[test]
fn tls_with_any_certificate_and_a_name_when_wished() {
    on_runtime(async {
        let (listener, address) = listener().await;
        let (names, mut seen) = mpsc::unbounded_channel();
        let acceptor = acceptor();
        let _serving = serve(listener, move |stream| {
            let (acceptor, names) = (acceptor.clone(), names.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ = names.send(stream.get_ref().1.server_name().map(str::to_owned));
                answer(stream, b"HTTP/1.0 200 OK\r\n\r\nabc").await;
            }
        });
        let mut check = get(address);
        check.is_tls = true;
        check.target.connect_timeout = LONG;
        check.urls[0].digest = BodyDigest::from_text("900150983cd24fb0d6963f7d28e17f72");
        check.urls[0].virtual_host = Some("www.example.com:443".to_owned());
        check.look().await.expect("self-made, for another name");
        assert_eq!(seen.recv().await, Some(None));
        check.sends_name = true;
        check.look().await.expect("as before");
        assert_eq!(seen.recv().await, Some(Some("www.example.com".to_owned())));
        // Without the cover it is no HTTP.
        check.is_tls = false;
        assert!(check.look().await.is_err());
        let (plain, address) = super::server_tests::listener().await;
        let _serving = serve(plain, |stream| async {
            answer(stream, b"HTTP/1.0 200 OK\r\n\r\n").await;
        });
        check.target.address = address;
        check.target.connect_timeout = Duration::from_millis(300);
        check.is_tls = true;
        assert!(check.look().await.is_err());
    });
}

#[test]
fn a_program_decides_and_may_set_the_weight() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = folder.path().join("code");
    let text = format!("exit \"$(cat '{}')\"", code.display());
    // In one piece: half of it would be another code.
    let set_code = |number: &str| {
        let new = folder.path().join("new");
        fs::write(&new, number).expect("written");
        fs::rename(&new, &code).expect("replaced");
    };
    let address = "192.0.2.1:3306".parse().expect("an address");
    on_runtime(async {
        let misc = |is_dynamic| {
            let program = Program::shell(&text).with_limit(LONG);
            checker(Check::Misc(MiscCheck { program, path: "/check.sh".to_owned(), is_dynamic }))
        };
        set_code("0");
        let dynamic = misc(true);
        let mut watch = start(server(address, dynamic));
        expect(&mut watch, &[(UP, "up"), (GAINED, "gained")]).await;
        set_code("12");
        expect(&mut watch, &[(Change::Weight { server: 0, weight: 10 }, "")]).await;
        set_code("1");
        let (change, reason, _) = next(&mut watch).await;
        assert_eq!(change, DOWN);
        let said =
            "Misc check to [192.0.2.1]:tcp:3306 for [/check.sh] failed (exited with status 1)";
        assert!(reason.starts_with(said), "{reason}");
        watch.stop().await;

        set_code("12");
        let mut plain = misc(false);
        plain.begins_down = false;
        let mut watch = start(server(address, plain));
        expect(&mut watch, &[(GAINED, "gained"), (DOWN, "down"), (LOST, "lost")]).await;
        watch.stop().await;
    });
}
