//! Frames that tell neighbours where an address is now: gratuitous ARP and unsolicited neighbour
//! advertisements, byte for byte as keepalived sends them (vrrp.md 1.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::election::packet::{HOP_LIMIT, internet_checksum};

pub type HardwareAddress = [u8; 6];

const BROADCAST: HardwareAddress = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_HARDWARE: HardwareAddress = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;

/// The frame for one address that is now at `hardware`.
pub fn frame(hardware: HardwareAddress, address: IpAddr, is_router: bool) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(hardware, address),
        IpAddr::V6(address) => neighbour_advertisement(hardware, address, is_router),
    }
}

/// A request for the address by the address, which everyone hears and some only then believe.
fn gratuitous_arp(hardware: HardwareAddress, address: Ipv4Addr) -> Vec<u8> {
    const ETHERNET: u16 = 1;
    const IPV4: u16 = 0x0800;
    const REQUEST: u16 = 1;
    let mut frame = ethernet(BROADCAST, hardware, ETHERTYPE_ARP);
    frame.extend(ETHERNET.to_be_bytes());
    frame.extend(IPV4.to_be_bytes());
    frame.extend([6, 4]);
    frame.extend(REQUEST.to_be_bytes());
    frame.extend(hardware);
    frame.extend(address.octets());
    frame.extend(BROADCAST);
    frame.extend(address.octets());
    frame
}

fn neighbour_advertisement(
    hardware: HardwareAddress,
    address: Ipv6Addr,
    is_router: bool,
) -> Vec<u8> {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER: u8 = 2;
    const EIGHT_BYTES: u8 = 1;
    let flags = OVERRIDE | if is_router { ROUTER } else { 0 };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_LINK_LAYER, EIGHT_BYTES]);
    message.extend(hardware);
    let length = message.len() as u16;
    let pseudo_header = [
        &address.octets()[..],
        &ALL_NODES.octets(),
        &[0, 0],
        &length.to_be_bytes(),
        &[0, 0, 0, ICMPV6],
    ];
    let checksum = internet_checksum(&[&pseudo_header.concat()[..], &message].concat());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_HARDWARE, hardware, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: HardwareAddress, from: HardwareAddress, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Captured from keepalived 2.2.7.
    #[test]
    fn announcements_are_keepalived_s_to_the_byte() {
        let hardware = [0xda, 0xbf, 0x01, 0x74, 0x6a, 0xa8];
        let arp = frame(hardware, "172.16.22.219".parse().unwrap(), false);
        let expected = "ffffffffffffdabf01746aa808060001\
                        080006040001dabf01746aa8ac1016db\
                        ffffffffffffac1016db";
        assert_eq!(hex(&arp), expected);

        let hardware = [0x8a, 0xb4, 0x9f, 0xcc, 0x1e, 0xd0];
        let advertisement = frame(hardware, "fe80::219".parse().unwrap(), false);
        let expected = "3333000000018ab49fcc1ed086dd6000\
                        000000203afffe800000000000000000\
                        000000000219ff020000000000000000\
                        00000000000188000c1b20000000fe80\
                        00000000000000000000000002190201\
                        8ab49fcc1ed0";
        assert_eq!(hex(&advertisement), expected);
        let router = frame(hardware, "fe80::219".parse().unwrap(), true);
        assert_eq!(router[58], 0xa0);
    }
}
