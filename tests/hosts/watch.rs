//! What is seen on the wire, with its time.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use twinblk::election::packet::{Advertisement, PROTOCOL, Route};

use super::lab::{Host, Lab};

const ETHERTYPE_ALL: u16 = 3;
const RECEIVE_LIMIT: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Advert {
        source: IpAddr,
        advert: Advertisement,
    },
    /// Gratuitous ARP or an unsolicited neighbour advertisement.
    Announcement {
        hardware: [u8; 6],
        address: IpAddr,
    },
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub sight: Sight,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    more: Condvar,
    is_over: AtomicBool,
}

/// Everything that host O hears.
pub struct Watch {
    record: Arc<Record>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(lab: &Lab) -> Self {
        let record = Arc::new(Record::default());
        let socket = in_namespace(lab, Host::O, || {
            let protocol = Protocol::from(i32::from(ETHERTYPE_ALL.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("a packet socket")
        });
        socket.set_read_timeout(Some(RECEIVE_LIMIT)).expect("a limit");
        let shared = Arc::clone(&record);
        let thread = thread::spawn(move || listen(socket, &shared));
        Self { record, thread: Some(thread) }
    }

    /// The first such thing from `since` on.
    pub fn wait_for(
        &self,
        what: &str,
        since: Instant,
        limit: Duration,
        wanted: impl Fn(&Sight) -> bool,
    ) -> Seen {
        let deadline = Instant::now() + limit;
        let mut seen = self.record.seen.lock().expect("the watch lives");
        loop {
            let found = seen.iter().find(|seen| seen.at >= since && wanted(&seen.sight));
            if let Some(found) = found {
                return found.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within {limit:?}: {what}; seen: {:#?}", tail(&seen));
            seen = self.record.more.wait_timeout(seen, left).expect("the watch lives").0;
        }
    }

    pub fn wait_for_advert(&self, from: Host, since: Instant, limit: Duration) -> Seen {
        let what = format!("an advertisement of {from:?}");
        self.wait_for(&what, since, limit, |sight| is_advert(sight, from) && priority(sight) > 0)
    }

    pub fn wait_for_priority_zero(&self, from: Host, since: Instant, limit: Duration) -> Seen {
        let what = format!("priority 0 of {from:?}");
        self.wait_for(&what, since, limit, |sight| is_advert(sight, from) && priority(sight) == 0)
    }

    /// Of a host, before a moment.
    pub fn last_advert(&self, from: Host, before: Instant) -> Instant {
        let seen = self.record.seen.lock().expect("the watch lives");
        let mut adverts = seen.iter().rev();
        let last = adverts.find(|seen| seen.at < before && is_advert(&seen.sight, from));
        last.expect("there was one").at
    }

    pub fn count(&self, since: Instant, until: Instant, wanted: impl Fn(&Sight) -> bool) -> usize {
        let seen = self.record.seen.lock().expect("the watch lives");
        let within = seen.iter().filter(|seen| since <= seen.at && seen.at < until);
        within.filter(|seen| wanted(&seen.sight)).count()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.record.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

pub fn is_advert(sight: &Sight, from: Host) -> bool {
    let from: IpAddr = from.address().parse().expect("an address");
    matches!(sight, Sight::Advert { source, .. } if *source == from)
}

pub fn priority(sight: &Sight) -> u8 {
    match sight {
        Sight::Advert { advert, .. } => advert.priority,
        Sight::Announcement { .. } => unreachable!("no advertisement"),
    }
}

/// Does something in a thread that lives in the namespace of a host: what it opens stays there.
pub fn in_namespace<T: Send>(lab: &Lab, host: Host, act: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{}", lab.namespace(host));
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let namespace = std::fs::File::open(path).expect("the namespace");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).expect("in the namespace");
            act()
        });
        thread.join().expect("nothing panicked")
    })
}

fn tail(seen: &[Seen]) -> &[Seen] {
    &seen[seen.len().saturating_sub(8)..]
}

fn listen(mut socket: Socket, record: &Record) {
    let mut buffer = vec![0; 4096];
    while !record.is_over.load(Ordering::Relaxed) {
        let count = match socket.read(&mut buffer) {
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(error) => panic!("the watch: {error}"),
        };
        let at = Instant::now();
        if let Some(sight) = understand(&buffer[..count]) {
            record.seen.lock().expect("nobody panics with it").push(Seen { at, sight });
            record.more.notify_all();
        }
    }
}

fn understand(frame: &[u8]) -> Option<Sight> {
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let packet = frame.get(14..)?;
    let hardware: [u8; 6] = *frame.get(6..)?.first_chunk()?;
    let v4 = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
    match kind {
        0x0806 => {
            let (sender, target) = (v4(14)?, v4(24)?);
            let is_gratuitous = sender == target && packet.get(7) == Some(&1);
            is_gratuitous.then_some(Sight::Announcement { hardware, address: sender.into() })
        }
        0x0800 if packet.get(9) == Some(&PROTOCOL) => {
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let route = Route { source: v4(12)?.into(), destination: v4(16)?.into() };
            advert(packet.get(20..length)?, route)
        }
        0x86dd if packet.get(6) == Some(&PROTOCOL) => {
            let route = Route { source: v6(8)?.into(), destination: v6(24)?.into() };
            advert(packet.get(40..)?, route)
        }
        0x86dd if packet.get(6) == Some(&58) && packet.get(40) == Some(&136) => {
            Some(Sight::Announcement { hardware, address: v6(48)?.into() })
        }
        _ => None,
    }
}

fn advert(bytes: &[u8], route: Route) -> Option<Sight> {
    let advert = Advertisement::decode(bytes, route).ok()?;
    Some(Sight::Advert { source: route.source, advert })
}
