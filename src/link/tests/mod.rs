//! The link over loopback: real sockets, this process on both ends. Every test has its own
//! addresses, small limits, and waits for events; a stuck one is stopped by [`run`].

mod authentication;
mod connecting;
mod flow;
mod limits;
mod packets;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use twinblk_proto::codec::{self, Framing};
use twinblk_proto::packet::{
    BlockId, ConnectionFeatures, Packet, ProtocolSettings, ReplicationProtocol, SplitBrainPolicy,
    Write,
};
use twinblk_proto::units::SectorRange;

use super::{
    Established, HandshakeFailure, LinkEvent, LinkSettings, LossCause, Random, Session,
    SystemRandom, establish,
};
use crate::buffer::{BufferPool, Payload};

/// Longer than any test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const VERSION: u32 = 101;
const FEATURES: u32 = 0xF;
/// What a node offers: DRBD's, and the sign by which twinblk nodes know each other.
const OFFERED: u32 = FEATURES | twinblk_proto::packet::features::TWINBLK;

/// Runs a test on one thread, as a resource runs.
fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, test).await.expect("the test came to an end");
    });
}

/// Two addresses on loopback that no other test uses, in this process or in another.
fn addresses() -> (SocketAddr, SocketAddr) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = (std::process::id() % 200 + 20) as u8;
    let port = 7788 + (std::process::id() / 200 % 1000) as u16;
    let third = n[1];
    let first = SocketAddr::from(([127, process, third, 2 * n[0] + 1], port));
    let second = SocketAddr::from(([127, process, third, 2 * n[0] + 2], port));
    (first, second)
}

/// Quick limits: a handshake packet has 1 s.
fn settings(local: SocketAddr, peer: SocketAddr) -> LinkSettings {
    LinkSettings {
        connect_interval: Duration::from_millis(60),
        ping_timeout: Duration::from_millis(250),
        socket_check: Duration::from_millis(10),
        retry_delay: Duration::from_millis(10),
        send_timeout: Duration::from_secs(5),
        ..LinkSettings::new(local, peer)
    }
}

fn two_settings() -> (LinkSettings, LinkSettings) {
    let (first, second) = addresses();
    (settings(first, second), settings(second, first))
}

/// A random source with a fixed challenge, whose coins always fall the same way.
struct Scripted {
    challenge: Vec<u8>,
    coin: bool,
}

impl Random for Scripted {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.challenge[..bytes.len()]);
    }

    fn coin(&mut self) -> bool {
        self.coin
    }
}

/// Both ends of a fresh TCP connection.
async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(addresses().0).await.expect("listen on loopback");
    let address = listener.local_addr().expect("bound");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (dialled, (accepted, _)) = (dialled.expect("connect"), accepted.expect("accept"));
    dialled.set_nodelay(true).expect("option");
    accepted.set_nodelay(true).expect("option");
    (dialled, accepted)
}

/// A session with what it reports.
struct Node {
    session: Session,
    events: UnboundedReceiver<LinkEvent>,
}

impl Node {
    fn start(established: Established, settings: &LinkSettings) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let session = Session::start(established, settings, BufferPool::default(), sender);
        Self { session, events }
    }

    async fn next(&mut self) -> LinkEvent {
        self.events.recv().await.expect("the reader lives")
    }

    async fn packet(&mut self) -> (Packet, Option<Payload>) {
        match self.next().await {
            LinkEvent::Packet { packet, payload } => (packet, payload),
            LinkEvent::Lost(cause) => panic!("lost: {cause:?}"),
        }
    }

    /// The end, whatever packets come before it.
    async fn lost(&mut self) -> LossCause {
        loop {
            if let LinkEvent::Lost(cause) = self.next().await {
                return cause;
            }
        }
    }
}

/// The other end of a session as bare sockets: says what no session would say.
struct Bare {
    data: TcpStream,
    meta: TcpStream,
}

/// A session and a bare peer, as after a handshake.
async fn node_and_bare(settings: &LinkSettings) -> (Node, Bare) {
    let (data, bare_data) = socket_pair().await;
    let (meta, bare_meta) = socket_pair().await;
    let established =
        Established { data, meta, version: VERSION, features: FEATURES, resolve: false };
    (Node::start(established, settings), Bare { data: bare_data, meta: bare_meta })
}

/// Two sessions that talk to each other.
async fn two_nodes(first: &LinkSettings, second: &LinkSettings) -> (Node, Node) {
    let (node, bare) = node_and_bare(first).await;
    let Bare { data, meta } = bare;
    let established =
        Established { data, meta, version: VERSION, features: FEATURES, resolve: true };
    (node, Node::start(established, second))
}

fn framing() -> Framing {
    Framing { version: VERSION, features: FEATURES, ..Framing::default() }
}

/// A packet as it is on the wire after the handshake, with a digest and data.
fn bytes_with(packet: &Packet, digest: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let framing = Framing { integrity_bytes: digest.len(), ..framing() };
    codec::encode(packet, 0, &framing, data.len(), digest, &mut bytes);
    bytes.extend_from_slice(data);
    bytes
}

fn bytes_of(packet: &Packet) -> Vec<u8> {
    bytes_with(packet, &[], &[])
}

/// A packet as it is on the wire before the features are agreed.
fn first_bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(packet, 0, &Framing::default(), 0, &[], &mut bytes);
    bytes
}

fn features_packet() -> Packet {
    Packet::ConnectionFeatures(ConnectionFeatures {
        version_min: 86,
        features: OFFERED,
        version_max: VERSION,
    })
}

/// A write of `data` at sector 8 x `number`; the number is its block id too.
fn write(number: u64, data: &[u8]) -> Packet {
    let range = SectorRange::from_bytes(number * 4096, data.len() as u64).expect("whole sectors");
    Packet::Data(Write { range, id: BlockId(number), sequence: number as u32, flags: 0 })
}

fn protocol_packet(integrity_alg: &str) -> Packet {
    Packet::Protocol(ProtocolSettings {
        protocol: ReplicationProtocol::C,
        after_sb_0pri: SplitBrainPolicy::Disconnect,
        after_sb_1pri: SplitBrainPolicy::Disconnect,
        after_sb_2pri: SplitBrainPolicy::Disconnect,
        discard_my_data: false,
        dry_run: false,
        two_primaries: false,
        integrity_alg: integrity_alg.to_owned(),
    })
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u64).wrapping_mul(0x9E37).wrapping_add(seed * 31) as u8).collect()
}

fn payload(data: &[u8]) -> Payload {
    let mut buffer = BufferPool::default().take(data.len());
    buffer.copy_from_slice(data);
    buffer.freeze()
}

async fn read_bytes(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.expect("the peer sends it");
    bytes
}

async fn expect_bytes(stream: &mut TcpStream, expected: &[u8]) {
    assert_eq!(read_bytes(stream, expected.len()).await, expected);
}

/// Reads and drops until the other side has closed.
async fn expect_end(stream: &mut TcpStream) {
    let mut sink = [0; 4096];
    while !matches!(stream.read(&mut sink).await, Ok(0) | Err(_)) {}
}

/// Dials a node under test from its peer's address, as a kernel peer does.
async fn dial_as_peer(settings: &LinkSettings, first: &Packet) -> TcpStream {
    let mut stream = loop {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.bind(SocketAddr::new(settings.peer.ip(), 0)).expect("bind");
        match socket.connect(settings.local).await {
            Ok(stream) => break stream,
            // Not listening yet.
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stream.set_nodelay(true).expect("option");
    stream.write_all(&first_bytes_of(first)).await.expect("the node reads");
    stream
}

/// A peer that nobody can dial: opens both sockets itself.
async fn bare_peer(settings: &LinkSettings) -> Bare {
    let data = dial_as_peer(settings, &Packet::InitialData).await;
    let meta = dial_as_peer(settings, &Packet::InitialMeta).await;
    Bare { data, meta }
}

/// Exchanges the features as a well-behaved peer.
async fn exchange_features(bare: &mut Bare) {
    bare.data.write_all(&first_bytes_of(&features_packet())).await.expect("the node reads");
    expect_bytes(&mut bare.data, &first_bytes_of(&features_packet())).await;
}
