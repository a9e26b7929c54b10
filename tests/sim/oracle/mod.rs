//! What the clients were promised, sector by sector, and whether it holds. The oracle sees every
//! request and reply, every crash, promotion and resync; it looks into the disks, never into the
//! engines' minds.
//!
//! | module | what |
//! | --- | --- |
//! | [`lineage`] | the history of the data as the clients of one Primary know it |
//! | [`register`] | linearizability of one sector |
//! | [`generations`] | the resync decision, written a second time |

pub mod generations;
pub mod lineage;
pub mod register;

use std::collections::BTreeMap;
use std::fmt;

use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::units::SectorRange;

use crate::stamp::{Stamp, is_unwritten};
use lineage::{Lineage, WriteLog};

/// The invariants of DESIGN.md 4 that are checked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// An answered write is where its protocol promises.
    I1,
    /// Nothing that was promised is missing after a failover.
    I2,
    /// A SyncTarget is Inconsistent and is not promoted.
    I3,
    /// Both UpToDate: equal data.
    I4,
    /// Split brain is detected, never merged silently.
    I5,
    /// Every difference is covered by durable metadata.
    I7,
    /// The resync goes from the newer data to the older.
    I8,
    /// Reads and writes are linearizable.
    I9,
    /// A new generation is durable before a degraded write is answered.
    I10,
    /// Once faults stop, the cluster heals.
    I11,
    /// Everything is bounded.
    I12,
    /// Frozen I/O is neither answered nor lost.
    I14,
    /// The engine kept to the contract of its events and effects.
    Contract,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.text)
    }
}

/// Which answered writes must be visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// All of them.
    Answered,
    /// Those that an answered flush or FUA covered: the rest was in a cache that lost power.
    Stable,
    /// Those answered before this moment: protocol A's promise by epochs.
    AnsweredBefore(u64),
}

#[derive(Debug)]
pub struct Oracle {
    pub protocol: ReplicationProtocol,
    pub log: WriteLog,
    lineages: Vec<Lineage>,
    /// Which lineage the data of each node belongs to.
    of_node: [usize; 2],
    /// The node lost power, or requests that it had promised to keep, since it was last in sync.
    pub lost_power: [bool; 2],
    pub last_primary: Option<usize>,
    /// The last Primary handed over in peace: all its writes were answered.
    pub demoted_cleanly: bool,
    /// A command allowed to throw away the changes of this node.
    pub discard_granted: Option<usize>,
    /// From this sector on the device came later: there each disk held something of its own, and
    /// clients may see either until the first write.
    pub grown_from: u64,
    clock: u64,
}

impl Oracle {
    pub fn new(protocol: ReplicationProtocol, initial: lineage::Initial) -> Self {
        Self {
            protocol,
            log: WriteLog::default(),
            lineages: vec![Lineage::new(initial)],
            of_node: [0, 0],
            lost_power: [false; 2],
            last_primary: None,
            demoted_cleanly: true,
            discard_granted: None,
            grown_from: u64::MAX,
            clock: 0,
        }
    }

    /// The oracle's time: every moment is different.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn lineage(&self, node: usize) -> &Lineage {
        &self.lineages[self.of_node[node]]
    }

    pub fn lineage_mut(&mut self, node: usize) -> &mut Lineage {
        &mut self.lineages[self.of_node[node]]
    }

    pub fn lineages_differ(&self) -> bool {
        self.of_node[0] != self.of_node[1]
    }

    /// The node goes its own way from here: its clients will see what its disk holds.
    pub fn fork(&mut self, node: usize) {
        let mut own = self.lineage(node).clone();
        own.diverged = false;
        if !self.lineages_differ() {
            self.lineage_mut(1 - node).diverged = false;
        }
        self.lineages.push(own);
        self.of_node[node] = self.lineages.len() - 1;
    }

    /// After a fork, once it is certain what the node's clients see: writes that are under way on
    /// one node, begun while it was promoted perhaps, are none of the other's.
    pub fn part(&mut self, node: usize) {
        assert!(self.lineages_differ(), "a fork came before");
        for node in [node, 1 - node] {
            self.lineages[self.of_node[node]].part(&self.log, 1 - node);
        }
    }

    /// The node takes over the data of its peer. What its clients have under way, frozen perhaps,
    /// is done to that.
    pub fn join(&mut self, node: usize) {
        if self.lineages_differ() {
            let open = self.lineage(node).open_writes(&self.log, node);
            let joined = &mut self.lineages[self.of_node[1 - node]];
            for number in open {
                joined.adopt(&mut self.log, number);
            }
        }
        self.of_node[node] = self.of_node[1 - node];
        self.lost_power[node] = false;
    }

    pub fn begin_write(&mut self, node: usize, range: SectorRange, zero: bool) -> u64 {
        let invoked = self.tick();
        let era = self.lineage(node).era();
        let number = self.log.begin(node, range, zero, invoked, era);
        self.lineage_mut(node).add_write(number, range);
        number
    }

    pub fn answer_write(&mut self, node: usize, number: u64, stable: bool) {
        let answered = self.tick();
        self.log.answer(number, answered, stable);
        let lineage = self.lineage_mut(node);
        lineage.diverged = true;
        if !stable {
            lineage.unstable.insert(number);
        }
    }

    /// The outcome of the write will never be known.
    pub fn abandon_write(&mut self, number: u64) {
        self.log.abandon(number);
    }

    /// The writes that a flush which begins now will cover.
    pub fn begin_flush(&mut self, node: usize) -> (u64, Vec<u64>) {
        (self.tick(), self.lineage(node).unstable.iter().copied().collect())
    }

    pub fn answer_flush(&mut self, node: usize, begun: u64, covered: &[u64]) {
        self.tick();
        for number in covered {
            self.log.stabilise(*number);
        }
        let lineage = self.lineage_mut(node);
        lineage.flushed(begun);
        for number in covered {
            lineage.unstable.remove(number);
        }
    }

    /// What nobody wrote is the same as what was promised at first, where that is unknown.
    fn promised(&self, node: usize, sector: u64, value: Stamp) -> Stamp {
        let unknown = sector >= self.grown_from && is_unwritten(value, sector);
        if unknown { self.lineage(node).initial(sector) } else { value }
    }

    /// A client read `content`; the read began at `invoked`.
    pub fn observe_read(
        &mut self,
        node: usize,
        range: SectorRange,
        content: &[Stamp],
        invoked: u64,
    ) -> Result<(), Violation> {
        let answered = self.tick();
        let lineage = self.of_node[node];
        for (sector, value) in (range.start.0..range.end().0).zip(content) {
            let value = self.promised(node, sector, *value);
            self.lineages[lineage]
                .observe(&self.log, sector, value, invoked, answered)
                .map_err(|text| Violation { invariant: Invariant::I9, text })?;
        }
        Ok(())
    }

    /// Whether `value` is what `sector` may hold on a disk that must have all writes of `floor`.
    pub fn admits(
        &self,
        node: usize,
        sector: u64,
        value: Stamp,
        floor: Floor,
    ) -> Result<(), String> {
        let value = self.promised(node, sector, value);
        self.lineage(node).admits(&self.log, sector, value, floor)
    }

    /// From now on the clients of the node know what each sector holds: `view`.
    pub fn pin(&mut self, node: usize, view: impl Fn(u64) -> Stamp) -> Result<(), Violation> {
        let at = self.tick();
        let lineage = self.of_node[node];
        let touched: Vec<u64> = self.lineages[lineage].touched().collect();
        let held: BTreeMap<u64, Stamp> = touched
            .into_iter()
            .map(|sector| (sector, self.promised(node, sector, view(sector))))
            .collect();
        self.lineages[lineage]
            .pin(&self.log, at, |sector| held[&sector])
            .map_err(|text| Violation { invariant: Invariant::I9, text })
    }

    /// Ends the run: the linearizability of everything not checked yet.
    pub fn finish(&self) -> Result<(), Violation> {
        let lineages: &[usize] =
            if self.lineages_differ() { &self.of_node } else { &self.of_node[..1] };
        for lineage in lineages {
            self.lineages[*lineage]
                .check_linearizable(&self.log)
                .map_err(|text| Violation { invariant: Invariant::I9, text })?;
        }
        Ok(())
    }
}
