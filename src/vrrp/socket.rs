//! Raw sockets: adverts of protocol 112 in and out, frames out. No decisions.
//!
//! What comes in is taken with its source, destination and hop limit, since an advertisement that
//! was routed here is not one (vrrp.md 1.1).

use std::io::{self, Read};
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::netlink::Changes;
use crate::election::packet::{HOP_LIMIT, MAX_MESSAGE_BYTES, PROTOCOL};

/// Network control, as keepalived sets it.
const TRAFFIC_CLASS: u32 = 0xc0;
const IPV4_HEADER_BYTES: usize = 20;
const MAX_IPV4_HEADER_BYTES: usize = 60;
/// Room for what the kernel tells beside a packet: hop limit and destination.
const CONTROL_BYTES: usize = 128;

/// A packet of protocol 112 without its IP header.
#[derive(Debug)]
pub struct Datagram {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub bytes: Vec<u8>,
}

/// Hears on one interface.
#[derive(Debug)]
pub struct Ear {
    socket: Socket,
    is_v6: bool,
}

impl Ear {
    /// With a multicast `group` it is joined; unicast to this node is heard in any case.
    pub fn open(interface: &str, index: u32, group: IpAddr) -> io::Result<Self> {
        let socket = protocol_socket(group.is_ipv6(), interface)?;
        // Only of groups that are joined here, not of those that others have joined.
        match group {
            IpAddr::V4(group) => {
                socket.set_multicast_all_v4(false)?;
                if group.is_multicast() {
                    let interface = InterfaceIndexOrAddress::Index(index);
                    socket.join_multicast_v4_n(&group, &interface)?;
                }
            }
            IpAddr::V6(group) => {
                socket.set_multicast_all_v6(false)?;
                if group.is_multicast() {
                    socket.join_multicast_v6(&group, index)?;
                }
            }
        }
        if group.is_ipv6() {
            socket.set_recv_hoplimit_v6(true)?;
            tell_destination(&socket)?;
        }
        Ok(Self { socket, is_v6: group.is_ipv6() })
    }

    /// The next packet; `None` when there is none, or when it is none.
    pub fn take(&self) -> io::Result<Option<Datagram>> {
        if self.is_v6 { self.take_v6() } else { self.take_v4() }
    }

    /// Over IPv4 the header comes first.
    fn take_v4(&self) -> io::Result<Option<Datagram>> {
        let mut buffer = vec![0; MAX_IPV4_HEADER_BYTES + MAX_MESSAGE_BYTES];
        let count = (&self.socket).read(&mut buffer)?;
        Ok(parse_ipv4(&buffer[..count.min(buffer.len())]))
    }

    fn take_v6(&self) -> io::Result<Option<Datagram>> {
        let mut bytes = vec![0u8; MAX_MESSAGE_BYTES];
        let mut control = [0u64; CONTROL_BYTES / 8];
        let mut storage = SockAddrStorage::zeroed();
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all fields of a msghdr may be zero; it is the empty message.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut storage).cast();
        message.msg_namelen = storage.size_of();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: every pointer of `message` leads to memory of the length beside it, which lives
        // until the call returns.
        let count = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel wrote an address of this length there.
        let name = unsafe { SockAddr::new(storage, message.msg_namelen) };
        let told = control_bytes(&control, message.msg_controllen as usize);
        bytes.truncate(count);
        let Some(source) = name.as_socket_ipv6() else { return Ok(None) };
        let (hop_limit, destination) = told_beside(&told);
        Ok(hop_limit.zip(destination).map(|(hop_limit, destination)| Datagram {
            source: (*source.ip()).into(),
            destination: destination.into(),
            hop_limit,
            bytes,
        }))
    }
}

/// Lets tokio wait for packets.
pub fn watch_ear(ear: Ear) -> io::Result<AsyncFd<Ear>> {
    // SAFETY: an Ear owns its socket, gives out no way to replace or close it, and lives in the
    // AsyncFd.
    Ok(unsafe { AsyncFd::register_with_interest(ear, Interest::READABLE) }?)
}

/// Lets tokio wait for changes.
pub fn watch_changes(changes: Changes) -> io::Result<AsyncFd<Changes>> {
    // SAFETY: Changes owns its socket, gives out no way to replace or close it, and lives in the
    // AsyncFd.
    Ok(unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }?)
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Speaks from one address of an interface.
#[derive(Debug)]
pub struct Mouth {
    socket: Socket,
    index: u32,
}

impl Mouth {
    pub fn open(interface: &str, index: u32, source: IpAddr) -> io::Result<Self> {
        let socket = protocol_socket(source.is_ipv6(), interface)?;
        // What is heard is taken elsewhere.
        socket.set_recv_buffer_size(0)?;
        socket.set_priority(6)?;
        match source {
            IpAddr::V4(address) => {
                socket.set_ttl_v4(u32::from(HOP_LIMIT))?;
                socket.set_multicast_ttl_v4(u32::from(HOP_LIMIT))?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_tos_v4(TRAFFIC_CLASS)?;
                socket.set_multicast_if_v4(&address)?;
            }
            IpAddr::V6(_) => {
                socket.set_unicast_hops_v6(u32::from(HOP_LIMIT))?;
                socket.set_multicast_hops_v6(u32::from(HOP_LIMIT))?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_tclass_v6(TRAFFIC_CLASS)?;
                socket.set_multicast_if_v6(index)?;
            }
        }
        let mouth = Self { socket, index };
        mouth.socket.bind(&mouth.name(source))?;
        Ok(mouth)
    }

    pub fn send(&self, destination: IpAddr, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &self.name(destination)).map(drop)
    }

    /// Raw sockets have no ports; link-local addresses need their interface.
    fn name(&self, address: IpAddr) -> SockAddr {
        let address = match address {
            IpAddr::V4(address) => SocketAddr::V4(SocketAddrV4::new(address, 0)),
            IpAddr::V6(address) => SocketAddr::V6(SocketAddrV6::new(address, 0, 0, self.index)),
        };
        address.into()
    }
}

/// Sends whole Ethernet frames.
#[derive(Debug)]
pub struct Frames {
    socket: Socket,
}

impl Frames {
    pub fn open() -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        Ok(Self { socket })
    }

    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: sockaddr_ll is plain data, no larger than any socket address, and aligned to no
        // more than the storage.
        let name: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
        let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the storage holds an address of that length, set just now.
        let name = unsafe { SockAddr::new(storage, length) };
        self.socket.send_to(frame, &name).map(drop)
    }
}

fn protocol_socket(is_v6: bool, interface: &str) -> io::Result<Socket> {
    let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
    let protocol = Protocol::from(i32::from(PROTOCOL));
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

/// Asks for the destination beside each packet.
fn tell_destination(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// ---- taking apart what the kernel hands over

fn parse_ipv4(packet: &[u8]) -> Option<Datagram> {
    let header = packet.first_chunk::<IPV4_HEADER_BYTES>()?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_bytes < IPV4_HEADER_BYTES {
        return None;
    }
    let octets = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    Some(Datagram {
        source: octets(12).into(),
        destination: octets(16).into(),
        hop_limit: header[8],
        bytes: packet.get(header_bytes..)?.to_vec(),
    })
}

fn control_bytes(words: &[u64], length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Hop limit and destination among the control messages: length usize, level i32, type i32, value,
/// padded to a usize.
fn told_beside(mut bytes: &[u8]) -> (Option<u8>, Option<Ipv6Addr>) {
    const WORD: usize = mem::size_of::<usize>();
    const HEADER: usize = WORD + 8;
    let (mut hop_limit, mut destination) = (None, None);
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let length = usize::from_ne_bytes(*header.first_chunk().expect("a word"));
        let level = i32::from_ne_bytes(*header[WORD..].first_chunk().expect("an int"));
        let kind = i32::from_ne_bytes(*header[WORD + 4..].first_chunk().expect("an int"));
        let Some(value) = bytes.get(HEADER..length) else { break };
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_HOPLIMIT {
            let number = value.first_chunk().map(|number| i32::from_ne_bytes(*number));
            hop_limit = number.and_then(|number| u8::try_from(number).ok());
        }
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_PKTINFO {
            destination = value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
        }
        bytes = bytes.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    (hop_limit, destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_is_taken_off_whatever_its_length() {
        let mut packet = vec![0x46; 24];
        packet[8] = 254;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 224, 0, 0, 18]);
        packet.extend([1, 2, 3]);
        let found = parse_ipv4(&packet).expect("a packet");
        assert_eq!((found.hop_limit, &found.bytes[..]), (254, &[1, 2, 3][..]));
        assert_eq!(found.source.to_string(), "10.0.0.1");
        assert_eq!(found.destination.to_string(), "224.0.0.18");
        for cut in 0..24 {
            assert!(parse_ipv4(&packet[..cut]).is_none(), "{cut}");
        }
        packet[0] = 0x44;
        assert!(parse_ipv4(&packet).is_none(), "a header of 16 bytes");
    }

    #[test]
    fn control_messages_are_read_up_to_one_that_does_not_fit() {
        let header = |length: usize, kind: i32| {
            [&length.to_ne_bytes()[..], &libc::IPPROTO_IPV6.to_ne_bytes(), &kind.to_ne_bytes()]
                .concat()
        };
        let mut bytes = [header(20, libc::IPV6_HOPLIMIT), 255i32.to_ne_bytes().to_vec()].concat();
        bytes.resize(24, 0);
        let address: Ipv6Addr = "ff02::12".parse().unwrap();
        bytes.extend(header(36, libc::IPV6_PKTINFO));
        bytes.extend(address.octets());
        bytes.extend(7u32.to_ne_bytes());
        assert_eq!(told_beside(&bytes), (Some(255), Some(address)));
        assert_eq!(told_beside(&bytes[..30]), (Some(255), None));
        for length in [0usize, 3, usize::MAX] {
            bytes[..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(told_beside(&bytes), (None, None), "length {length}");
        }
    }
}
