//! Two and three nodes on a network that loses, delays and repeats what they say, while nodes are
//! paused: the production state machine at random, each run from its seed.
//!
//! An election is no lock, so several masters may exist while messages are lost. What must hold: once
//! messages flow and everyone runs, there is exactly one master, it has the highest priority, and
//! it is there within the time that the timers allow.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::Time;
use super::check::Received;
use super::instance::{Effect, Event, Instance, State};
use super::packet::{HOP_LIMIT, Version};
use super::settings::{InstanceSettings, VirtualAddress};

const INTERVAL_US: u64 = 1_000_000;
/// Longer than the skew of any priority, and the longest delay in peace.
const LARGEST_SKEW_US: u64 = 1_000_000;
const PEACE_DELAY_US: u64 = 5_000;
/// Beyond this a run has gone wild.
const STEPS_MAX: usize = 200_000;

#[derive(Clone, Debug)]
struct Plan {
    version: Version,
    priorities: Vec<u8>,
    preempt: bool,
    /// Of a thousand messages.
    lost_per_mille: u32,
    longest_delay_us: u64,
    /// Node, from, for how long.
    pauses: Vec<(usize, u64, u64)>,
    trouble_us: u64,
    seed: u64,
}

/// xorshift64*: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound.max(1)
    }
}

struct Node {
    instance: Instance,
    address: IpAddr,
    has_addresses: bool,
    paused_until: Time,
    became_master_at: Option<Time>,
}

struct Message {
    at: Time,
    source: IpAddr,
    destination: IpAddr,
    to: usize,
    bytes: Vec<u8>,
}

struct Network<'a> {
    plan: &'a Plan,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    chance: Chance,
    now: Time,
    steps: usize,
}

impl<'a> Network<'a> {
    fn new(plan: &'a Plan) -> Self {
        let node = |(index, priority): (usize, &u8)| {
            let virtual_address: IpAddr = Ipv4Addr::new(10, 0, 0, 100).into();
            let addresses = vec![VirtualAddress::host(virtual_address)];
            let settings = InstanceSettings {
                version: plan.version,
                priority: *priority,
                preempt: plan.preempt,
                advert_interval_us: INTERVAL_US,
                ..InstanceSettings::new("VI_1", 51, addresses)
            };
            Node {
                instance: Instance::new(settings).expect("good settings"),
                address: Ipv4Addr::new(10, 0, 0, 1 + index as u8).into(),
                has_addresses: false,
                paused_until: Time(0),
                became_master_at: None,
            }
        };
        let nodes = plan.priorities.iter().enumerate().map(node).collect();
        let chance = Chance(plan.seed | 1);
        let mut network =
            Self { plan, nodes, messages: Vec::new(), chance, now: Time(0), steps: 0 };
        for index in 0..network.nodes.len() {
            let address = network.nodes[index].address;
            network.give(index, Event::Source(Some(address)));
            network.give(index, Event::Start);
        }
        network
    }

    fn in_trouble(&self) -> bool {
        self.now.0 < self.plan.trouble_us
    }

    fn give(&mut self, index: usize, event: Event<'_>) {
        let mut effects = Vec::new();
        let now = self.now;
        let was_master = self.nodes[index].instance.state() == State::Master;
        self.nodes[index].instance.handle(now, event, &mut effects);
        let node = &mut self.nodes[index];
        let is_master = node.instance.state() == State::Master;
        if is_master && !was_master {
            node.became_master_at = Some(now);
        }
        for effect in effects {
            match effect {
                Effect::SendAdvert { destination, bytes } => self.send(index, destination, &bytes),
                Effect::AddAddresses => self.nodes[index].has_addresses = true,
                Effect::RemoveAddresses => self.nodes[index].has_addresses = false,
                Effect::Announce { .. } => assert!(self.nodes[index].has_addresses),
                Effect::Notify(_) | Effect::Report(_) => {}
            }
        }
        let has_addresses = self.nodes[index].has_addresses;
        assert_eq!(has_addresses, is_master, "addresses are with the master and nobody else");
    }

    fn send(&mut self, from: usize, destination: IpAddr, bytes: &[u8]) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            let copies = 1 + usize::from(self.in_trouble() && self.chance.below(20) == 0);
            for _ in 0..copies {
                let lost = self.chance.below(1000) < u64::from(self.plan.lost_per_mille);
                if self.in_trouble() && lost {
                    continue;
                }
                let longest =
                    if self.in_trouble() { self.plan.longest_delay_us } else { PEACE_DELAY_US };
                let at = self.now.after(1 + self.chance.below(longest));
                let source = self.nodes[from].address;
                self.messages.push(Message { at, source, destination, to, bytes: bytes.to_vec() });
            }
        }
    }

    /// When something happens next to a node that runs; what comes for a paused one waits.
    fn next(&self) -> Option<(Time, usize, Option<usize>)> {
        let at_node = |at: Time, node: usize| at.max(self.nodes[node].paused_until);
        let messages = self.messages.iter().enumerate();
        let messages = messages
            .map(|(index, message)| (at_node(message.at, message.to), message.to, Some(index)));
        let timers = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            Some((at_node(node.instance.deadline()?, index), index, None))
        });
        // What lies in the socket is read before timers are looked at, as the shell does.
        messages.chain(timers).min_by_key(|(at, node, message)| (*at, message.is_none(), *node))
    }

    fn run_until(&mut self, until: Time) {
        let mut pauses = self.plan.pauses.clone();
        while let Some((at, index, message)) = self.next().filter(|(at, ..)| *at <= until) {
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "it does not come to rest");
            self.now = at.max(self.now);
            let now = self.now;
            let count = self.nodes.len();
            pauses.retain(|(node, from, length_us)| {
                let begins = *from <= now.0 && now.0 < self.plan.trouble_us;
                if begins {
                    self.nodes[*node % count].paused_until = now.after(*length_us);
                }
                !begins
            });
            if self.nodes[index].paused_until > now {
                continue;
            }
            match message {
                Some(message) => {
                    let message = self.messages.swap_remove(message);
                    let (source, destination) = (message.source, message.destination);
                    let bytes = &message.bytes;
                    let received = Received { source, destination, hop_limit: HOP_LIMIT, bytes };
                    self.give(index, Event::Received(received));
                }
                None => self.give(index, Event::TimerDue),
            }
        }
        self.now = until.max(self.now);
    }

    fn masters(&self) -> Vec<usize> {
        let is_master = |index: &usize| self.nodes[*index].instance.state() == State::Master;
        (0..self.nodes.len()).filter(is_master).collect()
    }

    /// From when on messages flow and everyone runs.
    fn peace_begins(&self) -> Time {
        let pauses = self.nodes.iter().map(|node| node.paused_until);
        let delayed = self.messages.iter().map(|message| message.at);
        pauses.chain(delayed).max().unwrap_or(self.now).max(self.now)
    }
}

/// Trouble, then peace. `Err` says what does not hold.
fn run(plan: &Plan) {
    let mut network = Network::new(plan);
    network.run_until(Time(plan.trouble_us));
    let peace = network.peace_begins();
    // Who woke up late in peace listens for 3 intervals and its skew; so does who heard the last
    // stale advertisement. Then one more interval until those that are lower have heard of it.
    let down_us = 3 * INTERVAL_US + LARGEST_SKEW_US;
    let settled = peace.after(down_us + INTERVAL_US + 2 * PEACE_DELAY_US);
    network.run_until(settled);
    let masters = network.masters();
    assert_eq!(masters.len(), 1, "one master once messages flow, not {masters:?}");
    let master = masters[0];
    if plan.preempt {
        let ours = network.nodes[master].instance.effective_priority();
        let highest = plan.priorities.iter().max();
        assert_eq!(Some(&ours), highest, "the highest priority wins");
    }
    // And nothing moves any more.
    let since = network.nodes[master].became_master_at;
    network.run_until(settled.after(20 * INTERVAL_US));
    assert_eq!(network.masters(), masters);
    assert_eq!(network.nodes[master].became_master_at, since, "it served all the time");

    // Its death is noticed in time.
    network.nodes[master].paused_until = Time(u64::MAX);
    let death = network.now;
    network.run_until(death.after(down_us + PEACE_DELAY_US));
    let others: Vec<_> = network.masters().into_iter().filter(|other| *other != master).collect();
    assert!(!others.is_empty(), "somebody takes over within 3 intervals and the skew");
}

prop_compose! {
    fn plan()(
        is_v3: bool,
        priorities in proptest::collection::vec(1..=254u8, 2..=3),
        preempt: bool,
        lost_per_mille in 0..=1000u32,
        longest_delay_us in 1..3_000_000u64,
        pauses in proptest::collection::vec((0..3usize, 0..30_000_000u64, 1..12_000_000u64), 0..4),
        trouble_us in 1_000_000..40_000_000u64,
        seed: u64,
    ) -> Plan {
        let version = if is_v3 { Version::V3 } else { Version::V2 };
        Plan {
            version, priorities, preempt, lost_per_mille, longest_delay_us, pauses, trouble_us, seed,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn once_messages_flow_there_is_one_master(plan in plan()) {
        run(&plan);
    }
}

#[test]
fn a_master_that_wakes_up_after_its_successor_served_never_holds_the_address_beside_it() {
    let plan = Plan {
        version: Version::V2,
        priorities: vec![100, 90],
        preempt: true,
        lost_per_mille: 0,
        longest_delay_us: 1,
        pauses: Vec::new(),
        trouble_us: 0,
        seed: 1,
    };
    let mut network = Network::new(&plan);
    network.run_until(Time(10 * INTERVAL_US));
    assert_eq!(network.masters(), [0]);
    let wakes = Time(25 * INTERVAL_US);
    network.nodes[0].paused_until = wakes;
    network.run_until(Time(wakes.0 - 1));
    assert_eq!(network.masters(), [0, 1], "paused, it cannot know");
    network.run_until(wakes);
    assert_eq!(network.masters(), [1], "keepalived's row 15: both, until the higher one wins");
    network.run_until(wakes.after(5 * INTERVAL_US));
    assert_eq!(network.masters(), [0]);
}
