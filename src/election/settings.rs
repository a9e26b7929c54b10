//! What an instance is told. A configuration fills it; it is checked once, before the instance
//! exists, so that the state machine need not doubt it.

use std::net::{IpAddr, Ipv4Addr};

use super::packet::{Authentication, ChecksumForm, GROUP_V4, GROUP_V6, Version};

/// Priority of the node whose own address the virtual one is.
pub const OWNER: u8 = 255;
pub const MAX_ADDRESSES: usize = 255;
/// keepalived itself allows 8 scripts an instance without a warning; this only bounds memory.
pub const MAX_TRACKERS: usize = 64;
/// Beyond what can be subtracted from a priority: no lower one, but Fault.
const FAULT_CHANGE: i64 = -254;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    Master,
    Backup,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    pub address: IpAddr,
    pub prefix_length: u8,
    /// Where it is put, when not on the interface of the instance.
    pub interface: Option<String>,
    pub broadcast: Option<Ipv4Addr>,
    pub label: Option<String>,
    /// As the kernel counts: 0 global, 253 link, 254 host.
    pub scope: u8,
}

impl VirtualAddress {
    /// As keepalived does with a bare address: of this host alone, global.
    pub fn host(address: IpAddr) -> Self {
        let prefix_length = if address.is_ipv4() { 32 } else { 128 };
        let (interface, broadcast, label) = (None, None, None);
        Self { address, prefix_length, interface, broadcast, label, scope: 0 }
    }
}

/// Gratuitous ARP and unsolicited neighbour advertisements (vrrp.md 1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncementSettings {
    /// For each address, when the node becomes Master.
    pub repeat: u32,
    /// Until the second burst; 0: there is none.
    pub delay_us: u64,
    /// After an advertisement of a lower priority.
    pub lower_priority_repeat: u32,
    pub lower_priority_delay_us: u64,
    /// Between bursts while Master; 0: there are none.
    pub refresh_us: u64,
    pub refresh_repeat: u32,
    /// Between two of a burst.
    pub spacing_us: u64,
}

impl Default for AnnouncementSettings {
    fn default() -> Self {
        Self {
            repeat: 5,
            delay_us: 5_000_000,
            lower_priority_repeat: 5,
            lower_priority_delay_us: 5_000_000,
            refresh_us: 0,
            refresh_repeat: 1,
            spacing_us: 0,
        }
    }
}

/// Something outside that is good or bad (a script, an interface, a process), or that weighs by a
/// number (a file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerSettings {
    pub name: String,
    /// 0: bad, or a number other than 0, is Fault. Above 0: added to the priority while good. Below:
    /// added while bad. A number is multiplied by it, and the product added.
    pub weight: i16,
    /// Good and bad change places, and so does the sign of a product.
    pub reverse: bool,
}

/// What a tracker has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Good,
    Bad,
    Number(i64),
}

impl TrackerSettings {
    /// What the reading adds to the priority.
    pub(super) fn change(&self, reading: Reading) -> i64 {
        let weight = i64::from(self.weight);
        let acts = |good: bool| (good == (weight > 0)) != self.reverse;
        match reading {
            Reading::Good if acts(true) => weight,
            Reading::Bad if acts(false) => weight,
            Reading::Good | Reading::Bad => 0,
            Reading::Number(number) => {
                let number = if self.reverse { number.saturating_neg() } else { number };
                // More than this is as good as this, and sums of it do not overflow.
                let bound = i64::from(i32::MAX);
                number.saturating_mul(weight).clamp(-bound, bound)
            }
        }
    }

    pub(super) fn is_fault(&self, reading: Reading) -> bool {
        if self.weight != 0 {
            return self.change(reading) <= FAULT_CHANGE;
        }
        let is_bad = match reading {
            Reading::Good => false,
            Reading::Bad => true,
            Reading::Number(number) => number != 0,
        };
        is_bad != self.reverse
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSettings {
    pub name: String,
    pub family: Family,
    pub version: Version,
    pub virtual_router_id: u8,
    pub priority: u8,
    pub advert_interval_us: u64,
    /// Silent intervals until the master counts as gone.
    pub down_timer_adverts: u8,
    pub initial_state: InitialState,
    pub preempt: bool,
    pub preempt_delay_us: u64,
    pub authentication: Authentication,
    /// In every advertisement.
    pub addresses: Vec<VirtualAddress>,
    /// Added and removed like the others, but not told to anyone.
    pub addresses_excluded: Vec<VirtualAddress>,
    /// Absent: the first address of the interface, the link-local one with IPv6.
    pub source: Option<IpAddr>,
    /// Absent: the group of the protocol.
    pub multicast_group: Option<IpAddr>,
    /// Empty: multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// Unicast from anyone but a peer is rejected.
    pub check_unicast_source: bool,
    /// keepalived leaves the address usable on a node that does not own it; so does `true`.
    pub accept: bool,
    pub checksum_form: ChecksumForm,
    /// After a lower priority: do nothing, as the RFC says, instead of forcing a new election.
    pub lower_priority_no_advert: bool,
    /// Tell a higher priority once more about us before yielding to it.
    pub higher_priority_send_advert: bool,
    pub announcements: AnnouncementSettings,
    pub trackers: Vec<TrackerSettings>,
    /// Becomes Master only together with the others of its group.
    pub grouped: bool,
    /// Its addresses belong to a service with data: they come and go with the service
    /// ([`super::instance::Event::Serve`]), not with mastership.
    pub bound: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongSettings {
    #[error("virtual_router_id 0: 1 to 255")]
    VirtualRouterId,
    #[error("priority 0: 1 to 254, or 255 for the owner of the address")]
    Priority,
    #[error("VRRP version 2 has no IPv6: use version 3")]
    VersionOfFamily,
    #[error("VRRP version 3 has no authentication: remove it, or use version 2")]
    AuthenticationOfVersion,
    #[error(
        "advert_int of {us} us: version {version} counts in steps of {step_us} us, up to {longest_us} us"
    )]
    Interval { us: u64, version: u8, step_us: u64, longest_us: u64 },
    #[error("no virtual address, or more than {MAX_ADDRESSES}")]
    AddressCount,
    #[error("{0} is of another family than the instance")]
    Family(IpAddr),
    #[error("prefix length /{length} of {address}")]
    Prefix { address: IpAddr, length: u8 },
    #[error("the first virtual address must be link-local with IPv6, {0} is not")]
    FirstNotLinkLocal(IpAddr),
    #[error("down_timer_adverts 0: 1 to 100")]
    DownTimer,
    #[error("more than {MAX_TRACKERS} trackers")]
    TrackerCount,
    #[error("weight {0}: -254 to 254")]
    Weight(i16),
    #[error("nopreempt has no effect with state MASTER: use state BACKUP")]
    NopreemptMaster,
}

impl InstanceSettings {
    /// With the defaults of keepalived.
    pub fn new(name: &str, virtual_router_id: u8, addresses: Vec<VirtualAddress>) -> Self {
        let is_v6 = addresses.first().is_some_and(|first| first.address.is_ipv6());
        Self {
            name: name.to_owned(),
            family: if is_v6 { Family::V6 } else { Family::V4 },
            version: if is_v6 { Version::V3 } else { Version::V2 },
            virtual_router_id,
            priority: 100,
            advert_interval_us: 1_000_000,
            down_timer_adverts: 3,
            initial_state: InitialState::Backup,
            preempt: true,
            preempt_delay_us: 0,
            authentication: Authentication::None,
            addresses,
            addresses_excluded: Vec::new(),
            source: None,
            multicast_group: None,
            unicast_peers: Vec::new(),
            check_unicast_source: false,
            accept: true,
            checksum_form: ChecksumForm::WithPseudoHeader,
            lower_priority_no_advert: false,
            higher_priority_send_advert: false,
            announcements: AnnouncementSettings::default(),
            trackers: Vec::new(),
            grouped: false,
            bound: false,
        }
    }

    /// The destination of adverts where there are no unicast peers.
    pub fn group(&self) -> IpAddr {
        self.multicast_group.unwrap_or(match self.family {
            Family::V4 => IpAddr::V4(GROUP_V4),
            Family::V6 => IpAddr::V6(GROUP_V6),
        })
    }

    /// Neighbours cannot tell one from the other but by its priority, and the same addresses are held:
    /// it may go on under the new settings.
    pub fn is_same_router(&self, new: &Self) -> bool {
        let is_owner = |settings: &Self| settings.priority == OWNER;
        let changed = Self {
            priority: new.priority,
            down_timer_adverts: new.down_timer_adverts,
            initial_state: new.initial_state,
            preempt: new.preempt,
            preempt_delay_us: new.preempt_delay_us,
            check_unicast_source: new.check_unicast_source,
            lower_priority_no_advert: new.lower_priority_no_advert,
            higher_priority_send_advert: new.higher_priority_send_advert,
            announcements: new.announcements,
            trackers: new.trackers.clone(),
            ..self.clone()
        };
        is_owner(self) == is_owner(new) && changed == *new
    }

    pub fn check(&self) -> Result<(), WrongSettings> {
        let wrong = |yes: bool, error: WrongSettings| if yes { Err(error) } else { Ok(()) };
        let is_v6 = self.family == Family::V6;
        wrong(self.virtual_router_id == 0, WrongSettings::VirtualRouterId)?;
        wrong(self.priority == 0, WrongSettings::Priority)?;
        wrong(is_v6 && self.version == Version::V2, WrongSettings::VersionOfFamily)?;
        wrong(
            self.version == Version::V3 && self.authentication != Authentication::None,
            WrongSettings::AuthenticationOfVersion,
        )?;
        let (us, step_us) = (self.advert_interval_us, self.version.interval_step_us());
        let longest_us = self.version.longest_interval_us();
        let version = self.version.number();
        wrong(
            us == 0 || us % step_us != 0 || us > longest_us,
            WrongSettings::Interval { us, version, step_us, longest_us },
        )?;
        let count = self.addresses.len();
        wrong(count == 0 || count > MAX_ADDRESSES, WrongSettings::AddressCount)?;
        let others = self.addresses_excluded.len();
        wrong(others > MAX_ADDRESSES, WrongSettings::AddressCount)?;
        for virtual_address in self.addresses.iter().chain(&self.addresses_excluded) {
            let (address, length) = (virtual_address.address, virtual_address.prefix_length);
            let longest = if address.is_ipv6() { 128 } else { 32 };
            wrong(length > longest, WrongSettings::Prefix { address, length })?;
        }
        let peers = self.unicast_peers.iter().chain(&self.source).chain(&self.multicast_group);
        for address in self.addresses.iter().map(|address| &address.address).chain(peers) {
            wrong(address.is_ipv6() != is_v6, WrongSettings::Family(*address))?;
        }
        if let IpAddr::V6(first) = self.addresses[0].address {
            let error = WrongSettings::FirstNotLinkLocal(first.into());
            wrong(!first.is_unicast_link_local(), error)?;
        }
        wrong(!(1..=100).contains(&self.down_timer_adverts), WrongSettings::DownTimer)?;
        wrong(self.trackers.len() > MAX_TRACKERS, WrongSettings::TrackerCount)?;
        for tracker in &self.trackers {
            let weight = tracker.weight;
            wrong(!(-254..=254).contains(&weight), WrongSettings::Weight(weight))?;
        }
        let hint = self.initial_state == InitialState::Master && self.priority != OWNER;
        wrong(hint && !self.preempt, WrongSettings::NopreemptMaster)
    }
}
