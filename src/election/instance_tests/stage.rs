//! One instance and its clock; the rest of the network is what the test says.

use super::super::super::packet::{Authentication, ChecksumForm, HOP_LIMIT};
use super::super::super::settings::VirtualAddress;
use super::*;
use std::net::Ipv4Addr;

pub const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
pub const LOWER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4));
pub const HIGHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 6));
const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));

pub fn settings(priority: u8) -> InstanceSettings {
    let addresses = vec![VirtualAddress::host(VIRTUAL)];
    InstanceSettings { priority, ..InstanceSettings::new("VI_1", 51, addresses) }
}

pub struct Stage {
    pub instance: Instance,
    pub now: Time,
    pub effects: Vec<Effect>,
}

impl Stage {
    /// Started, with a link and an address.
    pub fn new(settings: InstanceSettings) -> Self {
        let instance = Instance::new(settings).expect("good settings");
        let mut stage = Self { instance, now: Time(0), effects: Vec::new() };
        stage.handle(Event::Source(Some(OWN)));
        stage.handle(Event::Start);
        stage
    }

    /// After the silence in which it became Master.
    pub fn master(settings: InstanceSettings) -> Self {
        let mut stage = Self::new(settings);
        let at = stage.instance.deadline().expect("it waits");
        stage.run_until(at.0);
        assert_eq!(stage.state(), State::Master);
        stage
    }

    pub fn state(&self) -> State {
        self.instance.state()
    }

    pub fn handle(&mut self, event: Event<'_>) {
        self.instance.handle(self.now, event, &mut self.effects);
    }

    /// Every timer on time.
    pub fn run_until(&mut self, microseconds: u64) {
        while let Some(at) = self.instance.deadline().filter(|at| at.0 <= microseconds) {
            self.now = at.max(self.now);
            self.handle(Event::TimerDue);
        }
        self.now = Time(microseconds);
    }

    /// No timer until then.
    pub fn wake_at(&mut self, microseconds: u64) {
        self.now = Time(microseconds);
        self.handle(Event::TimerDue);
    }

    pub fn hear(&mut self, source: IpAddr, priority: u8) {
        let interval_us = self.instance.settings().advert_interval_us;
        self.hear_every(source, priority, interval_us);
    }

    pub fn hear_every(&mut self, source: IpAddr, priority: u8, interval_us: u64) {
        let destination = self.instance.settings().group();
        let advert = Advertisement {
            version: self.instance.settings().version,
            virtual_router_id: 51,
            priority,
            interval_us,
            authentication: Authentication::None,
            addresses: vec![VIRTUAL],
        };
        let route = Route { source, destination };
        let bytes = advert.encode(route, ChecksumForm::WithPseudoHeader);
        self.hear_bytes(source, &bytes);
    }

    pub fn hear_bytes(&mut self, source: IpAddr, bytes: &[u8]) {
        let destination = self.instance.settings().group();
        self.handle(Event::Received(Received { source, destination, hop_limit: HOP_LIMIT, bytes }));
    }

    /// The priorities of the advertisements sent.
    pub fn adverts(&self) -> Vec<u8> {
        let priority = |effect: &Effect| match effect {
            Effect::SendAdvert { bytes, .. } => Some(bytes[2]),
            _ => None,
        };
        self.effects.iter().filter_map(priority).collect()
    }

    pub fn saw(&self, effect: &Effect) -> bool {
        self.count(effect) > 0
    }

    pub fn count(&self, effect: &Effect) -> usize {
        self.effects.iter().filter(|seen| *seen == effect).count()
    }
}
