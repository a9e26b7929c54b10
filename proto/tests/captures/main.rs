//! Recorded sessions of two kernel nodes (DRBD 8.4.11): every byte of every stream is part of a
//! packet that decodes, and encodes to the same bytes again. What the packets say about each other
//! is recomputed: digests of data, authentication answers, bitmap codes, sizes of epochs.

mod pcap;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use pcap::{Connection, connections};
use twinblk_proto::codec::command::*;
use twinblk_proto::codec::{
    Framing, Header, Socket, body_length, decode_body, decode_header, encode, socket_of,
};
use twinblk_proto::digest::{Algorithm, hmac};
use twinblk_proto::packet::Packet;
use twinblk_proto::run_length::{BitmapReceiver, encode_chunks};

/// The totals of all captures.
const PACKETS: usize = 33480;
const BYTES: usize = 87_110_380;

/// The shared secrets of the captures.
const SECRETS: [&str; 4] = ["s3cret-Pass", "one", "two", "x"];

/// 8 MiB disks, and 512 MiB ones in captures 25 and 26.
const BITS: u64 = 2038;
const BITS_BIG: u64 = 131_059;

#[derive(Default)]
struct Totals {
    packets: usize,
    bytes: usize,
    data_digests: usize,
    responses: usize,
    transfers: usize,
    epochs: usize,
}

#[test]
fn every_byte_of_every_capture_is_understood_and_reproduced() {
    let mut totals = Totals::default();
    let files = capture_files();
    assert_eq!(files.len(), 51);
    for file in &files {
        check_capture(file, &mut totals);
    }
    assert_eq!((totals.packets, totals.bytes), (PACKETS, BYTES));
    // Nothing was left unchecked because it was overlooked.
    let Totals { data_digests, responses, transfers, epochs, .. } = totals;
    println!("{data_digests} digests, {responses} responses, {transfers} bitmaps, {epochs} epochs");
    assert!(data_digests > 0 && responses > 0 && transfers > 0 && epochs > 0);
}

fn capture_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pcap");
    let entries = std::fs::read_dir(folder).expect("the captures are there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

fn check_capture(file: &Path, totals: &mut Totals) {
    let name = file.file_name().expect("a file").to_string_lossy();
    let bits = if name.starts_with("25") || name.starts_with("26") { BITS_BIG } else { BITS };
    let mut epochs = Epochs::default();
    for (number, connection) in connections(file).iter().enumerate() {
        let place = format!("{name} connection {number}");
        check_connection(connection, &place, bits, &mut epochs, totals);
    }
    totals.epochs += epochs.check(&name);
}

fn check_connection(
    connection: &Connection,
    place: &str,
    bits: u64,
    epochs: &mut Epochs,
    totals: &mut Totals,
) {
    let framing = agreed_framing(connection);
    let mut challenges = [const { Vec::new() }; 2];
    let mut responses = [const { Vec::new() }; 2];
    for (node, stream) in connection.streams.iter().enumerate() {
        let place = format!("{place} from node {}", ["a", "b"][node]);
        let mut bitmap = Bitmap::new(bits);
        for packet in Stream::new(stream, framing, &place, totals) {
            match &packet {
                Packet::AuthChallenge(challenge) => challenges[node] = challenge.clone(),
                Packet::AuthResponse(response) => responses[node] = response.clone(),
                Packet::Bitmap(_) | Packet::CompressedBitmap(_) => bitmap.take(packet, &place),
                _ => epochs.take(node, &packet),
            }
        }
        epochs.connection_ends(node);
        assert!(bitmap.packets.is_empty(), "{place}: an unfinished bitmap");
        totals.transfers += bitmap.transfers;
    }
    for (node, response) in responses.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        let challenge = &challenges[1 - node];
        let algorithms = Algorithm::ALL.into_iter().filter(|alg| alg.can_authenticate());
        let is_recomputed = algorithms.into_iter().any(|algorithm| {
            SECRETS.iter().any(|secret| hmac(algorithm, secret.as_bytes(), challenge) == *response)
        });
        assert!(is_recomputed, "{place}: response to the challenge");
        totals.responses += 1;
    }
}

/// What the P_CONNECTION_FEATURES of both sides make of the connection; the meta socket has none
/// of its own, but all captures are of protocol 101.
fn agreed_framing(connection: &Connection) -> Framing {
    let offers = connection.streams.iter().filter_map(|stream| {
        let mut rest = &stream[..];
        while let Ok(Some((header, start))) = decode_header(rest, None) {
            let body = rest.get(start..start + header.length as usize)?;
            let decoded = decode_body(&header, body, &Framing::default()).ok()?;
            if let Packet::ConnectionFeatures(offer) = decoded.packet {
                return Some(offer);
            }
            rest = &rest[start + body.len()..];
        }
        None
    });
    let common = Framing { version: 101, features: u32::MAX, ..Framing::default() };
    offers.fold(common, |agreed, offer| Framing {
        version: agreed.version.min(offer.version_max),
        features: agreed.features & offer.features,
        ..agreed
    })
}

/// The packets that one node sent over one connection.
struct Stream<'a> {
    rest: &'a [u8],
    framing: Framing,
    place: &'a str,
    totals: &'a mut Totals,
    socket: Option<Socket>,
    before_features: bool,
    integrity: Option<Algorithm>,
}

impl<'a> Stream<'a> {
    fn new(stream: &'a [u8], framing: Framing, place: &'a str, totals: &'a mut Totals) -> Self {
        totals.bytes += stream.len();
        let before_features = true;
        Self {
            rest: stream,
            framing,
            place,
            totals,
            socket: None,
            before_features,
            integrity: None,
        }
    }

    /// The packet's own header form: h80 until the features, h100 after them. The side that
    /// accepted the meta socket sends nothing before its first h100.
    fn header(&mut self) -> (Header, usize) {
        if self.before_features {
            if let Ok(Some(found)) = decode_header(self.rest, None) {
                self.before_features = found.0.command != P_CONNECTION_FEATURES;
                return found;
            }
            self.before_features = false;
        }
        let header = decode_header(self.rest, Some(self.framing.version));
        header.unwrap_or_else(|error| panic!("{}: {error}", self.place)).expect("a whole header")
    }

    /// What later packets of the stream depend on.
    fn learn(&mut self, packet: &Packet) {
        let length = |name: &str| Algorithm::from_name(name).map_or(0, Algorithm::length);
        match packet {
            Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => {
                self.integrity = Algorithm::from_name(&settings.integrity_alg);
                assert_eq!(self.integrity.is_none(), settings.integrity_alg.is_empty());
                self.framing.integrity_bytes = length(&settings.integrity_alg);
            }
            Packet::SyncParam(param) => {
                self.framing.csums_bytes = length(&param.csums_alg);
                self.framing.verify_bytes = length(&param.verify_alg);
            }
            _ => {}
        }
    }
}

impl Iterator for Stream<'_> {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        if self.rest.is_empty() {
            return None;
        }
        let place = self.place;
        let (header, start) = self.header();
        let lengths =
            body_length(&header, &self.framing).unwrap_or_else(|error| panic!("{place}: {error}"));
        let (head, rest) = self.rest.split_at(start + lengths.fixed);
        let (bulk, rest) = rest.split_at(lengths.bulk);
        let decoded = decode_body(&header, &head[start..], &self.framing)
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        let digest = decoded.digest.unwrap_or_default();

        let mut again = Vec::new();
        encode(&decoded.packet, header.volume, &self.framing, bulk.len(), &digest, &mut again);
        assert_eq!(
            again,
            without_padding(header.command, start, head),
            "{place}: {decoded:?}",
            decoded = decoded.packet
        );

        if let Some(algorithm) = self.integrity.filter(|_| !bulk.is_empty()) {
            assert_eq!(digest, algorithm.digest(bulk), "{place}: digest of the data");
            self.totals.data_digests += 1;
        }
        match (self.socket, socket_of(header.command)) {
            (None, socket) => self.socket = socket,
            (known, socket) => assert_eq!(socket, known, "{place}: {:?}", decoded.packet),
        }
        self.learn(&decoded.packet);
        self.rest = rest;
        self.totals.packets += 1;
        Some(decoded.packet)
    }
}

/// The kernel leaves in the padding of these packets what its send buffer held (wire.md 6.1, 6.4):
/// arbitrary bytes that say nothing and cannot be reproduced, so they are taken out.
fn without_padding(command: u16, start: usize, head: &[u8]) -> Vec<u8> {
    let mut bytes = head.to_vec();
    let padding = match command {
        P_DATA_REQUEST | P_RS_DATA_REQUEST | P_RS_THIN_REQ | P_OV_REQUEST | P_OV_REPLY
        | P_CSUM_RS_REQUEST => 20..24,
        P_OUT_OF_SYNC | P_RS_DEALLOCATED => 12..16,
        _ => 0..0,
    };
    bytes[start..][padding].fill(0);
    bytes
}

/// The bitmap transfers of one stream: the bitmap that they carry is encoded into the same packets.
struct Bitmap {
    bits: u64,
    words: Vec<u64>,
    receiver: BitmapReceiver,
    packets: Vec<Packet>,
    transfers: usize,
}

impl Bitmap {
    fn new(bits: u64) -> Self {
        Self {
            bits,
            words: vec![0; bits.div_ceil(64) as usize],
            receiver: BitmapReceiver::new(bits, chunk_limit()),
            packets: Vec::new(),
            transfers: 0,
        }
    }

    fn take(&mut self, packet: Packet, place: &str) {
        let complete = self.receiver.receive(&packet, &mut self.words);
        self.packets.push(packet);
        if complete.unwrap_or_else(|error| panic!("{place}: {error}")) {
            let use_rle = matches!(self.packets[0], Packet::CompressedBitmap(_));
            let again = encode_chunks(&self.words, self.bits, use_rle, chunk_limit());
            assert!(again == self.packets, "{place}: the bitmap is encoded differently");
            *self = Self { transfers: self.transfers + 1, ..Self::new(self.bits) };
        }
    }
}

fn chunk_limit() -> usize {
    Framing { version: 101, ..Framing::default() }.bitmap_chunk_limit()
}

/// Matches each P_BARRIER_ACK with the P_BARRIER of that handle, and its count with the number of
/// writes in the epoch (wire.md 5.4). The two travel on different sockets.
#[derive(Default)]
struct Epochs {
    open_writes: [u32; 2],
    closed: HashMap<(usize, u32), VecDeque<u32>>,
    acknowledged: Vec<(usize, u32, u32)>,
}

impl Epochs {
    fn take(&mut self, node: usize, packet: &Packet) {
        match *packet {
            Packet::Data(_) | Packet::Trim(_) | Packet::Zeroes(_) | Packet::WriteSame(_) => {
                self.open_writes[node] += 1;
            }
            Packet::Barrier { handle } => {
                let writes = std::mem::take(&mut self.open_writes[node]);
                self.closed.entry((node, handle)).or_default().push_back(writes);
            }
            Packet::BarrierAck { handle, writes } => {
                self.acknowledged.push((1 - node, handle, writes));
            }
            _ => {}
        }
    }

    fn connection_ends(&mut self, node: usize) {
        self.open_writes[node] = 0;
    }

    /// How many were checked.
    fn check(mut self, name: &str) -> usize {
        for &(node, handle, writes) in &self.acknowledged {
            let closed = self.closed.get_mut(&(node, handle)).and_then(VecDeque::pop_front);
            assert_eq!(closed, Some(writes), "{name}: epoch {handle:08x} of node {node}");
        }
        self.acknowledged.len()
    }
}
