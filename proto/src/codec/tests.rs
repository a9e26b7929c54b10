//! Header forms, limits and what differs between protocol versions.

use super::command::*;
use super::*;
use crate::packet::*;
use crate::units::SectorRange;

const MODERN: Framing =
    Framing { version: 101, features: 0xF, integrity_bytes: 0, csums_bytes: 0, verify_bytes: 0 };

fn bytes_of(packet: &Packet, framing: &Framing, bulk_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(packet, 0, framing, bulk_bytes, &[], &mut bytes);
    bytes
}

fn write(bytes: u64) -> Write {
    let range = SectorRange::from_bytes(0, bytes).expect("whole sectors");
    Write { range, id: BlockId(1), sequence: 1, flags: 0 }
}

#[test]
fn the_first_packets_have_short_headers_whatever_is_agreed() {
    for framing in [Framing::default(), MODERN] {
        assert_eq!(
            bytes_of(&Packet::InitialData, &framing, 0),
            [0x83, 0x74, 2, 0x67, 0xFF, 0xF2, 0, 0]
        );
    }
    let header = Header { command: P_INITIAL_META, volume: 0, length: 0 };
    assert_eq!(
        decode_header(&bytes_of(&Packet::InitialMeta, &MODERN, 0), None),
        Ok(Some((header, 8)))
    );
}

#[test]
fn header_forms_by_version() {
    let data = Packet::Data(write(64 << 10));
    let cases = [
        (101, &data, [0x86, 0x20, 0xEC, 0x20], 16),
        (99, &data, [0x83, 0x5A, 0, 0], 8),
        (99, &Packet::Ping, [0x83, 0x74, 2, 0x67], 8),
        (94, &Packet::Ping, [0x83, 0x74, 2, 0x67], 8),
    ];
    for (version, packet, start, header_bytes) in cases {
        let framing = Framing { version, ..MODERN };
        let bulk = if packet == &data { 64 << 10 } else { 0 };
        let bytes = bytes_of(packet, &framing, bulk);
        assert_eq!(bytes[..4], start, "version {version}");
        let (header, length) =
            decode_header(&bytes, Some(version)).expect("valid").expect("complete");
        assert_eq!(length, header_bytes);
        assert_eq!(body_length(&header, &framing).expect("valid").bulk, bulk);
    }
}

#[test]
fn headers_of_another_version_are_refused() {
    let long = bytes_of(&Packet::Ping, &MODERN, 0);
    let short = bytes_of(&Packet::Ping, &Framing { version: 99, ..MODERN }, 0);
    let middle = [0x83, 0x5A, 0, 0x13, 0, 0, 0, 0];
    for (bytes, version) in [
        (&long[..], None),
        (&long, Some(99)),
        (&short, Some(100)),
        (&middle, Some(101)),
        (&middle, Some(94)),
        (&middle, None),
    ] {
        let magic = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        assert_eq!(decode_header(bytes, version), Err(WireError::Magic(magic)));
    }
    let mut padded = long;
    padded[15] = 1;
    assert_eq!(decode_header(&padded, Some(101)), Err(WireError::HeaderPadding(1)));
}

#[test]
fn a_header_in_pieces_asks_for_more() {
    let bytes = bytes_of(&Packet::Ping, &MODERN, 0);
    for end in 0..bytes.len() {
        assert_eq!(decode_header(&bytes[..end], Some(101)), Ok(None));
    }
}

/// wire.md 2.1.
#[test]
fn lengths_beyond_the_limits_are_refused() {
    let refused = |command, length, version, features| {
        let framing = Framing { version, features, ..MODERN };
        body_length(&Header { command, volume: 0, length }, &framing).is_err()
    };
    for (version, limit) in [(101, 1 << 20), (99, 128 << 10), (94, 32 << 10)] {
        assert!(!refused(P_DATA, 24 + limit, version, 0xF));
        assert!(refused(P_DATA, 24 + limit + 512, version, 0xF));
        assert!(refused(P_RS_DATA_REPLY, 24 + limit + 512, version, 0xF));
    }
    assert!(refused(P_DATA, 24 + 100, 101, 0xF), "no whole sectors");
    assert!(refused(P_DATA_REPLY, 24, 101, 0xF), "nothing was asked for");
    assert!(refused(P_BITMAP, 4088, 101, 0xF));
    assert!(!refused(P_BITMAP, 4088, 99, 0xF));
    assert!(refused(P_BITMAP, 12, 101, 0xF));
    assert!(refused(P_SIZES, 56, 101, 0xB));
    assert!(refused(P_SIZES, 32, 101, 0xF));
    assert!(refused(P_WSAME, 28 + 8192, 101, 0xF));
    for unused in [0x05, 0x06, 0x25, 0x30, 0x35, 0x37, 0xFFFF] {
        assert!(refused(unused, 0, 101, 0xF));
        assert_eq!(socket_of(unused), None);
    }
}

#[test]
fn sizes_in_the_body_have_limits_too() {
    let trim = |bytes: u64, features| {
        let packet = bytes_of(&Packet::Trim(write(bytes)), &MODERN, 0);
        let header = Header { command: P_TRIM, volume: 0, length: 28 };
        decode_body(&header, &packet[16..], &Framing { features, ..MODERN })
    };
    assert!(trim(128 << 20, features::WSAME).is_ok());
    assert!(trim((128 << 20) + 512, features::WSAME).is_err());
    assert!(trim(4 << 20, 0).is_ok());
    assert!(trim((4 << 20) + 512, 0).is_err());
    assert!(trim(0, 0).is_err());
    let empty = bytes_of(&Packet::Data(write(0)), &MODERN, 0);
    let header = Header { command: P_DATA, volume: 0, length: 24 };
    assert!(decode_body(&header, &empty[16..], &MODERN).is_err(), "an empty write without flush");
}

/// What an older protocol leaves out or numbers differently (wire.md 3.3, 3.4, 7.1).
#[test]
fn older_protocols_have_older_packets() {
    let param = SyncParam {
        resync_rate: 250,
        verify_alg: "md5".to_owned(),
        csums_alg: String::new(),
        c_plan_ahead: 20,
        c_delay_target: 10,
        c_fill_target: 100,
        c_max_rate: 102_400,
    };
    for (version, length) in [(87, 4), (88, 8), (89, 132), (94, 132), (95, 148), (101, 148)] {
        let framing = Framing { version, ..MODERN };
        let bytes = bytes_of(&Packet::SyncParam(param.clone()), &framing, 0);
        let (header, start) = decode_header(&bytes, Some(version)).expect("ok").expect("whole");
        assert_eq!(header.length, length, "version {version}");
        let decoded = decode_body(&header, &bytes[start..], &framing).expect("valid");
        let Packet::SyncParam(decoded) = decoded.packet else { panic!("{decoded:?}") };
        assert_eq!(decoded.verify_alg, if version < 88 { "" } else { "md5" });
        assert_eq!(decoded.c_max_rate, if version < 95 { 0 } else { 102_400 });
    }
    let reply = Packet::ConnectionStateChangeReply(-7);
    assert_eq!(bytes_of(&reply, &Framing { version: 99, ..MODERN }, 0)[5], 0x1D);
    assert_eq!(bytes_of(&reply, &MODERN, 0)[7], 0x2B);
}

#[test]
fn every_command_has_a_name_and_a_place() {
    for &command in ALL {
        assert!(name_of(command).is_some());
        assert_eq!(socket_of(command).is_none(), command == P_DELAY_PROBE);
    }
    let error = WireError::Length { command: P_STATE, length: 5 };
    assert_eq!(error.to_string(), "P_STATE (0x000e) with a length of 5 bytes");
}
