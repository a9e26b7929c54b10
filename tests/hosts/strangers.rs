//! Packets of somebody who is no peer, sent from host O at a twinblk node that serves (the hand-made
//! speaker of vrrp.md 6.1): none moves it, and one that agrees in everything does, at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use twinblk::election::packet::{
    Advertisement, Authentication, ChecksumForm, GROUP_V4, PROTOCOL, Route, Version,
};

use super::lab::{Host, Lab, VIRTUAL, wait_until};
use super::node::{Kind, Node, Wanted};
use super::rows::{SLACK, STEP};
use super::watch::{Watch, in_namespace, is_advert};

fn advert() -> Advertisement {
    Advertisement {
        version: Version::V2,
        virtual_router_id: 51,
        priority: 200,
        interval_us: 1_000_000,
        authentication: Authentication::password(b"aiker>co"),
        addresses: vec![VIRTUAL.parse().expect("an address")],
    }
}

fn bytes(advert: &Advertisement) -> Vec<u8> {
    let source: IpAddr = Host::O.address().parse().expect("an address");
    let route = Route { source, destination: GROUP_V4.into() };
    advert.encode(route, ChecksumForm::WithPseudoHeader)
}

struct Stranger(Socket);

impl Stranger {
    fn new(lab: &Lab) -> Self {
        let own: Ipv4Addr = Host::O.address().parse().expect("an address");
        Self(in_namespace(lab, Host::O, || {
            let protocol = Protocol::from(i32::from(PROTOCOL));
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).expect("a socket");
            socket.set_multicast_if_v4(&own).expect("its interface");
            socket
        }))
    }

    fn send(&self, hop_limit: u32, bytes: &[u8]) {
        self.0.set_multicast_ttl_v4(hop_limit).expect("a hop limit");
        self.0.send_to(bytes, &SocketAddrV4::new(GROUP_V4, 0).into()).expect("sent");
    }
}

#[test]
fn nothing_but_an_advertisement_that_agrees_in_everything_moves_a_master() {
    let Some(lab) = Lab::new() else { return };
    let node = Node::start(&lab, Host::A, Kind::Twinblk, &Wanted::new(100));
    wait_until("it serves", STEP, || lab.holds_address(Host::A));
    let stranger = Stranger::new(&lab);

    stranger.send(1, &bytes(&advert()));
    node.wait_for_line("hop limit 1, not 255", STEP);
    let password = Authentication::password(b"wrong");
    stranger.send(255, &bytes(&Advertisement { authentication: password, ..advert() }));
    node.wait_for_line("wrong password", STEP);
    let none = Authentication::None;
    stranger.send(255, &bytes(&Advertisement { authentication: none, ..advert() }));
    node.wait_for_line("authentication type 0, ours is 1", STEP);
    stranger.send(255, &bytes(&Advertisement { interval_us: 2_000_000, ..advert() }));
    node.wait_for_line("interval of 2000000 us", STEP);
    let other = vec!["172.16.22.218".parse().expect("an address")];
    stranger.send(255, &bytes(&Advertisement { addresses: other, ..advert() }));
    node.wait_for_line("our address 172.16.22.219 is not in it", STEP);
    let mut broken = bytes(&advert());
    broken[7] ^= 1;
    stranger.send(255, &broken);
    node.wait_for_line("wrong checksum", STEP);
    // Of another virtual router: expected on a wire, so nothing is said.
    stranger.send(255, &bytes(&Advertisement { virtual_router_id: 52, ..advert() }));
    stranger.send(255, &bytes(&advert())[..19]);
    node.wait_for_line("19 bytes", STEP);
    assert!(lab.holds_address(Host::A), "it serves through all of that");

    stranger.send(255, &bytes(&advert()));
    let limit = Duration::from_millis(50) + SLACK;
    wait_until("it yields", limit, || !lab.holds_address(Host::A));
}

#[test]
fn a_flood_does_not_keep_a_master_from_advertising() {
    let Some(lab) = Lab::new() else { return };
    let watch = Watch::start(&lab);
    let _node = Node::start(&lab, Host::A, Kind::Twinblk, &Wanted::new(100));
    let start = watch.wait_for_advert(Host::A, Instant::now(), STEP).at;
    let stranger = Stranger::new(&lab);
    let mut broken = bytes(&advert());
    broken[7] ^= 1;
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(4500) {
        stranger.send(255, &broken);
        sent += 1;
    }
    let adverts = watch.count(start, Instant::now(), |sight| is_advert(sight, Host::A));
    assert!(adverts >= 4, "{adverts} advertisements in 4.5 s beside {sent} other packets");
    assert!(lab.holds_address(Host::A));
}

#[test]
fn an_equal_priority_wins_by_its_address() {
    let Some(lab) = Lab::new() else { return };
    // O is .220, below A and B: a tie is lost by it.
    let node = Node::start(&lab, Host::A, Kind::Twinblk, &Wanted::new(100));
    wait_until("it serves", STEP, || lab.holds_address(Host::A));
    let stranger = Stranger::new(&lab);
    stranger.send(255, &bytes(&Advertisement { priority: 100, ..advert() }));
    node.wait_for_line("forcing new election", STEP);
    assert!(lab.holds_address(Host::A));
    stranger.send(255, &bytes(&Advertisement { priority: 101, ..advert() }));
    node.wait_for_line("notify Backup", STEP);
}
