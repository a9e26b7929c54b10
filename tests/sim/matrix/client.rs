//! Clients of the virtual address: each asks whichever node answers there, one request at a time,
//! and remembers what it was told. What must hold for them (DESIGN.md 4, I5 and I9):
//!
//! * where the policy lets one node go on alone, no node answers a write that was asked for after
//!   the other became Primary; nor a read, after [`STALE_READS_US`];
//! * all other answers are those of one register for each block.

use std::collections::BTreeMap;

use twinblk_proto::units::SectorRange;

use crate::oracle::Invariant;
use crate::oracle::register::{self, Operation};
use crate::random::{Random, Stream};
use crate::requests::{Reply, Wish};
use crate::stamp::{ZEROES, describe, stamp};
use crate::subject::Subject;
use crate::world::{Item, World};

/// A Primary that was paused or cut off answers reads until it has noticed that its peer is gone:
/// `ping-int` + `ping-timeout` of this world, on a clock that is 2 % slow, and the time of a look.
pub const STALE_READS_US: u64 = (2_000_000 + 500_000) * 102 / 100 + 50_000;

const CLIENTS: usize = 3;
const BLOCKS: u64 = 4;
/// A block of its own, so that no two clients' blocks are one for the activity log.
const BLOCK_DISTANCE: u64 = 4096;
const BLOCK_SECTORS: u32 = 8;
/// A client gives up waiting, and asks another node.
const PATIENCE_US: u64 = 3_000_000;

#[derive(Debug, Default)]
struct Client {
    /// The request that it waits for, and since when.
    waits: Option<(u64, u64)>,
    /// Which did not answer in time: the next request goes to the other, if that has the address.
    avoids: Option<usize>,
}

/// A request that a node has not answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    client: usize,
    block: u64,
    is_write: bool,
    /// What it writes.
    value: u64,
    node: usize,
    /// The attachment that it came through.
    device: u64,
    invoked: u64,
    invoked_us: u64,
}

#[derive(Debug)]
pub struct Clients {
    random: Random,
    clients: [Client; CLIENTS],
    /// Who announced the address last.
    announced: Option<usize>,
    last_asked: [Option<usize>; CLIENTS],
    asked: BTreeMap<u64, Asked>,
    history: BTreeMap<u64, Vec<Operation>>,
    pub was_primary: [bool; 2],
    /// When a node last answered a write.
    pub wrote_us: [u64; 2],
    /// When it answered one first, since that was last set to `None`.
    pub first_wrote_us: [Option<u64>; 2],
    pub answered: u64,
    pub stale_reads: u64,
    /// The longest time that nobody answered a write, since it was last set to 0.
    pub longest_gap_us: u64,
    /// Both nodes went on: their histories are two.
    pub is_split: bool,
}

impl Clients {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed, Stream::Service, 1),
            clients: Default::default(),
            announced: None,
            last_asked: [None; CLIENTS],
            asked: BTreeMap::new(),
            history: BTreeMap::new(),
            was_primary: [false; 2],
            wrote_us: [0; 2],
            first_wrote_us: [None; 2],
            answered: 0,
            stale_reads: 0,
            longest_gap_us: 0,
            is_split: false,
        }
    }

    fn last_write_us(&self) -> u64 {
        self.wrote_us[0].max(self.wrote_us[1])
    }
}

fn range_of(block: u64) -> SectorRange {
    SectorRange::new((block + 1) * BLOCK_DISTANCE, BLOCK_SECTORS)
}

impl<E: Subject> World<E> {
    pub fn start_service_clients(&mut self) {
        for client in 0..CLIENTS {
            self.agenda.add(self.now_us + 1_000, Item::ServiceClient { client });
        }
    }

    /// Whoever comes to the virtual address may find it there.
    pub fn answers_address(&self, node: usize) -> bool {
        let service = self.service();
        service.seats[node].serves() && !service.isolated[node] && self.nodes[node].is_up()
    }

    pub fn service_client_tick(&mut self, client: usize) {
        let think_us = self.service().setup.think_us;
        let now_us = self.now_us;
        let clients = &mut self.service_mut().clients;
        let pause_us = clients.random.skewed(1, 2 * think_us);
        self.agenda.add(now_us + pause_us, Item::ServiceClient { client });
        let clients = &mut self.service_mut().clients;
        if let Some((_, since_us)) = clients.clients[client].waits {
            if now_us < since_us + PATIENCE_US {
                return;
            }
            clients.clients[client].waits = None;
            clients.clients[client].avoids = clients.last_asked[client];
        }
        let avoids = clients.clients[client].avoids.take();
        let mut nodes: Vec<usize> = (0..2).filter(|node| self.answers_address(*node)).collect();
        if nodes.len() == 2 {
            nodes.retain(|node| Some(*node) != avoids);
        }
        // Who announced the address last has it, for those whose tables are up to date.
        let stale_percent = self.service().setup.stale_percent;
        let clients = &mut self.service_mut().clients;
        if let Some(announced) = clients.announced
            && !clients.random.percent(stale_percent)
            && self.service().seats[announced].has_addresses
        {
            nodes.retain(|node| *node == announced);
        }
        if nodes.is_empty() {
            return;
        }
        let clients = &mut self.service_mut().clients;
        let node = *clients.random.pick(&nodes);
        let block = clients.random.below(BLOCKS);
        let is_write = clients.random.percent(50);
        let range = range_of(block);
        let fua = self.service().setup.durable_writes || self.service_mut().random.percent(30);
        let wish = if is_write { Wish::Write { range, fua } } else { Wish::Read(range) };
        let request = self.request(node, None, wish).0;
        let value = stamp(self.pending[&request].write, range.start.0);
        let invoked = self.oracle.tick();
        let device = self.service().seats[node].device;
        let asked =
            Asked { client, block, is_write, value, node, device, invoked, invoked_us: now_us };
        let clients = &mut self.service_mut().clients;
        clients.clients[client].waits = Some((request, now_us));
        clients.last_asked[client] = Some(node);
        clients.asked.insert(request, asked);
    }

    /// The node announces the address: what clients sent to the other one comes here from now on, where
    /// nobody knows of it.
    pub fn address_announced(&mut self, node: usize) {
        let service = self.service_mut();
        if service.isolated[node] {
            return;
        }
        let clients = &mut service.clients;
        clients.announced = Some(node);
        for (client, asked) in clients.clients.iter_mut().zip(clients.last_asked) {
            if client.waits.is_some() && asked == Some(1 - node) {
                client.waits = None;
                client.avoids = Some(1 - node);
            }
        }
    }

    /// What nodes have answered by now.
    pub fn collect_replies(&mut self) {
        let asked: Vec<u64> = self.service().clients.asked.keys().copied().collect();
        for request in asked {
            if let Some(reply) = self.replies.remove(&request) {
                self.service_answered(request, &reply);
            }
        }
    }

    fn service_answered(&mut self, request: u64, reply: &Reply) {
        let now_us = self.now_us;
        let answered = self.oracle.tick();
        let service = self.service_mut();
        let Some(asked) = service.clients.asked.remove(&request) else { return };
        let client = &mut service.clients.clients[asked.client];
        if client.waits.is_some_and(|(waits, _)| waits == request) {
            client.waits = None;
        }
        // The kernel, or the end of the process, told the program that it failed.
        let is_heard = service.seats[asked.node].device == asked.device;
        let value = match reply {
            Reply::Done if is_heard => asked.value,
            Reply::Content(content) if is_heard => content[0],
            _ if asked.is_write => return self.remember(&asked, asked.value, u64::MAX),
            _ => return,
        };
        service.clients.answered += 1;
        if asked.is_write {
            let gap_us = now_us - service.clients.last_write_us().min(now_us);
            let clients = &mut service.clients;
            clients.longest_gap_us = clients.longest_gap_us.max(gap_us);
            clients.wrote_us[asked.node] = now_us;
            clients.first_wrote_us[asked.node].get_or_insert(now_us);
        }
        if self.was_replaced(&asked) {
            if !self.service().setup.policy.is_exclusive() {
                self.service_mut().clients.is_split = true;
            } else if asked.is_write {
                let text = format!("node {} answers a write beside the other", asked.node);
                return self.violate(Invariant::I5, text);
            } else {
                let since_us = self.service().troubled_us[asked.node];
                if now_us > since_us + STALE_READS_US {
                    let text = format!("node {} answers reads beside the other", asked.node);
                    return self.violate(Invariant::I5, text);
                }
                self.service_mut().clients.stale_reads += 1;
                return;
            }
        }
        self.remember(&asked, value, answered);
    }

    /// The other node became Primary after this one did, and before the request was made.
    fn was_replaced(&self, asked: &Asked) -> bool {
        let since = self.service().primary_since_us;
        let [own, other] = [since[asked.node], since[1 - asked.node]];
        other.is_some_and(|other| own.is_none_or(|own| other > own) && asked.invoked_us > other)
    }

    fn remember(&mut self, asked: &Asked, value: u64, answered: u64) {
        let operation =
            Operation { write: asked.is_write, value, invoked: asked.invoked, answered };
        self.service_mut().clients.history.entry(asked.block).or_default().push(operation);
    }

    /// All that clients were told, on whichever node, fits into one history.
    pub fn check_service_history(&mut self) {
        // Under `both` either node may go on without what the other has answered: what each of them
        // answers is looked at by the oracle of the engines, history by history.
        let service = self.service_mut();
        if !service.setup.policy.is_exclusive() {
            return;
        }
        let clients = &mut service.clients;
        let open: Vec<Asked> = std::mem::take(&mut clients.asked).into_values().collect();
        for asked in open.iter().filter(|asked| asked.is_write) {
            self.remember(asked, asked.value, u64::MAX);
        }
        for (block, history) in self.service().clients.history.clone() {
            if let Err(text) = register::check(ZEROES, &history) {
                let known =
                    history.iter().filter(|operation| text.contains(&operation.value.to_string()));
                let values: Vec<String> =
                    known.map(|operation| describe(operation.value)).collect();
                let text = format!("block {block} of the service: {text} ({values:?})");
                return self.violate(Invariant::I9, text);
            }
        }
    }
}
