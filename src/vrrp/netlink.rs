//! The kernel's `rtnetlink`: which interfaces and addresses there are, adding and removing virtual
//! addresses, and being told of changes.
//!
//! A message is a header of 16 bytes, a body of fixed size by its type, and attributes: length u16,
//! type u16, value, padded to 4 bytes. Everything is in the byte order of the machine. The kernel
//! answers at once, so questions block.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use super::announce::HardwareAddress;
use crate::election::settings::VirtualAddress;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The kernel fills at most 32 KiB a datagram of a dump.
const ANSWER_BYTES: usize = 64 << 10;
/// A machine with more interfaces or addresses than fit in so many datagrams is not served.
const DATAGRAMS_MAX: usize = 1024;
/// Changes taken at once; then the state is asked for as a whole.
const CHANGES_MAX: usize = 256;

const HEADER_BYTES: usize = 16;
const LINK_BODY_BYTES: usize = 16;
const ADDRESS_BODY_BYTES: usize = 8;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;

const FLAG_REQUEST: u16 = 1;
const FLAG_ACKNOWLEDGE: u16 = 4;
const FLAG_REPLACE: u16 = 0x100;
const FLAG_DUMP: u16 = 0x300;
const FLAG_CREATE: u16 = 0x400;

const LINK_HARDWARE_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_LABEL: u16 = 3;
const ADDRESS_BROADCAST: u16 = 4;
const ADDRESS_FLAGS: u16 = 8;

const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;

const INTERFACE_UP: u32 = 1;
const INTERFACE_RUNNING: u32 = 0x40;
const ADDRESS_SECONDARY: u32 = 1;
/// No duplicate address detection: the other node may still have it for a moment.
const ADDRESS_NO_DETECTION: u32 = 2;
const ADDRESS_DETECTION_FAILED: u32 = 8;
const ADDRESS_TENTATIVE: u32 = 0x40;

/// Groups of changes, as bits.
const CHANGES: u32 = 1 | 0x10 | 0x100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Up, and with a carrier.
    pub is_up: bool,
    /// Absent where frames have none.
    pub hardware: Option<HardwareAddress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub interface: u32,
    pub address: IpAddr,
    pub prefix_length: u8,
    /// In the same network as an earlier one; IPv6 has none.
    pub is_secondary: bool,
    /// It can be sent from: IPv6 first makes sure that nobody else has it.
    pub is_usable: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("not permitted: CAP_NET_ADMIN is needed")]
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

/// Questions and orders.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = route_socket(SocketFlags::CLOEXEC, 0)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_LIMIT))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let messages = self.ask(GET_LINK, FLAG_DUMP, &[0; LINK_BODY_BYTES])?;
        Ok(messages.iter().filter_map(as_link).collect())
    }

    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let messages = self.ask(GET_ADDRESS, FLAG_DUMP, &[0; ADDRESS_BODY_BYTES])?;
        Ok(messages.iter().filter_map(as_address).collect())
    }

    /// Also when it is there already.
    pub fn add_address(
        &mut self,
        interface: u32,
        address: &VirtualAddress,
    ) -> Result<(), NetlinkError> {
        let body = address_request(interface, address);
        self.ask(NEW_ADDRESS, FLAG_CREATE | FLAG_REPLACE, &body).map(drop)
    }

    /// Returns whether it was there.
    pub fn remove_address(
        &mut self,
        interface: u32,
        address: &VirtualAddress,
    ) -> Result<bool, NetlinkError> {
        match self.ask(DELETE_ADDRESS, 0, &address_request(interface, address)) {
            Ok(_) => Ok(true),
            Err(NetlinkError::Refused(Errno::ADDRNOTAVAIL | Errno::NODEV)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends one request; returns the messages, type and body, that came before its end.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Message>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = flags | FLAG_REQUEST | FLAG_ACKNOWLEDGE;
        let request = message(kind, flags, self.sequence, body);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut buffer = vec![0; ANSWER_BYTES];
        let mut found = Vec::new();
        for _ in 0..DATAGRAMS_MAX {
            let (_, count) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..count).ok_or(NetlinkError::Malformed)?;
            while let Some((sequence, message)) = take_message(&mut rest)? {
                if sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    MESSAGE_DONE => return Ok(found),
                    MESSAGE_ERROR => return outcome(&message.body).map(|()| found),
                    _ => found.push(message),
                }
            }
        }
        Err(NetlinkError::Malformed)
    }
}

/// Says that links or addresses have changed; which, is asked for.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
}

impl Changes {
    pub fn open() -> Result<Self, NetlinkError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self { socket: route_socket(flags, CHANGES)? })
    }

    /// Takes what has come; `true` when anything did.
    pub fn take(&self) -> bool {
        let mut buffer = vec![0; ANSWER_BYTES];
        let mut any = false;
        for _ in 0..CHANGES_MAX {
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::AGAIN) => return any,
                // Too many for the socket: also a reason to ask.
                Ok(_) | Err(_) => any = true,
            }
        }
        any
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Changes {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn route_socket(flags: SocketFlags, groups: u32) -> Result<OwnedFd, NetlinkError> {
    // NETLINK_ROUTE is 0, the protocol that is meant when none is named.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

// ---- encoding

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + body.len()) as u32;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn address_request(interface: u32, wanted: &VirtualAddress) -> Vec<u8> {
    let (family, octets) = match wanted.address {
        IpAddr::V4(address) => (FAMILY_V4, address.octets().to_vec()),
        IpAddr::V6(address) => (FAMILY_V6, address.octets().to_vec()),
    };
    let mut body = vec![family, wanted.prefix_length, 0, wanted.scope];
    body.extend(interface.to_ne_bytes());
    push(&mut body, ADDRESS_LOCAL, &octets);
    push(&mut body, ADDRESS, &octets);
    if let Some(broadcast) = wanted.broadcast {
        push(&mut body, ADDRESS_BROADCAST, &broadcast.octets());
    }
    if let Some(label) = wanted.label.as_ref().filter(|_| family == FAMILY_V4) {
        push(&mut body, ADDRESS_LABEL, &[label.as_bytes(), &[0]].concat());
    }
    if family == FAMILY_V6 {
        push(&mut body, ADDRESS_FLAGS, &ADDRESS_NO_DETECTION.to_ne_bytes());
    }
    body
}

// ---- decoding

#[derive(Debug, PartialEq, Eq)]
struct Message {
    kind: u16,
    body: Vec<u8>,
}

/// The next message with its sequence number; `None` at the end.
fn take_message(bytes: &mut &[u8]) -> Result<Option<(u32, Message)>, NetlinkError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(NetlinkError::Malformed)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(HEADER_BYTES..length).ok_or(NetlinkError::Malformed)?.to_vec();
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some((sequence, Message { kind, body })))
}

fn outcome(body: &[u8]) -> Result<(), NetlinkError> {
    let code = i32::from_ne_bytes(*body.first_chunk().ok_or(NetlinkError::Malformed)?);
    match code {
        0 => Ok(()),
        code @ -4095..=-1 => match Errno::from_raw_os_error(-code) {
            Errno::PERM => Err(NetlinkError::NotPermitted),
            errno => Err(NetlinkError::Refused(errno)),
        },
        _ => Err(NetlinkError::Malformed),
    }
}

/// The attributes in `bytes`, up to one that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn as_link(message: &Message) -> Option<Link> {
    let body = &message.body[..];
    let attributes = body.get(LINK_BODY_BYTES..).filter(|_| message.kind == NEW_LINK)?;
    let flags = number(body, 8)?;
    let name = find(attributes, LINK_NAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let hardware = find(attributes, LINK_HARDWARE_ADDRESS);
    Some(Link {
        index: number(body, 4)?,
        name: String::from_utf8_lossy(name).into_owned(),
        is_up: flags & (INTERFACE_UP | INTERFACE_RUNNING) == INTERFACE_UP | INTERFACE_RUNNING,
        hardware: hardware.and_then(|bytes| HardwareAddress::try_from(bytes).ok()),
    })
}

fn as_address(message: &Message) -> Option<Address> {
    let body = &message.body[..];
    let attributes = body.get(ADDRESS_BODY_BYTES..).filter(|_| message.kind == NEW_ADDRESS)?;
    // Of a point-to-point link ADDRESS is the other end.
    let octets = find(attributes, ADDRESS_LOCAL).or_else(|| find(attributes, ADDRESS))?;
    let address = match body[0] {
        FAMILY_V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    let all_flags = find(attributes, ADDRESS_FLAGS).and_then(|value| number(value, 0));
    let flags = all_flags.unwrap_or_else(|| u32::from(body[2]));
    Some(Address {
        interface: number(body, 4)?,
        address,
        prefix_length: body[1],
        is_secondary: address.is_ipv4() && flags & ADDRESS_SECONDARY != 0,
        is_usable: flags & (ADDRESS_TENTATIVE | ADDRESS_DETECTION_FAILED) == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_loopback() {
        let mut netlink = Netlink::open().expect("questions need no rights");
        let links = netlink.links().expect("an answer");
        let loopback = links.iter().find(|link| link.name == "lo").expect("lo");
        assert_eq!(loopback.hardware, Some([0; 6]));
        let addresses = netlink.addresses().expect("an answer");
        assert!(
            addresses
                .iter()
                .all(|address| links.iter().any(|link| link.index == address.interface))
        );
    }

    #[test]
    fn a_request_for_an_ipv6_address_forgoes_detection() {
        let wanted = VirtualAddress::host("fe80::219".parse().unwrap());
        let body = address_request(7, &wanted);
        assert_eq!(body[..4], [FAMILY_V6, 128, 0, 0]);
        assert_eq!(find(&body[8..], ADDRESS_FLAGS), Some(&ADDRESS_NO_DETECTION.to_ne_bytes()[..]));
        // The answer to such a request, when dumped, is read as the same address.
        let found = as_address(&Message { kind: NEW_ADDRESS, body }).expect("an address");
        assert_eq!((found.interface, found.address), (7, wanted.address));
        assert!(found.is_usable);
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        for length in [0u32, 4, 15, 99] {
            let mut bytes = message(NEW_LINK, 0, 1, &[0; 20]);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(take_message(&mut &bytes[..]).is_err(), "{length}");
        }
        for cut in 0..24 {
            let body = vec![1; cut];
            assert_eq!(as_address(&Message { kind: NEW_ADDRESS, body: body.clone() }), None);
            assert_eq!(as_link(&Message { kind: NEW_LINK, body }), None);
        }
    }
}
