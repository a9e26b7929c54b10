//! Commands on a disk that is not in use: what drbdmeta offers (metadata.md 5, 6.2).

use super::PAGE_BYTES;
use super::activity_log;
use super::error::MetaError;
use super::flags::Flags;
use super::layout::{Layout, Placement};
use super::open::{FullSyncCause, read, read_superblock_page, recover, store_superblock};
use super::storage::Storage;
use super::superblock::{Magic, Superblock};

/// The superblock and the layout, all checks passed. Works on metadata in use, too.
pub fn read_superblock(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
) -> Result<(Superblock, Layout), MetaError> {
    read(data_bytes, storage, placement)
}

/// What applying the log did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedLog {
    pub applied_extents: usize,
    /// Bits that were not set before; 4 KiB of data each.
    pub marked_bits: u64,
    pub full_sync: Option<FullSyncCause>,
}

/// apply-al: the log into the bitmap, the log empty, the metadata clean. Needed before a kernel
/// takes the disk over. `force` takes an unreadable log as "everything may have been written to".
pub fn apply_activity_log(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
    force: bool,
) -> Result<AppliedLog, MetaError> {
    let (mut superblock, layout) = read(data_bytes, storage, placement)?;
    if superblock.log_is_applied() {
        return Ok(AppliedLog::default());
    }
    // FULL_SYNC and AL_DISABLED stay, and are acted on by whoever attaches.
    let recovered = recover(storage, &superblock, &layout, None, force)?;
    activity_log::initialise(storage, &layout, &recovered.used_blocks)?;
    superblock.magic = Magic::Clean;
    superblock.record.flags = superblock.record.flags.with(Flags::AL_CLEAN, true);
    store_superblock(storage, &layout, &superblock)?;
    Ok(AppliedLog {
        applied_extents: recovered.applied_extents,
        marked_bits: recovered.marked_bits,
        full_sync: recovered.full_sync,
    })
}

/// outdate: the data is no longer the newest. An Inconsistent disk cannot be made Outdated.
pub fn outdate(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
) -> Result<(), MetaError> {
    change_flags(data_bytes, storage, placement, |flags| {
        if !flags.contains(Flags::CONSISTENT) {
            return Err(MetaError::Inconsistent(flags.0));
        }
        Ok(flags.with(Flags::WAS_UP_TO_DATE, false))
    })
}

/// invalidate: the data is worthless, the next attach sets all bits.
pub fn invalidate(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
) -> Result<(), MetaError> {
    change_flags(data_bytes, storage, placement, |flags| {
        let worthless = flags.with(Flags::CONSISTENT | Flags::WAS_UP_TO_DATE, false);
        Ok(worthless.with(Flags::FULL_SYNC, true))
    })
}

/// The magic stays as it is: a log that was not applied still has to be.
fn change_flags(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
    change: impl FnOnce(Flags) -> Result<Flags, MetaError>,
) -> Result<(), MetaError> {
    let (mut superblock, layout) = read(data_bytes, storage, placement)?;
    superblock.record.flags = change(superblock.record.flags)?;
    store_superblock(storage, &layout, &superblock)
}

/// wipe-md: zeroes the superblock, if there is one, and says whether there was.
pub fn wipe(storage: &mut impl Storage, placement: Placement) -> Result<bool, MetaError> {
    let offset = Layout::superblock_offset(placement, storage.size())?;
    let present = !matches!(
        Superblock::decode(&*read_superblock_page(storage, offset)?, offset),
        Err(MetaError::NoMagic { .. })
    );
    if present {
        storage.write_at(offset, &[0; PAGE_BYTES]).map_err(|source| MetaError::Io {
            action: "wipe the superblock",
            offset,
            source,
        })?;
        storage.sync().map_err(MetaError::Sync)?;
    }
    Ok(present)
}
