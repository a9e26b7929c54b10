//! The dirty bitmap in memory: one bit per 4 KiB, set = out of sync. It knows which 4 KiB pages
//! differ from what is on disk, so that write-back moves only those.

use std::collections::BTreeSet;
use std::ops::Range;

use twinblk_proto::units::BLOCK_SECTORS;

use super::effect::BitmapPage;

/// Bits of a page: 4096 bytes x 8.
pub const PAGE_BITS: u64 = 32_768;
const PAGE_WORDS: usize = 512;

#[derive(Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
    bits: u64,
    set: u64,
    /// Pages that changed since they were last handed out for writing.
    unwritten: BTreeSet<u32>,
    /// Pages with bits set since then: what must be durable before an extent leaves the log.
    unwritten_set: BTreeSet<u32>,
}

/// Bits that a device of `sectors` needs.
pub const fn bits_of(sectors: u64) -> u64 {
    sectors.div_ceil(BLOCK_SECTORS)
}

/// The page that holds the bits of an activity log extent.
const fn page_of_extent(extent: u32) -> u32 {
    (extent as u64 * twinblk_proto::units::EXTENT_BLOCKS / PAGE_BITS) as u32
}

/// Mask of the bits `from..to` of one word.
const fn mask(from: u64, to: u64) -> u64 {
    let upper = if to >= 64 { u64::MAX } else { (1 << to) - 1 };
    upper & (u64::MAX << from)
}

impl Bitmap {
    /// A bitmap for a device of `sectors`, with what was loaded from disk; bits beyond the device
    /// are cut off.
    pub fn load(sectors: u64, mut words: Vec<u64>) -> Self {
        let bits = bits_of(sectors);
        words.resize(bits.div_ceil(64) as usize, 0);
        let mut bitmap = Self { words, bits, ..Self::default() };
        bitmap.cut_tail();
        bitmap.set = bitmap.words.iter().map(|word| u64::from(word.count_ones())).sum();
        bitmap
    }

    fn cut_tail(&mut self) {
        if !self.bits.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= mask(0, self.bits % 64);
        }
    }

    /// Changes the size; bits of new space are set when `set_new`.
    pub fn resize(&mut self, sectors: u64, set_new: bool) {
        let old = self.bits;
        self.bits = bits_of(sectors);
        self.words.resize(self.bits.div_ceil(64) as usize, 0);
        self.cut_tail();
        self.set = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        let pages = self.pages();
        self.unwritten.retain(|&page| page < pages);
        self.unwritten_set.retain(|&page| page < pages);
        if self.bits > old {
            // On disk there may be anything.
            self.unwritten.extend((old / PAGE_BITS) as u32..pages);
        }
        if set_new && self.bits > old {
            self.set_range(old..self.bits);
        }
    }

    pub const fn bits(&self) -> u64 {
        self.bits
    }

    /// Number of bits set.
    pub const fn count(&self) -> u64 {
        self.set
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub const fn pages(&self) -> u32 {
        self.bits.div_ceil(PAGE_BITS) as u32
    }

    pub fn is_set(&self, bit: u64) -> bool {
        bit < self.bits && self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    pub fn any_set(&self, range: Range<u64>) -> bool {
        self.next_set(range.start).is_some_and(|bit| bit < range.end)
    }

    /// First set bit at or after `from`.
    pub fn next_set(&self, from: u64) -> Option<u64> {
        if from >= self.bits {
            return None;
        }
        let mut index = (from / 64) as usize;
        let mut word = self.words[index] & (u64::MAX << (from % 64));
        loop {
            if word != 0 {
                return Some(index as u64 * 64 + u64::from(word.trailing_zeros()));
            }
            index += 1;
            word = *self.words.get(index)?;
        }
    }

    /// Applies `change` to every word of the range; returns how the count of set bits moved.
    fn apply(&mut self, range: Range<u64>, set: bool) -> u64 {
        let (start, end) = (range.start, range.end.min(self.bits));
        let mut changed = 0;
        let mut bit = start;
        while bit < end {
            let index = (bit / 64) as usize;
            let stop = end.min((index as u64 + 1) * 64);
            let bits = mask(bit % 64, stop - index as u64 * 64);
            let moved = if set { bits & !self.words[index] } else { bits & self.words[index] };
            if moved != 0 {
                self.words[index] ^= moved;
                changed += u64::from(moved.count_ones());
                let page = (bit / PAGE_BITS) as u32;
                self.unwritten.insert(page);
                if set {
                    self.unwritten_set.insert(page);
                }
            }
            bit = stop;
        }
        changed
    }

    /// Sets the bits; returns how many were clear before.
    pub fn set_range(&mut self, range: Range<u64>) -> u64 {
        let changed = self.apply(range, true);
        self.set += changed;
        changed
    }

    /// Clears the bits; returns how many were set before.
    pub fn clear_range(&mut self, range: Range<u64>) -> u64 {
        let changed = self.apply(range, false);
        self.set -= changed;
        changed
    }

    pub fn set_all(&mut self) {
        self.set_range(0..self.bits);
    }

    /// Merges words received from the peer (an OR).
    pub fn merge(&mut self, other: &[u64]) {
        let bits = self.bits;
        for (index, (mine, theirs)) in self.words.iter_mut().zip(other).enumerate() {
            let first = index as u64 * 64;
            let mut new = theirs & !*mine;
            if first + 64 > bits {
                new &= mask(0, bits - first);
            }
            if new != 0 {
                *mine |= new;
                self.set += u64::from(new.count_ones());
                let page = (first / PAGE_BITS) as u32;
                self.unwritten.insert(page);
                self.unwritten_set.insert(page);
            }
        }
    }

    fn page(&self, index: u32) -> BitmapPage {
        let first = index as usize * PAGE_WORDS;
        let last = (first + PAGE_WORDS).min(self.words.len());
        let mut words = Box::new([0; PAGE_WORDS]);
        words[..last - first].copy_from_slice(&self.words[first..last]);
        BitmapPage { index, words }
    }

    /// Takes the changed pages for writing, at most `limit`.
    pub fn take_unwritten(&mut self, limit: usize) -> Vec<BitmapPage> {
        let taken: Vec<u32> = self.unwritten.iter().copied().take(limit).collect();
        for page in &taken {
            self.unwritten.remove(page);
            self.unwritten_set.remove(page);
        }
        taken.into_iter().map(|index| self.page(index)).collect()
    }

    /// Copies of the changed pages, which stay marked as changed.
    pub fn snapshot_unwritten(&self) -> Vec<BitmapPage> {
        self.unwritten.iter().map(|&index| self.page(index)).collect()
    }

    /// Copies of the pages that hold the bits of these extents, where bits were set since they were
    /// last written; they stay marked as changed.
    pub fn snapshot_of_extents(&self, extents: &[u32]) -> Vec<BitmapPage> {
        let pages: BTreeSet<u32> = extents.iter().map(|&extent| page_of_extent(extent)).collect();
        let due = pages.intersection(&self.unwritten_set);
        due.filter(|&&page| page < self.pages()).map(|&page| self.page(page)).collect()
    }

    /// Turns a snapshot into pages to write: what was set then or is set now. Pages whose written
    /// form differs from memory stay marked.
    pub fn refresh(&mut self, snapshot: Vec<BitmapPage>) -> Vec<BitmapPage> {
        let pages = self.pages();
        let mut result = Vec::with_capacity(snapshot.len());
        for mut old in snapshot {
            if old.index >= pages {
                continue;
            }
            let now = self.page(old.index);
            for (word, current) in old.words.iter_mut().zip(now.words.iter()) {
                *word |= current;
            }
            self.unwritten_set.remove(&old.index);
            if old == now {
                self.unwritten.remove(&old.index);
            }
            result.push(old);
        }
        result
    }

    /// The page that holds the bits of an activity log extent, if bits in it were set since it was
    /// last written.
    pub fn take_page_of_extent(&mut self, extent: u32) -> Option<BitmapPage> {
        let page = page_of_extent(extent);
        if !self.unwritten_set.contains(&page) || page >= self.pages() {
            return None;
        }
        self.unwritten_set.remove(&page);
        self.unwritten.remove(&page);
        Some(self.page(page))
    }

    /// A page whose write failed or was never confirmed: it must be written again.
    pub fn mark_unwritten(&mut self, index: u32) {
        if index < self.pages() {
            self.unwritten.insert(index);
            self.unwritten_set.insert(index);
        }
    }

    /// Whether bits were set that are not on disk.
    pub fn has_unwritten_set(&self) -> bool {
        !self.unwritten_set.is_empty()
    }

    /// Whether some page differs from the disk.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet as Model;

    #[test]
    fn bits_beyond_the_device_are_cut_off() {
        let bitmap = Bitmap::load(8 * 70, vec![u64::MAX; 4]);
        assert_eq!((bitmap.bits(), bitmap.count(), bitmap.words().len()), (70, 70, 2));
    }

    #[test]
    fn a_refreshed_snapshot_never_forgets_a_bit_that_was_set_meanwhile() {
        let mut bitmap = Bitmap::load(8 * 100, vec![0b11, 0]);
        bitmap.clear_range(0..1);
        let snapshot = bitmap.snapshot_unwritten();
        bitmap.set_range(0..1);
        bitmap.clear_range(1..2);
        let pages = bitmap.refresh(snapshot);
        assert_eq!(pages[0].words[0], 0b11, "bit 0 is set now, bit 1 was set at the snapshot");
        assert!(bitmap.has_unwritten(), "the page on disk differs from memory");
    }

    #[test]
    fn growth_sets_the_new_bits_only_when_asked() {
        let mut bitmap = Bitmap::load(80, vec![0]);
        bitmap.resize(160, true);
        assert_eq!(bitmap.count(), 10);
        bitmap.resize(240, false);
        assert_eq!((bitmap.count(), bitmap.bits()), (10, 30));
        bitmap.resize(88, false);
        assert_eq!(bitmap.count(), 1);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(
            operations in prop::collection::vec((any::<bool>(), 0_u64..600, 0_u64..200), 0..40)
        ) {
            let mut bitmap = Bitmap::load(600 * 8, Vec::new());
            let mut model = Model::new();
            for (set, start, length) in operations {
                let range = start..(start + length).min(600);
                if set {
                    bitmap.set_range(range.clone());
                    model.extend(range);
                } else {
                    bitmap.clear_range(range.clone());
                    model.retain(|bit| !range.contains(bit));
                }
                prop_assert_eq!(bitmap.count(), model.len() as u64);
                for from in [0, start, 599] {
                    prop_assert_eq!(bitmap.next_set(from), model.range(from..).next().copied());
                }
            }
        }
    }
}
