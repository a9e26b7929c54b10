//! One instance on its interface: the sockets it has now, the addresses it adds, and the frames it
//! still has to send.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::IpAddr;

use tokio::io::unix::AsyncFd;

use super::announce;
use super::guard::Guard;
use super::netlink::{Address, Link, Netlink};
use super::socket::{Datagram, Ear, Frames, Mouth, watch_ear};
use crate::election::settings::{InstanceSettings, VirtualAddress};
use crate::election::{Event, Time};

/// Frames of one burst: 255 addresses, 64 times each.
const FRAMES_MAX: usize = 255 * 64;

#[derive(Debug)]
pub(super) struct Slot {
    interface: String,
    link: Option<Link>,
    source: Option<IpAddr>,
    ear: Option<AsyncFd<Ear>>,
    mouth: Option<Mouth>,
    /// When, on which interface, what.
    frames: VecDeque<(Time, u32, Vec<u8>)>,
    /// The kernel refused the last one: said once, until one leaves again.
    cannot_send: bool,
}

impl Slot {
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            link: None,
            source: None,
            ear: None,
            mouth: None,
            frames: VecDeque::new(),
            cannot_send: false,
        }
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn ear(&self) -> Option<&AsyncFd<Ear>> {
        self.ear.as_ref()
    }

    /// Follows the interface, whose `addresses` are without the virtual ones: opens and closes sockets, and says what the instance must be told.
    pub(super) fn follow(
        &mut self,
        links: &[Link],
        addresses: &[Address],
        settings: &InstanceSettings,
    ) -> io::Result<[Event<'static>; 2]> {
        let link = links.iter().find(|link| link.name == self.interface);
        // An interface of the same name may be another one.
        if link.map(|link| link.index) != self.link.as_ref().map(|link| link.index) {
            (self.ear, self.mouth, self.source) = (None, None, None);
        }
        self.link = link.cloned();
        if let Some(link) = link {
            if self.ear.is_none() {
                let group = if settings.unicast_peers.is_empty() {
                    settings.group()
                } else {
                    settings.unicast_peers[0]
                };
                self.ear = Some(watch_ear(Ear::open(&link.name, link.index, group)?)?);
            }
            let source = settings.source.or_else(|| first_address(link.index, addresses, settings));
            if source != self.source || self.mouth.is_none() {
                self.mouth = source
                    .map(|source| Mouth::open(&link.name, link.index, source))
                    .transpose()
                    .inspect_err(|error| {
                        let (name, source) = (&settings.name, source);
                        tracing::warn!(%error, ?source, "({name}) cannot send from that address");
                    })
                    .unwrap_or(None);
                self.source = source.filter(|_| self.mouth.is_some());
            }
        }
        let is_up = link.is_some_and(|link| link.is_up);
        Ok([Event::Link { is_up }, Event::Source(self.source)])
    }

    /// The next packet that came; `None` when there is none.
    pub(super) fn take(&self) -> Option<Datagram> {
        let ear = self.ear.as_ref()?;
        loop {
            match ear.get_ref().take() {
                Ok(Some(datagram)) => return Some(datagram),
                // It was no packet of ours; there may be another.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing there, or the interface went away, of which netlink tells.
                Err(_) => return None,
            }
        }
    }

    /// `Err` is to be said: the first failure in a row.
    pub(super) fn send(&mut self, destination: IpAddr, bytes: &[u8]) -> Result<(), String> {
        let Some(mouth) = &self.mouth else { return Ok(()) };
        match mouth.send(destination, bytes) {
            Ok(()) => {
                self.cannot_send = false;
                Ok(())
            }
            Err(error) => {
                let is_first = !std::mem::replace(&mut self.cannot_send, true);
                if is_first {
                    Err(format!("send advert to {destination}: {error}"))
                } else {
                    Ok(())
                }
            }
        }
    }

    /// The first failure ends nothing: the other addresses are worth having.
    pub(super) fn add_addresses(
        &self,
        netlink: &mut Netlink,
        mut guard: Option<&mut Guard>,
        links: &[Link],
        settings: &InstanceSettings,
    ) {
        for address in all_addresses(settings) {
            let result = match self.link_of(address, links) {
                Some(link) => {
                    if let Some(guard) = &mut guard {
                        guard.hold(link.index, address);
                    }
                    netlink.add_address(link.index, address).map_err(|error| error.to_string())
                }
                None => Err("no such interface".to_owned()),
            };
            if let Err(error) = result {
                let (name, address) = (&settings.name, address.address);
                tracing::error!("({name}) cannot add {address}: {error}");
            }
        }
    }

    pub(super) fn remove_addresses(
        &mut self,
        netlink: &mut Netlink,
        mut guard: Option<&mut Guard>,
        links: &[Link],
        settings: &InstanceSettings,
    ) {
        // Nothing more is to be said about them.
        self.frames.clear();
        for address in all_addresses(settings) {
            let Some(link) = self.link_of(address, links) else { continue };
            match netlink.remove_address(link.index, address) {
                Ok(_) => {
                    if let Some(guard) = &mut guard {
                        guard.release(link.index, address);
                    }
                }
                Err(error) => {
                    let (name, address) = (&settings.name, address.address);
                    tracing::error!("({name}) cannot remove {address}: {error}");
                }
            }
        }
    }

    /// Queues a burst in place of what is left of the one before.
    pub(super) fn announce(
        &mut self,
        now: Time,
        repeat: u32,
        links: &[Link],
        settings: &InstanceSettings,
    ) {
        self.frames.clear();
        let spacing_us = settings.announcements.spacing_us;
        for round in 0..repeat {
            for address in all_addresses(settings) {
                let Some(link) = self.link_of(address, links) else { continue };
                let Some(hardware) = link.hardware else { continue };
                if self.frames.len() == FRAMES_MAX {
                    return;
                }
                let is_router = address.address.is_ipv6() && forwards_ipv6(&link.name);
                let frame = announce::frame(hardware, address.address, is_router);
                let at = now.after(u64::from(round) * spacing_us);
                self.frames.push_back((at, link.index, frame));
            }
        }
    }

    pub(super) fn next_frame_at(&self) -> Option<Time> {
        self.frames.front().map(|(at, ..)| *at)
    }

    pub(super) fn send_frames(&mut self, now: Time, frames: &Frames) {
        while let Some((_, interface, frame)) = self.frames.pop_front_if(|(at, ..)| *at <= now) {
            if let Err(error) = frames.send(interface, &frame) {
                let name = &self.interface;
                tracing::warn!("cannot announce an address on {name}: {error}");
                self.frames.clear();
            }
        }
    }

    fn link_of<'a>(&self, address: &VirtualAddress, links: &'a [Link]) -> Option<&'a Link> {
        let name = address.interface.as_ref().unwrap_or(&self.interface);
        links.iter().find(|link| link.name == *name)
    }
}

pub(super) fn all_addresses(settings: &InstanceSettings) -> impl Iterator<Item = &VirtualAddress> {
    settings.addresses.iter().chain(&settings.addresses_excluded)
}

/// What is sent from: the first address of the interface, with IPv6 the link-local one.
fn first_address(
    interface: u32,
    addresses: &[Address],
    settings: &InstanceSettings,
) -> Option<IpAddr> {
    let wants_v6 = settings.group().is_ipv6();
    let fits = |address: &&Address| {
        let family_fits = match address.address {
            IpAddr::V4(_) => !wants_v6,
            IpAddr::V6(address) => wants_v6 && address.is_unicast_link_local(),
        };
        address.interface == interface && family_fits && address.is_usable && !address.is_secondary
    };
    addresses.iter().find(fits).map(|address| address.address)
}

fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
