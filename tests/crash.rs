//! Crash images of the metadata: whatever subset of unflushed sectors survives, the metadata opens,
//! holds nothing older than the last acknowledged record (I6), and covers every block that differs
//! (I7).

use std::collections::BTreeMap;

use proptest::prelude::*;
use twinblk::meta::{
    self, Clipped, CreateOptions, Flags, LogShape, MemoryStorage, MetaError, MetadataWriter,
    OpenOptions, PAGE_WORDS, Placement, Record, Storage, Superblock, Write,
};

const PLACE: Placement = Placement::Internal;
/// 128 extents, 4 pages of bitmap.
const SIZE: u64 = 512 << 20;
const EXTENT_WORDS: usize = 16;
/// Few slots, so that extents are replaced all the time.
const SLOTS: u32 = 6;

fn open(disk: &mut MemoryStorage, log_slots: u32) -> Result<meta::Opened, MetaError> {
    let options = OpenOptions { log_slots, ..OpenOptions::default() };
    meta::open(disk.size(), disk, PLACE, &options)
}

/// Runs `action` with the power going at every possible moment, and hands every image that may be
/// found afterwards to `check`, with whether the action had been completed.
fn crash_everywhere(
    before: &MemoryStorage,
    mut action: impl FnMut(&mut MemoryStorage) -> bool,
    mut check: impl FnMut(MemoryStorage, bool),
) {
    for operations in 0.. {
        let mut disk = before.clone();
        disk.lose_power_after(operations);
        let completed = action(&mut disk);
        for image in disk.crash_images(operations as u64 + 1) {
            check(image, completed);
        }
        if completed {
            assert!(operations > 2, "the action does something");
            return;
        }
        assert!(operations < 500, "the action ends");
    }
}

fn covers(found: &[u64], wanted: &[u64]) -> Result<(), String> {
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        if found & wanted != *wanted {
            return Err(format!("extent {}: word {at} lost bits", at / EXTENT_WORDS));
        }
    }
    Ok(())
}

/// A node at work: what it wrote, what it may rely on, which blocks really differ.
struct Node {
    disk: MemoryStorage,
    writer: MetadataWriter,
    /// Blocks that differ from the peer's; the bitmap in memory.
    truth: Vec<u64>,
    /// Slots as of the last durable transaction.
    hot: BTreeMap<u16, u32>,
    acknowledged: Record,
    images: usize,
}

impl Node {
    fn new(log: LogShape) -> Self {
        let mut disk = MemoryStorage::new(SIZE);
        let options = CreateOptions { log, ..CreateOptions::default() };
        meta::create(SIZE, &mut disk, PLACE, &options).expect("blank");
        let opened = open(&mut disk, SLOTS).expect("just created");
        let acknowledged = opened.superblock.record;
        let truth = opened.bitmap_words;
        let hot = BTreeMap::new();
        Self { disk, writer: opened.writer, truth, hot, acknowledged, images: 0 }
    }

    /// A crash now: either record may be found, and every block that differs is out of sync.
    fn check_crash(&mut self, in_flight: &Record, seed: u64) -> Result<(), String> {
        for mut image in self.disk.crash_images(seed) {
            self.images += 1;
            let opened = open(&mut image, SLOTS).map_err(|error| format!("opens: {error}"))?;
            let found = opened.superblock.record;
            if found != self.acknowledged && found != *in_flight {
                return Err(format!("record {found:?} is neither old nor new"));
            }
            if found.flags.contains(Flags::PRIMARY_IND) {
                let mut hot = vec![0; self.truth.len()];
                for &extent in self.hot.values() {
                    hot[extent as usize * EXTENT_WORDS..][..EXTENT_WORDS].fill(u64::MAX);
                }
                covers(&opened.bitmap_words, &hot).map_err(|text| format!("hot {text}"))?;
            }
            if opened.full_sync.is_some() {
                return Err(format!("{:?}", opened.full_sync));
            }
            covers(&opened.bitmap_words, &self.truth)?;
        }
        Ok(())
    }

    fn write(&mut self, write: &Write, in_flight: Record) -> Result<(), String> {
        self.disk.write_at(write.offset_bytes, &write.bytes[..]).expect("in memory");
        self.check_crash(&in_flight, write.offset_bytes)?;
        self.disk.sync().expect("in memory");
        Ok(())
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        let write = self.writer.record(&record);
        self.write(&write, record)?;
        self.acknowledged = record;
        self.check_crash(&record, 1)
    }

    fn page(&mut self, index: u32) -> Result<(), String> {
        let words = self.truth[index as usize * PAGE_WORDS..].first_chunk().expect("whole pages");
        let write = self.writer.bitmap_page(index, words);
        self.write(&write, self.acknowledged)
    }

    /// Makes `extents` hot, as the write path does; then some of their blocks differ.
    fn activate(&mut self, updates: &[(u16, u32)], mind_the_pages: bool) -> Result<(), String> {
        let before = if mind_the_pages { self.writer.pages_before(updates) } else { Vec::new() };
        for index in before {
            self.page(index)?;
        }
        let write = self.writer.activity_log(updates);
        let hot_before = self.hot.clone();
        // While it is under way a replaced extent need not be hot any more.
        self.hot.retain(|slot, _| updates.iter().all(|(updated, _)| updated != slot));
        self.write(&write, self.acknowledged)?;
        self.hot = hot_before;
        self.hot.extend(updates.iter().copied());
        for &(slot, extent) in updates {
            self.truth[extent as usize * EXTENT_WORDS + usize::from(slot)] |= 1 << (extent % 64);
        }
        self.check_crash(&self.acknowledged.clone(), 2)
    }

    fn promote(&mut self) -> Result<(), String> {
        let flags = Flags::CONSISTENT | Flags::WAS_UP_TO_DATE | Flags::PRIMARY_IND;
        self.record(Record { agreed_sectors: 1_047_000, current: 0x11, flags, ..self.acknowledged })
    }

    fn demote(&mut self) -> Result<(), String> {
        for index in 0..(self.truth.len() / PAGE_WORDS) as u32 {
            self.page(index)?;
        }
        let flags = self.acknowledged.flags.with(Flags::PRIMARY_IND, false);
        self.record(Record { flags, current: 0x10, ..self.acknowledged })
    }
}

/// Slot and extent pairs without two for the same slot or extent, nor an extent in two slots.
fn updates(node: &Node, wanted: &[(u16, u32)]) -> Vec<(u16, u32)> {
    let mut chosen: Vec<(u16, u32)> = Vec::new();
    for &(slot, extent) in wanted {
        let taken = chosen.iter().any(|&(s, e)| s == slot || e == extent);
        if !taken && !node.hot.values().any(|&hot| hot == extent) {
            chosen.push((slot, extent));
        }
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, ..ProptestConfig::default() })]

    #[test]
    fn no_crash_of_a_primary_loses_a_record_or_a_block_that_differs(
        steps in prop::collection::vec(
            (0u8..6, prop::collection::vec((0..SLOTS as u16, 0u32..127), 1..4)), 12,
        ),
        stripes in 1u32..3,
    ) {
        let mut node = Node::new(LogShape { stripes, stripe_blocks: 8 });
        let outcome = node.promote().and_then(|()| {
            for (number, (kind, wanted)) in steps.iter().enumerate() {
                match kind {
                    0 => node.record(Record {
                        current: 0x1001 + ((number as u64) << 16),
                        bitmap: node.acknowledged.current,
                        ..node.acknowledged
                    })?,
                    1 => node.page(wanted[0].1 / 32)?,
                    _ => {
                        let updates = updates(&node, wanted);
                        node.activate(&updates, true)?;
                    }
                }
            }
            node.demote()
        });
        prop_assert_eq!(outcome, Ok(()));
        prop_assert!(node.images > 100, "only {} images", node.images);
    }
}

/// The check itself is worth something: without the order of `meta` it finds the lost bits.
#[test]
fn a_replaced_extent_without_its_bitmap_page_is_noticed() {
    let mut node = Node::new(LogShape::default());
    node.promote().expect("in order");
    node.activate(&[(0, 9)], true).expect("a free slot");
    let text = node.activate(&[(0, 10)], false).expect_err("the bits of extent 9 are lost");
    assert_eq!(text, "extent 9: word 144 lost bits");

    let mut node = Node::new(LogShape::default());
    node.activate(&[(0, 9)], true).expect_err("log before PRIMARY_IND");
}

/// A disk that crashed as Primary, with a log that went around the ring.
fn crashed_primary(log: LogShape) -> (MemoryStorage, Record, Vec<u64>) {
    let mut disk = MemoryStorage::new(SIZE);
    let options = CreateOptions { log, ..CreateOptions::default() };
    meta::create(SIZE, &mut disk, PLACE, &options).expect("blank");
    let mut writer = open(&mut disk, 67).expect("just created").writer;
    let mut perform = |write: Write| {
        disk.write_at(write.offset_bytes, &write.bytes[..]).expect("in memory");
        disk.sync().expect("in memory");
    };
    let record = Record {
        agreed_sectors: 1_047_000,
        current: 0xABCD,
        bitmap: 0xEF01,
        history: [3, 4],
        flags: Flags::CONSISTENT | Flags::PRIMARY_IND | Flags::WAS_UP_TO_DATE,
        peer_max_bio_bytes: 4096,
    };
    perform(writer.record(&record));
    let mut wanted = vec![0; 4 * PAGE_WORDS];
    for number in 0u32..40 {
        let extent = number * 3;
        perform(writer.activity_log(&[(66 - number as u16, extent)]));
        wanted[extent as usize * EXTENT_WORDS..][..EXTENT_WORDS].fill(u64::MAX);
    }
    (disk, record, wanted)
}

#[test]
fn a_crash_while_opening_or_applying_the_log_loses_nothing() {
    type Action = fn(&mut MemoryStorage) -> bool;
    let opens: Action = |disk| open(disk, 67).is_ok();
    let applies: Action = |disk| meta::apply_activity_log(SIZE, disk, PLACE, false).is_ok();
    for (stripes, action) in [(1, opens), (2, applies)] {
        let (before, record, wanted) =
            crashed_primary(LogShape { stripes, stripe_blocks: 8 / stripes });
        crash_everywhere(&before, action, |mut image, _| {
            let opened = open(&mut image, 67).expect("opens");
            let found = opened.superblock.record;
            assert_eq!(found, record, "AL_CLEAN is cleared, the rest as before");
            covers(&opened.bitmap_words, &wanted).expect("hot extents are out of sync");
            assert_eq!(meta::count_bits(&opened.bitmap_words), meta::count_bits(&wanted));
            assert_eq!(opened.full_sync, None);
        });
    }
}

/// The crash tore the newest transaction; another comes while the log is emptied. One torn block
/// is no reason to take everything as out of sync, and there are never two.
#[test]
fn a_torn_transaction_stays_the_only_one() {
    let (mut before, record, mut wanted) = crashed_primary(LogShape::default());
    let (_, layout) = meta::read_superblock(SIZE, &mut before, PLACE).expect("valid");
    before.preset(layout.log_offset_bytes + layout.log.block_of(39) * 4096 + 1024, &[0x5A; 512]);
    wanted[39 * 3 * EXTENT_WORDS..][..EXTENT_WORDS].fill(0);
    crash_everywhere(
        &before,
        |disk| open(disk, 67).is_ok(),
        |mut image, _| {
            let opened = open(&mut image, 67).expect("opens");
            assert_eq!((opened.superblock.record, opened.full_sync), (record, None));
            covers(&opened.bitmap_words, &wanted).expect("hot extents are out of sync");
        },
    );
}

/// A second crash while the first is being repaired.
#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing() {
    let (before, record, wanted) = crashed_primary(LogShape::default());
    for first in (0..20).step_by(3) {
        let mut disk = before.clone();
        disk.lose_power_after(first);
        let _ = open(&mut disk, 67);
        for image in disk.crash_images(first as u64 + 1).step_by(61) {
            for second in (0..20).step_by(2) {
                let mut again = image.clone();
                again.lose_power_after(second);
                let _ = open(&mut again, 67);
                for mut last in again.crash_images(second as u64 + 1).step_by(61) {
                    let opened = open(&mut last, 67).expect("opens");
                    assert_eq!(opened.superblock.record, record);
                    covers(&opened.bitmap_words, &wanted).expect("hot extents are out of sync");
                }
            }
        }
    }
}

#[test]
fn a_crash_while_all_bits_are_set_repeats_that() {
    let (mut before, record, _) = crashed_primary(LogShape::default());
    let (superblock, layout) = meta::read_superblock(SIZE, &mut before, PLACE).expect("valid");
    let flags = record.flags | Flags::FULL_SYNC;
    let full = Superblock { record: Record { flags, ..record }, ..superblock };
    before.preset(layout.superblock_offset_bytes, &full.encode()[..]);
    crash_everywhere(
        &before,
        |disk| open(disk, 67).is_ok(),
        |mut image, _| {
            let opened = open(&mut image, 67).expect("opens");
            assert_eq!(meta::count_bits(&opened.bitmap_words), 1_047_000 / 8);
            assert!(!opened.superblock.record.flags.contains(Flags::FULL_SYNC));
        },
    );
}

/// The device grew and its metadata moves to the new end, where something else was before. Whenever
/// the power goes, the disk opens with all that it knew, in either place.
#[test]
fn a_crash_while_metadata_moves_loses_nothing() {
    for stripes in [1, 2] {
        let mut node = Node::new(LogShape { stripes, stripe_blocks: 8 / stripes * 2 });
        let hot = [(0, 3), (2, 90), (5, 126)];
        node.promote().and_then(|()| node.activate(&hot, true)).expect("in order");
        node.activate(&[(0, 40)], true).expect("the page of extent 3 is written");
        let mut before = node.disk.clone();
        let known = open(&mut before.clone(), SLOTS).expect("opens").bitmap_words;
        let size = SIZE + (1 << 20);
        before.resize(size);
        before.preset(SIZE, &vec![0xA5; 1 << 20]);
        let stale = {
            let mut other = MemoryStorage::new(size);
            meta::create(size, &mut other, PLACE, &CreateOptions::default()).expect("blank")
        };
        before.preset(size - 4096, &stale.encode()[..]);
        let mut places = [0; 2];
        crash_everywhere(
            &before,
            |disk| meta::grow(disk, &node.writer, size, 0).is_ok(),
            |mut image, completed| {
                let used = meta::find_internal(&mut image, Some(SIZE));
                places[usize::from(used == size)] += 1;
                assert!(used == size || !completed);
                meta::wipe_stale_end(&mut image, used).expect("in memory");
                let options = OpenOptions { log_slots: SLOTS, ..OpenOptions::default() };
                let opened = meta::open(used, &mut Clipped::new(&mut image, used), PLACE, &options)
                    .expect("opens");
                assert_eq!(opened.superblock.record, node.acknowledged);
                assert_eq!(opened.full_sync, None);
                let (old, new) = opened.bitmap_words.split_at(known.len());
                assert!(old == known, "the same bits are set");
                assert!(new.iter().all(|&word| word == 0));
                // Nobody remembers: the end is all that is left.
                assert_eq!(meta::find_internal(&mut image, None), size);
                let at_end = meta::read_superblock(size, &mut image, PLACE);
                assert_eq!(at_end.is_ok(), used == size, "nothing stale is found");
            },
        );
        assert!(places.iter().all(|&count| count > 0), "{places:?}");
    }
}

/// The old generation never meets the new, empty bitmap.
#[test]
fn a_crash_while_creating_over_old_metadata_leaves_old_none_or_new() {
    let (before, record, wanted) = crashed_primary(LogShape::default());
    let mut found = [0; 3];
    let options = CreateOptions { force: true, ..CreateOptions::default() };
    crash_everywhere(
        &before,
        |disk| meta::create(SIZE, disk, PLACE, &options).is_ok(),
        |mut image, completed| match open(&mut image, 67) {
            Err(MetaError::NoMagic { .. }) => {
                assert!(!completed);
                found[1] += 1;
            }
            Err(error) => panic!("{error}"),
            Ok(opened) if opened.superblock.record.current == 4 => {
                assert_eq!(meta::count_bits(&opened.bitmap_words), 0);
                found[2] += 1;
            }
            Ok(opened) => {
                assert!(!completed);
                assert_eq!(opened.superblock.record, record);
                covers(&opened.bitmap_words, &wanted).expect("nothing lost");
                found[0] += 1;
            }
        },
    );
    assert!(found.iter().all(|&count| count > 0), "{found:?}");
}
