//! Every row of nbd.md 1.5: malformed input, and what the protocol says must come of it.

use crate::raw::{Raw, command, command_flag, name_data, option, option_reply, request_bytes};
use crate::suite::Export;

const PERMITTED: u32 = 0;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

pub fn all(export: &Export) {
    hostile_greetings(export);
    options_that_keep_the_session(export);
    options_that_end_the_session(export);
    refused_requests(export);
    structured_refusals(export);
    requests_that_end_the_session(export);
    many_requests(export);
    disconnect_after_writes(export);
    vanishing_clients(export);
    half_open_handshakes(export);
    random_mutations(export);
}

fn hostile_greetings(export: &Export) {
    let mut raw = Raw::connect(export);
    raw.send(&[0, 0, 0x80, 3]);
    assert!(raw.is_closed(), "unknown client flag");

    let mut raw = Raw::negotiating(export);
    raw.send(b"IHAVENOTHING\0\0\0\0");
    assert!(raw.is_closed(), "bad option magic");
}

fn options_that_keep_the_session(export: &Export) {
    let mut set_context = name_data(&export.name(), &[]);
    set_context.extend_from_slice(&[0, 0]);
    let rows: [(&str, u32, Vec<u8>, &[u32]); 10] = [
        ("unknown option", 4711, vec![1, 2, 3], &[option_reply::ERROR_UNSUPPORTED]),
        ("LIST with data", option::LIST, vec![0; 4], &[option_reply::ERROR_INVALID]),
        (
            "STRUCTURED_REPLY with data",
            option::STRUCTURED_REPLY,
            vec![0; 4],
            &[option_reply::ERROR_INVALID],
        ),
        ("STARTTLS with data", option::STARTTLS, vec![0; 4], &[option_reply::ERROR_INVALID]),
        (
            "STARTTLS without TLS",
            option::STARTTLS,
            vec![],
            &[option_reply::ERROR_POLICY, option_reply::ERROR_UNSUPPORTED],
        ),
        ("GO, name > data", option::GO, vec![0, 0, 0, 99, 0, 0], &[option_reply::ERROR_INVALID]),
        ("GO, items > data", option::GO, vec![0, 0, 0, 0, 0, 9], &[option_reply::ERROR_INVALID]),
        (
            "GO, unknown name",
            option::GO,
            name_data("no such export", &[]),
            &[option_reply::ERROR_UNKNOWN],
        ),
        (
            "SET_META before STRUCTURED",
            option::SET_META_CONTEXT,
            set_context,
            &[option_reply::ERROR_INVALID],
        ),
        ("EXTENDED_HEADERS", 11, vec![], &[option_reply::ERROR_UNSUPPORTED]),
    ];
    let mut raw = Raw::negotiating(export);
    for (row, number, data, expected) in rows {
        raw.option(number, &data);
        let (kind, _) = raw.option_reply(number);
        assert!(expected.contains(&kind), "{row}: {kind:#x}");
        raw.option(option::LIST, &[]);
        let mut names = Vec::new();
        loop {
            match raw.option_reply(option::LIST) {
                (option_reply::SERVER, data) => names.push(data),
                (option_reply::ACK, _) => break,
                (other, _) => panic!("{row}: LIST was answered with {other:#x}"),
            }
        }
        assert!(!names.is_empty(), "{row}");
    }
    raw.option(option::ABORT, &[]);
    assert_eq!(raw.option_reply(option::ABORT).0, option_reply::ACK);
    assert!(raw.is_closed(), "ABORT");
}

fn options_that_end_the_session(export: &Export) {
    let mut raw = Raw::negotiating(export);
    raw.option_header(option::GO, 2 << 30);
    assert!(raw.is_closed(), "an option of 2 GiB");

    let mut raw = Raw::negotiating(export);
    raw.option(option::EXPORT_NAME, &[b'x'; 5000]);
    assert!(raw.is_closed(), "a name of 5000 bytes");

    let mut raw = Raw::negotiating(export);
    raw.option(option::EXPORT_NAME, b"no such export");
    assert!(raw.is_closed(), "EXPORT_NAME of an unknown name");
}

/// Errors of which any one is right.
type Allowed<'a> = &'a [u32];

fn refused_requests(export: &Export) {
    let size = export.size_bytes();
    let rows: [(&str, u16, u16, u64, u32, Allowed); 21] = [
        ("read past the end", 0, command::READ, size, 512, &[EINVAL]),
        ("read across the end", 0, command::READ, size - 512, 1024, &[EINVAL]),
        ("read, offset + length overflows", 0, command::READ, u64::MAX - 511, 1024, &[EINVAL]),
        ("write past the end", 0, command::WRITE, size, 512, &[ENOSPC]),
        ("write across the end", 0, command::WRITE, size - 512, 1024, &[ENOSPC]),
        ("zeroes past the end", 0, command::WRITE_ZEROES, size, 512, &[ENOSPC]),
        ("trim past the end", 0, command::TRIM, size, 512, &[EINVAL]),
        ("cache past the end", 0, command::CACHE, size, 512, &[EINVAL]),
        ("read of nothing", 0, command::READ, 0, 0, &[PERMITTED, EINVAL]),
        ("write of nothing", 0, command::WRITE, 0, 0, &[PERMITTED, EINVAL, ENOSPC]),
        ("unknown command", 0, 77, 0, 512, &[EINVAL]),
        ("RESIZE", 0, 8, 0, 512, &[EINVAL]),
        ("unknown flag", 1 << 14, command::READ, 0, 512, &[EINVAL]),
        ("unknown flag on a write", 1 << 14, command::WRITE, 0, 512, &[EINVAL]),
        ("DF without structured", command_flag::DF, command::READ, 0, 512, &[EINVAL]),
        ("BLOCK_STATUS not negotiated", 0, command::BLOCK_STATUS, 0, 512, &[EINVAL]),
        ("flush with a length", 0, command::FLUSH, 0, 512, &[PERMITTED, EINVAL]),
        ("flush with an offset", 0, command::FLUSH, 512, 0, &[PERMITTED, EINVAL]),
        ("FUA on a flush", command_flag::FUA, command::FLUSH, 0, 0, &[PERMITTED]),
        ("read of 64 MiB + 512", 0, command::READ, 0, (64 << 20) + 512, &[EINVAL, EOVERFLOW]),
        ("unaligned read", 0, command::READ, 1, 3, &[EINVAL]),
    ];
    let mut raw = Raw::enter(export, false);
    for (number, (row, flags, command, offset, length, expected)) in rows.into_iter().enumerate() {
        let cookie = 1000 + number as u64;
        raw.request(flags, command, cookie, offset, length);
        if command == command::WRITE {
            raw.send(&vec![0xee; length as usize]);
        }
        let (error, answered) = raw.simple_reply();
        assert_eq!(answered, cookie, "{row}");
        assert!(expected.contains(&error), "{row}: {error}");
        raw.assert_serving();
    }
    // FUA must be taken with every command once it is offered.
    raw.request(command_flag::FUA, command::READ, 1, 0, 512);
    assert_eq!(raw.simple_reply_with_data(512), (0, 1), "FUA on a read");
}

/// Reads are answered in structured form once that is negotiated, early errors too.
fn structured_refusals(export: &Export) {
    let mut raw = Raw::enter(export, true);
    for (cookie, flags, offset, length) in [
        (1, 0, export.size_bytes(), 512),
        (2, 1 << 14, 0, 512),
        (3, command_flag::DF, u64::MAX - 511, 1024),
    ] {
        raw.request(flags, command::READ, cookie, offset, length);
        assert_eq!(raw.structured_error(cookie), EINVAL);
    }
    raw.request(0, command::BLOCK_STATUS, 4, 0, 512);
    assert_eq!(raw.structured_error(4), EINVAL, "no context selected");
    raw.request(command_flag::DF, command::READ, 5, 0, 65536);
    let reply = raw.receive(20 + 8 + 65536);
    assert_eq!(reply[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1], "one chunk");
}

fn requests_that_end_the_session(export: &Export) {
    let mut raw = Raw::enter(export, false);
    raw.request(0, command::WRITE, 1, 0, 1 << 30);
    assert!(raw.is_closed(), "a write of 1 GiB");

    let mut raw = Raw::enter(export, false);
    raw.send_to_closing(&[0x42; 28]);
    assert!(raw.is_closed(), "bad request magic");
}

fn many_requests(export: &Export) {
    let mut raw = Raw::enter(export, false);
    let requests: Vec<u8> =
        (0..500).flat_map(|cookie| request_bytes(0, command::READ, cookie, 0, 512)).collect();
    raw.send(&requests);
    let mut seen: Vec<u64> = (0..500).map(|_| raw.simple_reply_with_data(512).1).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..500), "each of 500 reads is answered once");
}

fn disconnect_after_writes(export: &Export) {
    let mut raw = Raw::enter(export, false);
    let mut bytes = Vec::new();
    for cookie in 0..16 {
        bytes.extend(request_bytes(0, command::WRITE, cookie, cookie * 4096, 4096));
        bytes.extend([0x77; 4096]);
    }
    bytes.extend(request_bytes(0, command::DISCONNECT, 99, 0, 0));
    raw.send(&bytes);
    let mut seen: Vec<(u32, u64)> = (0..16).map(|_| raw.simple_reply()).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq((0..16).map(|cookie| (0, cookie))), "all 16 writes are answered");
    assert!(raw.is_closed(), "DISC");
}

fn vanishing_clients(export: &Export) {
    for round in 0..20 {
        let mut raw = Raw::enter(export, round % 2 == 0);
        let reads: Vec<u8> = (0..64)
            .flat_map(|cookie| request_bytes(0, command::READ, cookie, 0, 1 << 20))
            .collect();
        raw.send(&reads);
        if round % 3 == 0 {
            raw.receive(1000);
        }
        drop(raw);

        let mut raw = Raw::enter(export, false);
        raw.request(0, command::WRITE, 1, 0, 65536);
        raw.send(&vec![0; round * 1000]);
        drop(raw);
    }
    Raw::enter(export, false).assert_serving();
}

fn half_open_handshakes(export: &Export) {
    let _idle: Vec<Raw> = (0..40).map(|_| Raw::connect(export)).collect();
    Raw::enter(export, false).assert_serving();
}

/// Good conversations with a few bytes changed: whatever happens, others are still served.
fn random_mutations(export: &Export) {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for _ in 0..100 {
        let mut bytes = 3u32.to_be_bytes().to_vec();
        let go = name_data(&export.name(), &[3]);
        bytes.extend_from_slice(b"IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x07");
        bytes.extend_from_slice(&(go.len() as u32).to_be_bytes());
        bytes.extend(go);
        let handshake = bytes.len();
        for cookie in 0..8 {
            bytes.extend(request_bytes(0, command::WRITE, cookie, 8192, 512));
            bytes.extend([0; 512]);
            bytes.extend(request_bytes(0, command::READ, cookie, 8192, 512));
        }
        let start = if next() % 3 == 0 { 0 } else { handshake };
        for _ in 0..=next() % 4 {
            let at = start + next() % (bytes.len() - start);
            bytes[at] = next() as u8;
        }
        let mut raw = Raw::connect(export);
        raw.send_to_closing(&bytes);
    }
    Raw::enter(export, false).assert_serving();
}
