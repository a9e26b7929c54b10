//! The data area of a backing disk with a volatile write cache: what is stable, and on top of that
//! the writes that a power loss may undo, sector by sector, in any combination.

use std::collections::BTreeMap;

use twinblk_proto::units::SectorRange;

use crate::random::Random;
use crate::stamp::{Content, Stamp};

/// Versions of a sector that the cache remembers; older unstable ones are as good as lost.
const VERSIONS_KEPT: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    content: Stamp,
}

#[derive(Clone, Debug)]
pub struct Medium {
    stable: Vec<Stamp>,
    cached: BTreeMap<u64, Vec<Version>>,
    /// Completed writes, counted.
    written: u64,
    /// Of flushes under way.
    marks: Vec<u64>,
}

/// How a power loss treats the cache.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Nothing of the cache survives.
    Everything,
    /// Each sector by itself: any of its versions, or none.
    AnySubset,
    /// The power failed just after the disk had emptied its cache.
    Nothing,
}

impl Medium {
    pub fn new(sectors: u64, content: impl Fn(u64) -> Stamp) -> Self {
        Self {
            stable: (0..sectors).map(content).collect(),
            cached: BTreeMap::new(),
            written: 0,
            marks: Vec::new(),
        }
    }

    pub fn sectors(&self) -> u64 {
        self.stable.len() as u64
    }

    /// What a read returns.
    pub fn view(&self, sector: u64) -> Stamp {
        match self.cached.get(&sector).and_then(|versions| versions.last()) {
            Some(version) => version.content,
            None => self.stable[sector as usize],
        }
    }

    /// A power loss would undo nothing.
    pub fn is_all_stable(&self) -> bool {
        self.cached.is_empty()
    }

    /// What is there after a power loss that takes the whole cache.
    pub fn stable(&self, sector: u64) -> Stamp {
        self.stable[sector as usize]
    }

    /// The sectors whose content differs between two disks, ascending.
    pub fn differences(&self, other: &Self) -> Vec<u64> {
        const AT_ONCE: usize = 64;
        let mut sectors = Vec::new();
        let chunks = self.stable.chunks(AT_ONCE).zip(other.stable.chunks(AT_ONCE));
        for (index, (mine, others)) in chunks.enumerate() {
            // Most of two disks is equal.
            if mine != others {
                let first = index * AT_ONCE;
                let unequal = (0..mine.len()).filter(|at| mine[*at] != others[*at]);
                sectors.extend(unequal.map(|at| (first + at) as u64));
            }
        }
        sectors.extend(self.cached.keys().chain(other.cached.keys()));
        sectors.sort_unstable();
        sectors.dedup();
        sectors.retain(|sector| self.view(*sector) != other.view(*sector));
        sectors
    }

    pub fn read(&self, range: SectorRange) -> Content {
        (range.start.0..range.end().0).map(|sector| self.view(sector)).collect()
    }

    pub fn write(&mut self, range: SectorRange, content: &[Stamp], durable: bool) {
        assert_eq!(content.len(), range.count as usize, "a write brings all of its sectors");
        self.written += 1;
        for (sector, content) in (range.start.0..range.end().0).zip(content) {
            if durable {
                self.cached.remove(&sector);
                self.stable[sector as usize] = *content;
            } else {
                self.cache(sector, *content);
            }
        }
    }

    fn cache(&mut self, sector: u64, content: Stamp) {
        let versions = self.cached.entry(sector).or_default();
        if versions.len() >= VERSIONS_KEPT {
            // What a flush under way will make stable is not lost.
            let flushed = |pair: &[Version]| {
                self.marks.iter().any(|mark| (pair[0].number..pair[1].number).contains(mark))
            };
            if let Some(lost) = versions.windows(2).position(|pair| !flushed(pair)) {
                versions.remove(lost);
            }
        }
        versions.push(Version { number: self.written, content });
    }

    /// Marks the writes that a flush which is submitted now will make stable: those that completed.
    pub fn flush_mark(&mut self) -> u64 {
        self.marks.push(self.written);
        self.written
    }

    /// A flush that came to nothing.
    pub fn forget_flush(&mut self, mark: u64) {
        self.marks.retain(|other| *other != mark);
    }

    pub fn flush(&mut self, mark: u64) {
        self.forget_flush(mark);
        let stable = &mut self.stable;
        self.cached.retain(|sector, versions| {
            let covered = versions.iter().filter(|version| version.number <= mark).count();
            if let Some(newest) = versions[..covered].last() {
                stable[*sector as usize] = newest.content;
            }
            versions.drain(..covered);
            !versions.is_empty()
        });
    }

    /// A write that was under way when the machine or the process died: any of its sectors may
    /// have reached the cache.
    pub fn write_partly(&mut self, range: SectorRange, content: &[Stamp], random: &mut Random) {
        self.written += 1;
        let all = random.below(3);
        for (sector, content) in (range.start.0..range.end().0).zip(content) {
            let reached = match all {
                0 => false,
                1 => true,
                _ => random.percent(50),
            };
            if reached {
                self.cache(sector, *content);
            }
        }
    }

    pub fn lose_power(&mut self, loss: Loss, random: &mut Random) {
        for (sector, versions) in std::mem::take(&mut self.cached) {
            let survivor = match loss {
                Loss::Everything => None,
                Loss::Nothing => versions.last(),
                Loss::AnySubset => {
                    let drawn = random.below(versions.len() as u64 + 1) as usize;
                    versions.get(drawn)
                }
            };
            if let Some(version) = survivor {
                self.stable[sector as usize] = version.content;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn random() -> Random {
        Random::new(1, Stream::Crash, 0)
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_submitted() {
        let mut medium = Medium::new(16, |_| 0);
        medium.write(SectorRange::new(0, 2), &[1, 1], false);
        let mark = medium.flush_mark();
        medium.write(SectorRange::new(1, 2), &[2, 2], false);
        medium.flush(mark);
        medium.lose_power(Loss::Everything, &mut random());
        assert_eq!(medium.read(SectorRange::new(0, 4))[..], [1, 1, 0, 0]);
    }

    #[test]
    fn a_durable_write_survives_and_hides_older_cached_ones() {
        let mut medium = Medium::new(4, |_| 0);
        medium.write(SectorRange::new(0, 1), &[1], false);
        medium.write(SectorRange::new(0, 1), &[2], true);
        medium.lose_power(Loss::AnySubset, &mut random());
        assert_eq!(medium.view(0), 2);
    }

    #[test]
    fn differences_are_those_of_what_is_read() {
        let mut one = Medium::new(100, |_| 0);
        let mut other = one.clone();
        one.write(SectorRange::new(3, 1), &[1], false);
        one.write(SectorRange::new(70, 2), &[2, 2], true);
        other.write(SectorRange::new(71, 1), &[2], false);
        other.write(SectorRange::new(99, 1), &[3], false);
        assert_eq!(one.differences(&other), [3, 70, 99]);
        assert!(one.differences(&one).is_empty());
    }

    #[test]
    fn any_subset_really_means_any() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut medium = Medium::new(2, |_| 0);
            medium.write(SectorRange::new(0, 2), &[1, 1], false);
            medium.write(SectorRange::new(0, 1), &[2], false);
            medium.lose_power(Loss::AnySubset, &mut Random::new(seed, Stream::Crash, 0));
            seen.insert(medium.read(SectorRange::new(0, 2)).to_vec());
        }
        assert_eq!(seen.len(), 6, "three contents of one sector, two of the other: {seen:?}");
    }
}
