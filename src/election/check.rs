//! Whether a packet that was received is an advertisement for an instance. What is rejected never
//! touches its state (vrrp.md 1.5); each reason is counted.

use std::net::IpAddr;

use super::packet::{Advertisement, HOP_LIMIT, Malformed, Route, Version};
use super::settings::InstanceSettings;

/// An IP packet of protocol 112, without its IP header.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub bytes: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("hop limit {found}, not {HOP_LIMIT}: it was routed")]
    HopLimit { found: u8 },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("for virtual router {found}")]
    OtherVirtualRouter { found: u8 },
    #[error("it is our own")]
    Own,
    #[error("sent to {found}")]
    Destination { found: IpAddr },
    #[error("{found} is no unicast peer")]
    UnknownPeer { found: IpAddr },
    #[error("version {theirs}, ours is {ours}")]
    OtherVersion { ours: u8, theirs: u8 },
    #[error("authentication type {theirs}, ours is {ours}")]
    AuthenticationType { ours: u8, theirs: u8 },
    #[error("wrong password")]
    Password,
    #[error("interval of {theirs_us} us, ours is {ours_us} us")]
    Interval { ours_us: u64, theirs_us: u64 },
    #[error("{theirs} addresses, we have {ours}")]
    AddressCount { ours: usize, theirs: usize },
    #[error("our address {missing} is not in it")]
    Missing { missing: IpAddr },
    #[error("address {unknown} is not among ours")]
    Foreign { unknown: IpAddr },
}

impl Rejection {
    /// Two instances on one wire hear each other all the time: no line in the log for that.
    pub fn is_expected(&self) -> bool {
        matches!(self, Self::OtherVirtualRouter { .. } | Self::Own)
    }
}

/// How often what happened. Counts of one instance, never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub adverts_sent: u64,
    pub adverts_received: u64,
    pub priority_zero_sent: u64,
    pub priority_zero_received: u64,
    pub became_master: u64,
    pub released_master: u64,
    pub late_timers: u64,
    pub rejected: RejectedCounters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedCounters {
    pub hop_limit: u64,
    pub length: u64,
    pub version: u64,
    pub packet_type: u64,
    pub checksum: u64,
    pub virtual_router_id: u64,
    pub source: u64,
    pub destination: u64,
    pub authentication_type: u64,
    pub password: u64,
    pub interval: u64,
    pub addresses: u64,
}

impl RejectedCounters {
    pub fn total(&self) -> u64 {
        [
            self.hop_limit,
            self.length,
            self.version,
            self.packet_type,
            self.checksum,
            self.virtual_router_id,
            self.source,
            self.destination,
            self.authentication_type,
            self.password,
            self.interval,
            self.addresses,
        ]
        .iter()
        .sum()
    }

    /// How many of its kind there have been now.
    pub fn count(&mut self, rejection: &Rejection) -> u64 {
        let counter = self.of(rejection);
        *counter += 1;
        *counter
    }

    fn of(&mut self, rejection: &Rejection) -> &mut u64 {
        match rejection {
            Rejection::HopLimit { .. } => &mut self.hop_limit,
            Rejection::Malformed(malformed) => match malformed {
                Malformed::Short { .. } | Malformed::Length { .. } => &mut self.length,
                Malformed::Version { .. } | Malformed::VersionOfFamily => &mut self.version,
                Malformed::Type { .. } => &mut self.packet_type,
                Malformed::Route => &mut self.destination,
                Malformed::Checksum => &mut self.checksum,
                Malformed::VirtualRouterId => &mut self.virtual_router_id,
                Malformed::Interval => &mut self.interval,
                Malformed::NoAddress => &mut self.addresses,
                Malformed::AuthenticationType { .. } => &mut self.authentication_type,
            },
            Rejection::OtherVirtualRouter { .. } => &mut self.virtual_router_id,
            Rejection::Own | Rejection::UnknownPeer { .. } => &mut self.source,
            Rejection::Destination { .. } => &mut self.destination,
            Rejection::OtherVersion { .. } => &mut self.version,
            Rejection::AuthenticationType { .. } => &mut self.authentication_type,
            Rejection::Password => &mut self.password,
            Rejection::Interval { .. } => &mut self.interval,
            Rejection::AddressCount { .. }
            | Rejection::Missing { .. }
            | Rejection::Foreign { .. } => &mut self.addresses,
        }
    }
}

/// The advertisement in `received`, when it is one for the instance of `settings`, whose own
/// address is `own`.
pub fn check(
    settings: &InstanceSettings,
    own: Option<IpAddr>,
    received: &Received<'_>,
) -> Result<Advertisement, Rejection> {
    let is_unicast = !settings.unicast_peers.is_empty();
    // keepalived does not ask this of unicast, which may be routed.
    if !is_unicast && received.hop_limit != HOP_LIMIT {
        return Err(Rejection::HopLimit { found: received.hop_limit });
    }
    let (source, destination) = (received.source, received.destination);
    if own == Some(source) {
        return Err(Rejection::Own);
    }
    let advert = Advertisement::decode(received.bytes, Route { source, destination })?;
    if advert.virtual_router_id != settings.virtual_router_id {
        return Err(Rejection::OtherVirtualRouter { found: advert.virtual_router_id });
    }
    let destination_fits =
        if is_unicast { !destination.is_multicast() } else { destination == settings.group() };
    if !destination_fits {
        return Err(Rejection::Destination { found: destination });
    }
    if is_unicast && settings.check_unicast_source && !settings.unicast_peers.contains(&source) {
        return Err(Rejection::UnknownPeer { found: source });
    }
    if advert.version != settings.version {
        let (ours, theirs) = (settings.version.number(), advert.version.number());
        return Err(Rejection::OtherVersion { ours, theirs });
    }
    if advert.authentication.kind() != settings.authentication.kind() {
        let (ours, theirs) = (settings.authentication.kind(), advert.authentication.kind());
        return Err(Rejection::AuthenticationType { ours, theirs });
    }
    if advert.authentication != settings.authentication {
        return Err(Rejection::Password);
    }
    // Version 3 learns the interval instead.
    let (ours_us, theirs_us) = (settings.advert_interval_us, advert.interval_us);
    if settings.version == Version::V2 && theirs_us != ours_us {
        return Err(Rejection::Interval { ours_us, theirs_us });
    }
    let (ours, theirs) = (settings.addresses.len(), advert.addresses.len());
    if ours != theirs {
        return Err(Rejection::AddressCount { ours, theirs });
    }
    // Both ways: with an address twice on one side, equal counts say little.
    let mut own_addresses = settings.addresses.iter().map(|own| own.address);
    if let Some(missing) = own_addresses.find(|own| !advert.addresses.contains(own)) {
        return Err(Rejection::Missing { missing });
    }
    let is_ours = |address: &IpAddr| settings.addresses.iter().any(|own| own.address == *address);
    match advert.addresses.iter().find(|address| !is_ours(address)) {
        Some(unknown) => Err(Rejection::Foreign { unknown: *unknown }),
        None => Ok(advert),
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
