//! The data device, or the device of external metadata, became larger: the bitmap gets the room that
//! goes with it. External metadata grows in place. Internal metadata lies at the end of the device,
//! and moves to the new one:
//!
//! ```text
//!   | data ...           | bitmap | log | superblock | new space                             |
//!   | data ...                                            ... | bitmap | log | superblock |
//! ```
//!
//! The order, each step durable before the next, makes a crash in between harmless:
//!
//! 1. the bitmap as it is, and the log with every slot in force, at the new place;
//! 2. the superblock there: from now on either place is complete, and both say the same;
//! 3. the old superblock zeroed: only the new place is left.
//!
//! Who opens such a disk looks first where the metadata was when it was last used ([`find_internal`])
//! and then at the end. Nothing writes metadata while it moves, and nothing may be written to the
//! space of the old one before step 3 is done.

use super::PAGE_BYTES;
use super::error::MetaError;
use super::flags::Flags;
use super::layout::{Layout, Placement};
use super::open::{read, read_superblock_page, store_superblock};
use super::storage::Storage;
use super::superblock::Superblock;
use super::writer::MetadataWriter;

/// Bytes of the bitmap copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// The first `size` bytes of a device: metadata at the end that it once had.
#[derive(Debug)]
pub struct Clipped<S> {
    storage: S,
    size: u64,
}

impl<S: Storage> Clipped<S> {
    pub const fn new(storage: S, size: u64) -> Self {
        Self { storage, size }
    }

    /// All of the device again.
    pub fn unclip(&mut self) {
        self.size = self.storage.size();
    }
}

impl<S: Storage> Storage for Clipped<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        self.storage.read_at(offset, bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.storage.write_at(offset, bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.storage.sync()
    }
}

/// Bytes of a device with internal metadata that are to be used: all of them, unless the metadata
/// still lies at the end of the `remembered` first ones. That place counts first: at the end of a
/// device that grew may lie the metadata of another time.
pub fn find_internal(storage: &mut impl Storage, remembered: Option<u64>) -> u64 {
    let size = storage.size();
    let Some(remembered) = remembered.filter(|&remembered| remembered < size) else { return size };
    let at_old_end =
        read(remembered, &mut Clipped::new(storage, remembered), Placement::Internal).is_ok();
    if at_old_end { remembered } else { size }
}

/// A device is used as far as `used_bytes`: whatever looks like metadata at its present end is of
/// another time, or of a move that was interrupted, and must not be found later.
pub fn wipe_stale_end(storage: &mut impl Storage, used_bytes: u64) -> Result<(), MetaError> {
    let offset = Layout::superblock_offset(Placement::Internal, storage.size())?;
    if offset < used_bytes {
        return Ok(());
    }
    let found = Superblock::decode(&*read_superblock_page(storage, offset)?, offset);
    if matches!(found, Err(MetaError::NoMagic { .. })) {
        return Ok(());
    }
    wipe(storage, offset)
}

/// Makes room for a data device of `data_bytes`, of which `wanted_sectors` are to be used (0: all);
/// `storage` has the metadata device's present size. Of what `writer` handed out, everything must be
/// durable; it is of no use any more when this succeeds. A failure other than `Io` and `Sync` has
/// changed nothing.
pub fn grow(
    storage: &mut impl Storage,
    writer: &MetadataWriter,
    data_bytes: u64,
    wanted_sectors: u64,
) -> Result<MetadataWriter, MetaError> {
    let old = *writer.layout();
    let new = Layout::for_new(old.placement, data_bytes, storage.size(), old.log)?;
    let agreed_sectors = writer.current_record().agreed_sectors;
    if new.usable_sectors < agreed_sectors || new.usable_sectors < old.usable_sectors {
        let agreed_sectors = agreed_sectors.max(old.usable_sectors);
        return Err(MetaError::Shrunk { agreed_sectors, usable_sectors: new.usable_sectors });
    }
    let mut moved = writer.clone();
    moved.relocate(new);
    if old.placement == Placement::Internal {
        if new.superblock_offset_bytes != old.superblock_offset_bytes {
            move_internal(storage, &old, &new, &mut moved)?;
        }
        return Ok(moved);
    }
    let wanted = match wanted_sectors {
        0 => data_bytes / 512,
        wanted => wanted,
    };
    if new.usable_sectors < wanted {
        return Err(no_room(&new, wanted));
    }
    if new.metadata_sectors != old.metadata_sectors {
        store_superblock(storage, &new, moved.superblock())?;
    }
    Ok(moved)
}

fn no_room(layout: &Layout, wanted_sectors: u64) -> MetaError {
    let bits = super::bitmap::device_bits(wanted_sectors);
    let bitmap_bytes = bits.div_ceil(super::PAGE_BITS) * PAGE_BYTES as u64;
    match layout.placement {
        Placement::Indexed(_) => MetaError::TooLarge {
            what: "data device of indexed metadata",
            found_bytes: wanted_sectors * 512,
            most_bytes: layout.usable_sectors * 512,
        },
        Placement::Internal | Placement::FlexibleExternal => MetaError::TooSmall {
            what: "metadata device",
            found_bytes: u64::from(layout.metadata_sectors) * 512,
            needed_bytes: layout.bitmap_offset_bytes + bitmap_bytes,
        },
    }
}

fn move_internal(
    storage: &mut impl Storage,
    old: &Layout,
    new: &Layout,
    moved: &mut MetadataWriter,
) -> Result<(), MetaError> {
    let old_end = old.superblock_offset_bytes + PAGE_BYTES as u64;
    if new.bitmap_offset_bytes < old_end {
        // A page more, since a larger device may need one more of bitmap.
        let needed = old_end + u64::from(new.metadata_sectors) * 512 + PAGE_BYTES as u64;
        return Err(MetaError::TooSmall {
            what: "device that grew by less than its metadata is long",
            found_bytes: storage.size(),
            needed_bytes: needed,
        });
    }
    copy_bitmap(storage, old, new)?;
    for _ in 0..new.log.blocks() {
        let block = moved.activity_log(&[]);
        write(storage, block.offset_bytes, &block.bytes[..])?;
    }
    storage.sync().map_err(MetaError::Sync)?;
    store_superblock(storage, new, moved.superblock())?;
    wipe(storage, old.superblock_offset_bytes)
}

/// What is new of the bitmap is clear: bits beyond the agreed size are not believed anyway.
fn copy_bitmap(storage: &mut impl Storage, old: &Layout, new: &Layout) -> Result<(), MetaError> {
    let mut chunk = vec![0; CHUNK_BYTES.min(new.bitmap_bytes) as usize];
    let mut done = 0;
    while done < new.bitmap_bytes {
        let limit = if done < old.bitmap_bytes { old.bitmap_bytes } else { new.bitmap_bytes };
        let part = &mut chunk[..CHUNK_BYTES.min(limit - done) as usize];
        if done < old.bitmap_bytes {
            let offset = old.bitmap_offset_bytes + done;
            storage.read_at(offset, part).map_err(|source| MetaError::Io {
                action: "read the bitmap",
                offset,
                source,
            })?;
        } else {
            part.fill(0);
        }
        write(storage, new.bitmap_offset_bytes + done, part)?;
        done += part.len() as u64;
    }
    Ok(())
}

fn wipe(storage: &mut impl Storage, offset: u64) -> Result<(), MetaError> {
    write(storage, offset, &[0; PAGE_BYTES])?;
    storage.sync().map_err(MetaError::Sync)
}

fn write(storage: &mut impl Storage, offset: u64, bytes: &[u8]) -> Result<(), MetaError> {
    storage.write_at(offset, bytes).map_err(|source| MetaError::Io {
        action: "move the metadata",
        offset,
        source,
    })
}

impl MetadataWriter {
    /// Everything that is written from now on goes there.
    fn relocate(&mut self, layout: Layout) {
        let superblock = self.superblock_mut();
        superblock.metadata_sectors = layout.metadata_sectors;
        superblock.log_offset_sectors = layout.log_offset_sectors();
        superblock.bitmap_offset_sectors = layout.bitmap_offset_sectors();
        superblock.record.flags = superblock.record.flags.with(Flags::AL_CLEAN, false);
        self.set_layout(layout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{CreateOptions, LogShape, MemoryStorage, OpenOptions, create, open};

    fn opened(placement: Placement, data: u64, meta: u64) -> (MemoryStorage, MetadataWriter) {
        let mut disk = MemoryStorage::new(meta);
        create(data, &mut disk, placement, &CreateOptions::default()).expect("blank");
        let opened =
            open(data, &mut disk, placement, &OpenOptions::default()).expect("just created");
        (disk, opened.writer)
    }

    #[test]
    fn external_metadata_says_how_much_room_is_missing() {
        let (mut disk, writer) = opened(Placement::FlexibleExternal, 1 << 30, 1 << 20);
        let most = (2048 - 72) * 32768 * 512;
        let grown = grow(&mut disk, &writer, 2 << 30, 0).expect("there is room");
        assert_eq!(grown.layout().usable_sectors, (2 << 30) / 512);
        let error = grow(&mut disk, &writer, 64 << 30, 0).expect_err("no room").to_string();
        let needed = 4096 + 32768 + (64u64 << 30) / (128 << 20) * 4096;
        assert!(error.contains(&format!("at least {needed}")), "{error}");
        let part = grow(&mut disk, &writer, 64 << 30, most / 512).expect("room for this much");
        assert_eq!(part.layout().usable_sectors, most / 512);
        disk.resize(needed);
        let grown = grow(&mut disk, &writer, 64 << 30, 0).expect("as much as it said");
        let reopened =
            open(64 << 30, &mut disk, Placement::FlexibleExternal, &OpenOptions::default());
        let layout = reopened.expect("opens").layout;
        assert_eq!((layout, layout.usable_sectors), (*grown.layout(), (64 << 30) / 512));
    }

    #[test]
    fn internal_metadata_needs_a_place_beside_the_old_one() {
        let (mut disk, writer) = opened(Placement::Internal, 64 << 20, 64 << 20);
        disk.resize((64 << 20) + 8192);
        let error =
            grow(&mut disk, &writer, (64 << 20) + 8192, 0).expect_err("overlaps").to_string();
        assert!(error.contains("grew by less than its metadata"), "{error}");
        let size = (64 << 20) + (48 << 10);
        disk.resize(size);
        let grown = grow(&mut disk, &writer, size, 0).expect("beside it");
        assert_eq!(grown.layout().usable_sectors, ((64 << 20) + 8192) / 512);
        let error = grow(&mut disk, &grown, 64 << 20, 0).expect_err("smaller").to_string();
        assert!(error.contains("agreed size"), "{error}");
    }

    /// A device that shrank and grew again may have metadata of another time at its end.
    #[test]
    fn the_remembered_place_counts_first() {
        let (mut disk, _) = opened(Placement::Internal, 64 << 20, 64 << 20);
        disk.resize(128 << 20);
        create(128 << 20, &mut disk, Placement::Internal, &CreateOptions::default()).expect("new");
        assert_eq!(find_internal(&mut disk, Some(64 << 20)), 64 << 20);
        assert_eq!(find_internal(&mut disk, Some(32 << 20)), 128 << 20, "nothing there");
        assert_eq!(find_internal(&mut disk, Some(256 << 20)), 128 << 20, "beyond the end");
        assert_eq!(find_internal(&mut disk, None), 128 << 20);
        wipe_stale_end(&mut disk, 64 << 20).expect("in memory");
        assert!(read(128 << 20, &mut disk, Placement::Internal).is_err());
        assert!(
            read(64 << 20, &mut Clipped::new(&mut disk, 64 << 20), Placement::Internal).is_ok()
        );
    }

    #[test]
    fn a_log_of_any_shape_moves_with_all_its_slots() {
        let log = LogShape { stripes: 4, stripe_blocks: 8 };
        let mut disk = MemoryStorage::new(64 << 20);
        let options = CreateOptions { log, ..CreateOptions::default() };
        create(64 << 20, &mut disk, Placement::Internal, &options).expect("blank");
        let options = OpenOptions { log_slots: 6433, ..OpenOptions::default() };
        let mut writer =
            open(64 << 20, &mut disk, Placement::Internal, &options).expect("created").writer;
        let hot = [(0, 3), (1000, 5), (6432, 9)];
        let update = writer.activity_log(&hot);
        write(&mut disk, update.offset_bytes, &update.bytes[..]).expect("in memory");
        disk.resize(256 << 20);
        let grown = grow(&mut disk, &writer, 256 << 20, 0).expect("grows");
        let mut found =
            crate::meta::activity_log::replay(&mut disk, grown.layout()).expect("log").hot;
        found.sort_unstable();
        assert_eq!(found, [3, 5, 9]);
    }
}
