//! Every row of nbd.md 1.5 that a request's 28 bytes decide, and properties over all of them.

use super::*;
use crate::nbd::export::Context;
use proptest::prelude::*;

const SIZE: u64 = 128 << 20;

fn rules() -> Rules {
    Rules::new(&ExportInfo::new("r0", SIZE), false, Contexts::default())
}

fn rich_rules() -> Rules {
    let mut contexts = Contexts::default();
    contexts.insert(Context::Allocation);
    Rules { structured: true, contexts, ..rules() }
}

fn bytes(flags: u16, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&0xfeed_u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn action(rules: &Rules, flags: u16, command: u16, offset: u64, length: u32) -> Action {
    match parse(&bytes(flags, command, offset, length), rules) {
        Step::Request { ask, action } => {
            assert_eq!((ask.handle, ask.offset, ask.length), (0xfeed, offset, length));
            action
        }
        other => panic!("not a request: {other:?}"),
    }
}

fn refusal(rules: &Rules, flags: u16, command: u16, offset: u64, length: u32) -> Errno {
    match action(rules, flags, command, offset, length) {
        Action::Refuse { error, payload_bytes, .. } => {
            assert_eq!(payload_bytes, if command == command::WRITE { length } else { 0 });
            error
        }
        other => panic!("accepted: {other:?}"),
    }
}

#[test]
fn ranges_outside_the_export_are_refused() {
    let rules = rules();
    for (offset, length) in [(SIZE, 512), (SIZE - 512, 1024), (u64::MAX - 511, 1024), (SIZE + 1, 0)]
    {
        assert_eq!(refusal(&rules, 0, command::READ, offset, length), Errno::Invalid);
        assert_eq!(refusal(&rules, 0, command::TRIM, offset, length), Errno::Invalid);
        assert_eq!(refusal(&rules, 0, command::CACHE, offset, length), Errno::Invalid);
        assert_eq!(refusal(&rules, 0, command::WRITE, offset, length), Errno::NoSpace);
        assert_eq!(refusal(&rules, 0, command::WRITE_ZEROES, offset, length), Errno::NoSpace);
    }
}

#[test]
fn nothing_to_do_is_done() {
    for command in [command::READ, command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert!(matches!(action(&rules(), 0, command, SIZE, 0), Action::Done));
    }
}

#[test]
fn unknown_commands_and_flags_are_invalid() {
    let rules = rules();
    for command in [8, 9, 99, u16::MAX] {
        assert_eq!(refusal(&rules, 0, command, 0, 512), Errno::Invalid);
    }
    assert_eq!(refusal(&rules, 1 << 15, command::READ, 0, 512), Errno::Invalid);
    assert_eq!(refusal(&rules, command_flag::DF, command::READ, 0, 512), Errno::Invalid);
    assert_eq!(refusal(&rules, command_flag::NO_HOLE, command::WRITE, 0, 512), Errno::Invalid);
    assert_eq!(refusal(&rules, 1 << 5, command::WRITE, 0, 512), Errno::Invalid);
    assert_eq!(refusal(&rules, 1 << 5, command::CACHE, 0, 512), Errno::Invalid);
    assert_eq!(refusal(&rules, 0, command::BLOCK_STATUS, 0, 512), Errno::Invalid);
    assert_eq!(refusal(&rules, 0, command::FLUSH, 512, 0), Errno::Invalid);
    assert_eq!(refusal(&rules, 0, command::FLUSH, 0, 512), Errno::Invalid);
}

#[test]
fn fua_goes_with_every_command() {
    let rules = rich_rules();
    for command in [command::READ, command::TRIM, command::BLOCK_STATUS] {
        let action = action(&rules, command_flag::FUA, command, 0, 4096);
        assert!(matches!(action, Action::Forward(_)), "{action:?}");
    }
    let cache = action(&rules, command_flag::FUA, command::CACHE, 0, 4096);
    assert!(matches!(cache, Action::Done), "{cache:?}");
    let flush = action(&rules, command_flag::FUA, command::FLUSH, 0, 0);
    assert!(matches!(flush, Action::Forward(Request::Flush)));
    let write = action(&rules, command_flag::FUA, command::WRITE, 512, 4096);
    assert!(matches!(write, Action::Receive { offset: 512, length: 4096, fua: true }));
}

#[test]
fn negotiated_features_are_usable() {
    let rules = rich_rules();
    let read = action(&rules, command_flag::DF, command::READ, 0, 512);
    assert!(matches!(read, Action::Forward(Request::Read { offset: 0, length: 512 })));
    let step = parse(&bytes(command_flag::REQ_ONE, command::BLOCK_STATUS, 0, 512), &rules);
    let Step::Request { ask, action } = step else { panic!("{step:?}") };
    assert_eq!(ask.kind, Kind::BlockStatus { request_one: true });
    assert!(matches!(action, Action::Forward(Request::BlockStatus { request_one: true, .. })));
    assert_eq!(refusal(&rules, 0, command::BLOCK_STATUS, 0, 0), Errno::Invalid);
}

#[test]
fn payloads_have_a_largest_size_and_hints_do_not() {
    let rules = rules();
    assert_eq!(refusal(&rules, 0, command::READ, 0, (32 << 20) + 512), Errno::Invalid);
    assert_eq!(refusal(&rules, 0, command::WRITE, 0, (32 << 20) + 512), Errno::Invalid);
    let read = action(&rules, 0, command::READ, 0, 32 << 20);
    assert!(matches!(read, Action::Forward(_)));
    for command in [command::TRIM, command::WRITE_ZEROES, command::CACHE] {
        let action = action(&rules, 0, command, 0, 128 << 20);
        assert!(matches!(action, Action::Forward(_) | Action::Done), "{action:?}");
    }
    let step = parse(&bytes(0, command::WRITE, 0, 1 << 30), &rules);
    assert!(matches!(step, Step::Violation(Violation::OversizedWrite(_))));
}

#[test]
fn unaligned_ranges_are_invalid() {
    for command in [command::READ, command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(refusal(&rules(), 0, command, 1, 512), Errno::Invalid);
        assert_eq!(refusal(&rules(), 0, command, 0, 511), Errno::Invalid);
    }
}

#[test]
fn read_only_exports_permit_no_change() {
    let rules = Rules { read_only: true, ..rules() };
    for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(refusal(&rules, 0, command, 0, 512), Errno::NotPermitted);
    }
    assert!(matches!(action(&rules, 0, command::FLUSH, 0, 0), Action::Forward(_)));
}

#[test]
fn zeroing_knows_holes_and_speed() {
    let (rules, fast) = (rules(), Rules { fast_zero: true, ..rules() });
    let flags = command_flag::FAST_ZERO;
    assert_eq!(refusal(&rules, flags, command::WRITE_ZEROES, 0, 512), Errno::NotSupported);
    let zero = action(&fast, flags, command::WRITE_ZEROES, 0, 512);
    assert!(matches!(zero, Action::Forward(Request::WriteZeroes { may_unmap: true, .. })));
    let zero = action(&rules, command_flag::NO_HOLE, command::WRITE_ZEROES, 0, 512);
    assert!(matches!(zero, Action::Forward(Request::WriteZeroes { may_unmap: false, .. })));
}

#[test]
fn a_stream_that_lost_its_place_is_closed() {
    let mut request = bytes(0, command::READ, 0, 512);
    assert!(matches!(parse(&request[..27], &rules()), Step::Incomplete));
    assert!(matches!(parse(&[], &rules()), Step::Incomplete));
    request[0] ^= 1;
    let step = parse(&request, &rules());
    assert!(matches!(step, Step::Violation(Violation::BadMagic(_))));
    let step = parse(&request[..4], &rules());
    assert!(matches!(step, Step::Violation(Violation::BadMagic(_))), "seen before it is whole");
    assert!(matches!(parse(&bytes(0, command::DISCONNECT, 7, 7), &rules()), Step::Disconnect));
}

proptest! {
    /// Whatever the fields, what goes on is inside the export and aligned (I13).
    #[test]
    fn what_is_forwarded_is_safe(
        flags in prop_oneof![Just(0u16), 0u16..64, any::<u16>()],
        command in 0u16..10,
        offset in prop_oneof![0..SIZE * 2, (0..SIZE / 512).prop_map(|sector| sector * 512),
                              any::<u64>()],
        length in prop_oneof![(0u32..1024).prop_map(|sectors| sectors * 512), any::<u32>()],
        read_only: bool,
        rich: bool,
    ) {
        let rules = Rules { read_only, ..if rich { rich_rules() } else { rules() } };
        let Step::Request { action, .. } = parse(&bytes(flags, command, offset, length), &rules)
        else { return Ok(()) };
        let (start, length, changes) = match action {
            Action::Forward(Request::Read { offset, length }) => (offset, length, false),
            Action::Forward(Request::BlockStatus { offset, length, .. }) => (offset, length, false),
            Action::Forward(Request::Trim { offset, length, .. }) => (offset, length, true),
            Action::Forward(Request::WriteZeroes { offset, length, .. }) => (offset, length, true),
            Action::Receive { offset, length, .. } => (offset, length, true),
            _ => return Ok(()),
        };
        prop_assert!(length > 0 && start + u64::from(length) <= SIZE);
        prop_assert!(start % 512 == 0 && length % 512 == 0);
        prop_assert!(!(changes && read_only));
    }

    #[test]
    fn any_bytes_are_a_step(data in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&data, &rich_rules());
    }
}
