//! Any packet survives the way over the wire, in every protocol version that has it; any bytes give
//! packets or an error.

use proptest::prelude::*;
use twinblk_proto::codec::{
    BodyLength, Framing, VERSION_INTEGRITY, VERSION_VOLUMES, WireError, body_length, command,
    decode_body, decode_header, encode, socket_of,
};
use twinblk_proto::packet::*;
use twinblk_proto::run_length::BitmapReceiver;
use twinblk_proto::state::StateWord;
use twinblk_proto::units::SectorRange;

/// Lengths of digests: none, and those of crc32c, md5, sha1, sha256, sha512.
const DIGEST_LENGTHS: [usize; 6] = [0, 4, 16, 20, 32, 64];

fn framing() -> impl Strategy<Value = Framing> {
    let version = prop_oneof![3 => Just(101u32), 1 => Just(100), 1 => 86..=99u32];
    let digest = || prop::sample::select(&DIGEST_LENGTHS[..]);
    (version, 0..16u32, digest(), digest(), digest()).prop_map(
        |(version, features, integrity_bytes, csums_bytes, verify_bytes)| Framing {
            version,
            features,
            integrity_bytes,
            csums_bytes,
            verify_bytes,
        },
    )
}

fn range(most_bytes: usize) -> impl Strategy<Value = SectorRange> {
    (any::<u64>(), 1..=most_bytes as u32 / 512)
        .prop_map(|(start, count)| SectorRange::new(start, count))
}

fn write(most_bytes: usize) -> impl Strategy<Value = Write> {
    (range(most_bytes), any::<u64>(), any::<u32>(), any::<u32>())
        .prop_map(|(range, id, sequence, flags)| Write { range, id: BlockId(id), sequence, flags })
}

fn request(most_bytes: usize) -> impl Strategy<Value = BlockRequest> {
    (range(most_bytes), any::<u64>())
        .prop_map(|(range, id)| BlockRequest { range, id: BlockId(id) })
}

fn ack() -> impl Strategy<Value = Ack> {
    (range(128 << 20), any::<u64>(), any::<u32>()).prop_map(|(range, id, sequence)| Ack {
        range,
        id: BlockId(id),
        sequence,
    })
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9()-]{0,63}"
}

fn protocol() -> impl Strategy<Value = ProtocolSettings> {
    let policy = || (0..=10u32).prop_map(|n| SplitBrainPolicy::from_wire(n).expect("a policy"));
    let protocol = prop::sample::select(
        &[ReplicationProtocol::A, ReplicationProtocol::B, ReplicationProtocol::C][..],
    );
    (protocol, policy(), policy(), policy(), any::<[bool; 3]>(), name()).prop_map(
        |(protocol, after_sb_0pri, after_sb_1pri, after_sb_2pri, flags, integrity_alg)| {
            let [discard_my_data, dry_run, two_primaries] = flags;
            ProtocolSettings {
                protocol,
                after_sb_0pri,
                after_sb_1pri,
                after_sb_2pri,
                discard_my_data,
                dry_run,
                two_primaries,
                integrity_alg,
            }
        },
    )
}

fn sync_param() -> impl Strategy<Value = SyncParam> {
    (name(), name(), any::<[u32; 5]>()).prop_map(|(verify_alg, csums_alg, numbers)| SyncParam {
        resync_rate: numbers[0],
        verify_alg,
        csums_alg,
        c_plan_ahead: numbers[1],
        c_delay_target: numbers[2],
        c_fill_target: numbers[3],
        c_max_rate: numbers[4],
    })
}

fn sizes(has_limits: bool) -> impl Strategy<Value = Sizes> {
    let limits = (any::<[u32; 5]>(), any::<[bool; 3]>()).prop_map(|(bytes, can)| QueueLimits {
        physical_block_bytes: bytes[0],
        logical_block_bytes: bytes[1],
        alignment_offset_bytes: bytes[2],
        io_min_bytes: bytes[3],
        io_opt_bytes: bytes[4],
        discard_enabled: can[0],
        discard_zeroes_data: can[1],
        write_same_capable: can[2],
    });
    (any::<[u64; 3]>(), any::<u32>(), any::<[u16; 2]>(), limits).prop_map(
        move |(sectors, max_bio_bytes, [queue_order_type, flags], limits)| Sizes {
            disk_sectors: sectors[0],
            user_sectors: sectors[1],
            current_sectors: sectors[2],
            max_bio_bytes,
            queue_order_type,
            flags,
            limits: has_limits.then_some(limits),
        },
    )
}

fn bytes(length: impl Into<prop::collection::SizeRange>) -> BoxedStrategy<Vec<u8>> {
    prop::collection::vec(any::<u8>(), length).boxed()
}

fn digest_of(length: usize) -> BoxedStrategy<Vec<u8>> {
    if length == 0 { bytes(0..=64) } else { bytes(length) }
}

/// Packets that the protocol version has.
fn packet(framing: Framing) -> BoxedStrategy<Packet> {
    let data = framing.data_limit_bytes();
    let trim = framing.trim_limit_bytes();
    let word = || any::<u32>().prop_map(StateWord);
    let number = any::<u32>;
    let configuration = prop_oneof![
        Just(Packet::InitialData),
        Just(Packet::InitialMeta),
        any::<[u32; 3]>().prop_map(|[version_min, features, version_max]| {
            Packet::ConnectionFeatures(ConnectionFeatures { version_min, features, version_max })
        }),
        bytes(64..=128).prop_map(Packet::AuthChallenge),
        bytes(1..=64).prop_map(Packet::AuthResponse),
        protocol().prop_map(move |mut settings| {
            // The name came with version 87.
            if framing.version < VERSION_INTEGRITY {
                settings.integrity_alg.clear();
            }
            Packet::Protocol(settings)
        }),
        sizes(framing.features & features::WSAME != 0).prop_map(Packet::Sizes),
        any::<[u64; 6]>().prop_map(|[current, bitmap, newer, older, dirty_bits, flags]| {
            let history = [newer, older];
            Packet::Uuids(Uuids { current, bitmap, history, dirty_bits, flags })
        }),
        any::<u64>().prop_map(Packet::SyncUuid),
        word().prop_map(Packet::State),
        (word(), word()).prop_map(|(mask, value)| Packet::StateChangeRequest { mask, value }),
        any::<i32>().prop_map(Packet::StateChangeReply),
    ];
    let volumes = prop_oneof![
        protocol().prop_map(Packet::ProtocolUpdate),
        sync_param().prop_map(Packet::SyncParam),
        (word(), word())
            .prop_map(|(mask, value)| Packet::ConnectionStateChangeRequest { mask, value }),
        any::<i32>().prop_map(Packet::ConnectionStateChangeReply),
    ];
    let replication = prop_oneof![
        write(data).prop_map(Packet::Data),
        write(trim).prop_map(Packet::Trim),
        write(trim).prop_map(Packet::Zeroes),
        write(trim).prop_map(Packet::WriteSame),
        number().prop_map(|handle| Packet::Barrier { handle }),
        any::<[u32; 2]>().prop_map(|[handle, writes]| Packet::BarrierAck { handle, writes }),
        Just(Packet::UnplugRemote),
        Just(Packet::Ping),
        Just(Packet::PingAck),
        Just(Packet::DelayProbe),
        request(data).prop_map(Packet::DataRequest),
        request(data).prop_map(Packet::DataReply),
    ];
    let chunk = framing.bitmap_chunk_limit();
    let resync = prop_oneof![
        request(data).prop_map(Packet::ResyncRequest),
        request(data).prop_map(Packet::ThinResyncRequest),
        request(data).prop_map(Packet::ResyncReply),
        range(data).prop_map(Packet::ResyncDeallocated),
        (request(data), digest_of(framing.csums_bytes))
            .prop_map(|(request, digest)| Packet::ChecksumResyncRequest(request, digest)),
        request(data).prop_map(Packet::VerifyRequest),
        (request(data), digest_of(framing.verify_bytes))
            .prop_map(|(request, digest)| Packet::VerifyReply(request, digest)),
        range(trim).prop_map(Packet::OutOfSync),
        (0..=chunk / 8).prop_flat_map(|words| bytes(words * 8)).prop_map(Packet::Bitmap),
        bytes(2..=chunk).prop_map(Packet::CompressedBitmap),
    ];
    let kinds: [fn(Ack) -> Packet; 11] = [
        Packet::ReceiveAck,
        Packet::WriteAck,
        Packet::ResyncWriteAck,
        Packet::Superseded,
        Packet::RetryWrite,
        Packet::NegativeAck,
        Packet::NegativeDataReply,
        Packet::NegativeResyncReply,
        Packet::VerifyResult,
        Packet::ResyncIsInSync,
        Packet::ResyncCancel,
    ];
    let acks = (ack(), prop::sample::select(kinds.to_vec())).prop_map(|(ack, kind)| kind(ack));
    let mut choices =
        vec![configuration.boxed(), replication.boxed(), resync.boxed(), acks.boxed()];
    if framing.version >= VERSION_VOLUMES {
        choices.push(volumes.boxed());
    }
    prop::strategy::Union::new(choices).boxed()
}

/// Bytes of data beside the packet.
fn bulk_of(packet: &Packet) -> usize {
    match packet {
        Packet::Data(Write { range, .. })
        | Packet::DataReply(BlockRequest { range, .. })
        | Packet::ResyncReply(BlockRequest { range, .. }) => range.bytes() as usize,
        Packet::WriteSame(_) => 4096,
        _ => 0,
    }
}

/// Takes packets from a stream until it ends, without their data; the bitmaps among them go into a
/// bitmap of `bits` bits.
fn take_apart(mut stream: &[u8], framing: &Framing, bits: u64) -> Result<usize, WireError> {
    let mut words = vec![0; bits.div_ceil(64) as usize];
    let mut receiver = BitmapReceiver::new(bits, framing.bitmap_chunk_limit());
    let mut count = 0;
    while let Some((header, start)) = decode_header(stream, Some(framing.version))? {
        let BodyLength { fixed, bulk } = body_length(&header, framing)?;
        assert!(fixed <= 4096 && bulk <= 1 << 20, "a reader's buffers are bounded");
        let Some(body) = stream.get(start..start + fixed) else { break };
        let packet = decode_body(&header, body, framing)?.packet;
        if matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_))
            && receiver.receive(&packet, &mut words)?
        {
            receiver = BitmapReceiver::new(bits, framing.bitmap_chunk_limit());
        }
        count += 1;
        let Some(rest) = stream.get(start + fixed + bulk..) else { break };
        stream = rest;
    }
    Ok(count)
}

proptest! {
    #[test]
    fn any_packet_survives_the_wire(
        (framing, packet) in framing().prop_flat_map(|framing| (Just(framing), packet(framing))),
        volume: u16,
        before in bytes(0..20),
    ) {
        let bulk_bytes = bulk_of(&packet);
        let digest = vec![0xD1; if bulk_bytes > 0 { framing.integrity_bytes } else { 0 }];
        let mut out = before.clone();
        encode(&packet, volume, &framing, bulk_bytes, &digest, &mut out);
        prop_assert_eq!(&out[..before.len()], &before[..], "what was there stays");
        let bytes = &out[before.len()..];

        let is_first = matches!(
            packet,
            Packet::InitialData | Packet::InitialMeta | Packet::ConnectionFeatures(_)
        );
        let version = (!is_first).then_some(framing.version);
        let (header, start) = decode_header(bytes, version)?.expect("a whole header");
        prop_assert_eq!(header.length as usize, bytes.len() - start + bulk_bytes);
        let carries_volume = framing.version >= VERSION_VOLUMES && !is_first;
        prop_assert_eq!(header.volume, if carries_volume { volume } else { 0 });
        prop_assert_eq!(command::name_of(header.command), Some(packet.name()));
        prop_assert_eq!(socket_of(header.command).is_none(), packet == Packet::DelayProbe);

        let lengths = body_length(&header, &framing)?;
        prop_assert_eq!(lengths, BodyLength { fixed: bytes.len() - start, bulk: bulk_bytes });
        let decoded = decode_body(&header, &bytes[start..], &framing)?;
        prop_assert_eq!(decoded.packet, packet);
        prop_assert_eq!(decoded.digest, (!digest.is_empty()).then_some(digest));

        // One byte more or less is never taken.
        prop_assert!(decode_body(&header, &bytes[start..bytes.len().max(start + 1) - 1], &framing)
            .is_err() || lengths.fixed == 0);
    }

    #[test]
    fn any_bytes_give_packets_or_an_error(
        framing in framing(),
        stream in bytes(0..400),
        bits in 0..3000u64,
    ) {
        let _ = take_apart(&stream, &framing, bits);
    }

    /// Past the header, which random bytes hardly ever get right.
    #[test]
    fn any_body_gives_a_packet_or_an_error(
        framing in framing(),
        number in prop::sample::select(command::ALL),
        length in prop_oneof![0..200u32, 0..5000u32],
        body in bytes(5000),
        bits in 0..40_000u64,
    ) {
        let mut stream = Vec::new();
        encode(&Packet::Ping, 0, &framing, 0, &[], &mut stream);
        match stream.len() {
            8 => {
                stream[4..6].copy_from_slice(&number.to_be_bytes());
                stream[6..8].copy_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                stream[6..8].copy_from_slice(&number.to_be_bytes());
                stream[8..12].copy_from_slice(&length.to_be_bytes());
            }
        }
        stream.extend_from_slice(&body[..length as usize]);
        let _ = take_apart(&stream, &framing, bits);
    }

    /// A flipped bit in a session of valid packets.
    #[test]
    fn a_damaged_session_gives_packets_or_an_error(
        (framing, packets) in framing().prop_flat_map(|framing| {
            (Just(framing), prop::collection::vec(packet(framing), 1..6))
        }),
        at: prop::sample::Index,
        bit in 0..8u32,
    ) {
        let mut stream = Vec::new();
        let is_first = |packet: &Packet| matches!(
            packet,
            Packet::InitialData | Packet::InitialMeta | Packet::ConnectionFeatures(_)
        );
        let later: Vec<_> = packets.iter().filter(|packet| !is_first(packet)).collect();
        let is_bitmap =
            |packet: &Packet| matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_));
        for packet in &later {
            let bulk_bytes = bulk_of(packet);
            let digest = vec![0; if bulk_bytes > 0 { framing.integrity_bytes } else { 0 }];
            encode(packet, 0, &framing, bulk_bytes, &digest, &mut stream);
            stream.resize(stream.len() + bulk_bytes, 0);
        }
        if !later.iter().any(|packet| is_bitmap(packet)) {
            prop_assert_eq!(take_apart(&stream, &framing, 100), Ok(later.len()));
        }
        if !stream.is_empty() {
            let index = at.index(stream.len());
            stream[index] ^= 1 << bit;
            let _ = take_apart(&stream, &framing, 100);
        }
    }
}
