//! Clients: each keeps some requests in flight on a node that is Primary, around a few places of
//! the device so that requests overlap.

use twinblk::engine::event::Event;
use twinblk_proto::units::SectorRange;

use crate::random::{Random, Stream};
use crate::requests::{Reply, Wish};
use crate::subject::Subject;
use crate::swarm::{Swarm, Workload};
use crate::world::{Item, World};

#[derive(Debug, Default)]
struct Client {
    node: Option<usize>,
    in_flight: u64,
    /// Not before this, after an error.
    patient_until_us: u64,
}

#[derive(Debug)]
pub struct Clients {
    random: Random,
    clients: Vec<Client>,
    places: Vec<u64>,
    /// Requests still to make.
    pub budget: u64,
    /// Nobody opens this node's device: it is to be demoted.
    pub closing: [bool; 2],
}

impl Clients {
    pub fn new(seed: u64, swarm: &Swarm) -> Self {
        let mut random = Random::new(seed, Stream::Workload, 0);
        let places =
            (0..swarm.workload.hot_places).map(|_| random.below(swarm.device_sectors)).collect();
        Self {
            random,
            clients: (0..swarm.workload.clients).map(|_| Client::default()).collect(),
            places,
            budget: swarm.workload.requests,
            closing: [false; 2],
        }
    }

    pub fn open_on(&self, node: usize) -> u32 {
        self.clients.iter().filter(|client| client.node == Some(node)).count() as u32
    }

    fn wish(&mut self, workload: &Workload, device_sectors: u64) -> Wish {
        let random = &mut self.random;
        if random.percent(workload.flush_percent) {
            return Wish::Flush;
        }
        let place = *random.pick(&self.places);
        let mut start = place + random.below(workload.hot_sectors);
        let mut count = random.skewed(1, workload.largest_sectors);
        if !random.percent(workload.unaligned_percent) {
            start -= start % 8;
            count = count.next_multiple_of(8);
        }
        let start = start % device_sectors;
        let range = SectorRange::new(start, count.min(device_sectors - start) as u32);
        if random.percent(workload.read_percent) {
            Wish::Read(range)
        } else if random.percent(workload.zero_percent) {
            let may_unmap = random.percent(50);
            Wish::Zero { range, may_unmap, fua: random.percent(workload.fua_percent) }
        } else {
            Wish::Write { range, fua: random.percent(workload.fua_percent) }
        }
    }
}

impl<E: Subject> World<E> {
    pub fn client_tick(&mut self, client: usize) {
        let workload = self.swarm.workload.clone();
        let think_us = self.think_us(workload.think_us);
        if self.clients.budget == 0 && self.clients.clients[client].in_flight == 0 {
            self.let_go(client);
        } else {
            self.choose_node(client);
            let state = &self.clients.clients[client];
            if let Some(node) = state.node
                && !self.clients.closing[node]
                && state.patient_until_us <= self.now_us
                && state.in_flight < workload.depth
                && self.clients.budget > 0
            {
                let sectors = self.nodes[node]
                    .engine
                    .as_ref()
                    .map_or(0, E::device_sectors)
                    .min(self.swarm.device_sectors);
                if sectors > 0 {
                    let wish = self.clients.wish(&workload, sectors);
                    self.clients.budget -= 1;
                    self.clients.clients[client].in_flight += 1;
                    self.request(node, Some(client), wish);
                }
            }
        }
        self.agenda.add(self.now_us + think_us, Item::ClientTick { client });
    }

    /// One long pause after some short ones: requests come in bursts.
    fn think_us(&mut self, mean_us: u64) -> u64 {
        let random = &mut self.clients.random;
        if random.percent(20) {
            1 + random.below(10 * mean_us + 1)
        } else {
            1 + random.below(200.min(mean_us) + 1)
        }
    }

    /// Leaves a node that is not Primary any more, or is to be demoted; goes to one that is.
    fn choose_node(&mut self, client: usize) {
        let state = &self.clients.clients[client];
        if let Some(node) = state.node {
            let stays = self.nodes[node].is_primary() && !self.clients.closing[node];
            if !stays && state.in_flight == 0 {
                self.let_go(client);
            }
            return;
        }
        let primaries: Vec<usize> = (0..2)
            .filter(|node| {
                self.nodes[*node].is_running()
                    && self.nodes[*node].is_primary()
                    && !self.nodes[*node].promotion_due
                    && !self.operator.is_promoting(*node)
                    && !self.clients.closing[*node]
            })
            .collect();
        if !primaries.is_empty() {
            let node = *self.clients.random.pick(&primaries);
            self.clients.clients[client].node = Some(node);
            self.tell_clients(node);
        }
    }

    fn let_go(&mut self, client: usize) {
        if let Some(node) = self.clients.clients[client].node.take() {
            self.tell_clients(node);
        }
    }

    fn tell_clients(&mut self, node: usize) {
        let open = self.clients.open_on(node);
        self.input(node, Event::ClientsChanged { open });
    }

    pub fn client_answered(&mut self, client: usize, node: usize, reply: &Reply) {
        let pause_us = self.clients.random.between(1_000, 500_000);
        let state = &mut self.clients.clients[client];
        state.in_flight -= 1;
        match reply {
            Reply::Done | Reply::Content(_) => {}
            Reply::Failed(_) => state.patient_until_us = self.now_us + pause_us,
            Reply::Never => {
                if state.node == Some(node) {
                    state.node = None;
                }
            }
        }
    }
}
