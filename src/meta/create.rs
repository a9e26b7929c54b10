//! New metadata (create-md): an empty bitmap, an empty log, current UUID 4.

use super::PAGE_BYTES;
use super::activity_log::encode_initialised;
use super::error::MetaError;
use super::existing::find_obstacle;
use super::flags::Flags;
use super::layout::{Layout, LogShape, Placement};
use super::open::store_superblock;
use super::storage::Storage;
use super::superblock::{JUST_CREATED, Magic, Record, Superblock};

/// Slots that tools write; the first attach puts its own number there.
const INITIAL_LOG_SLOTS: u32 = 257;
/// Bytes of zeroes written at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What the caller decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    pub log: LogShape,
    /// Overrule an obstacle that is only a guess, and metadata that is there already.
    pub force: bool,
    pub peer_max_bio_bytes: u32,
    /// Lets tools recognise metadata that moved; 0 or random.
    pub device_uuid: u64,
}

/// Writes new metadata for a disk of `data_bytes`; `storage` is the device that will hold it.
/// Whatever metadata was there is gone, its generations included: the disk gets everything anew.
pub fn create(
    data_bytes: u64,
    storage: &mut impl Storage,
    placement: Placement,
    options: &CreateOptions,
) -> Result<Superblock, MetaError> {
    let layout = Layout::for_new(placement, data_bytes, storage.size(), options.log)?;
    if let Some(obstacle) = find_obstacle(storage, &layout)?
        && !(options.force && obstacle.overridable)
    {
        return Err(MetaError::Obstructed(Box::new(obstacle)));
    }
    // First the old superblock: else a crash leaves it beside a bitmap that forgot its bits.
    write_zeroes(storage, layout.superblock_offset_bytes, PAGE_BYTES as u64)?;
    storage.sync().map_err(MetaError::Sync)?;

    write_zeroes(storage, layout.bitmap_offset_bytes, bitmap_bytes_in_use(&layout))?;
    for block in 0..layout.log.blocks() {
        let offset = layout.log_offset_bytes + block * PAGE_BYTES as u64;
        write(storage, offset, &encode_initialised()[..])?;
    }
    storage.sync().map_err(MetaError::Sync)?;

    let superblock = Superblock {
        record: Record {
            current: JUST_CREATED,
            flags: Flags::AL_CLEAN,
            peer_max_bio_bytes: options.peer_max_bio_bytes,
            ..Record::default()
        },
        device_uuid: options.device_uuid,
        magic: Magic::Clean,
        metadata_sectors: layout.metadata_sectors,
        log_offset_sectors: layout.log_offset_sectors(),
        log_slots: INITIAL_LOG_SLOTS,
        bitmap_offset_sectors: layout.bitmap_offset_sectors(),
        log: options.log,
    };
    store_superblock(storage, &layout, &superblock)?;
    Ok(superblock)
}

/// Pages that the data needs: on a metadata device that is much too large the rest stays alone.
fn bitmap_bytes_in_use(layout: &Layout) -> u64 {
    let bits = super::bitmap::device_bits(layout.usable_sectors);
    (bits.div_ceil(super::PAGE_BITS) * PAGE_BYTES as u64).min(layout.bitmap_bytes)
}

fn write_zeroes(storage: &mut impl Storage, offset: u64, length: u64) -> Result<(), MetaError> {
    let zeroes = vec![0; CHUNK_BYTES.min(length) as usize];
    let mut done = 0;
    while done < length {
        let part = CHUNK_BYTES.min(length - done);
        write(storage, offset + done, &zeroes[..part as usize])?;
        done += part;
    }
    Ok(())
}

fn write(storage: &mut impl Storage, offset: u64, bytes: &[u8]) -> Result<(), MetaError> {
    storage.write_at(offset, bytes).map_err(|source| MetaError::Io {
        action: "write new metadata",
        offset,
        source,
    })
}
