//! The TCP streams of a capture: a pcap file with Ethernet framing, compressed by gzip.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
const ETHERNET_BYTES: usize = 14;
const MAGIC_LITTLE_ENDIAN: [u8; 4] = [0xD4, 0xC3, 0xB2, 0xA1];
const LINK_TYPE_ETHERNET: u32 = 1;
const PROTOCOL_TCP: u8 = 6;
const FLAG_SYN: u8 = 2;
/// Node a; the other address, 127.0.0.2, is node b.
const NODE_A: [u8; 4] = [127, 0, 0, 1];

/// One TCP connection: what node a and node b sent over it.
pub(crate) struct Connection {
    pub(crate) streams: [Vec<u8>; 2],
}

type Endpoint = ([u8; 4], u16);

#[derive(Default)]
struct Direction {
    first_sequence: Option<u32>,
    segments: Vec<(u32, Vec<u8>)>,
}

/// The connections of a capture, in the order in which they were opened.
pub(crate) fn connections(path: &Path) -> Vec<Connection> {
    let mut capture = Vec::new();
    let file = File::open(path).expect("the capture is there");
    GzDecoder::new(file).read_to_end(&mut capture).expect("the capture is whole");
    assert_eq!(capture[..4], MAGIC_LITTLE_ENDIAN);
    assert_eq!(u32_at(&capture, 20), LINK_TYPE_ETHERNET);

    let mut found: Vec<[Direction; 2]> = Vec::new();
    let mut open: HashMap<[Endpoint; 2], usize> = HashMap::new();
    let mut at = FILE_HEADER_BYTES;
    while at < capture.len() {
        let (kept, original) = (u32_at(&capture, at + 8), u32_at(&capture, at + 12));
        assert_eq!(kept, original, "frames are whole");
        at += RECORD_HEADER_BYTES;
        take_frame(&capture[at..at + kept as usize], &mut found, &mut open);
        at += kept as usize;
    }
    let joined = |[a, b]: [Direction; 2]| Connection { streams: [a.join(), b.join()] };
    found.into_iter().map(joined).collect()
}

fn take_frame(
    frame: &[u8],
    found: &mut Vec<[Direction; 2]>,
    open: &mut HashMap<[Endpoint; 2], usize>,
) {
    let ip = &frame[ETHERNET_BYTES..];
    if frame[12..14] != [8, 0] || ip[9] != PROTOCOL_TCP {
        return;
    }
    let total = match usize::from(u16::from_be_bytes([ip[2], ip[3]])) {
        // Segmentation offload: longer than the field can say.
        0 => ip.len(),
        total => total,
    };
    let address = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes");
    let (source, destination) = (address(12), address(16));
    let tcp = &ip[usize::from(ip[0] & 15) * 4..total];
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let (data, flags) = (&tcp[usize::from(tcp[12] >> 4) * 4..], tcp[13]);

    let mut key = [(source, port(0)), (destination, port(2))];
    key.sort_unstable();
    let is_first = flags & FLAG_SYN != 0 && tcp[13] & 16 == 0;
    if is_first {
        open.insert(key, found.len());
        found.push(Default::default());
    }
    let Some(&number) = open.get(&key) else { return };
    let direction = &mut found[number][usize::from(source != NODE_A)];
    if flags & FLAG_SYN != 0 {
        direction.first_sequence = Some(sequence.wrapping_add(1));
    } else if let Some(first) = direction.first_sequence
        && !data.is_empty()
    {
        direction.segments.push((sequence.wrapping_sub(first), data.to_vec()));
    }
}

impl Direction {
    /// In order, what was sent again only once; up to the first gap.
    fn join(mut self) -> Vec<u8> {
        self.segments.sort_by_key(|&(offset, _)| offset);
        let mut stream = Vec::new();
        for (offset, data) in self.segments {
            let Some(known) = stream.len().checked_sub(offset as usize) else { break };
            stream.extend_from_slice(data.get(known..).unwrap_or_default());
        }
        stream
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
