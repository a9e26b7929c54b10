//! Metadata at run time: what the engine wants remembered becomes one aligned 4 KiB write. The
//! caller performs it and makes it durable, in the order that `meta` documents.

use super::PAGE_BYTES;
use super::activity_log::{
    CONTEXT_ENTRIES, FREE_SLOT, MAX_UPDATES, Transaction, encode_transaction,
};
use super::bitmap::{PAGE_WORDS, encode_page, page_of_extent};
use super::flags::Flags;
use super::layout::{Layout, LogShape};
use super::superblock::{Magic, Record, Superblock};

/// Most slots that a slot number of 16 bits can name in the format (metadata.md 4.1).
const MOST_SLOTS: u64 = 65534;

/// Slots that a log has room for: one turn of the ring, less the block that a crash may tear,
/// repeats all of them as context. 32 KiB: 7 x 919 = 6433.
pub fn largest_slot_count(log: LogShape) -> u32 {
    ((log.blocks() - 1) * CONTEXT_ENTRIES as u64).min(MOST_SLOTS) as u32
}

/// A write of one page, to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// On the metadata device; a multiple of 4096.
    pub offset_bytes: u64,
    pub bytes: Box<[u8; PAGE_BYTES]>,
}

/// Plans the writes of a disk in use. Holds the slot table of the activity log as it is on disk
/// once all writes handed out are durable.
#[derive(Clone, Debug)]
pub struct MetadataWriter {
    superblock: Superblock,
    layout: Layout,
    slots: Vec<u32>,
    next_number: u32,
    context_start: usize,
}

impl MetadataWriter {
    /// For a disk whose log is empty on stable storage.
    pub(super) fn new(superblock: Superblock, layout: Layout) -> Self {
        let slots = vec![FREE_SLOT; superblock.log_slots as usize];
        Self { superblock, layout, slots, next_number: 0, context_start: 0 }
    }

    /// Number of slots: `al-extents`, as far as the log has room.
    pub fn slot_count(&self) -> u16 {
        // `largest_slot_count` is below 65535.
        self.slots.len() as u16
    }

    /// The extent in `slot`.
    pub fn extent_in(&self, slot: u16) -> Option<u32> {
        self.slots.get(usize::from(slot)).copied().filter(|&extent| extent != FREE_SLOT)
    }

    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(super) const fn superblock_mut(&mut self) -> &mut Superblock {
        &mut self.superblock
    }

    pub(super) const fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
    }

    /// The last record handed out.
    pub fn current_record(&self) -> &Record {
        &self.superblock.record
    }

    /// The superblock with `record`, marked as in use; `AL_CLEAN` is never written.
    pub fn record(&mut self, record: &Record) -> Write {
        self.superblock.record = *record;
        self.superblock.record.flags = record.flags.with(Flags::AL_CLEAN, false);
        self.superblock.magic = Magic::InUse;
        let bytes = self.superblock.encode();
        Write { offset_bytes: self.layout.superblock_offset_bytes, bytes }
    }

    /// Bitmap pages that must be durable before the transaction with these updates is written:
    /// those of extents that lose their slot. Ascending, each once.
    pub fn pages_before(&self, updates: &[(u16, u32)]) -> Vec<u32> {
        let mut pages: Vec<u32> = updates
            .iter()
            .filter(|&&(slot, extent)| self.extent_in(slot).is_some_and(|old| old != extent))
            .filter_map(|&(slot, _)| self.extent_in(slot).map(page_of_extent))
            .collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// The next transaction: from now on `updates` (slot, extent or [`FREE_SLOT`]) are in force.
    /// The one before must be durable before this is written.
    ///
    /// # Panics
    /// With more than [`MAX_UPDATES`] updates, or a slot that the log does not have: the log would
    /// be misread after a crash.
    pub fn activity_log(&mut self, updates: &[(u16, u32)]) -> Write {
        assert!(updates.len() <= MAX_UPDATES, "{} updates, at most 64 fit", updates.len());
        let count = self.slots.len();
        let mut context = Box::new([FREE_SLOT; CONTEXT_ENTRIES]);
        let shown =
            &self.slots[self.context_start..(self.context_start + CONTEXT_ENTRIES).min(count)];
        context[..shown.len()].copy_from_slice(shown);
        let transaction = Transaction {
            number: self.next_number,
            updates: updates.to_vec(),
            slot_count: self.slot_count(),
            context_start: self.context_start as u16,
            context,
        };
        for &(slot, extent) in updates {
            assert!(usize::from(slot) < count, "slot {slot} of {count}");
            self.slots[usize::from(slot)] = extent;
        }
        let block = self.layout.log.block_of(self.next_number);
        self.advance();
        Write {
            offset_bytes: self.layout.log_offset_bytes + block * PAGE_BYTES as u64,
            bytes: encode_transaction(&transaction),
        }
    }

    /// Page `index` of the bitmap.
    ///
    /// # Panics
    /// Beyond the bitmap: the write would hit other data.
    pub fn bitmap_page(&self, index: u32, words: &[u64; PAGE_WORDS]) -> Write {
        let offset = u64::from(index) * PAGE_BYTES as u64;
        assert!(offset < self.layout.bitmap_bytes, "bitmap page {index} is outside");
        Write { offset_bytes: self.layout.bitmap_offset_bytes + offset, bytes: encode_page(words) }
    }

    fn advance(&mut self) {
        self.context_start += CONTEXT_ENTRIES;
        if self.context_start >= self.slots.len() {
            self.context_start = 0;
        }
        let blocks = self.layout.log.blocks();
        let position = u64::from(self.next_number) % blocks;
        self.next_number = match self.next_number.checked_add(1) {
            Some(next) => next,
            // A ring whose length does not divide 2^32 goes on at the next position all the same,
            // else blocks that hold the only copy of a slot would be overwritten out of turn.
            None => ((position + 1) % blocks) as u32,
        };
    }

    /// As if `number` transactions had been written before.
    #[cfg(test)]
    pub(super) fn continue_at(&mut self, number: u32) {
        self.next_number = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::activity_log::{BlockContent, decode_block, replay};
    use crate::meta::{
        CreateOptions, MemoryStorage, OpenOptions, Placement, Storage, create, open,
    };

    fn opened(log: LogShape, log_slots: u32) -> (MemoryStorage, MetadataWriter) {
        let size = 4 << 20;
        let mut disk = MemoryStorage::new(size);
        let options = CreateOptions { log, ..CreateOptions::default() };
        create(size, &mut disk, Placement::Internal, &options).expect("blank");
        let options = OpenOptions { log_slots, ..OpenOptions::default() };
        let opened = open(size, &mut disk, Placement::Internal, &options).expect("just created");
        (disk, opened.writer)
    }

    fn perform(disk: &mut MemoryStorage, write: &Write) {
        disk.write_at(write.offset_bytes, &write.bytes[..]).expect("in memory");
        disk.sync().expect("in memory");
    }

    fn hot(disk: &mut MemoryStorage, writer: &MetadataWriter) -> Vec<u32> {
        replay(disk, &writer.layout).expect("readable").hot
    }

    /// More slots than one context holds, many turns of the ring, a number that wraps.
    #[test]
    fn replay_always_finds_the_slot_table() {
        for (stripes, stripe_blocks) in [(1, 8), (4, 8), (3, 3)] {
            let log = LogShape { stripes, stripe_blocks };
            let (mut disk, mut writer) = opened(log, 6433);
            writer.continue_at(u32::MAX - 40);
            let mut next_extent = 1_000_000;
            for round in 0u32..120 {
                let updates: Vec<(u16, u32)> = (0..round % 65)
                    .map(|index| {
                        next_extent += 1;
                        (((round * 977 + index * 613) % 6433) as u16, next_extent)
                    })
                    .collect();
                let write = writer.activity_log(&updates);
                assert_eq!(write.offset_bytes % 4096, 0);
                perform(&mut disk, &write);
                let mut table: Vec<u32> =
                    writer.slots.iter().copied().filter(|&extent| extent != FREE_SLOT).collect();
                table.sort_unstable();
                assert_eq!(hot(&mut disk, &writer), table, "{log:?} round {round}");

                // The next write tears: the block it goes to is lost, the table is not.
                let mut torn = writer.clone().activity_log(&[(0, 7)]);
                torn.bytes[2000] ^= 1;
                let mut after_crash = disk.clone();
                perform(&mut after_crash, &torn);
                assert_eq!(hot(&mut after_crash, &writer), table, "torn, {log:?} round {round}");
            }
        }
    }

    #[test]
    fn slots_are_limited_by_the_ring() {
        assert_eq!(largest_slot_count(LogShape::default()), 6433);
        assert_eq!(largest_slot_count(LogShape { stripes: 16, stripe_blocks: 8 }), 65534);
        let (_, writer) = opened(LogShape::default(), 65534);
        assert_eq!(writer.slot_count(), 6433);
    }

    #[test]
    fn pages_of_replaced_extents_come_first() {
        let (_, mut writer) = opened(LogShape::default(), 67);
        assert_eq!(writer.pages_before(&[(3, 40), (4, 1)]), Vec::<u32>::new(), "free slots");
        writer.activity_log(&[(3, 40), (4, 1)]);
        assert_eq!(writer.pages_before(&[(4, 99), (3, 98), (5, 97)]), [0, 1]);
        assert_eq!(writer.pages_before(&[(4, 1)]), Vec::<u32>::new(), "stays");
        assert_eq!(writer.extent_in(3), Some(40));
    }

    #[test]
    #[should_panic(expected = "slot 67 of 67")]
    fn a_slot_that_is_not_there_is_a_bug_of_the_caller() {
        opened(LogShape::default(), 67).1.activity_log(&[(67, 1)]);
    }

    #[test]
    fn a_record_is_written_as_in_use() {
        let (_, mut writer) = opened(LogShape::default(), 67);
        let flags = Flags::AL_CLEAN | Flags::CONSISTENT;
        let write = writer.record(&Record { flags, current: 5, ..Record::default() });
        let written = Superblock::decode(&write.bytes, 0).expect("own encoding");
        assert_eq!(written.magic, Magic::InUse);
        assert_eq!((written.record.flags, written.record.current), (Flags::CONSISTENT, 5));
        assert_eq!(written.log_slots, 67);
    }

    #[test]
    fn contexts_rotate_through_all_slots() {
        let (_, mut writer) = opened(LogShape::default(), 1237);
        let starts: Vec<u16> = (0..3)
            .map(|_| match decode_block(&writer.activity_log(&[]).bytes) {
                BlockContent::Transaction(transaction) => transaction.context_start,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(starts, [0, 919, 0]);
    }
}
