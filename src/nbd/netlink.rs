//! The kernel's `nbd` family of generic netlink: encoding, and one socket that asks and is answered
//! (nbd.md 3.2).
//!
//! A netlink message is a header of 16 bytes, a generic header of 4, and attributes: length u16, type
//! u16, value, padded to 4 bytes. Everything is in the byte order of the machine. Encoding and
//! decoding are pure; only [`Control`] does I/O, one question at a time.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with,
};

/// The kernel answers such a question at once, except where it waits for requests under way.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The longest answer, a status of one device or the description of the family, is under 1 KiB.
const ANSWER_BYTES: usize = 32 << 10;
/// Messages looked at for the answer to one question.
const MESSAGES_MAX: usize = 16;

const MESSAGE_HEADER_BYTES: usize = 16;
const GENERIC_HEADER_BYTES: usize = 4;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

const MESSAGE_ERROR: u16 = 2;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACKNOWLEDGE: u16 = 4;
const ATTRIBUTE_NESTED: u16 = 1 << 15;

/// The family that knows the families.
mod controller {
    pub const ID: u16 = 0x10;
    pub const GET_FAMILY: u8 = 3;
    pub const VERSION: u8 = 1;
    pub const FAMILY_ID: u16 = 1;
    pub const FAMILY_NAME: u16 = 2;
}

const FAMILY: &str = "nbd";
const FAMILY_VERSION: u8 = 1;

mod command {
    pub const CONNECT: u8 = 1;
    pub const DISCONNECT: u8 = 2;
    pub const RECONFIGURE: u8 = 3;
    pub const STATUS: u8 = 5;
}

mod attribute {
    pub const INDEX: u16 = 1;
    pub const SIZE_BYTES: u16 = 2;
    pub const BLOCK_SIZE_BYTES: u16 = 3;
    pub const TIMEOUT: u16 = 4;
    pub const SERVER_FLAGS: u16 = 5;
    pub const CLIENT_FLAGS: u16 = 6;
    pub const SOCKETS: u16 = 7;
    pub const DEAD_CONN_TIMEOUT: u16 = 8;
    pub const DEVICE_LIST: u16 = 9;
    pub const BACKEND_IDENTIFIER: u16 = 10;
    /// In [`SOCKETS`].
    pub const SOCKET_ITEM: u16 = 1;
    pub const SOCKET_FD: u16 = 1;
    /// In [`DEVICE_LIST`].
    pub const DEVICE_ITEM: u16 = 1;
    pub const DEVICE_INDEX: u16 = 1;
    pub const DEVICE_CONNECTED: u16 = 2;
}

/// What the kernel is told of a device. Absent: unchanged, or the kernel's default.
#[derive(Clone, Debug, Default)]
pub struct DeviceSettings<'a> {
    /// Absent for a new device: the kernel chooses one that is free, or makes one.
    pub index: Option<u32>,
    pub size_bytes: Option<u64>,
    pub block_size_bytes: Option<u64>,
    /// After this time a request that was sent and not answered is sent again on another socket.
    pub timeout_s: Option<u64>,
    /// NBD transmission flags.
    pub server_flags: Option<u64>,
    /// How long requests wait for a socket before they fail.
    pub dead_connection_timeout_s: Option<u64>,
    pub backend_identifier: Option<&'a str>,
    pub sockets: &'a [BorrowedFd<'a>],
}

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("the kernel has no nbd driver loaded")]
    NoDriver,
    #[error("not permitted: CAP_SYS_ADMIN is needed")]
    NotPermitted,
    #[error("the kernel refused: {0}")]
    Refused(Errno),
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    #[error("netlink: an answer that makes no sense")]
    Malformed,
    #[error("netlink: no answer within {} s", ANSWER_LIMIT.as_secs())]
    Silent,
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::Silent,
            errno => Self::Socket(errno.into()),
        }
    }
}

/// The way to the kernel's nbd driver.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Control {
    /// Asks for the number of the family, which exists while the driver is loaded.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_LIMIT))?;
        let mut control = Self { socket, family: controller::ID, sequence: 0 };
        let mut attributes = Vec::new();
        push_text(&mut attributes, controller::FAMILY_NAME, FAMILY);
        let answer = control
            .ask(controller::GET_FAMILY, controller::VERSION, &attributes)
            .map_err(|error| match error {
                NetlinkError::Refused(Errno::NOENT) => NetlinkError::NoDriver,
                error => error,
            })?;
        control.family =
            find(&answer, controller::FAMILY_ID).and_then(as_u16).ok_or(NetlinkError::Malformed)?;
        Ok(control)
    }

    /// Sets a device up; returns its number.
    pub fn connect(&mut self, settings: &DeviceSettings<'_>) -> Result<u32, NetlinkError> {
        let answer = self.ask(command::CONNECT, FAMILY_VERSION, &attributes(settings))?;
        find(&answer, attribute::INDEX).and_then(as_u32).ok_or(NetlinkError::Malformed)
    }

    /// Gives new sockets in place of dead ones, or changes settings. Sockets for which there is no
    /// dead one are dropped by the kernel without a word (nbd.md 3.4).
    pub fn reconfigure(&mut self, settings: &DeviceSettings<'_>) -> Result<(), NetlinkError> {
        self.ask(command::RECONFIGURE, FAMILY_VERSION, &attributes(settings)).map(drop)
    }

    pub fn disconnect(&mut self, index: u32) -> Result<(), NetlinkError> {
        let settings = DeviceSettings { index: Some(index), ..DeviceSettings::default() };
        self.ask(command::DISCONNECT, FAMILY_VERSION, &attributes(&settings)).map(drop)
    }

    /// Whether a device is set up, by whomever.
    pub fn is_connected(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let settings = DeviceSettings { index: Some(index), ..DeviceSettings::default() };
        let answer = self.ask(command::STATUS, FAMILY_VERSION, &attributes(&settings))?;
        Ok(connected_in(&answer, index))
    }

    /// Sends one question and waits for its acknowledgement; returns the attributes of the message
    /// that came before it, if one did.
    fn ask(
        &mut self,
        command: u8,
        version: u8,
        attributes: &[u8],
    ) -> Result<Vec<u8>, NetlinkError> {
        self.sequence += 1;
        let message = message(self.family, self.sequence, command, version, attributes);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &message, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; ANSWER_BYTES];
        let mut data = Vec::new();
        for _ in 0..MESSAGES_MAX {
            let (_, count) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..count).ok_or(NetlinkError::Malformed)?;
            while let Some(answer) = take_answer(&mut rest)? {
                match answer {
                    Answer { sequence, .. } if sequence != self.sequence => {}
                    Answer { kind: AnswerKind::Acknowledged, .. } => return Ok(data),
                    Answer { kind: AnswerKind::Refused(Errno::PERM), .. } => {
                        return Err(NetlinkError::NotPermitted);
                    }
                    Answer { kind: AnswerKind::Refused(errno), .. } => {
                        return Err(NetlinkError::Refused(errno));
                    }
                    Answer { kind: AnswerKind::Data(attributes), .. } => data = attributes.to_vec(),
                }
            }
        }
        Err(NetlinkError::Malformed)
    }
}

// ---- encoding

fn message(kind: u16, sequence: u32, command: u8, version: u8, attributes: &[u8]) -> Vec<u8> {
    let length = MESSAGE_HEADER_BYTES + GENERIC_HEADER_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(FLAG_REQUEST | FLAG_ACKNOWLEDGE).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[command, version, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

fn attributes(settings: &DeviceSettings<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(index) = settings.index {
        push(&mut bytes, attribute::INDEX, &index.to_ne_bytes());
    }
    for (kind, value) in [
        (attribute::SIZE_BYTES, settings.size_bytes),
        (attribute::BLOCK_SIZE_BYTES, settings.block_size_bytes),
        (attribute::TIMEOUT, settings.timeout_s),
        (attribute::SERVER_FLAGS, settings.server_flags),
        // Neither destroyed on disconnect nor disconnected on close: the device outlives both.
        (attribute::CLIENT_FLAGS, settings.server_flags.map(|_| 0)),
        (attribute::DEAD_CONN_TIMEOUT, settings.dead_connection_timeout_s),
    ] {
        if let Some(value) = value {
            push(&mut bytes, kind, &value.to_ne_bytes());
        }
    }
    if let Some(identifier) = settings.backend_identifier {
        push_text(&mut bytes, attribute::BACKEND_IDENTIFIER, identifier);
    }
    if !settings.sockets.is_empty() {
        let mut items = Vec::new();
        for socket in settings.sockets {
            let mut item = Vec::new();
            push(&mut item, attribute::SOCKET_FD, &(socket.as_raw_fd() as u32).to_ne_bytes());
            push(&mut items, attribute::SOCKET_ITEM | ATTRIBUTE_NESTED, &item);
        }
        push(&mut bytes, attribute::SOCKETS | ATTRIBUTE_NESTED, &items);
    }
    bytes
}

fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = ATTRIBUTE_HEADER_BYTES + value.len();
    // Lengths are u16: names are cut to 128 bytes and sockets are few.
    assert!(length <= usize::from(u16::MAX), "an attribute of {length} bytes");
    bytes.extend_from_slice(&(length as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn push_text(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    push(bytes, kind, &[text.as_bytes(), &[0]].concat());
}

// ---- decoding

#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    sequence: u32,
    kind: AnswerKind<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum AnswerKind<'a> {
    Data(&'a [u8]),
    Acknowledged,
    Refused(Errno),
}

/// The next message of what was received; `None` at its end.
fn take_answer<'a>(bytes: &mut &'a [u8]) -> Result<Option<Answer<'a>>, NetlinkError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let header = bytes.first_chunk::<MESSAGE_HEADER_BYTES>().ok_or(NetlinkError::Malformed)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(MESSAGE_HEADER_BYTES..length).ok_or(NetlinkError::Malformed)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let kind = if kind == MESSAGE_ERROR {
        let code = body.first_chunk::<4>().ok_or(NetlinkError::Malformed)?;
        match i32::from_ne_bytes(*code) {
            0 => AnswerKind::Acknowledged,
            code @ -4095..=-1 => AnswerKind::Refused(Errno::from_raw_os_error(-code)),
            _ => return Err(NetlinkError::Malformed),
        }
    } else {
        AnswerKind::Data(body.get(GENERIC_HEADER_BYTES..).ok_or(NetlinkError::Malformed)?)
    };
    Ok(Some(Answer { sequence, kind }))
}

/// The attributes in `bytes`, up to one that does not fit.
fn each(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<ATTRIBUTE_HEADER_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !ATTRIBUTE_NESTED;
        let value = bytes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    each(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn as_u16(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn as_u32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn connected_in(answer: &[u8], index: u32) -> bool {
    let devices = find(answer, attribute::DEVICE_LIST).unwrap_or_default();
    each(devices).any(|(kind, device)| {
        kind == attribute::DEVICE_ITEM
            && find(device, attribute::DEVICE_INDEX).and_then(as_u32) == Some(index)
            && find(device, attribute::DEVICE_CONNECTED).is_some_and(|value| value != [0])
    })
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
