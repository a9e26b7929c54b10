//! Bytes that keepalived 2.2.7 sent, round trips, and bytes that nobody should send.

use proptest::prelude::*;

use super::*;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 22, 221));
const GROUP: IpAddr = IpAddr::V4(GROUP_V4);
const ROUTE: Route = Route { source: A, destination: GROUP };

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// vrrp.md 1.2.
const SEED: &str = "2133 5a01 0101 1e62 ac1016db 6169 6b65 723e 636f";

fn seed() -> Advertisement {
    Advertisement {
        version: Version::V2,
        virtual_router_id: 51,
        priority: 90,
        interval_us: 1_000_000,
        authentication: Authentication::password(b"aiker>com"),
        addresses: vec!["172.16.22.219".parse().unwrap()],
    }
}

#[test]
fn version_2_with_a_password_is_keepalived_s_to_the_byte() {
    assert_eq!(Advertisement::decode(&bytes(SEED), ROUTE), Ok(seed()));
    assert_eq!(seed().encode(ROUTE, ChecksumForm::WithPseudoHeader), bytes(SEED));
}

/// Sent by keepalived 2.2.7 with `version 3` and `advert_int 0.1`.
const V3_OVER_IPV4: &str = "3133 5a01 000a 0e59 ac10 16db";
/// And with IPv6 addresses and `advert_int 0.5`, from fe80::88b4:9fff:fecc:1ed0.
const V3_OVER_IPV6: &str = "3133 6402 0032 f58a fe80 0000 0000 0000 0000 0000 0000 0219
                            2001 0db8 0022 0000 0000 0000 0000 0219";

#[test]
fn version_3_is_keepalived_s_to_the_byte() {
    let (version, authentication) = (Version::V3, Authentication::None);
    let advert = Advertisement { version, interval_us: 100_000, authentication, ..seed() };
    assert_eq!(Advertisement::decode(&bytes(V3_OVER_IPV4), ROUTE), Ok(advert.clone()));
    assert_eq!(advert.encode(ROUTE, ChecksumForm::WithPseudoHeader), bytes(V3_OVER_IPV4));

    let source = "fe80::88b4:9fff:fecc:1ed0".parse().unwrap();
    let route = Route { source, destination: GROUP_V6.into() };
    let addresses = ["fe80::219", "2001:db8:22::219"].map(|text| text.parse().unwrap()).into();
    let advert = Advertisement { priority: 100, interval_us: 500_000, addresses, ..advert };
    assert_eq!(advert.encode(route, ChecksumForm::WithPseudoHeader), bytes(V3_OVER_IPV6));
    assert_eq!(Advertisement::decode(&bytes(V3_OVER_IPV6), route), Ok(advert));
}

#[test]
fn each_byte_of_a_message_counts() {
    let good = bytes(SEED);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        assert!(Advertisement::decode(&bad, ROUTE).is_err(), "byte {at}");
        assert!(Advertisement::decode(&good[..at], ROUTE).is_err(), "cut at {at}");
    }
    let longer = [&good[..], &[0]].concat();
    let error = Malformed::Length { expected: 20, found: 21, count: 1 };
    assert_eq!(Advertisement::decode(&longer, ROUTE), Err(error));
}

/// Corrects the checksum of a version 2 message, so that another fault is what is found.
fn resummed(mut message: Vec<u8>) -> Vec<u8> {
    message[6..8].fill(0);
    let checksum = internet_checksum(&message);
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[test]
fn every_fault_has_its_name() {
    let with = |at: usize, value: u8| {
        let mut message = bytes(SEED);
        message[at] = value;
        Advertisement::decode(&resummed(message), ROUTE).unwrap_err()
    };
    assert_eq!(with(0, 0x41), Malformed::Version { found: 4 });
    assert_eq!(with(0, 0x22), Malformed::Type { found: 2 });
    assert_eq!(with(1, 0), Malformed::VirtualRouterId);
    assert_eq!(with(3, 2), Malformed::Length { expected: 24, found: 20, count: 2 });
    assert_eq!(with(4, 2), Malformed::AuthenticationType { found: 2 });
    assert_eq!(with(5, 0), Malformed::Interval);
    let empty = resummed(bytes("2133 5a00 0001 0000 0000 0000 0000 0000"));
    assert_eq!(Advertisement::decode(&empty, ROUTE), Err(Malformed::NoAddress));
    let v6 = Route { source: "fe80::1".parse().unwrap(), destination: GROUP_V6.into() };
    assert_eq!(Advertisement::decode(&bytes(SEED), v6), Err(Malformed::VersionOfFamily));
    let mixed = Route { destination: GROUP_V6.into(), ..ROUTE };
    assert_eq!(Advertisement::decode(&bytes(SEED), mixed), Err(Malformed::Route));
    let mut wrong = bytes(SEED);
    wrong[7] ^= 1;
    assert_eq!(Advertisement::decode(&wrong, ROUTE), Err(Malformed::Checksum));
}

#[test]
fn version_3_over_ipv4_is_accepted_with_each_checksum_in_use() {
    let advert = Advertisement {
        version: Version::V3,
        interval_us: 100_000,
        authentication: Authentication::None,
        ..seed()
    };
    let unicast = Route { destination: "172.16.22.222".parse().unwrap(), ..ROUTE };
    for form in [ChecksumForm::WithPseudoHeader, ChecksumForm::MessageOnly] {
        let message = advert.encode(unicast, form);
        assert_eq!(message[..6], [0x31, 51, 90, 1, 0, 10]);
        assert_eq!(Advertisement::decode(&message, unicast), Ok(advert.clone()));
    }
    let old_unicast = advert.encode(ROUTE, ChecksumForm::WithPseudoHeader);
    assert_eq!(Advertisement::decode(&old_unicast, unicast), Ok(advert));
    let elsewhere = Route { source: "172.16.22.9".parse().unwrap(), ..unicast };
    assert_eq!(Advertisement::decode(&old_unicast, elsewhere), Err(Malformed::Checksum));
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V2), Just(Version::V3)]
}

prop_compose! {
    fn advertisement()(
        version in version(),
        is_v6: bool,
        virtual_router_id in 1..=255u8,
        priority: u8,
        steps in 1..=4095u64,
        password in proptest::option::of(any::<[u8; 8]>()),
        addresses in proptest::collection::vec(any::<[u8; 16]>(), 1..=255),
    ) -> (Advertisement, Route) {
        let is_v6 = is_v6 && version == Version::V3;
        let steps = if version == Version::V2 { steps % 255 + 1 } else { steps };
        let authentication = match password {
            Some(bytes) if version == Version::V2 => Authentication::Pass(bytes),
            _ => Authentication::None,
        };
        let addresses = addresses
            .iter()
            .map(|octets| match is_v6 {
                true => IpAddr::from(*octets),
                false => IpAddr::from(*octets.first_chunk::<4>().unwrap()),
            })
            .collect();
        let route = match is_v6 {
            true => Route { source: "fe80::1".parse().unwrap(), destination: GROUP_V6.into() },
            false => ROUTE,
        };
        let interval_us = steps * version.interval_step_us();
        let advert = Advertisement {
            version, virtual_router_id, priority, interval_us, authentication, addresses,
        };
        (advert, route)
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read((advert, route) in advertisement(), message_only: bool) {
        let form = match message_only {
            true => ChecksumForm::MessageOnly,
            false => ChecksumForm::WithPseudoHeader,
        };
        let message = advert.encode(route, form);
        prop_assert!(message.len() <= MAX_MESSAGE_BYTES);
        prop_assert_eq!(Advertisement::decode(&message, route), Ok(advert));
    }

    #[test]
    fn no_bytes_panic(message in proptest::collection::vec(any::<u8>(), 0..64), is_v6: bool) {
        let v6 = Route { source: "fe80::1".parse().unwrap(), destination: GROUP_V6.into() };
        let route = if is_v6 { v6 } else { ROUTE };
        let _ = Advertisement::decode(&message, route);
        // Likelier to come far: a plausible head and a right checksum.
        if message.len() >= 8 {
            let mut likely = message;
            likely[0] = if likely[1] & 1 == 0 { 0x21 } else { 0x31 };
            likely[3] %= 4;
            let _ = Advertisement::decode(&resummed(likely), route);
        }
    }
}
