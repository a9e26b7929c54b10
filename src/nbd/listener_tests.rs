//! Real sockets on loopback: hand-over, limits, stale files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::nbd::export::ExportInfo;

struct OneExport;

impl Directory for OneExport {
    fn list(&self) -> Vec<ExportInfo> {
        vec![ExportInfo::new("r0", 1 << 20)]
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.list().into_iter().find(|export| name.is_empty() || export.name == name)
    }
}

struct Queue(UnboundedSender<Accepted>);

impl Handover for Queue {
    fn hand_over(&self, accepted: Accepted) {
        let _ = self.0.send(accepted);
    }
}

fn serve(listener: Listener, limits: ListenerLimits) -> UnboundedReceiver<Accepted> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(listener.serve(Arc::new(OneExport), Arc::new(Queue(sender)), limits));
    receiver
}

fn loopback(allow: &[&str]) -> Listener {
    let allow = allow.iter().map(|network| network.parse().expect("a network")).collect();
    Listener::tcp("127.0.0.1:0".parse().expect("an address"), allow).expect("bound")
}

fn tcp_address(listener: &Listener) -> SocketAddr {
    let uri = listener.uri();
    uri.strip_prefix("nbd://").expect("TCP").parse().expect("an address")
}

/// EXPORT_NAME with the empty name, written by a blocking client on a thread of its own.
fn enter(mut stream: impl Read + Write) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 18])?;
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0")?;
    stream.read_exact(&mut [0; 10])
}

#[tokio::test]
async fn clients_are_handed_over_from_tcp_and_unix() {
    let directory = tempfile::tempdir().expect("directory");
    let options = UnixOptions { path: directory.path().join("r0.nbd"), mode: 0o600 };
    let unix = Listener::unix(&options).expect("bound");
    let mode = std::fs::metadata(&options.path).expect("there").mode() & 0o777;
    assert_eq!(mode, 0o600);
    let tcp = loopback(&["127.0.0.0/8"]);
    let address = tcp_address(&tcp);

    let mut from_tcp = serve(tcp, ListenerLimits::default());
    let mut from_unix = serve(unix, ListenerLimits::default());
    let path = options.path.clone();
    let client = std::thread::spawn(move || {
        enter(TcpStream::connect(address).expect("connected")).expect("entered");
        enter(UnixStream::connect(path).expect("connected")).expect("entered");
    });
    let accepted = from_tcp.recv().await.expect("handed over");
    assert!(matches!(accepted.socket, Socket::Tcp(_)) && accepted.peer.starts_with("127.0.0.1:"));
    assert_eq!(accepted.negotiated.export.name, "r0");
    let accepted = from_unix.recv().await.expect("handed over");
    assert_eq!(accepted.peer, format!("local process {}", std::process::id()));
    client.join().expect("no panic");
}

#[tokio::test]
async fn hosts_outside_the_list_are_closed() {
    let listener = loopback(&["10.0.0.0/8"]);
    let address = tcp_address(&listener);
    let _handed_over = serve(listener, ListenerLimits::default());
    let outcome = tokio::task::spawn_blocking(move || enter(TcpStream::connect(address)?)).await;
    assert!(outcome.expect("no panic").is_err());
}

#[tokio::test]
async fn idle_handshakes_do_not_keep_a_client_out() {
    let listener = loopback(&[]);
    let address = tcp_address(&listener);
    let limits = ListenerLimits { handshakes: 8, ..ListenerLimits::default() };
    let mut handed_over = serve(listener, limits);
    let client = tokio::task::spawn_blocking(move || {
        let mut idle: Vec<_> =
            (0..40).map(|_| TcpStream::connect(address).expect("connected")).collect();
        enter(TcpStream::connect(address)?)?;
        // The oldest made way: greeted, then closed.
        let mut greeting = Vec::new();
        let _ = idle[0].read_to_end(&mut greeting);
        Ok::<_, std::io::Error>(())
    });
    handed_over.recv().await.expect("handed over");
    client.await.expect("no panic").expect("served");
}

#[tokio::test]
async fn connections_over_the_limit_are_closed() {
    let listener = loopback(&[]);
    let address = tcp_address(&listener);
    let connections = Arc::new(Semaphore::new(1));
    let limits = ListenerLimits { connections, ..ListenerLimits::default() };
    let mut handed_over = serve(listener, limits);
    let connect = move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        enter(&mut stream).expect("agreed");
        stream
    };
    let first = tokio::task::spawn_blocking(connect).await.expect("no panic");
    let accepted = handed_over.recv().await.expect("handed over");
    let mut second = tokio::task::spawn_blocking(connect).await.expect("no panic");
    let end = tokio::task::spawn_blocking(move || second.read(&mut [0])).await.expect("no panic");
    assert_eq!(end.expect("closed in order"), 0);
    drop((accepted, first));
    let third = tokio::task::spawn_blocking(connect).await.expect("no panic");
    handed_over.recv().await.expect("the place is free again");
    drop(third);
}

#[tokio::test]
async fn stale_sockets_are_replaced_and_living_ones_are_not() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("r0.nbd");
    let options = UnixOptions { path: path.clone(), mode: 0o660 };
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    assert!(path.exists(), "the file outlives its server");

    let listener = Listener::unix(&options).expect("replaced");
    let error = Listener::unix(&options).expect_err("in use");
    assert!(matches!(error, ListenerError::InUse(_)), "{error}");
    assert!(path.exists() && UnixStream::connect(&path).is_ok(), "the living one is untouched");
    drop(listener);
    assert!(!path.exists(), "removed with its server");

    std::fs::write(&path, "a file").expect("written");
    let error = Listener::unix(&options).expect_err("no socket");
    assert!(matches!(error, ListenerError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"a file");
}
