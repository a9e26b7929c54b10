//! A disk in memory with a volatile cache, for tests of what a crash leaves.
//!
//! Assumptions about the media, the same as in `meta`: a sector of 512 bytes is written whole or
//! not at all; unflushed sectors reach the media in any subset; flushed ones stay.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::storage::Storage;

const SECTOR_BYTES: u64 = 512;
const SECTOR: usize = SECTOR_BYTES as usize;
/// Up to this many unflushed sectors all subsets are tried: 2^10 = 1024 images.
const EXHAUSTIVE_SECTORS: usize = 10;
/// Random subsets tried beyond that.
const RANDOM_SUBSETS: usize = 64;

type Sectors = BTreeMap<u64, Box<[u8; SECTOR]>>;

/// Sparse, so that large devices cost what was written to them.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    size: u64,
    stable: Sectors,
    /// Since the last flush, oldest first; a sector may occur more than once.
    unflushed: Vec<(u64, Box<[u8; SECTOR]>)>,
    operations_left: Option<usize>,
}

impl MemoryStorage {
    /// A device of zeroes.
    pub fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// Puts bytes on stable storage, as if they had always been there; whole sectors.
    ///
    /// # Panics
    /// When they are not whole sectors inside the device.
    pub fn preset(&mut self, offset: u64, bytes: &[u8]) {
        assert!(self.is_whole_sectors(offset, bytes.len()), "{} at {offset}", bytes.len());
        for (sector, part) in (offset / SECTOR_BYTES..).zip(bytes.as_chunks::<SECTOR>().0) {
            if part.iter().any(|&byte| byte != 0) || self.stable.contains_key(&sector) {
                self.stable.insert(sector, Box::new(*part));
            }
        }
    }

    /// The device becomes larger; what is new reads as zeroes.
    ///
    /// # Panics
    /// When it would become smaller.
    pub fn resize(&mut self, size: u64) {
        assert!(size >= self.size, "{size} is less than {}", self.size);
        self.size = size;
    }

    /// The power goes after this many more writes and flushes: all later ones fail.
    pub fn lose_power_after(&mut self, operations: usize) {
        self.operations_left = Some(operations);
    }

    /// What may be found after a crash now: every subset of the unflushed sectors if there are at
    /// most 10, else every prefix, every single one missing, every single one present and 64
    /// random subsets. The images have power again.
    pub fn crash_images(&self, seed: u64) -> CrashImages<'_> {
        let pending = self.effective();
        let subsets = if pending.len() <= EXHAUSTIVE_SECTORS {
            1 << pending.len()
        } else {
            3 * pending.len() + 1 + RANDOM_SUBSETS
        };
        CrashImages { disk: self, pending, subsets, next: 0, random: seed }
    }

    /// Unflushed sectors whose loss would make a difference.
    fn effective(&self) -> Vec<usize> {
        let mut changed = BTreeSet::new();
        for (sector, bytes) in &self.unflushed {
            if self.stable.get(sector).map_or(&[0; SECTOR], |old| old) != &**bytes {
                changed.insert(*sector);
            }
        }
        (0..self.unflushed.len()).filter(|&at| changed.contains(&self.unflushed[at].0)).collect()
    }

    fn is_whole_sectors(&self, offset: u64, length: usize) -> bool {
        offset.is_multiple_of(SECTOR_BYTES)
            && length.is_multiple_of(SECTOR)
            && offset.checked_add(length as u64).is_some_and(|end| end <= self.size)
    }

    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        if self.is_whole_sectors(offset, length) {
            return Ok(());
        }
        let text = format!("{length} bytes at {offset} of a device of {}", self.size);
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    fn spend_operation(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("power lost")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn sector(&self, sector: u64) -> Option<&[u8; SECTOR]> {
        let newest = self.unflushed.iter().rev().find(|(at, _)| *at == sector);
        newest.map(|(_, bytes)| &**bytes).or_else(|| self.stable.get(&sector).map(|bytes| &**bytes))
    }
}

impl Storage for MemoryStorage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        let first = offset / SECTOR_BYTES;
        let last = first + (bytes.len() / SECTOR) as u64;
        bytes.fill(0);
        let (parts, _) = bytes.as_chunks_mut::<SECTOR>();
        for (&sector, content) in self.stable.range(first..last) {
            parts[(sector - first) as usize] = **content;
        }
        for (sector, content) in &self.unflushed {
            if (first..last).contains(sector) {
                parts[(sector - first) as usize] = **content;
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.spend_operation()?;
        for (sector, part) in (offset / SECTOR_BYTES..).zip(bytes.as_chunks::<SECTOR>().0) {
            if self.sector(sector).unwrap_or(&[0; SECTOR]) != part {
                self.unflushed.push((sector, Box::new(*part)));
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.spend_operation()?;
        for (sector, bytes) in self.unflushed.drain(..) {
            self.stable.insert(sector, bytes);
        }
        Ok(())
    }
}

/// The images of [`MemoryStorage::crash_images`].
#[derive(Debug)]
pub struct CrashImages<'a> {
    disk: &'a MemoryStorage,
    pending: Vec<usize>,
    subsets: usize,
    next: usize,
    random: u64,
}

impl CrashImages<'_> {
    /// Whether subset `subset` holds pending sector `at`.
    fn holds(&mut self, subset: usize, at: usize) -> bool {
        let count = self.pending.len();
        if count <= EXHAUSTIVE_SECTORS {
            subset >> at & 1 == 1
        } else if subset <= count {
            at < subset
        } else if subset <= 2 * count {
            at != subset - count - 1
        } else if subset <= 3 * count {
            at == subset - 2 * count - 1
        } else {
            // xorshift: the tests only need it to be repeatable.
            self.random |= 1;
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random >> 32 & 1 == 1
        }
    }
}

impl Iterator for CrashImages<'_> {
    type Item = MemoryStorage;

    fn next(&mut self) -> Option<MemoryStorage> {
        if self.next == self.subsets {
            return None;
        }
        let subset = self.next;
        self.next += 1;
        let mut image = MemoryStorage::new(self.disk.size);
        image.stable = self.disk.stable.clone();
        for at in 0..self.pending.len() {
            if self.holds(subset, at) {
                let (sector, bytes) = &self.disk.unflushed[self.pending[at]];
                image.stable.insert(*sector, bytes.clone());
            }
        }
        Some(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_unflushed_sectors_give_every_subset_and_flushed_ones_stay() {
        let mut disk = MemoryStorage::new(1 << 20);
        disk.write_at(0, &[1; 512]).expect("inside");
        disk.sync().expect("in memory");
        disk.write_at(512, &[2; 1024]).expect("inside");
        let mut found = BTreeSet::new();
        for mut image in disk.crash_images(1) {
            let mut bytes = [0; 1536];
            image.read_at(0, &mut bytes).expect("inside");
            found.insert([bytes[0], bytes[512], bytes[1024]]);
        }
        assert_eq!(found, BTreeSet::from([[1, 0, 0], [1, 2, 0], [1, 0, 2], [1, 2, 2]]));
    }

    #[test]
    fn many_unflushed_sectors_give_prefixes_singles_and_random_subsets() {
        let mut disk = MemoryStorage::new(1 << 20);
        disk.write_at(0, &[1; 512 * 20]).expect("inside");
        let images: Vec<Vec<u64>> =
            disk.crash_images(1).map(|image| image.stable.into_keys().collect()).collect();
        assert_eq!(images.len(), 21 + 20 + 20 + 64);
        assert!(images.contains(&vec![]) && images.contains(&(0..20).collect()));
        assert!(images.contains(&vec![7]) && images.contains(&(0..5).collect()));
        assert!(images.contains(&(0..20).filter(|&sector| sector != 7).collect()));
    }

    #[test]
    fn unaligned_and_outside_accesses_are_errors_and_power_can_go() {
        let mut disk = MemoryStorage::new(4096);
        assert!(disk.read_at(1, &mut [0; 512]).is_err());
        assert!(disk.write_at(3584, &[0; 1024]).is_err());
        assert!(disk.read_at(u64::MAX - 511, &mut [0; 512]).is_err());
        disk.lose_power_after(1);
        disk.write_at(0, &[1; 512]).expect("power is on");
        assert_eq!(disk.sync().expect_err("power is off").to_string(), "power lost");
    }
}
