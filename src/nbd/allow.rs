//! Networks whose hosts may connect (`allow 10.0.0.0/24;`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network in CIDR notation; a bare address is a network of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("{0:?} is not an IP address or network (expected for example 10.0.0.0/24)")]
    Address(String),
    #[error("{0:?} has a prefix longer than its address")]
    Prefix(String),
    #[error("{0:?} has bits set behind its prefix")]
    HostBits(String),
}

impl Network {
    pub fn contains(&self, host: IpAddr) -> bool {
        let host = host.to_canonical();
        if host.is_ipv4() != self.address.is_ipv4() {
            return false;
        }
        bits(host) >> self.host_bits() == bits(self.address) >> self.host_bits()
            || self.prefix_bits == 0
    }

    /// 1 to 128: a shift by 128 is excluded by the caller's look at prefix 0.
    fn host_bits(&self) -> u32 {
        let all: u32 = if self.address.is_ipv4() { 32 } else { 128 };
        (all - u32::from(self.prefix_bits)).min(127)
    }
}

/// True if `host` is in one of `networks`, or there are none: then everybody may connect.
pub fn allows(networks: &[Network], host: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(host))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| NetworkError::Address(text.to_owned()))?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| NetworkError::Address(text.to_owned()))?,
            None => all,
        };
        if prefix_bits > all {
            return Err(NetworkError::Prefix(text.to_owned()));
        }
        let network = Self { address, prefix_bits };
        let host_mask = if prefix_bits == 0 {
            u128::MAX
        } else {
            (1 << u32::from(all - prefix_bits).min(127)) - 1
        };
        if bits(address) & host_mask != 0 {
            return Err(NetworkError::HostBits(text.to_owned()));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, host: &str) -> bool {
        network.parse::<Network>().expect("a network").contains(host.parse().expect("an address"))
    }

    #[test]
    fn networks_contain_their_hosts() {
        assert!(contains("10.0.0.0/24", "10.0.0.255"));
        assert!(!contains("10.0.0.0/24", "10.0.1.0"));
        assert!(contains("10.0.0.7", "10.0.0.7"));
        assert!(!contains("10.0.0.7", "10.0.0.6"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::"));
        assert!(!contains("2001:db8::/32", "2001:db9::"));
        assert!(contains("::/0", "::1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"), "a v4 host on a v6 socket");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let error = |text: &str| text.parse::<Network>().expect_err("no network");
        assert_eq!(error("10.0.0/24"), NetworkError::Address("10.0.0/24".into()));
        assert_eq!(error("10.0.0.0/x"), NetworkError::Address("10.0.0.0/x".into()));
        assert_eq!(error("10.0.0.0/33"), NetworkError::Prefix("10.0.0.0/33".into()));
        assert_eq!(error("10.0.0.1/24"), NetworkError::HostBits("10.0.0.1/24".into()));
        assert_eq!(error("1.0.0.0/0"), NetworkError::HostBits("1.0.0.0/0".into()));
    }

    #[test]
    fn an_empty_list_allows_everybody() {
        let host: IpAddr = "192.0.2.1".parse().expect("an address");
        assert!(allows(&[], host));
        assert!(!allows(&["10.0.0.0/8".parse().expect("a network")], host));
    }
}
