//! Taking a disk into use: check the superblock, apply the activity log, load the bitmap, mark the
//! metadata as in use (metadata.md 2.3, 5; session.md 6.4).
//!
//! The order, each step durable before the next, makes a crash in between harmless:
//!
//! 1. bits of hot extents, or of everything, into the bitmap: more bits than before, never fewer;
//! 2. the log empty: its extents are bits already;
//! 3. the superblock: in use, `AL_CLEAN` and `FULL_SYNC` cleared.
//!
//! A crash before 3 leaves the old superblock, so that the next open repeats 1 and 2.

use super::PAGE_BYTES;
use super::activity_log::{self, Replayed};
use super::bitmap;
use super::error::MetaError;
use super::flags::Flags;
use super::layout::{Layout, Placement};
use super::storage::Storage;
use super::superblock::{Magic, Superblock};
use super::writer::{MetadataWriter, largest_slot_count};

/// Torn blocks that a crash can leave: transactions are written one at a time.
const TOLERATED_INVALID_BLOCKS: u64 = 1;

/// What the caller decides.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Slots of the activity log (`al-extents`); more than the log has room for are cut.
    pub log_slots: u32,
    /// Take a log of which nothing can be read as "everything may have been written to".
    pub accept_unusable_log: bool,
}

impl Default for OpenOptions {
    /// DRBD's default of 1237 slots.
    fn default() -> Self {
        Self { log_slots: 1237, accept_unusable_log: false }
    }
}

/// Why every block counts as out of sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullSyncCause {
    /// `FULL_SYNC` was set: a bitmap that was being set wholly is not trusted.
    Flag,
    /// The node crashed as Primary and kept no log (`AL_DISABLED`).
    LogDisabled,
    /// The node crashed as Primary, and more of the log is unreadable than one torn write explains.
    LogDamaged { invalid_blocks: u64 },
}

/// A disk in use.
#[derive(Debug)]
pub struct Opened {
    /// As it is on disk now. The flags are those of the last use, so that a set `PRIMARY_IND` tells
    /// of a crash; `FULL_SYNC` is cleared, because the bits are set.
    pub superblock: Superblock,
    pub layout: Layout,
    /// Whole pages, for all of `layout.usable_sectors`; bits beyond the agreed size are clear.
    pub bitmap_words: Vec<u64>,
    /// Extents that the log held hot, which are out of sync now.
    pub applied_extents: usize,
    /// Bits that this set.
    pub marked_bits: u64,
    pub full_sync: Option<FullSyncCause>,
    pub writer: MetadataWriter,
}

/// Opens the metadata of a disk of `data_bytes`; `storage` is the device that holds the metadata,
/// which for internal metadata is the same. When this returns, the metadata is durably in use.
pub fn open(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
    options: &OpenOptions,
) -> Result<Opened, MetaError> {
    let (mut superblock, layout) = read(data_bytes, storage, placement)?;
    let usable_sectors = layout.usable_sectors;
    let flags = superblock.record.flags;
    let agreed_sectors = superblock.record.agreed_sectors;
    if agreed_sectors > usable_sectors {
        if flags.contains(Flags::CONSISTENT) {
            return Err(MetaError::Shrunk { agreed_sectors, usable_sectors });
        }
        // Nothing is lost: the disk gets all of its data from the peer.
        superblock.record.agreed_sectors = usable_sectors;
    }
    let recovered = recover(
        storage,
        &superblock,
        &layout,
        full_sync_cause(flags),
        options.accept_unusable_log,
    )?;
    activity_log::initialise(storage, &layout, &recovered.used_blocks)?;

    superblock.magic = Magic::InUse;
    superblock.log_slots = options.log_slots.clamp(1, largest_slot_count(layout.log));
    superblock.record.flags = flags.with(Flags::AL_CLEAN | Flags::FULL_SYNC, false);
    store_superblock(storage, &layout, &superblock)?;

    let mut bitmap_words = recovered.words;
    bitmap::cut_off(&mut bitmap_words, device_bits(&superblock, &layout));
    Ok(Opened {
        superblock,
        layout,
        bitmap_words,
        applied_extents: recovered.applied_extents,
        marked_bits: recovered.marked_bits,
        full_sync: recovered.full_sync,
        writer: MetadataWriter::new(superblock, layout),
    })
}

/// A crash of a Primary is told by `PRIMARY_IND` (not yet cleared) or `CRASHED_PRIMARY` (seen at an
/// earlier attach, and not in sync with the peer since).
fn full_sync_cause(flags: Flags) -> Option<FullSyncCause> {
    let crashed = flags.contains(Flags::PRIMARY_IND) || flags.contains(Flags::CRASHED_PRIMARY);
    if flags.contains(Flags::FULL_SYNC) {
        Some(FullSyncCause::Flag)
    } else if crashed && flags.contains(Flags::AL_DISABLED) {
        Some(FullSyncCause::LogDisabled)
    } else {
        None
    }
}

/// Bits that mean something: the agreed size, or all there is while none was agreed.
fn device_bits(superblock: &Superblock, layout: &Layout) -> u64 {
    let sectors = match superblock.record.agreed_sectors {
        0 => layout.usable_sectors,
        agreed => agreed.min(layout.usable_sectors),
    };
    bitmap::device_bits(sectors)
}

/// Superblock and layout, every check passed (metadata.md 6.3).
pub(super) fn read(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
) -> Result<(Superblock, Layout), MetaError> {
    let metadata_bytes = storage.size();
    let offset = Layout::superblock_offset(placement, metadata_bytes)?;
    let superblock = Superblock::decode(&*read_superblock_page(storage, offset)?, offset)?;
    let layout = Layout::from_superblock(&superblock, placement, data_bytes, metadata_bytes)?;
    Ok((superblock, layout))
}

pub(super) fn read_superblock_page(
    storage: &mut impl Storage,
    offset: u64,
) -> Result<Box<[u8; PAGE_BYTES]>, MetaError> {
    let mut bytes = Box::new([0; PAGE_BYTES]);
    storage.read_at(offset, &mut bytes[..]).map_err(|source| MetaError::Io {
        action: "read the superblock",
        offset,
        source,
    })?;
    Ok(bytes)
}

pub(super) fn store_superblock(
    storage: &mut impl Storage,
    layout: &Layout,
    superblock: &Superblock,
) -> Result<(), MetaError> {
    let offset = layout.superblock_offset_bytes;
    storage.write_at(offset, &superblock.encode()[..]).map_err(|source| MetaError::Io {
        action: "write the superblock",
        offset,
        source,
    })?;
    storage.sync().map_err(MetaError::Sync)
}

/// The bitmap with the log applied, durably; the log itself is still as it was.
pub(super) struct Recovered {
    pub words: Vec<u64>,
    pub applied_extents: usize,
    pub marked_bits: u64,
    pub full_sync: Option<FullSyncCause>,
    /// Blocks of the log that have to be emptied.
    pub used_blocks: Vec<u64>,
}

/// Step 1. `full_sync` is a reason, beside a damaged log, to set all bits.
pub(super) fn recover(
    storage: &mut impl Storage,
    superblock: &Superblock,
    layout: &Layout,
    mut full_sync: Option<FullSyncCause>,
    accept_unusable_log: bool,
) -> Result<Recovered, MetaError> {
    let mut words = bitmap::load(storage, layout, layout.usable_sectors)?;
    let Replayed { hot, invalid_blocks, valid_blocks, used_blocks } =
        activity_log::replay(storage, layout)?;
    let was_primary = superblock.record.flags.contains(Flags::PRIMARY_IND);
    let mut applied_extents = 0;
    let mut marked_bits = 0;
    let mut pages = Vec::new();
    // What an applied log still holds is old, and a Secondary writes nothing on its own account.
    if was_primary && !superblock.log_is_applied() {
        if valid_blocks == 0 && !accept_unusable_log {
            return Err(MetaError::LogUnusable {
                offset: layout.log_offset_bytes,
                blocks: layout.log.blocks(),
            });
        }
        if invalid_blocks > TOLERATED_INVALID_BLOCKS {
            full_sync = full_sync.or(Some(FullSyncCause::LogDamaged { invalid_blocks }));
        }
        for extent in hot {
            if let Some(marked) = bitmap::mark_extent(&mut words, extent) {
                applied_extents += 1;
                marked_bits += marked;
                pages.push(bitmap::page_of_extent(extent) as usize);
            }
        }
        pages.dedup();
    }
    if full_sync.is_some() {
        let before = bitmap::count_bits(&words);
        bitmap::set_first(&mut words, device_bits(superblock, layout));
        marked_bits += bitmap::count_bits(&words) - before;
        pages = (0..words.len() / bitmap::PAGE_WORDS).collect();
    }
    if !pages.is_empty() {
        for index in pages {
            bitmap::store_page(storage, layout, &words, index)?;
        }
        storage.sync().map_err(MetaError::Sync)?;
    }
    Ok(Recovered { words, applied_extents, marked_bits, full_sync, used_blocks })
}
