//! The history of the data as the clients of one Primary know it: per sector what it held at the
//! last certain moment, and the writes and reads since then.

use std::collections::{BTreeMap, BTreeSet};

use twinblk_proto::units::SectorRange;

use super::Floor;
use super::register::{self, Operation};
use crate::stamp::{Stamp, ZEROES, belongs_to, describe, stamp, unwritten};

/// One write or zeroing, over all of its sectors.
#[derive(Clone, Debug)]
pub struct WriteRecord {
    /// The node whose client makes it.
    pub node: usize,
    pub range: SectorRange,
    pub zero: bool,
    pub invoked: u64,
    pub answered: Option<u64>,
    /// A flush or FUA that covers it was answered.
    pub stable: bool,
    /// The outcome will never be known: the client died, or got an error.
    pub abandoned: bool,
    /// Flushes that had been answered before it began.
    pub era: u32,
}

/// Every write of the run, by number; numbers start at 1.
#[derive(Debug, Default)]
pub struct WriteLog {
    writes: Vec<WriteRecord>,
}

impl WriteLog {
    pub fn begin(
        &mut self,
        node: usize,
        range: SectorRange,
        zero: bool,
        invoked: u64,
        era: u32,
    ) -> u64 {
        self.writes.push(WriteRecord {
            node,
            range,
            zero,
            invoked,
            answered: None,
            stable: false,
            abandoned: false,
            era,
        });
        self.writes.len() as u64
    }

    pub fn get(&self, number: u64) -> &WriteRecord {
        &self.writes[number as usize - 1]
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    fn get_mut(&mut self, number: u64) -> &mut WriteRecord {
        &mut self.writes[number as usize - 1]
    }

    pub fn answer(&mut self, number: u64, answered: u64, stable: bool) {
        let write = self.get_mut(number);
        write.answered = Some(answered);
        write.stable = stable;
    }

    pub fn stabilise(&mut self, number: u64) {
        self.get_mut(number).stable = true;
    }

    pub fn abandon(&mut self, number: u64) {
        self.get_mut(number).abandoned = true;
    }
}

/// What the device held before the first write.
#[derive(Clone, Copy, Debug)]
pub enum Initial {
    Zeroes,
    /// The old content of this node's disk.
    Unwritten(usize),
}

#[derive(Clone, Copy, Debug)]
struct Read {
    value: Stamp,
    invoked: u64,
    answered: u64,
}

#[derive(Clone, Debug)]
struct Sector {
    base: Stamp,
    base_at: u64,
    /// What the sector may still fall back to: being found on a disk at a promotion makes content
    /// certain, not stable. Empty once an answered flush began after it was found.
    earlier: BTreeSet<Stamp>,
    writes: Vec<u64>,
    reads: Vec<Read>,
}

#[derive(Clone, Debug)]
pub struct Lineage {
    initial: Initial,
    sectors: BTreeMap<u64, Sector>,
    /// Answered writes that no answered flush covers.
    pub unstable: BTreeSet<u64>,
    /// When each answered flush began.
    flushes: Vec<u64>,
    /// The durable generation under which a write was last answered.
    pub generation: Option<u64>,
    /// Writes were answered since the lineages parted.
    pub diverged: bool,
}

impl Lineage {
    pub fn new(initial: Initial) -> Self {
        Self {
            initial,
            sectors: BTreeMap::new(),
            unstable: BTreeSet::new(),
            flushes: Vec::new(),
            generation: None,
            diverged: false,
        }
    }

    pub fn set_initial(&mut self, initial: Initial) {
        assert!(self.sectors.is_empty(), "the first content is chosen before the first request");
        self.initial = initial;
    }

    pub fn initial(&self, sector: u64) -> Stamp {
        match self.initial {
            Initial::Zeroes => ZEROES,
            Initial::Unwritten(node) => unwritten(node, sector),
        }
    }

    pub fn era(&self) -> u32 {
        self.flushes.len() as u32
    }

    pub fn flushed(&mut self, begun: u64) {
        self.flushes.push(begun);
        for entry in self.sectors.values_mut().filter(|entry| entry.base_at < begun) {
            entry.earlier.clear();
        }
    }

    /// When the flush began that ended the era before `era`.
    pub fn flush_before_era(&self, era: u32) -> u64 {
        era.checked_sub(1).map_or(0, |index| self.flushes[index as usize])
    }

    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.sectors.keys().copied()
    }

    fn sector(&mut self, sector: u64) -> &mut Sector {
        let base = self.initial(sector);
        self.sectors.entry(sector).or_insert_with(|| Sector {
            base,
            base_at: 0,
            earlier: BTreeSet::new(),
            writes: Vec::new(),
            reads: Vec::new(),
        })
    }

    pub fn add_write(&mut self, number: u64, range: SectorRange) {
        for sector in range.start.0..range.end().0 {
            self.sector(sector).writes.push(number);
        }
    }

    /// A read that began at `invoked` and ended at `answered` saw `value`. Whether all reads fit
    /// into one order is checked when the sector is pinned; here, that none is stale or invented.
    pub fn observe(
        &mut self,
        log: &WriteLog,
        sector: u64,
        value: Stamp,
        invoked: u64,
        answered: u64,
    ) -> Result<(), String> {
        let entry = self.sector(sector);
        if invoked < entry.base_at {
            // The read spans a moment at which a cache was lost: either content is right.
            return Ok(());
        }
        entry.reads.push(Read { value, invoked, answered });
        let mandatory = |write: &WriteRecord| write.answered.is_some_and(|at| at < invoked);
        self.explain(log, sector, value, answered, mandatory)
    }

    pub fn admits(
        &self,
        log: &WriteLog,
        sector: u64,
        value: Stamp,
        floor: Floor,
    ) -> Result<(), String> {
        let fallen_back = !matches!(floor, Floor::Answered)
            && self.sectors.get(&sector).is_some_and(|entry| {
                entry.earlier.contains(&value)
                    && entry.writes.iter().all(|number| !log.get(*number).stable)
            });
        if fallen_back {
            return Ok(());
        }
        self.explain(log, sector, value, u64::MAX, |write| match floor {
            Floor::Answered => write.answered.is_some(),
            Floor::Stable => write.stable,
            Floor::AnsweredBefore(at) => write.answered.is_some_and(|answered| answered < at),
        })
    }

    /// `value` is right if some write left it that began before `before`, and that no mandatory
    /// write followed entirely.
    fn explain(
        &self,
        log: &WriteLog,
        sector: u64,
        value: Stamp,
        before: u64,
        mandatory: impl Fn(&WriteRecord) -> bool,
    ) -> Result<(), String> {
        if !belongs_to(value, sector) {
            return Err(format!("sector {sector} holds {}", describe(value)));
        }
        let Some(entry) = self.sectors.get(&sector) else {
            let expected = self.initial(sector);
            return if value == expected {
                Ok(())
            } else {
                let (is, should) = (describe(value), describe(expected));
                Err(format!("sector {sector} holds {is}, but nobody wrote it; expected {should}"))
            };
        };
        // The newest beginning of a mandatory write: what ended before it is overwritten.
        let newest = entry
            .writes
            .iter()
            .filter(|number| mandatory(log.get(**number)))
            .max_by_key(|number| log.get(**number).invoked);
        let newest_began = newest.map_or(0, |number| log.get(*number).invoked);
        if entry.base == value && entry.base_at >= newest_began {
            return Ok(());
        }
        let explained = entry.writes.iter().any(|number| {
            let write = log.get(*number);
            let left = left_by(log, *number, sector);
            let ended = write.answered.unwrap_or(u64::MAX);
            left == value && write.invoked < before && ended >= newest_began
        });
        if explained {
            return Ok(());
        }
        let should = match newest {
            Some(number) => format!("write {number} (answered) or newer"),
            None => describe(entry.base),
        };
        Err(format!("sector {sector} holds {}, expected {should}", describe(value)))
    }

    /// From `at` on every touched sector holds what `view` says. Ends the era before: all reads and
    /// writes must have been linearizable.
    pub fn pin(
        &mut self,
        log: &WriteLog,
        at: u64,
        view: impl Fn(u64) -> Stamp,
    ) -> Result<(), String> {
        self.check_linearizable(log)?;
        for (sector, entry) in &mut self.sectors {
            let stable = entry.writes.iter().filter(|number| log.get(**number).stable);
            let stable_began = stable.map(|number| log.get(*number).invoked).max();
            if stable_began.is_some() {
                entry.earlier.clear();
            } else {
                entry.earlier.insert(entry.base);
            }
            for number in &entry.writes {
                let write = log.get(*number);
                if write.answered.is_some_and(|ended| ended >= stable_began.unwrap_or(0)) {
                    entry.earlier.insert(left_by(log, *number, *sector));
                }
            }
            entry.base = view(*sector);
            entry.base_at = at;
            entry.reads.clear();
            entry.writes.retain(|number| {
                let write = log.get(*number);
                write.answered.is_none() && !write.abandoned
            });
        }
        self.unstable.clear();
        Ok(())
    }

    /// The clients of the node `other` go another way from here: what they have under way goes on
    /// without these. The disk may hold some of it, in its cache, below what it shows.
    pub fn part(&mut self, log: &WriteLog, other: usize) {
        let is_theirs = |number: &mut u64| {
            let write = log.get(*number);
            write.node == other && write.answered.is_none()
        };
        for (sector, entry) in &mut self.sectors {
            for number in entry.writes.extract_if(.., is_theirs) {
                entry.earlier.insert(left_by(log, number, *sector));
            }
        }
    }

    /// The writes of `node` that were not answered yet.
    pub fn open_writes(&self, log: &WriteLog, node: usize) -> BTreeSet<u64> {
        let writes = self.sectors.values().flat_map(|entry| entry.writes.iter().copied());
        writes
            .filter(|number| {
                let write = log.get(*number);
                write.node == node && write.answered.is_none() && !write.abandoned
            })
            .collect()
    }

    /// A write that was begun under another history is made under this one.
    pub fn adopt(&mut self, log: &mut WriteLog, number: u64) {
        let write = log.get_mut(number);
        write.era = self.era();
        let range = write.range;
        for sector in range.start.0..range.end().0 {
            let writes = &mut self.sector(sector).writes;
            if !writes.contains(&number) {
                writes.push(number);
            }
        }
    }

    pub fn check_linearizable(&self, log: &WriteLog) -> Result<(), String> {
        for (sector, entry) in &self.sectors {
            if entry.reads.len() < 2 {
                continue;
            }
            let zeroed = entry.base == ZEROES
                && entry.writes.iter().any(|number| log.get(*number).zero)
                || entry.writes.iter().filter(|number| log.get(**number).zero).count() > 1;
            // Zeroes that several writes left can not be told apart: left out, which is sound,
            // since a linearizable history stays so when one value disappears from it.
            let kept = |value: Stamp| !(zeroed && value == ZEROES);
            // All times grow by one, so that the base can be at 0.
            let since = |time: u64| time.saturating_sub(entry.base_at) + 1;
            let mut operations = Vec::with_capacity(entry.writes.len() + entry.reads.len());
            for number in &entry.writes {
                let write = log.get(*number);
                let value = left_by(log, *number, *sector);
                // A write that is still open at a pin may be what the pin saw: it came before.
                if kept(value) && value != entry.base {
                    operations.push(Operation {
                        write: true,
                        value,
                        invoked: since(write.invoked),
                        answered: write.answered.map_or(u64::MAX, since),
                    });
                }
            }
            for read in entry.reads.iter().filter(|read| kept(read.value)) {
                operations.push(Operation {
                    write: false,
                    value: read.value,
                    invoked: since(read.invoked),
                    answered: since(read.answered),
                });
            }
            // A base that is left out is replaced by a value that nobody reads.
            let base = if kept(entry.base) { entry.base } else { u64::MAX };
            register::check(base, &operations)
                .map_err(|text| format!("sector {sector} is not linearizable: {text}"))?;
        }
        Ok(())
    }

    /// The newest era of which something is visible.
    pub fn newest_era_seen(&self, log: &WriteLog, view: impl Fn(u64) -> Stamp) -> u32 {
        let mut newest = 0;
        for (sector, entry) in &self.sectors {
            let value = view(*sector);
            for number in &entry.writes {
                let write = log.get(*number);
                if !write.zero && stamp(*number, *sector) == value {
                    newest = newest.max(write.era);
                }
            }
        }
        newest
    }
}

/// What the write leaves in the sector.
fn left_by(log: &WriteLog, number: u64, sector: u64) -> Stamp {
    if log.get(number).zero { ZEROES } else { stamp(number, sector) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage() -> (WriteLog, Lineage) {
        (WriteLog::default(), Lineage::new(Initial::Zeroes))
    }

    fn write(
        log: &mut WriteLog,
        lineage: &mut Lineage,
        invoked: u64,
        answered: Option<u64>,
    ) -> u64 {
        let range = SectorRange::new(7, 1);
        let number = log.begin(0, range, false, invoked, lineage.era());
        lineage.add_write(number, range);
        if let Some(at) = answered {
            log.answer(number, at, false);
        }
        number
    }

    #[test]
    fn an_answered_write_must_be_seen_and_an_open_one_may_be() {
        let (mut log, mut lineage) = lineage();
        let first = write(&mut log, &mut lineage, 1, Some(2));
        let open = write(&mut log, &mut lineage, 3, None);
        assert!(lineage.admits(&log, 7, ZEROES, Floor::Answered).is_err());
        assert!(lineage.admits(&log, 7, ZEROES, Floor::Stable).is_ok());
        assert!(lineage.admits(&log, 7, stamp(first, 7), Floor::Answered).is_ok());
        assert!(lineage.admits(&log, 7, stamp(open, 7), Floor::Answered).is_ok());
        assert!(lineage.admits(&log, 7, stamp(open, 8), Floor::Answered).is_err(), "misplaced");
        assert!(lineage.admits(&log, 8, ZEROES, Floor::Answered).is_ok());
        assert!(lineage.admits(&log, 8, stamp(open, 8), Floor::Answered).is_err(), "invented");
    }

    #[test]
    fn a_pin_forgets_what_may_not_come_back() {
        let (mut log, mut lineage) = lineage();
        let first = write(&mut log, &mut lineage, 1, Some(2));
        let open = write(&mut log, &mut lineage, 3, None);
        log.abandon(open);
        lineage.pin(&log, 4, |_| stamp(first, 7)).expect("no reads yet");
        assert!(lineage.admits(&log, 7, stamp(open, 7), Floor::Stable).is_err());
        assert!(lineage.admits(&log, 7, stamp(first, 7), Floor::Answered).is_ok());
    }

    #[test]
    fn a_pin_may_see_a_write_that_is_open() {
        let (mut log, mut lineage) = lineage();
        let open = write(&mut log, &mut lineage, 1, None);
        lineage.pin(&log, 2, |_| stamp(open, 7)).expect("no reads yet");
        let next = write(&mut log, &mut lineage, 7, Some(8));
        for invoked in [3, 5] {
            lineage.observe(&log, 7, stamp(open, 7), invoked, invoked + 1).expect("the base");
        }
        assert_eq!(lineage.check_linearizable(&log), Ok(()));
        lineage.observe(&log, 7, stamp(open, 7), 9, 10).expect("not stale by itself");
        lineage.observe(&log, 7, stamp(next, 7), 11, 12).expect("the newest");
        assert!(lineage.check_linearizable(&log).is_err(), "it came back");
    }

    #[test]
    fn a_write_under_way_elsewhere_is_no_write_of_those_who_part() {
        let (mut log, mut lineage) = lineage();
        let old = write(&mut log, &mut lineage, 1, Some(2));
        let open = write(&mut log, &mut lineage, 3, None);
        let mut parted = lineage.clone();
        parted.pin(&log, 4, |_| stamp(old, 7)).expect("no reads yet");
        parted.part(&log, 0);
        parted.observe(&log, 7, stamp(old, 7), 5, 6).expect("the base");
        log.answer(open, 7, false);
        parted.observe(&log, 7, stamp(old, 7), 8, 9).expect("still the base");
        assert_eq!(parted.check_linearizable(&log), Ok(()));
        assert!(parted.observe(&log, 7, stamp(open, 7), 10, 11).is_err(), "it is not theirs");
        assert!(parted.admits(&log, 7, stamp(open, 7), Floor::Stable).is_ok(), "in the cache");
    }

    #[test]
    fn a_write_under_way_comes_along_to_another_history() {
        let (mut log, mut left) = lineage();
        let open = write(&mut log, &mut left, 1, None);
        write(&mut log, &mut left, 2, Some(3));
        let mut joined = Lineage::new(Initial::Zeroes);
        joined.flushed(4);
        assert_eq!(left.open_writes(&log, 0), BTreeSet::from([open]));
        assert_eq!(left.open_writes(&log, 1), BTreeSet::new());
        joined.adopt(&mut log, open);
        assert_eq!(log.get(open).era, 1);
        log.answer(open, 5, false);
        assert!(joined.admits(&log, 7, stamp(open, 7), Floor::Answered).is_ok());
        assert!(joined.admits(&log, 7, ZEROES, Floor::Answered).is_err());
    }

    #[test]
    fn a_stale_read_is_noticed_at_once() {
        let (mut log, mut lineage) = lineage();
        let first = write(&mut log, &mut lineage, 1, Some(2));
        write(&mut log, &mut lineage, 3, Some(5));
        assert!(lineage.observe(&log, 7, stamp(first, 7), 4, 6).is_ok(), "overlaps the second");
        assert!(lineage.observe(&log, 7, stamp(first, 7), 7, 8).is_err());
    }
}
