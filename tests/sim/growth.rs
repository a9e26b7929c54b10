//! The backing disks become larger while the device is in use, the metadata moves, and the operator
//! has the device grow.

use twinblk::engine::event::{Event, GrowFailure, Verb};
use twinblk_proto::state::{ConnectionState, Role};

use crate::node::Work;
use crate::oracle::Invariant;
use crate::subject::Subject;
use crate::world::{Item, World};

impl<E: Subject> World<E> {
    /// Size of the device as clients of either node know it.
    pub fn common_sectors(&self) -> u64 {
        let sizes = self.nodes.iter().filter_map(|node| node.engine.as_ref());
        sizes.map(E::device_sectors).min().unwrap_or(0)
    }

    /// I11: in the end the device has the size that both disks allow.
    pub fn has_grown(&self) -> bool {
        self.swarm.growth.is_none() || self.common_sectors() == self.swarm.device_sectors
    }

    /// A step of the operator's.
    pub fn grow_tick(&mut self) {
        let Some(growth) = self.swarm.growth else { return };
        let calm = self.operator.calm;
        let all = self.swarm.device_sectors;
        for node in 0..2 {
            let percent = if calm { 100 } else { 3 };
            if self.nodes[node].backing_sectors < all && self.operator.growth.percent(percent) {
                self.note(node, format_args!("the backing disk grows"));
                self.nodes[node].backing_sectors = all;
            }
        }
        let node = self.operator.growth.below(2) as usize;
        let percent = if calm { 30 } else { 10 };
        let due = !self.has_grown() && self.operator.growth.percent(percent);
        let begun = self.nodes.iter().any(|node| node.backing_sectors == all);
        if !due || !begun || !self.nodes[node].is_running() || self.is_asked(node) {
            return;
        }
        let state = self.nodes[node].state();
        let alone = state.connection < ConnectionState::Connected;
        let assume_peer_has_space = alone
            && (state.role == Role::Primary || calm)
            && self.nodes[1 - node].usable_sectors == all
            && self.operator.growth.percent(50);
        if alone && !assume_peer_has_space {
            return;
        }
        let assume_clean = growth.assume_clean;
        self.ask(node, Verb::Resize { sectors: Some(0), assume_peer_has_space, assume_clean });
    }

    // The driver's part.

    pub fn look_at_disk(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        let is_writing = machine.operations.values().any(|operation| {
            operation.opening == machine.opening && matches!(operation.work, Work::Metadata(_))
        });
        if is_writing || machine.looking || !machine.disk_open {
            return self.violate(Invariant::Contract, "metadata moves while it is written to");
        }
        machine.looking = true;
        let (incarnation, opening) = (machine.incarnation, machine.opening);
        let delay_us = self.disk_random.skewed(100, 2_000_000);
        let item = Item::DiskLookedAt { node, incarnation, opening };
        self.agenda.add(self.now_us + delay_us, item);
    }

    pub fn disk_looked_at(&mut self, node: usize, opening: u64) {
        let breaks = self.disk_may_break(node);
        let machine = &mut self.nodes[node];
        machine.looking = false;
        if !breaks || self.disk_random.percent(50) {
            machine.usable_sectors = machine.backing_sectors;
        }
        if opening == machine.opening && machine.disk_open {
            let usable = machine.usable_sectors;
            let broken = || Err(GrowFailure::Broken(Self::disk_failure()));
            let result = if breaks { broken() } else { Ok(usable) };
            self.input(node, Event::DiskGrown(result));
        }
    }
}
