//! Advertisements on the wire, versions 2 and 3 (vrrp.md 1.2, 1.3).
//!
//! ```text
//!   version 2                                   version 3
//!   0  version 2, type 1                        0  version 3, type 1
//!   1  virtual router id                        1  virtual router id
//!   2  priority                                 2  priority
//!   3  number of addresses                      3  number of addresses
//!   4  authentication: 0 none, 1 text           4  4 bits of 0, 12 bits: centiseconds
//!   5  interval in seconds
//!   6  checksum                                 6  checksum, with a pseudo header
//!   8  addresses, 4 bytes each                  8  addresses, 4 or 16 bytes each
//!   .. 8 bytes of authentication, zeroes without
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Number of the protocol in IP headers.
pub const PROTOCOL: u8 = 112;
/// What every sender sets and, on multicast, every receiver insists on: nobody routed it here.
pub const HOP_LIMIT: u8 = 255;
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// The longest message: 255 IPv6 addresses.
pub const MAX_MESSAGE_BYTES: usize = HEADER_BYTES + 255 * 16;
pub const AUTHENTICATION_BYTES: usize = 8;

const HEADER_BYTES: usize = 8;
const TYPE_ADVERTISEMENT: u8 = 1;
const SECOND_US: u64 = 1_000_000;
const CENTISECOND_US: u64 = 10_000;
const MAX_SECONDS: u64 = 255;
const MAX_CENTISECONDS: u64 = 0x0fff;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V2,
    V3,
}

impl Version {
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// The shortest interval, and the step between two, that a message can name.
    pub fn interval_step_us(self) -> u64 {
        match self {
            Self::V2 => SECOND_US,
            Self::V3 => CENTISECOND_US,
        }
    }

    pub fn longest_interval_us(self) -> u64 {
        match self {
            Self::V2 => MAX_SECONDS * SECOND_US,
            Self::V3 => MAX_CENTISECONDS * CENTISECOND_US,
        }
    }
}

/// Version 2 only. Of a password the first 8 bytes count, as in keepalived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    None,
    Pass([u8; AUTHENTICATION_BYTES]),
}

impl Authentication {
    /// The password padded with zeroes, or cut off (`aiker>com` becomes `aiker>co`).
    pub fn password(text: &[u8]) -> Self {
        let mut bytes = [0; AUTHENTICATION_BYTES];
        let length = text.len().min(AUTHENTICATION_BYTES);
        bytes[..length].copy_from_slice(&text[..length]);
        Self::Pass(bytes)
    }

    pub fn kind(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Pass(_) => 1,
        }
    }

    fn bytes(self) -> [u8; AUTHENTICATION_BYTES] {
        match self {
            Self::None => [0; AUTHENTICATION_BYTES],
            Self::Pass(bytes) => bytes,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    pub version: Version,
    pub virtual_router_id: u8,
    /// 0: the sender stops.
    pub priority: u8,
    pub interval_us: u64,
    pub authentication: Authentication,
    /// All of the family of the IP header.
    pub addresses: Vec<IpAddr>,
}

/// Between whom a message travels; the checksum of version 3 covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// Whether the checksum of version 3 over IPv4 covers a pseudo header: RFC 5798 is read both ways,
/// keepalived and FRR include it, RFC 9568 does not. Both are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumForm {
    WithPseudoHeader,
    MessageOnly,
}

/// What is wrong with bytes that should be an advertisement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{found} bytes, too short for an advertisement")]
    Short { found: usize },
    #[error("version {found}, neither 2 nor 3")]
    Version { found: u8 },
    #[error("type {found} is no advertisement")]
    Type { found: u8 },
    #[error("version 2 over IPv6")]
    VersionOfFamily,
    #[error("source and destination are of different families")]
    Route,
    #[error("{found} bytes, but {count} addresses make {expected}")]
    Length { expected: usize, found: usize, count: u8 },
    #[error("wrong checksum")]
    Checksum,
    #[error("virtual router id 0")]
    VirtualRouterId,
    #[error("interval 0")]
    Interval,
    #[error("no address")]
    NoAddress,
    #[error("authentication type {found}, neither none (0) nor PASS (1)")]
    AuthenticationType { found: u8 },
}

impl Advertisement {
    /// The message without its IP header.
    ///
    /// The fields must fit, which [`super::InstanceSettings::check`] makes sure of at load time.
    pub fn encode(&self, route: Route, form: ChecksumForm) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).expect("at most 255 addresses");
        let interval_us = self.interval_us;
        let step_us = self.version.interval_step_us();
        assert!(
            interval_us >= step_us && interval_us <= self.version.longest_interval_us(),
            "an interval that the version can name"
        );
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 16 * self.addresses.len() + 8);
        bytes.push(self.version.number() << 4 | TYPE_ADVERTISEMENT);
        bytes.extend([self.virtual_router_id, self.priority, count]);
        let steps = interval_us / step_us;
        match self.version {
            Version::V2 => bytes.extend([self.authentication.kind(), steps as u8]),
            Version::V3 => bytes.extend((steps as u16).to_be_bytes()),
        }
        bytes.extend([0, 0]);
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        if self.version == Version::V2 {
            bytes.extend(self.authentication.bytes());
        }
        let pseudo = match (self.version, route.source, form) {
            (Version::V2, ..) | (_, IpAddr::V4(_), ChecksumForm::MessageOnly) => 0,
            _ => pseudo_header_sum(route, bytes.len()),
        };
        let checksum = !folded(pseudo + sum(&bytes));
        bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Reads a message that travelled on `route`. Everything in it is checked that can be checked
    /// without knowing an instance.
    pub fn decode(bytes: &[u8], route: Route) -> Result<Self, Malformed> {
        let header: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or(Malformed::Short { found: bytes.len() })?;
        let version = match header[0] >> 4 {
            2 => Version::V2,
            3 => Version::V3,
            found => return Err(Malformed::Version { found }),
        };
        if header[0] & 0x0f != TYPE_ADVERTISEMENT {
            return Err(Malformed::Type { found: header[0] & 0x0f });
        }
        let address_bytes = match (route.source, route.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => 4,
            (IpAddr::V6(_), IpAddr::V6(_)) if version == Version::V2 => {
                return Err(Malformed::VersionOfFamily);
            }
            (IpAddr::V6(_), IpAddr::V6(_)) => 16,
            _ => return Err(Malformed::Route),
        };
        let count = header[3];
        let addresses_end = HEADER_BYTES + usize::from(count) * address_bytes;
        let trailer = if version == Version::V2 { AUTHENTICATION_BYTES } else { 0 };
        // The kernel has cut off what Ethernet padded.
        if bytes.len() != addresses_end + trailer {
            let (expected, found) = (addresses_end + trailer, bytes.len());
            return Err(Malformed::Length { expected, found, count });
        }
        if !checksum_holds(bytes, version, route) {
            return Err(Malformed::Checksum);
        }
        if header[1] == 0 {
            return Err(Malformed::VirtualRouterId);
        }
        if count == 0 {
            return Err(Malformed::NoAddress);
        }
        let (steps, authentication) = match version {
            Version::V2 => {
                let authentication = match header[4] {
                    0 => Authentication::None,
                    1 => Authentication::password(&bytes[addresses_end..]),
                    found => return Err(Malformed::AuthenticationType { found }),
                };
                (u64::from(header[5]), authentication)
            }
            Version::V3 => {
                let field = u16::from_be_bytes([header[4], header[5]]);
                (u64::from(field) & MAX_CENTISECONDS, Authentication::None)
            }
        };
        if steps == 0 {
            return Err(Malformed::Interval);
        }
        let addresses = bytes[HEADER_BYTES..addresses_end]
            .chunks_exact(address_bytes)
            .map(|octets| match <[u8; 4]>::try_from(octets) {
                Ok(octets) => IpAddr::from(octets),
                Err(_) => IpAddr::from(*octets.first_chunk::<16>().expect("16 bytes an address")),
            })
            .collect();
        Ok(Self {
            version,
            virtual_router_id: header[1],
            priority: header[2],
            interval_us: steps * version.interval_step_us(),
            authentication,
            addresses,
        })
    }
}

// ---- checksums

fn checksum_holds(bytes: &[u8], version: Version, route: Route) -> bool {
    const GOOD: u16 = 0xffff;
    let message = sum(bytes);
    let with_pseudo_header =
        |route| folded(message + pseudo_header_sum(route, bytes.len())) == GOOD;
    match (version, route.source) {
        (Version::V2, _) => folded(message) == GOOD,
        (Version::V3, IpAddr::V6(_)) => with_pseudo_header(route),
        // Old keepalived computed unicast as if it had been sent to the group (vrrp.md 1.3).
        (Version::V3, IpAddr::V4(_)) => {
            with_pseudo_header(route)
                || folded(message) == GOOD
                || with_pseudo_header(Route { destination: IpAddr::V4(GROUP_V4), ..route })
        }
    }
}

/// Of 16-bit words; at most 4 KiB are added up, so it cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn pseudo_header_sum(route: Route, message_bytes: usize) -> u32 {
    let address_sum = |address| match address {
        IpAddr::V4(address) => sum(&Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => sum(&Ipv6Addr::octets(&address)),
    };
    let length = u32::try_from(message_bytes).expect("a message of a few KiB");
    address_sum(route.source) + address_sum(route.destination) + u32::from(PROTOCOL) + length
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The internet checksum of `bytes`, where a message of another protocol needs one.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    !folded(sum(bytes))
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
