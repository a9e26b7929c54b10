//! What passes a session, and what ends it with ProtocolError.

use twinblk_proto::packet::Ack;
use twinblk_proto::state::StateWord;

use super::*;

fn default_settings() -> LinkSettings {
    two_settings().0
}

async fn assert_protocol_error(node: &mut Node, mention: &str) {
    let cause = node.lost().await;
    let LossCause::ProtocolError(text) = &cause else { panic!("{mention}: {cause:?}") };
    assert!(text.contains(mention), "{text:?} mentions {mention:?}");
}

#[test]
fn packets_and_payloads_of_all_sizes_arrive_in_order() {
    run(async {
        let settings = default_settings();
        let (sender, mut receiver) = two_nodes(&settings, &settings).await;
        let lengths = [512, 1024, 4096, 4608, 65536, 130 << 10, 256 << 10, 300 << 10, 1 << 20];
        let mut number = 0;
        for round in 0..3 {
            for length in lengths {
                number += 1;
                let data = pattern(number, length);
                sender.session.send_data(&write(number, &data), Some(payload(&data)));
                sender.session.send_data(&Packet::Barrier { handle: number as u32 }, None);
                if round != 1 {
                    sender.session.flush();
                }
            }
        }
        sender.session.flush();
        number = 0;
        for _ in 0..3 {
            for length in lengths {
                number += 1;
                let data = pattern(number, length);
                let (packet, received) = receiver.packet().await;
                assert_eq!(packet, write(number, &data));
                assert!(*received.expect("data") == data[..], "write {number}");
                let (packet, nothing) = receiver.packet().await;
                assert_eq!(packet, Packet::Barrier { handle: number as u32 });
                assert!(nothing.is_none());
            }
        }
    });
}

#[test]
fn nothing_is_sent_before_the_flush() {
    run(async {
        let (node, mut bare) = node_and_bare(&default_settings()).await;
        node.session.send_data(&Packet::Barrier { handle: 1 }, None);
        assert_eq!(node.session.queued_bytes(), 24);
        node.session.send_meta(&Packet::Ping);
        assert_eq!(node.session.queued_bytes(), 24, "the data socket's only");
        node.session.flush();
        assert_eq!(node.session.queued_bytes(), 0);
        expect_bytes(&mut bare.data, &bytes_of(&Packet::Barrier { handle: 1 })).await;
        expect_bytes(&mut bare.meta, &bytes_of(&Packet::Ping)).await;
    });
}

/// Digests follow from the P_PROTOCOL of each direction, and change with P_PROTOCOL_UPDATE.
#[test]
fn integrity() {
    run(async {
        for algorithm in ["crc32c", "md5", "sha1", "sha256"] {
            let settings = default_settings();
            let (sender, mut receiver) = two_nodes(&settings, &settings).await;
            let Packet::Protocol(off) = protocol_packet("") else { unreachable!() };
            let data = pattern(5, 4096);
            let script = [
                protocol_packet(algorithm),
                write(1, &data),
                Packet::ProtocolUpdate(off),
                write(2, &data),
            ];
            for packet in &script {
                let with_data = matches!(packet, Packet::Data(_)).then(|| payload(&data));
                sender.session.send_data(packet, with_data);
            }
            sender.session.flush();
            for packet in &script {
                let (got, received) = receiver.packet().await;
                assert_eq!(&got, packet, "{algorithm}");
                assert!(received.is_none_or(|received| *received == data[..]));
            }
        }
    });
}

/// The bytes on the wire: header, fixed part, crc32c little-endian, data (wire.md 5.1).
#[test]
fn crc32c_is_sent_as_the_kernel_sends_it() {
    run(async {
        let (node, mut bare) = node_and_bare(&default_settings()).await;
        let data = pattern(6, 1024);
        node.session.use_integrity("crc32c");
        node.session.send_data(&write(1, &data), Some(payload(&data)));
        node.session.flush();
        let bytes = read_bytes(&mut bare.data, 16 + 24 + 4 + 1024).await;
        assert_eq!(bytes[40..44], crc32c::crc32c(&data).to_le_bytes());
        assert_eq!(bytes[44..], data);
    });
}

#[test]
fn a_digest_that_does_not_match_is_a_protocol_error() {
    run(async {
        for length in [512, 1 << 20] {
            let (mut node, mut bare) = node_and_bare(&default_settings()).await;
            bare.data.write_all(&bytes_of(&protocol_packet("crc32c"))).await.expect("up");
            let mut data = pattern(7, length);
            let digest = crc32c::crc32c(&data).to_le_bytes();
            bare.data.write_all(&bytes_with(&write(1, &data), &digest, &data)).await.expect("up");
            assert_eq!(node.packet().await.0, protocol_packet("crc32c"));
            assert_eq!(node.packet().await.0, write(1, &data));
            data[length - 1] ^= 1;
            let bytes = bytes_with(&write(2, &data), &digest, &data);
            // The node closes while this is being written, perhaps.
            let _ = bare.data.write_all(&bytes).await;
            assert_protocol_error(&mut node, "digest").await;
        }
    });
}

#[test]
fn data_with_digests_of_an_unknown_algorithm_is_a_protocol_error() {
    run(async {
        let (mut node, mut bare) = node_and_bare(&default_settings()).await;
        bare.data.write_all(&bytes_of(&protocol_packet("blake9"))).await.expect("up");
        assert_eq!(node.packet().await.0, protocol_packet("blake9"), "the engine refuses it");
        bare.data.write_all(&bytes_of(&Packet::Barrier { handle: 1 })).await.expect("up");
        assert_eq!(node.packet().await.0, Packet::Barrier { handle: 1 });
        let data = pattern(8, 512);
        // As long as a sector: whatever follows the header could be data without a digest.
        bare.data.write_all(&bytes_with(&write(1, &data), &[0; 512], &data)).await.expect("up");
        assert_protocol_error(&mut node, "algorithm").await;
    });
}

#[test]
fn packets_on_the_wrong_socket() {
    run(async {
        let (mut node, mut bare) = node_and_bare(&default_settings()).await;
        bare.data.write_all(&bytes_of(&Packet::Ping)).await.expect("up");
        assert_protocol_error(&mut node, "data socket").await;
        let (mut node, mut bare) = node_and_bare(&default_settings()).await;
        bare.meta.write_all(&bytes_of(&Packet::Barrier { handle: 1 })).await.expect("up");
        assert_protocol_error(&mut node, "meta socket").await;
    });
}

#[test]
fn handshake_packets_after_the_handshake() {
    run(async {
        for packet in [Packet::AuthChallenge(vec![1; 64]), Packet::AuthResponse(vec![1; 20])] {
            let (mut node, mut bare) = node_and_bare(&default_settings()).await;
            bare.data.write_all(&bytes_of(&packet)).await.expect("up");
            assert_protocol_error(&mut node, "").await;
        }
    });
}

#[test]
fn malformed_packets() {
    run(async {
        let whole = bytes_of(&Packet::Barrier { handle: 1 });
        let patched = |offset: usize, bytes: &[u8]| {
            let mut packet = whole.clone();
            packet[offset..offset + bytes.len()].copy_from_slice(bytes);
            packet
        };
        let hostile = [
            ("magic", patched(0, &[0x83, 0x74, 0x02, 0x67])),
            ("command", patched(6, &[0x33, 0x33])),
            ("longer", patched(8, &[0, 0, 0, 9])),
            ("huge", patched(8, &[0xFF; 4])),
            ("padding", patched(12, &[0, 0, 0, 1])),
            ("huge data", patched(6, &[0, 0, 0xFF, 0xFF, 0xFF, 0xFF])),
        ];
        for (what, bytes) in hostile {
            let (mut node, mut bare) = node_and_bare(&default_settings()).await;
            bare.data.write_all(&bytes).await.expect("up");
            let cause = node.lost().await;
            assert!(matches!(cause, LossCause::ProtocolError(_)), "{what}: {cause:?}");
        }
    });
}

/// This node has volume 0 only: configuration of others is skipped, their data is refused.
#[test]
fn packets_for_another_volume() {
    run(async {
        let (mut node, mut bare) = node_and_bare(&default_settings()).await;
        let for_volume_1 = |packet: &Packet, data: &[u8]| {
            let mut bytes = bytes_with(packet, &[], data);
            bytes[5] = 1;
            bytes
        };
        let state = Packet::State(StateWord(0x0000_c882));
        bare.data.write_all(&for_volume_1(&state, &[])).await.expect("up");
        bare.data.write_all(&bytes_of(&Packet::Barrier { handle: 1 })).await.expect("up");
        assert_eq!(node.packet().await.0, Packet::Barrier { handle: 1 }, "the state was skipped");
        let data = pattern(1, 512);
        bare.data.write_all(&for_volume_1(&write(1, &data), &data)).await.expect("up");
        assert_protocol_error(&mut node, "volume").await;
    });
}

#[test]
fn either_socket_ends_the_session() {
    run(async {
        let (mut node, bare) = node_and_bare(&default_settings()).await;
        drop(bare.meta);
        let cause = node.lost().await;
        assert!(
            matches!(&cause, LossCause::BrokenPipe(text) if text.contains("meta")),
            "{cause:?}"
        );
        assert!(node.events.recv().await.is_none(), "nothing after the end");
        let (mut node, bare) = node_and_bare(&default_settings()).await;
        drop(bare.data);
        let cause = node.lost().await;
        assert!(
            matches!(&cause, LossCause::BrokenPipe(text) if text.contains("data")),
            "{cause:?}"
        );
    });
}

/// A peer that replies, then closes data and meta: the reply is heard, although it is on the
/// socket that ends last.
#[test]
fn last_words_are_heard() {
    run(async {
        for _ in 0..50 {
            let (mut node, mut bare) = node_and_bare(&default_settings()).await;
            let ack = Ack { range: SectorRange::new(0, 8), id: BlockId(1), sequence: 1 };
            for _ in 0..3000 {
                bare.meta.write_all(&bytes_of(&Packet::WriteAck(ack))).await.expect("up");
            }
            bare.meta.write_all(&bytes_of(&Packet::StateChangeReply(1))).await.expect("up");
            drop(bare.data);
            drop(bare.meta);
            let mut last = None;
            let cause = loop {
                match node.next().await {
                    LinkEvent::Packet { packet, .. } => last = Some(packet),
                    LinkEvent::Lost(cause) => break cause,
                }
            };
            assert_eq!(last, Some(Packet::StateChangeReply(1)));
            assert!(matches!(cause, LossCause::BrokenPipe(_)));
        }
    });
}
