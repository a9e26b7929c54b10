//! A hostile stream: headers, bodies and bitmap chunks as a peer might send them, under any framing.
//! Each packet that is taken must encode again, and decode to itself.
//!
//! Run: `cargo +nightly fuzz run stream` in `proto`.
//!
//! ```text
//!   input: | version | features | digest lengths | bits, two bytes | the stream ...
//! ```

#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblk_proto::codec::{
    BITMAP_PACKET_BYTES, BodyLength, Framing, Header, WireError, body_length, decode_body,
    decode_header, encode,
};
use twinblk_proto::packet::Packet;
use twinblk_proto::run_length::{BitmapReceiver, encode_chunks};

const VERSIONS: [u32; 8] = [101, 100, 99, 95, 94, 89, 88, 86];
const DIGEST_LENGTHS: [usize; 4] = [0, 4, 16, 32];
/// The most data of one packet (wire.md 2.1).
const DATA_BYTES_MAX: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&[version, features, digests, high, low], stream)) = input.split_first_chunk() else {
        return;
    };
    let digest_length = |shift: u32| DIGEST_LENGTHS[usize::from(digests >> shift & 3)];
    let framing = Framing {
        version: VERSIONS[usize::from(version) % VERSIONS.len()],
        features: u32::from(features),
        integrity_bytes: digest_length(0),
        csums_bytes: digest_length(2),
        verify_bytes: digest_length(4),
    };
    let is_first = version & 0x80 != 0;
    let _ = take_apart(stream, &framing, is_first, u64::from(u16::from_be_bytes([high, low])));
});

fn take_apart(
    mut stream: &[u8],
    framing: &Framing,
    is_first: bool,
    bits: u64,
) -> Result<(), WireError> {
    let chunk_limit = framing.bitmap_chunk_limit();
    let mut words = vec![0; bits.div_ceil(64) as usize];
    let mut receiver = BitmapReceiver::new(bits, chunk_limit);
    let version = (!is_first).then_some(framing.version);
    while let Some((header, start)) = decode_header(stream, version)? {
        let BodyLength { fixed, bulk } = body_length(&header, framing)?;
        assert!(fixed <= BITMAP_PACKET_BYTES && bulk <= DATA_BYTES_MAX);
        let Some(body) = stream.get(start..start + fixed) else { break };
        let decoded = decode_body(&header, body, framing)?;
        check_again(&header, &decoded.packet, framing, bulk, decoded.digest.as_deref());
        if matches!(decoded.packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_))
            && receiver.receive(&decoded.packet, &mut words)?
        {
            check_bitmap(&words, bits, chunk_limit);
            receiver = BitmapReceiver::new(bits, chunk_limit);
        }
        let Some(rest) = stream.get(start + fixed + bulk..) else { break };
        stream = rest;
    }
    Ok(())
}

fn check_again(
    header: &Header,
    packet: &Packet,
    framing: &Framing,
    bulk: usize,
    digest: Option<&[u8]>,
) {
    let mut bytes = Vec::new();
    encode(packet, header.volume, framing, bulk, digest.unwrap_or_default(), &mut bytes);
    // An initial packet has a short header even where it came with a long one.
    let found =
        decode_header(&bytes, Some(framing.version)).or_else(|_| decode_header(&bytes, None));
    let (again, start) = found.expect("our own header").expect("a whole header");
    assert_eq!(again.command, header.command);
    let decoded = decode_body(&again, &bytes[start..], framing).expect("our own packet");
    assert_eq!((&decoded.packet, decoded.digest.as_deref()), (packet, digest));
}

fn check_bitmap(words: &[u64], bits: u64, chunk_limit: usize) {
    for use_rle in [false, true] {
        let mut copy = vec![0; words.len()];
        let mut receiver = BitmapReceiver::new(bits, chunk_limit);
        let mut complete = false;
        for chunk in encode_chunks(words, bits, use_rle, chunk_limit) {
            complete = receiver.receive(&chunk, &mut copy).expect("our own chunk");
        }
        assert!(complete && copy == words);
    }
}
