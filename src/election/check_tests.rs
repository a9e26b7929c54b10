//! The foreign packets of vrrp.md 1.5: none is taken for an advertisement of the master.

use super::super::packet::{Authentication, ChecksumForm};
use super::super::settings::VirtualAddress;
use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings() -> InstanceSettings {
    let addresses = vec![VirtualAddress::host(address("172.16.22.219"))];
    let mut settings = InstanceSettings::new("VI_1", 51, addresses);
    settings.authentication = Authentication::password(b"aiker>co");
    settings
}

fn advert() -> Advertisement {
    Advertisement {
        version: Version::V2,
        virtual_router_id: 51,
        priority: 100,
        interval_us: 1_000_000,
        authentication: Authentication::password(b"aiker>co"),
        addresses: vec![address("172.16.22.219")],
    }
}

fn verdict(settings: &InstanceSettings, advert: &Advertisement) -> Result<(), Rejection> {
    verdict_of(settings, advert, HOP_LIMIT, settings.group())
}

fn verdict_of(
    settings: &InstanceSettings,
    advert: &Advertisement,
    hop_limit: u8,
    destination: IpAddr,
) -> Result<(), Rejection> {
    let source = address("172.16.22.221");
    let bytes = advert.encode(Route { source, destination }, ChecksumForm::WithPseudoHeader);
    let received = Received { source, destination, hop_limit, bytes: &bytes };
    check(settings, Some(address("172.16.22.222")), &received)
        .map(|found| assert_eq!(found, *advert))
}

#[test]
fn only_an_advertisement_that_agrees_in_everything_counts() {
    let ours = settings();
    assert_eq!(verdict(&ours, &advert()), Ok(()));

    let group = ours.group();
    assert_eq!(verdict_of(&ours, &advert(), 1, group), Err(Rejection::HopLimit { found: 1 }));
    let found = address("172.16.22.222");
    let error = Rejection::Destination { found };
    assert_eq!(verdict_of(&ours, &advert(), HOP_LIMIT, found), Err(error));

    let theirs = Advertisement { virtual_router_id: 52, ..advert() };
    assert_eq!(verdict(&ours, &theirs), Err(Rejection::OtherVirtualRouter { found: 52 }));

    let authentication = Authentication::password(b"other");
    let theirs = Advertisement { authentication, ..advert() };
    assert_eq!(verdict(&ours, &theirs), Err(Rejection::Password));

    let theirs = Advertisement { authentication: Authentication::None, ..advert() };
    let error = Rejection::AuthenticationType { ours: 1, theirs: 0 };
    assert_eq!(verdict(&ours, &theirs), Err(error));

    let theirs = Advertisement { interval_us: 2_000_000, ..advert() };
    let error = Rejection::Interval { ours_us: 1_000_000, theirs_us: 2_000_000 };
    assert_eq!(verdict(&ours, &theirs), Err(error));

    let missing = address("172.16.22.219");
    let theirs = Advertisement { addresses: vec![address("172.16.22.218")], ..advert() };
    assert_eq!(verdict(&ours, &theirs), Err(Rejection::Missing { missing }));

    let unknown = address("172.16.22.218");
    let theirs = Advertisement { addresses: vec![missing, unknown], ..advert() };
    assert_eq!(verdict(&ours, &theirs), Err(Rejection::AddressCount { ours: 1, theirs: 2 }));
    let mut two = settings();
    two.addresses = vec![VirtualAddress::host(missing); 2];
    assert_eq!(verdict(&two, &theirs), Err(Rejection::Foreign { unknown }));

    let version = Version::V3;
    let theirs = Advertisement { version, authentication: Authentication::None, ..advert() };
    assert_eq!(verdict(&ours, &theirs), Err(Rejection::OtherVersion { ours: 2, theirs: 3 }));
}

#[test]
fn our_own_advertisement_comes_back_unheard() {
    let ours = settings();
    let source = address("172.16.22.221");
    let route = Route { source, destination: ours.group() };
    let bytes = advert().encode(route, ChecksumForm::WithPseudoHeader);
    let destination = ours.group();
    let received = Received { source, destination, hop_limit: HOP_LIMIT, bytes: &bytes };
    assert_eq!(check(&ours, Some(source), &received), Err(Rejection::Own));
}

#[test]
fn unicast_may_be_routed_and_may_be_limited_to_the_peers() {
    let mut ours = settings();
    let own = address("172.16.22.222");
    ours.unicast_peers = vec![address("172.16.22.220")];
    assert_eq!(verdict_of(&ours, &advert(), 60, own), Ok(()));
    let group = address("224.0.0.18");
    let error = Rejection::Destination { found: group };
    assert_eq!(verdict_of(&ours, &advert(), HOP_LIMIT, group), Err(error));
    ours.check_unicast_source = true;
    let error = Rejection::UnknownPeer { found: address("172.16.22.221") };
    assert_eq!(verdict_of(&ours, &advert(), HOP_LIMIT, own), Err(error));
}
