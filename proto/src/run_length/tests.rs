//! The worked examples of wire.md 8.2, malformed chunks, and transfers of random bitmaps.

use proptest::prelude::*;

use super::*;

/// A chunk with an h100 header.
const CHUNK: usize = 4080;

/// A bitmap of alternating runs, the first of clear bits; a run of 0 swaps the polarity.
fn of_runs(runs: &[u64]) -> (Vec<u64>, u64) {
    let bits: u64 = runs.iter().sum();
    let mut words = vec![0; bits.div_ceil(WORD_BITS) as usize];
    let mut position = 0;
    for (index, run) in runs.iter().enumerate() {
        if index % 2 == 1 {
            set_range(&mut words, position..position + run);
        }
        position += run;
    }
    (words, bits)
}

fn only_payload(runs: &[u64]) -> Vec<u8> {
    let (words, bits) = of_runs(runs);
    match <[Packet; 1]>::try_from(encode_chunks(&words, bits, true, CHUNK)) {
        Ok([Packet::CompressedBitmap(payload)]) => payload,
        other => panic!("{other:?}"),
    }
}

fn transferred(words: &[u64], bits: u64, use_rle: bool, chunk_limit: usize) -> Vec<u64> {
    let packets = encode_chunks(words, bits, use_rle, chunk_limit);
    let mut receiver = BitmapReceiver::new(bits, chunk_limit);
    let mut received = vec![0; words.len()];
    for (index, packet) in packets.iter().enumerate() {
        let complete = receiver.receive(packet, &mut received).expect("our own code");
        assert_eq!(complete, index + 1 == packets.len(), "complete with the last chunk");
    }
    let again = receiver.receive(&Packet::Bitmap(Vec::new()), &mut received);
    assert_eq!(again, Err(BitmapError::AfterEnd.into()));
    received
}

/// The examples of wire.md 8.2.
#[test]
fn worked_examples() {
    assert_eq!(only_payload(&[0, 2038]), [0xB2, 0x3F, 0xC5, 0x06]);
    assert_eq!(only_payload(&[5, 3, 2030]), [0x32, 0x23, 0x3F, 0xBD, 0x06]);
}

#[test]
fn single_code_words() {
    let bits_of = |run| {
        let mut writer = CodeWriter::new(CHUNK);
        assert!(writer.put_run(run));
        let (code, padding) = writer.finish();
        let count = code.len() * 8 - usize::from(padding);
        (0..count).map(|bit| (b'0' + (code[bit / 8] >> (bit % 8) & 1)) as char).collect::<String>()
    };
    assert_eq!(bits_of(1), "00");
    assert_eq!(bits_of(2), "01");
    assert_eq!(bits_of(4), "101");
    assert_eq!(bits_of(16), "1110111");
    assert_eq!(bits_of(48), "1111011111");
    assert_eq!(bits_of(49), "11111000000000");
}

/// Both ends of each level of wire.md 8.2's table.
#[test]
fn every_level_round_trips_at_its_edges() {
    let last = (1 << 56) + 17_181_974_832;
    let edges = [
        1,
        2,
        3,
        4,
        5,
        8,
        9,
        16,
        17,
        48,
        49,
        304,
        305,
        8496,
        8497,
        2_105_648,
        2_105_649,
        17_181_974_832,
        17_181_974_833,
        last,
    ];
    let mut writer = CodeWriter::new(CHUNK);
    assert!(edges.into_iter().all(|run| writer.put_run(run)));
    let (code, padding) = writer.finish();
    let mut reader = CodeReader::new(&code, padding);
    for run in edges {
        assert_eq!(reader.next_run(), Ok(Some(run)));
    }
    assert_eq!(reader.next_run(), Ok(None));
}

#[test]
fn plain_transfers_have_exact_lengths_and_an_empty_end() {
    let words = vec![0x8000_0000_0000_0001; 1100];
    let lengths = |bits, limit| {
        let packets = encode_chunks(&words[..bits as usize / 64], bits, false, limit);
        packets
            .iter()
            .map(|packet| match packet {
                Packet::Bitmap(payload) => payload.len(),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(lengths(1100 * 64, 4080), [4080, 4080, 640, 0]);
    assert_eq!(lengths(1100 * 64, 4088), [4088, 4088, 624, 0]);
    assert_eq!(lengths(510 * 64, 4080), [4080, 0]);
    assert_eq!(lengths(0, 4080), [0]);
}

/// Where alternating bits make the code longer than the bits, a plain chunk goes instead, and the
/// run after it is compressed again.
#[test]
fn an_incompressible_part_goes_plain() {
    let mut words = vec![0x5555_5555_5555_5555; 510];
    words.extend([0; 5000]);
    let bits = words.len() as u64 * 64;
    let packets = encode_chunks(&words, bits, true, CHUNK);
    assert!(
        matches!(&packets[..], [Packet::Bitmap(_), Packet::CompressedBitmap(_)]),
        "{packets:?}"
    );
    assert_eq!(transferred(&words, bits, true, CHUNK), words);
}

#[test]
fn malformed_chunks_are_refused() {
    let receive = |bits: u64, packet: &Packet| {
        let mut words = vec![0; bits.div_ceil(64) as usize];
        BitmapReceiver::new(bits, CHUNK).receive(packet, &mut words).expect_err("malformed")
    };
    let compressed = |bytes: &[u8]| Packet::CompressedBitmap(bytes.to_vec());
    let cases = [
        (Packet::Bitmap(vec![0; 256]), BitmapError::PlainLength { given: 256, expected: 8 }),
        (Packet::Bitmap(Vec::new()), BitmapError::PlainLength { given: 0, expected: 8 }),
        (compressed(&[]), BitmapError::CompressedLength(0)),
        (compressed(&[0x02]), BitmapError::CompressedLength(1)),
        (compressed(&[2; CHUNK + 1]), BitmapError::CompressedLength(CHUNK + 1)),
        (compressed(&[0x03, 0]), BitmapError::Encoding(0x03)),
        (compressed(&[0x72, 0]), BitmapError::CodeCutOff),
        (compressed(&[0x02, 0x3F, 0xC5, 0x06]), BitmapError::RunTooLong { run: 2038, left: 60 }),
        (Packet::Ping, BitmapError::OtherPacket),
    ];
    for (packet, error) in cases {
        assert_eq!(receive(60, &packet), error.into());
    }
}

#[test]
fn received_bits_join_those_that_are_there_and_surplus_ones_do_not() {
    let mut words = [1];
    let mut receiver = BitmapReceiver::new(60, CHUNK);
    let chunk = Packet::Bitmap(vec![0xF0; 8]);
    assert_eq!(receiver.receive(&chunk, &mut words), Ok(false));
    assert_eq!(words, [0x00F0_F0F0_F0F0_F0F1]);
    assert_eq!(receiver.receive(&Packet::Bitmap(Vec::new()), &mut words), Ok(true));
}

fn run() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..5u64, 3 => 1..200u64, 1 => 1..20_000u64]
}

proptest! {
    #[test]
    fn any_bitmap_survives_a_transfer(
        first in 0..2u64,
        runs in prop::collection::vec(run(), 0..400),
        use_rle: bool,
        chunk_limit in prop_oneof![Just(4080), Just(4088), 16..200usize],
    ) {
        let mut all = vec![0; first as usize];
        all.extend(runs);
        let (words, bits) = of_runs(&all);
        prop_assert_eq!(transferred(&words, bits, use_rle, chunk_limit), words);
    }

    #[test]
    fn scanning_by_words_is_scanning_by_bits(
        runs in prop::collection::vec(run(), 1..20),
        from in 0..1000u64,
        wanted: bool,
    ) {
        let (words, bits) = of_runs(&runs);
        let from = from.min(bits);
        let has = |bit: u64| words[(bit / 64) as usize] >> (bit % 64) & 1 == u64::from(wanted);
        let expected = (from..bits).find(|&bit| has(bit)).unwrap_or(bits);
        prop_assert_eq!(next_bit(&words, from..bits, wanted), expected);
    }

    #[test]
    fn arbitrary_chunks_never_panic_and_leave_surplus_bits_clear(
        bits in 0..5000u64,
        chunks in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..100)), 0..8),
    ) {
        let mut words = vec![0; bits.div_ceil(64) as usize];
        let mut receiver = BitmapReceiver::new(bits, 64);
        for (plain, mut payload) in chunks {
            let packet = if plain {
                payload.resize(64, 0xFF);
                Packet::Bitmap(payload)
            } else {
                if let Some(encoding) = payload.first_mut() {
                    *encoding = *encoding & 0xF0 | CODE_RUN_LENGTHS;
                }
                Packet::CompressedBitmap(payload)
            };
            if receiver.receive(&packet, &mut words).is_err() {
                break;
            }
        }
        let last = words.last().copied().unwrap_or(0);
        prop_assert_eq!(last & surplus_mask(words.len(), bits), 0);
    }
}
