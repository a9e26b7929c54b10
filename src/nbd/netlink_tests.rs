//! Golden bytes of the questions, answers good and hostile.

use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;

/// Netlink is in the byte order of the machine; the bytes below are of a little-endian one.
const LITTLE: bool = cfg!(target_endian = "little");

#[test]
fn the_question_for_the_family() {
    let mut attributes = Vec::new();
    push_text(&mut attributes, controller::FAMILY_NAME, FAMILY);
    let bytes = message(controller::ID, 7, controller::GET_FAMILY, 1, &attributes);
    assert_eq!(bytes.len(), 28);
    if LITTLE {
        assert_eq!(
            bytes,
            [
                28, 0, 0, 0, 0x10, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, // header
                3, 1, 0, 0, // GETFAMILY
                8, 0, 2, 0, b'n', b'b', b'd', 0,
            ]
        );
    }
}

#[test]
fn the_question_for_a_device() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
    let sockets = [socket.as_fd()];
    let settings = DeviceSettings {
        index: None,
        size_bytes: Some(0x0102_0000),
        block_size_bytes: Some(512),
        timeout_s: Some(8),
        server_flags: Some(0x016d),
        dead_connection_timeout_s: Some(86_400),
        backend_identifier: Some("r0"),
        sockets: &sockets,
    };
    let bytes = attributes(&settings);
    if LITTLE {
        let fd = (socket.as_raw_fd() as u32).to_ne_bytes();
        let expected: Vec<u8> = [
            &[12, 0, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0][..],
            &[12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            &[12, 0, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 5, 0, 0x6d, 1, 0, 0, 0, 0, 0, 0],
            &[12, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 8, 0, 0x80, 0x51, 1, 0, 0, 0, 0, 0],
            &[7, 0, 10, 0, b'r', b'0', 0, 0],
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0],
            &fd,
        ]
        .concat();
        assert_eq!(bytes, expected);
    }
    let nothing = attributes(&DeviceSettings { index: Some(3), ..DeviceSettings::default() });
    if LITTLE {
        assert_eq!(nothing, [8, 0, 1, 0, 3, 0, 0, 0], "what is not said is not sent");
    }
}

/// As the kernel words them: data, then the acknowledgement.
#[test]
fn answers() {
    let mut attributes = Vec::new();
    push(&mut attributes, attribute::INDEX, &5_u32.to_ne_bytes());
    let mut bytes = message(0x1c, 9, command::CONNECT, 1, &attributes);
    let refusal = |code: i32| {
        let mut bytes = message(MESSAGE_ERROR, 9, 0, 0, &[]);
        bytes.truncate(MESSAGE_HEADER_BYTES);
        bytes.extend_from_slice(&code.to_ne_bytes());
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    };
    bytes.extend(refusal(0));
    let mut rest = bytes.as_slice();
    let first = take_answer(&mut rest).expect("well formed").expect("data");
    let AnswerKind::Data(data) = first.kind else { panic!("{first:?}") };
    assert_eq!((first.sequence, find(data, attribute::INDEX).and_then(as_u32)), (9, Some(5)));
    let second = take_answer(&mut rest).expect("well formed").expect("acknowledgement");
    assert_eq!(second, Answer { sequence: 9, kind: AnswerKind::Acknowledged });
    assert_eq!(take_answer(&mut rest).expect("end"), None);

    let refused = refusal(-16);
    let answer = take_answer(&mut refused.as_slice()).expect("well formed").expect("error");
    assert_eq!(answer.kind, AnswerKind::Refused(Errno::BUSY));
    assert!(take_answer(&mut refusal(1).as_slice()).is_err());
    assert!(take_answer(&mut refusal(i32::MIN).as_slice()).is_err());
}

#[test]
fn the_status_of_a_device() {
    let status = |index: u32, connected: u8| {
        let mut device = Vec::new();
        push(&mut device, attribute::DEVICE_INDEX, &index.to_ne_bytes());
        push(&mut device, attribute::DEVICE_CONNECTED, &[connected]);
        let mut list = Vec::new();
        push(&mut list, attribute::DEVICE_ITEM | ATTRIBUTE_NESTED, &device);
        let mut bytes = Vec::new();
        push(&mut bytes, attribute::DEVICE_LIST | ATTRIBUTE_NESTED, &list);
        bytes
    };
    assert!(connected_in(&status(3, 1), 3));
    assert!(!connected_in(&status(3, 0), 3));
    assert!(!connected_in(&status(4, 1), 3));
    assert!(!connected_in(&[], 3));
}

#[test]
fn the_driver_is_there_or_is_said_to_be_missing() {
    match Control::open() {
        Ok(control) => assert!(control.family >= 0x10, "{control:?}"),
        Err(NetlinkError::NoDriver) => {}
        // A sandbox without netlink.
        Err(NetlinkError::Socket(error)) => println!("skipped: no netlink here: {error}"),
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut rest = bytes.as_slice();
        for _ in 0..200 {
            match take_answer(&mut rest) {
                Ok(Some(Answer { kind: AnswerKind::Data(data), .. })) => {
                    connected_in(data, 1);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "every message is longer than nothing");
    }
}
