//! The metadata area of a backing disk: superblock, activity log and bitmap, with the durability
//! that the engine was promised. A write that was under way when the power failed may have happened
//! or not; a torn activity log transaction is worthless, a torn bitmap page is a mixture.

use std::collections::BTreeMap;

use twinblk::engine::effect::{ActivityLogUpdate, BitmapPage};
use twinblk::engine::event::{AttachedDisk, DeviceRecord};
use twinblk_proto::units::{BLOCK_SECTORS, EXTENT_BLOCKS};

use crate::random::Random;

/// Words of a 4 KiB bitmap page, and of a 512-byte sector of it.
const PAGE_WORDS: usize = 512;
const SECTOR_WORDS: usize = 64;

/// A metadata write on its way.
#[derive(Clone, Debug)]
pub enum MetadataWrite {
    Record(DeviceRecord),
    ActivityLog(ActivityLogUpdate),
    Bitmap(Vec<BitmapPage>),
}

#[derive(Clone, Debug)]
pub struct Metadata {
    record: DeviceRecord,
    slots: BTreeMap<u16, u32>,
    bitmap: Vec<u64>,
    blocks: u64,
}

impl Metadata {
    /// With room for `sectors`; behind `used` of them the bitmap holds rubbish.
    pub fn new(record: DeviceRecord, sectors: u64, used: u64) -> Self {
        let blocks = sectors.div_ceil(BLOCK_SECTORS);
        let pages = blocks.div_ceil(PAGE_WORDS as u64 * 64) as usize;
        let mut bitmap = vec![0; pages * PAGE_WORDS];
        for block in (used.div_ceil(BLOCK_SECTORS)..blocks).step_by(3) {
            bitmap[(block / 64) as usize] |= 1 << (block % 64);
        }
        Self { record, slots: BTreeMap::new(), bitmap, blocks }
    }

    pub fn record(&self) -> &DeviceRecord {
        &self.record
    }

    pub fn bits_set(&self) -> u64 {
        self.bitmap.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether a resync after a crash right now would look at `block`.
    pub fn covers(&self, block: u64) -> bool {
        let bit = self.bitmap[(block / 64) as usize] >> (block % 64) & 1 == 1;
        let extent = (block / EXTENT_BLOCKS) as u32;
        bit || self.record.primary && self.slots.values().any(|hot| *hot == extent)
    }

    pub fn apply(&mut self, write: &MetadataWrite) -> Result<(), String> {
        match write {
            MetadataWrite::Record(record) => self.record = *record,
            MetadataWrite::ActivityLog(update) => {
                if update.slots.len() > 64 {
                    return Err(format!("an activity log update of {} slots", update.slots.len()));
                }
                self.slots.extend(update.slots.iter().copied());
            }
            MetadataWrite::Bitmap(pages) => {
                for page in pages {
                    for sector in 0..PAGE_WORDS / SECTOR_WORDS {
                        self.write_page_sector(page, sector)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The write was under way when the machine died.
    pub fn apply_partly(&mut self, write: &MetadataWrite, random: &mut Random) {
        match write {
            MetadataWrite::Record(_) | MetadataWrite::ActivityLog(_) => {
                if random.percent(50) {
                    // Limits were checked when the write was submitted.
                    let _ = self.apply(write);
                }
            }
            MetadataWrite::Bitmap(pages) => {
                for page in pages {
                    for sector in 0..PAGE_WORDS / SECTOR_WORDS {
                        if random.percent(50) {
                            let _ = self.write_page_sector(page, sector);
                        }
                    }
                }
            }
        }
    }

    fn write_page_sector(&mut self, page: &BitmapPage, sector: usize) -> Result<(), String> {
        let within = sector * SECTOR_WORDS..(sector + 1) * SECTOR_WORDS;
        let first = page.index as usize * PAGE_WORDS + within.start;
        let target = self
            .bitmap
            .get_mut(first..first + SECTOR_WORDS)
            .ok_or_else(|| format!("bitmap page {} is beyond the bitmap", page.index))?;
        target.copy_from_slice(&page.words[within]);
        Ok(())
    }

    /// What the driver does before it hands a disk to the engine (metadata.md 5): the extents of
    /// a Primary's activity log become bits, durably, and the log is emptied.
    pub fn open(&mut self, sectors: u64) -> AttachedDisk {
        let slots = std::mem::take(&mut self.slots);
        if self.record.primary {
            for extent in slots.into_values() {
                let first = u64::from(extent) * EXTENT_BLOCKS;
                for block in first..(first + EXTENT_BLOCKS).min(self.blocks) {
                    self.bitmap[(block / 64) as usize] |= 1 << (block % 64);
                }
            }
        }
        AttachedDisk {
            record: self.record,
            usable_sectors: sectors,
            bitmap_words: self.bitmap.clone(),
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            discard: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primarys_hot_extents_become_bits() {
        let all = 3 * EXTENT_BLOCKS * 8;
        let mut metadata = Metadata::new(DeviceRecord::default(), all, all);
        let update = MetadataWrite::ActivityLog(ActivityLogUpdate { slots: vec![(0, 1)] });
        metadata.apply(&update).expect("one slot");
        assert!(!metadata.covers(EXTENT_BLOCKS), "not Primary");
        metadata
            .apply(&MetadataWrite::Record(DeviceRecord { primary: true, ..Default::default() }))
            .expect("a record");
        assert!(metadata.covers(EXTENT_BLOCKS));
        assert!(!metadata.covers(0));
        let attached = metadata.open(all);
        assert_eq!(metadata.bits_set(), EXTENT_BLOCKS);
        assert_eq!(attached.bitmap_words[16], u64::MAX);
        assert_eq!(attached.bitmap_words[15], 0);
    }
}
