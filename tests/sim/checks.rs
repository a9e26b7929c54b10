//! The invariants that compare both machines: what their disks hold, what their durable metadata
//! says about it, and what the clients were promised.

use twinblk::engine::event::{DeviceRecord, FencingPolicy};
use twinblk_proto::packet::SplitBrainPolicy;
use twinblk_proto::packet::{BlockId, Packet, ReplicationProtocol};
use twinblk_proto::state::{ConnectionState, DiskState, Role, State};
use twinblk_proto::units::{BLOCK_SECTORS, SectorRange};

use crate::node::Crash;
use crate::oracle::generations::{self, Outcome};
use crate::oracle::{Floor, Invariant};
use crate::subject::Subject;
use crate::swarm::Beginning;
use crate::world::World;

fn is_target(state: &State) -> bool {
    matches!(state.connection, ConnectionState::SyncTarget | ConnectionState::PausedSyncT)
}

/// Whether a node with this record alone would take its disk for good and current.
fn claims(record: &DeviceRecord, generation: u64) -> bool {
    record.consistent && record.was_up_to_date && generations::descends_from(record, generation)
}

impl<E: Subject> World<E> {
    /// Whether the durable record of the node says that it has all answered writes.
    pub fn claims_newest(&self, node: usize) -> bool {
        let record = self.nodes[node].metadata.record();
        match self.oracle.lineage(node).generation {
            Some(generation) => claims(record, generation),
            None => record.consistent,
        }
    }

    /// Whether promoting the node gives the clients what they were promised: an operator who
    /// sees everything would promote this one.
    pub fn may_be_promoted(&self, node: usize) -> bool {
        let oracle = &self.oracle;
        let survived = !oracle.lost_power[node]
            || oracle.last_primary == Some(node)
            || oracle.last_primary.is_none()
            || oracle.protocol == ReplicationProtocol::C && oracle.lost_power[1 - node];
        self.claims_newest(node) && survived
    }

    /// Both disks are good, in sync, and connected: one may fail.
    pub fn has_spare_copy(&self) -> bool {
        self.nodes.iter().all(|node| {
            let state = node.state();
            node.is_running()
                && state.connection == ConnectionState::Connected
                && state.disk == DiskState::UpToDate
                && state.peer_disk == DiskState::UpToDate
                && node.disk_open
        }) && self.oracle.lost_power == [false; 2]
            && self.link.is_whole()
    }

    /// Looks at what changed in the engine's state.
    pub fn observe_state(&mut self, node: usize) {
        let state = self.nodes[node].state();
        let seen = self.nodes[node].seen;
        let served_by_peer = state.role == Role::Primary
            && state.connection >= ConnectionState::Connected
            && state.disk == DiskState::Inconsistent
            && state.peer_disk == DiskState::UpToDate;
        if served_by_peer && self.oracle.lineages_differ() {
            // Before the first resync block: its clients see the peer's data already.
            self.check_data_given_up(1 - node, node);
        }
        if state.role == Role::Primary {
            if seen.role != Role::Primary {
                self.check_may_promote(node, &state);
                self.nodes[node].promotion_due = true;
            }
            if self.nodes[node].promotion_due {
                self.check_promotion(node);
            }
        }
        if state == seen {
            return;
        }
        self.note(node, format_args!("== {state:?}"));
        self.nodes[node].seen = state;
        if seen.role == Role::Primary && state.role != Role::Primary {
            self.nodes[node].promotion_due = false;
            self.witness.replaced[node] = None;
            self.oracle.demoted_cleanly = true;
        }
        if is_target(&state) {
            if state.disk != DiskState::Inconsistent {
                let text = format!("node {node} is {:?} with {:?}", state.connection, state.disk);
                self.violate(Invariant::I3, text);
            }
            if !is_target(&seen) {
                self.statistics.resyncs += 1;
                self.check_resync(1 - node, node);
            }
        }
        let in_sync = |state: &State| {
            state.connection == ConnectionState::Connected && state.disk == DiskState::UpToDate
        };
        if in_sync(&state) && !in_sync(&seen) {
            if is_target(&seen) {
                self.oracle.lost_power[node] = false;
                self.oracle.discard_granted = None;
            }
            if in_sync(&self.nodes[1 - node].state()) {
                self.check_joined();
            }
        }
    }

    fn check_may_promote(&mut self, node: usize, state: &State) {
        let peer_serves = state.connection >= ConnectionState::Connected
            && state.peer_disk == DiskState::UpToDate;
        if state.disk != DiskState::UpToDate && !peer_serves && !self.nodes[node].forced {
            let text = format!("node {node} became Primary with disk {:?}", state.disk);
            self.violate(Invariant::I3, text);
        }
    }

    /// What a client of the Primary `node` reads in `sector`.
    fn served(&self, node: usize, sector: u64) -> u64 {
        let machine = &self.nodes[node];
        let local = match machine.state().disk {
            DiskState::UpToDate | DiskState::Consistent => true,
            DiskState::Inconsistent => machine
                .engine
                .as_ref()
                .is_some_and(|engine| !engine.is_out_of_sync(sector / BLOCK_SECTORS)),
            _ => false,
        };
        self.nodes[if local { node } else { 1 - node }].view_soon(sector)
    }

    /// A promotion counts from the moment that a crash would not undo it. From then on the
    /// clients see what this node serves.
    fn check_promotion(&mut self, node: usize) {
        let machine = &self.nodes[node];
        let Some(engine) = &machine.engine else { return };
        let durable = machine.metadata.record();
        let state = machine.state();
        // A resync target is promoted with its source's data.
        let served_by_peer = state.connection >= ConnectionState::Connected
            && state.disk < DiskState::UpToDate
            && state.peer_disk == DiskState::UpToDate;
        let local = machine.disk_open && state.disk >= DiskState::Inconsistent && !served_by_peer;
        if !local && !served_by_peer {
            // Its disk was given up meanwhile: its clients see nothing.
            return;
        }
        if local {
            let current = generations::plain(engine.record().generations.current);
            if !durable.primary || generations::plain(durable.generations.current) != current {
                return;
            }
        }
        let current = durable.generations.current;
        self.nodes[node].promotion_due = false;
        self.statistics.promotions += 1;
        let failover = self.oracle.last_primary.is_some_and(|last| last != node);
        let peer_is_primary = self.nodes[1 - node].is_primary();
        if failover && !self.oracle.demoted_cleanly {
            self.statistics.failovers += 1;
        }
        if self.nodes[node].forced && self.oracle.log.len() == 0 {
            // The first of two disks that were just created: its content is the content.
            let initial = match self.swarm.beginning {
                Beginning::InSync => crate::oracle::lineage::Initial::Zeroes,
                Beginning::Created => crate::oracle::lineage::Initial::Unwritten(node),
            };
            self.oracle.lineage_mut(node).set_initial(initial);
        } else if peer_is_primary || local && !self.may_be_promoted(node) {
            self.note(node, format_args!("goes its own way"));
            let stonith = self.swarm.settings.fencing == FencingPolicy::ResourceAndStonith;
            // A witness does not switch the other off: it may be Primary for as long as it does not
            // notice, and answers no write that comes from now on.
            let beside = peer_is_primary && !self.swarm.witness;
            let stale = beside || !self.claims_newest(node);
            if peer_is_primary {
                self.witness.replaced[1 - node] = Some(self.last_request);
            }
            if stonith && stale && !self.nodes[node].forced {
                let text = format!("node {node} was promoted beside the other, past the fence");
                return self.violate(Invariant::I5, text);
            }
            self.statistics.split_brains += 1;
            self.oracle.fork(node);
            // What it holds may be older than anything its lineage still remembers.
            let sectors: Vec<u64> = self.oracle.lineage(node).touched().collect();
            let view: std::collections::BTreeMap<u64, u64> =
                sectors.into_iter().map(|sector| (sector, self.served(node, sector))).collect();
            let outcome = self.oracle.pin(node, |sector| view[&sector]);
            self.check(outcome);
            self.oracle.part(node);
        } else {
            // Requests may have come since the promotion: their writes stay open in the oracle.
            let floor = if self.oracle.lost_power[node] {
                Floor::Stable
            } else if self.oracle.protocol == ReplicationProtocol::A
                && failover
                && !self.oracle.demoted_cleanly
            {
                let lineage = self.oracle.lineage(node);
                let log = &self.oracle.log;
                let era = lineage.newest_era_seen(log, |sector| self.served(node, sector));
                Floor::AnsweredBefore(lineage.flush_before_era(era))
            } else {
                Floor::Answered
            };
            self.pin_to(node, node, floor);
            if local {
                self.oracle.lost_power[node] = false;
            }
        }
        if local {
            self.oracle.lineage_mut(node).generation = Some(current);
        }
        self.nodes[node].forced = false;
        self.oracle.last_primary = Some(node);
        self.oracle.demoted_cleanly = false;
    }

    /// From now on the clients of `of` know that each sector holds what `node` serves, which must
    /// have everything down to `floor`.
    fn pin_to(&mut self, of: usize, node: usize, floor: Floor) {
        let sectors: Vec<u64> = self.oracle.lineage(of).touched().collect();
        let view: std::collections::BTreeMap<u64, u64> =
            sectors.into_iter().map(|sector| (sector, self.served(node, sector))).collect();
        for (sector, value) in &view {
            if let Err(text) = self.oracle.admits(of, *sector, *value, floor) {
                let text = format!("data of node {node} lacks what was promised: {text}");
                return self.violate(Invariant::I2, text);
            }
        }
        let outcome = self.oracle.pin(of, |sector| view[&sector]);
        self.check(outcome);
    }

    /// Whether a policy or a command lets the changes of `target` be thrown away.
    fn may_be_discarded(&self, target: usize) -> bool {
        let settings = &self.swarm.settings;
        let policies = [settings.after_sb_0pri, settings.after_sb_1pri, settings.after_sb_2pri];
        let by_policy = self.swarm.actors
            && policies.iter().any(|policy| *policy != SplitBrainPolicy::Disconnect);
        self.oracle.discard_granted == Some(target) || by_policy && self.oracle.lineages_differ()
    }

    /// Two histories meet, and that of `source` goes on.
    fn check_data_given_up(&mut self, source: usize, target: usize) {
        let [source_diverged, target_diverged] =
            [source, target].map(|node| self.oracle.lineage(node).diverged);
        if target_diverged && !self.may_be_discarded(target) {
            let invariant = if source_diverged { Invariant::I5 } else { Invariant::I8 };
            let text = format!("node {target}'s writes are discarded, and nobody said so");
            return self.violate(invariant, text);
        }
        self.oracle.join(target);
        if self.oracle.last_primary == Some(target) {
            self.oracle.last_primary = Some(source);
        }
    }

    /// A resync begins: the data of `target` will be overwritten by that of `source`.
    fn check_resync(&mut self, source: usize, target: usize) {
        if self.oracle.lineages_differ() {
            return self.check_data_given_up(source, target);
        }
        let granted = self.may_be_discarded(target);
        let oracle = &self.oracle;
        let lost = oracle.lost_power[source];
        // An interrupted target has nothing to give, whatever its source lost.
        let target_is_bad = !self.nodes[target].metadata.record().consistent;
        let right = !lost
            || oracle.last_primary == Some(source)
            || oracle.lost_power[target]
            || target_is_bad;
        if !right && !granted {
            let text = format!("node {source} lost its cache, and yet overwrites node {target}");
            return self.violate(Invariant::I8, text);
        }
        let floor = if lost || granted { Floor::Stable } else { Floor::Answered };
        let sectors: Vec<u64> = self.oracle.lineage(source).touched().collect();
        for sector in sectors {
            let value = self.nodes[source].view_soon(sector);
            if let Err(text) = self.oracle.admits(source, sector, value, floor) {
                let text = format!("node {source} is source, but {text}");
                return self.violate(Invariant::I8, text);
            }
        }
        if lost {
            self.pin_to(source, source, floor);
            self.oracle.lost_power[source] = false;
        }
    }

    /// Both say that they are in sync.
    fn check_joined(&mut self) {
        if self.oracle.lineages_differ() {
            let diverged = [0, 1].map(|node| self.oracle.lineage(node).diverged);
            if diverged != [false; 2] {
                let text = format!("two histories were taken for one; changed: {diverged:?}");
                return self.violate(Invariant::I5, text);
            }
            self.oracle.join(1);
        }
        let records = [0, 1].map(|node: usize| *self.nodes[node].metadata.record());
        let current = records.map(|record| generations::plain(record.generations.current));
        if current[0] == current[1] && records.iter().all(|record| record.consistent) {
            self.oracle.lineage_mut(0).generation = Some(current[0]);
        }
    }

    /// A write reached a disk: a target of a resync must be Inconsistent on disk by now.
    pub fn check_resync_target(&mut self, node: usize, range: SectorRange) {
        if is_target(&self.nodes[node].state()) && self.nodes[node].metadata.record().consistent {
            let text = format!(
                "node {node} writes {range:?} as target while its superblock says Consistent"
            );
            self.violate(Invariant::I3, text);
        }
    }

    /// A write was answered: it is where the protocol promises, and who misses it knows that.
    pub fn check_answered_write(&mut self, node: usize, range: SectorRange, number: u64) {
        let served_locally = self.nodes[node].has_data() && self.nodes[node].disk_open;
        let holder = if served_locally { node } else { 1 - node };
        let generation = self.nodes[holder].metadata.record().generations.current;
        self.oracle.lineage_mut(node).generation = Some(generation);
        let missing = |at: usize| {
            (range.start.0..range.end().0).find_map(|sector| {
                let value = self.nodes[at].medium.view(sector);
                self.oracle.admits(node, sector, value, Floor::Answered).err()
            })
        };
        if served_locally && let Some(text) = missing(node) {
            let text = format!("write {number} was answered, but locally {text}");
            return self.violate(Invariant::I1, text);
        }
        if self.oracle.protocol != ReplicationProtocol::C || self.oracle.lineages_differ() {
            return;
        }
        for at in 0..2 {
            // A node that lost power after it acknowledged keeps no promise of its own: the other
            // has the write, and notes the loss when it notices.
            if !self.nodes[at].is_running() {
                continue;
            }
            if let Some(text) = missing(at)
                && claims(self.nodes[at].metadata.record(), generation)
            {
                let invariant = if at == node { Invariant::I1 } else { Invariant::I10 };
                let text = format!("write {number} of node {node} was answered; node {at}: {text}");
                return self.violate(invariant, text);
            }
        }
    }

    /// A flush was answered: what it covers survives a power loss, of any node under C.
    pub fn check_answered_flush(&mut self, node: usize, covered: &[u64]) {
        for number in covered {
            self.oracle.log.stabilise(*number);
        }
        let served_locally = self.nodes[node].has_data() && self.nodes[node].disk_open;
        let holder = if served_locally { node } else { 1 - node };
        let generation = self.nodes[holder].metadata.record().generations.current;
        // Whoever is promoted now must have it.
        self.oracle.lineage_mut(node).generation = Some(generation);
        let both = self.oracle.protocol == ReplicationProtocol::C && !self.oracle.lineages_differ();
        for at in 0..2 {
            let must_have =
                at == holder || both && claims(self.nodes[at].metadata.record(), generation);
            if !must_have || at != node && !both {
                continue;
            }
            for number in covered {
                let range = self.oracle.log.get(*number).range;
                for sector in range.start.0..range.end().0 {
                    let value = self.nodes[at].medium.stable(sector);
                    if let Err(text) = self.oracle.admits(node, sector, value, Floor::Stable) {
                        let text = format!(
                            "a flush of node {node} was answered, but stable on node {at}: {text}"
                        );
                        return self.violate(Invariant::I1, text);
                    }
                }
            }
        }
    }

    /// What a crash means for the promises.
    pub fn after_crash(&mut self, node: usize, crash: Crash) {
        let handed_over = self.oracle.demoted_cleanly && !self.oracle.lineages_differ();
        if handed_over && self.nodes[node].metadata.record().primary {
            // It died before its promotion was seen, but not before it was durable: it comes back
            // as the Primary that crashed.
            self.oracle.last_primary = Some(node);
        }
        let alone = self.oracle.lineages_differ() || !self.claims_newest(1 - node);
        if crash == Crash::PowerLoss && self.claims_newest(node) && alone {
            // The only copy: whatever was not stable is gone, and the rest is the truth.
            let sectors: Vec<u64> = self.oracle.lineage(node).touched().collect();
            for sector in sectors {
                let value = self.nodes[node].medium.view(sector);
                if let Err(text) = self.oracle.admits(node, sector, value, Floor::Stable) {
                    let text = format!("after a power loss of node {node}: {text}");
                    return self.violate(Invariant::I2, text);
                }
            }
            let medium = &self.nodes[node].medium;
            let outcome = self.oracle.pin(node, |sector| medium.view(sector));
            self.check(outcome);
            self.oracle.lost_power[node] = false;
        }
        self.check_coverage();
    }

    /// I7: whatever differs is covered by durable metadata.
    pub fn check_coverage(&mut self) {
        let records = [0, 1].map(|node: usize| *self.nodes[node].metadata.record());
        if generations::compare(&records[0], &records[1]) != Outcome::ByBitmap {
            return;
        }
        let [a, b] = &self.nodes;
        // Beyond it the next handshake marks everything.
        let size = records[0].agreed_sectors.min(records[1].agreed_sectors);
        let hidden = a.medium.differences(&b.medium).into_iter().find(|sector| {
            let block = sector / BLOCK_SECTORS;
            *sector < size && !a.metadata.covers(block) && !b.metadata.covers(block)
        });
        if let Some(sector) = hidden {
            let [left, right] = [a, b].map(|node| crate::stamp::describe(node.medium.view(sector)));
            let text = format!(
                "sector {sector} (block {}) is {left} on node 0 and {right} on node 1, and no \
                 durable metadata knows",
                sector / BLOCK_SECTORS
            );
            self.violate(Invariant::I7, text);
        }
    }

    /// A verify calls different what was planted, or what the peer knows to be out of sync; a false
    /// alarm, or a difference that nobody knew of, is found nowhere else as well.
    pub fn check_verify_result(&mut self, node: usize, packet: &Packet) {
        let Packet::VerifyResult(ack) = packet else { return };
        self.statistics.blocks_verified += u64::from(ack.range.count).div_ceil(BLOCK_SECTORS);
        if ack.id != BlockId::VERIFY_OUT_OF_SYNC {
            return;
        }
        let block = ack.range.start.0 / BLOCK_SECTORS;
        self.found.insert(block);
        let peer = &self.nodes[1 - node];
        let known = peer.engine.as_ref().is_none_or(|engine| engine.is_out_of_sync(block));
        if !known && !self.planted.contains(&block) {
            let text =
                format!("node {node} found a difference in block {block}, which nobody planted");
            self.violate(Invariant::I4, text);
        }
    }

    /// Changes the content of a block behind the back of everybody, on one disk.
    pub fn plant(&mut self, node: usize, block: u64) {
        let sectors = self.nodes[node].medium.sectors();
        let range = SectorRange::of_blocks(block..block + 1, sectors);
        let content: Vec<u64> = (range.start.0..range.end().0)
            .map(|sector| crate::stamp::stamp(crate::stamp::PLANTED, sector))
            .collect();
        self.nodes[node].medium.write(range, &content, true);
        self.planted.insert(block);
    }

    /// I4: in sync means equal.
    pub fn check_equal(&mut self) {
        if !self.has_spare_copy() || self.nodes.iter().any(|node| node.doom.is_some()) {
            return;
        }
        let busy = self.sectors_being_written();
        let quiet = self.link.packets_under_way() == 0
            && self.nodes.iter().all(|node| node.inbox.is_empty() && node.operations.is_empty());
        if self.oracle.protocol != ReplicationProtocol::C && !quiet {
            return;
        }
        let size = self.common_sectors();
        for sector in self.nodes[0].medium.differences(&self.nodes[1].medium) {
            if busy.contains(&sector) || sector >= size {
                continue;
            }
            let known = self.nodes.iter().any(|node| {
                node.is_writing(sector)
                    || node
                        .engine
                        .as_ref()
                        .is_some_and(|engine| engine.is_out_of_sync(sector / BLOCK_SECTORS))
            });
            if !known {
                let [left, right] = [0, 1].map(|node: usize| {
                    crate::stamp::describe(self.nodes[node].medium.view(sector))
                });
                let text = format!(
                    "both are UpToDate, but sector {sector} is {left} on node 0 and {right} on \
                     node 1"
                );
                return self.violate(Invariant::I4, text);
            }
        }
    }
}
