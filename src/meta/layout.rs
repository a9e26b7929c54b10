//! Where on the device each part lies (metadata.md 1).

use super::PAGE_BYTES;
use super::error::MetaError;
use super::superblock::Superblock;

const SECTOR_BYTES: u64 = 512;
const PAGE: u64 = PAGE_BYTES as u64;
/// Data that one 4 KiB bitmap page covers.
const PAGE_COVERS_BYTES: u64 = 128 << 20;
/// Sectors of data that one sector of bitmap covers (16 MiB).
const BITMAP_SECTOR_COVERS_SECTORS: u64 = 32768;
/// An indexed slot is 128 MiB long.
const INDEXED_SLOT_BYTES: u64 = 128 << 20;
/// Least metadata device (metadata.md 1.2).
const LEAST_EXTERNAL_BYTES: u64 = 1 << 20;
/// Least internal device that drbdmeta accepts.
const LEAST_INTERNAL_BYTES: u64 = 68 << 10;
/// Limits of the activity log's size in 4 KiB blocks: 32 KiB .. 16 GiB, as the kernel has them.
const LOG_BLOCKS: std::ops::RangeInclusive<u64> = 8..=(16 << 30) / PAGE;
/// Largest data device: 1 PiB (behaviour.md 2); bounds the bitmap in memory to 32 GiB.
const LARGEST_DATA_BYTES: u64 = 1 << 50;

/// Which of the three places the metadata has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At the end of the data device.
    Internal,
    /// A device of its own.
    FlexibleExternal,
    /// Slot N, 128 MiB each, of a shared device.
    Indexed(u32),
}

/// Size and striping of the activity log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogShape {
    /// `al_stripes`.
    pub stripes: u32,
    /// `al_stripe_size_4k`: blocks of 4 KiB per stripe.
    pub stripe_blocks: u32,
}

impl Default for LogShape {
    /// 32 KiB in one piece.
    fn default() -> Self {
        Self { stripes: 1, stripe_blocks: 8 }
    }
}

impl LogShape {
    /// Refuses a ring that is empty, too short or absurd; `offset` is for the error text.
    pub(super) fn checked(self, offset: u64) -> Result<Self, MetaError> {
        if LOG_BLOCKS.contains(&self.blocks()) {
            return Ok(self);
        }
        Err(MetaError::Field {
            offset,
            field: "al-stripes x al-stripe-size-4k",
            expected: format!("{} to {} blocks", LOG_BLOCKS.start(), LOG_BLOCKS.end()),
            found: self.blocks() as i64,
        })
    }

    /// Blocks of the ring.
    pub const fn blocks(self) -> u64 {
        self.stripes as u64 * self.stripe_blocks as u64
    }

    /// The block that holds transaction `number` (metadata.md 4.2): consecutive transactions go to
    /// different stripes.
    pub const fn block_of(self, number: u32) -> u64 {
        let position = number as u64 % self.blocks();
        position % self.stripes as u64 * self.stripe_blocks as u64 + position / self.stripes as u64
    }
}

/// Absolute places and sizes in bytes, checked against the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub placement: Placement,
    pub superblock_offset_bytes: u64,
    pub log_offset_bytes: u64,
    pub log: LogShape,
    pub bitmap_offset_bytes: u64,
    /// Room for the bitmap, in whole pages.
    pub bitmap_bytes: u64,
    /// `md_size_sect`.
    pub metadata_sectors: u32,
    /// Sectors of data that the disk can offer.
    pub usable_sectors: u64,
}

impl Layout {
    /// The layout that new metadata gets. With `Placement::Internal` the two devices are one.
    pub fn for_new(
        placement: Placement,
        data_bytes: u64,
        metadata_bytes: u64,
        log: LogShape,
    ) -> Result<Self, MetaError> {
        if data_bytes > LARGEST_DATA_BYTES {
            return Err(MetaError::TooLarge {
                what: "data device",
                found_bytes: data_bytes,
                most_bytes: LARGEST_DATA_BYTES,
            });
        }
        let log = log.checked(Self::superblock_offset(placement, metadata_bytes)?)?;
        match placement {
            Placement::Internal => Self::internal(data_bytes, log),
            Placement::FlexibleExternal => Self::flexible(data_bytes, metadata_bytes, log),
            Placement::Indexed(index) => Self::indexed(index, data_bytes, metadata_bytes, log),
        }
    }

    /// The layout that existing metadata must have, each field checked (metadata.md 6.3).
    pub fn from_superblock(
        superblock: &Superblock,
        placement: Placement,
        data_bytes: u64,
        metadata_bytes: u64,
    ) -> Result<Self, MetaError> {
        let mut layout = Self::for_new(placement, data_bytes, metadata_bytes, superblock.log)?;
        let offset = layout.superblock_offset_bytes;
        let check = |field, expected: i64, found: i64| {
            if expected == found {
                return Ok(());
            }
            Err(MetaError::Field { offset, field, expected: expected.to_string(), found })
        };
        let log_sectors = superblock.log_offset_sectors.into();
        check("al_offset", layout.log_offset_sectors().into(), log_sectors)?;
        let bitmap_sectors = superblock.bitmap_offset_sectors.into();
        check("bm_offset", layout.bitmap_offset_sectors().into(), bitmap_sectors)?;
        let found = superblock.metadata_sectors;
        if placement != Placement::FlexibleExternal {
            check("md_size_sect", layout.metadata_sectors.into(), found.into())?;
        } else if found > layout.metadata_sectors {
            // A device that grew is fine: what was agreed before still fits.
            return Err(MetaError::Field {
                offset,
                field: "md_size_sect",
                expected: format!("at most {}", layout.metadata_sectors),
                found: found.into(),
            });
        } else {
            layout.metadata_sectors = found;
            layout.limit_flexible(data_bytes)?;
        }
        Ok(layout)
    }

    /// Where the superblock is, without knowing anything else.
    pub fn superblock_offset(placement: Placement, metadata_bytes: u64) -> Result<u64, MetaError> {
        match placement {
            Placement::Internal => {
                at_least("device with internal metadata", metadata_bytes, LEAST_INTERNAL_BYTES)?;
                Ok(metadata_bytes / PAGE * PAGE - PAGE)
            }
            Placement::FlexibleExternal => {
                at_least("metadata device", metadata_bytes, LEAST_EXTERNAL_BYTES)?;
                Ok(0)
            }
            Placement::Indexed(index) => {
                let start = u64::from(index) * INDEXED_SLOT_BYTES;
                at_least("indexed metadata device", metadata_bytes, start + INDEXED_SLOT_BYTES)?;
                Ok(start)
            }
        }
    }

    /// `al_offset`: relative to the superblock.
    pub fn log_offset_sectors(&self) -> i32 {
        self.relative_sectors(self.log_offset_bytes)
    }

    /// `bm_offset`: relative to the superblock.
    pub fn bitmap_offset_sectors(&self) -> i32 {
        self.relative_sectors(self.bitmap_offset_bytes)
    }

    fn relative_sectors(&self, place: u64) -> i32 {
        // At most 1 PiB / 128 MiB pages of bitmap and 16 GiB of log: 2^27 sectors.
        ((place as i64 - self.superblock_offset_bytes as i64) / SECTOR_BYTES as i64) as i32
    }

    fn internal(device_bytes: u64, log: LogShape) -> Result<Self, MetaError> {
        let superblock = Self::superblock_offset(Placement::Internal, device_bytes)?;
        let bitmap_bytes = device_bytes.div_ceil(PAGE_COVERS_BYTES) * PAGE;
        let before = bitmap_bytes + log.blocks() * PAGE;
        // One block of data at least.
        at_least("device with internal metadata", device_bytes, before + 2 * PAGE)?;
        let start = superblock - before;
        Ok(Self {
            placement: Placement::Internal,
            superblock_offset_bytes: superblock,
            log_offset_bytes: superblock - log.blocks() * PAGE,
            log,
            bitmap_offset_bytes: start,
            bitmap_bytes,
            metadata_sectors: ((before + PAGE) / SECTOR_BYTES) as u32,
            usable_sectors: start / SECTOR_BYTES,
        })
    }

    fn flexible(data_bytes: u64, device_bytes: u64, log: LogShape) -> Result<Self, MetaError> {
        let superblock = Self::superblock_offset(Placement::FlexibleExternal, device_bytes)?;
        let mut layout = Self {
            placement: Placement::FlexibleExternal,
            superblock_offset_bytes: superblock,
            log_offset_bytes: PAGE,
            log,
            bitmap_offset_bytes: PAGE + log.blocks() * PAGE,
            bitmap_bytes: 0,
            metadata_sectors: u32::try_from(device_bytes / SECTOR_BYTES).unwrap_or(u32::MAX),
            usable_sectors: 0,
        };
        layout.limit_flexible(data_bytes)?;
        Ok(layout)
    }

    /// The bitmap goes on to the end of the metadata; what it covers limits the data. A short last
    /// page is not used, so that every write is a whole page.
    fn limit_flexible(&mut self, data_bytes: u64) -> Result<(), MetaError> {
        let end = u64::from(self.metadata_sectors) * SECTOR_BYTES;
        at_least("metadata device", end, self.bitmap_offset_bytes + PAGE)?;
        self.bitmap_bytes = (end - self.bitmap_offset_bytes) / PAGE * PAGE;
        self.usable_sectors = self.covered(data_bytes)?;
        Ok(())
    }

    fn indexed(
        index: u32,
        data_bytes: u64,
        device_bytes: u64,
        log: LogShape,
    ) -> Result<Self, MetaError> {
        let superblock = Self::superblock_offset(Placement::Indexed(index), device_bytes)?;
        if log.blocks() != LogShape::default().blocks() {
            return Err(MetaError::Field {
                offset: superblock,
                field: "al-stripes x al-stripe-size-4k",
                expected: "8 blocks with indexed metadata".into(),
                found: log.blocks() as i64,
            });
        }
        let bitmap_offset_bytes = superblock + PAGE + log.blocks() * PAGE;
        let mut layout = Self {
            placement: Placement::Indexed(index),
            superblock_offset_bytes: superblock,
            log_offset_bytes: superblock + PAGE,
            log,
            bitmap_offset_bytes,
            bitmap_bytes: superblock + INDEXED_SLOT_BYTES - bitmap_offset_bytes,
            metadata_sectors: (INDEXED_SLOT_BYTES / SECTOR_BYTES) as u32,
            usable_sectors: 0,
        };
        layout.usable_sectors = layout.covered(data_bytes)?;
        Ok(layout)
    }

    fn covered(&self, data_bytes: u64) -> Result<u64, MetaError> {
        at_least("data device", data_bytes, PAGE)?;
        let capacity = self.bitmap_bytes / SECTOR_BYTES * BITMAP_SECTOR_COVERS_SECTORS;
        Ok(capacity.min(data_bytes / SECTOR_BYTES))
    }
}

fn at_least(what: &'static str, found_bytes: u64, needed_bytes: u64) -> Result<(), MetaError> {
    if found_bytes < needed_bytes {
        return Err(MetaError::TooSmall { what, found_bytes, needed_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internal(bytes: u64, log: LogShape) -> (u32, i32, i32, u64, u64) {
        let layout = Layout::for_new(Placement::Internal, bytes, bytes, log).expect("large enough");
        (
            layout.metadata_sectors,
            layout.log_offset_sectors(),
            layout.bitmap_offset_sectors(),
            layout.superblock_offset_bytes,
            layout.usable_sectors,
        )
    }

    /// The table of metadata.md 1.1.
    #[test]
    fn internal_layouts_are_as_documented() {
        let plain = LogShape::default();
        assert_eq!(internal(8 << 20, plain), (80, -64, -72, 8_384_512, 16304));
        assert_eq!(internal(64 << 20, plain), (80, -64, -72, 67_104_768, 130_992));
        assert_eq!(internal(2 << 30, plain), (200, -64, -192, 2_147_479_552, 4_194_104));
        let odd = 2_103_516 << 10;
        assert_eq!(internal(odd, plain), (208, -64, -200, 2_153_996_288, 4_206_824));
        let tera = (65608, -64, -65600, 1_099_511_623_680, 2_147_418_040);
        assert_eq!(internal(1 << 40, plain), tera);
        let striped = LogShape { stripes: 4, stripe_blocks: 8 };
        assert_eq!(internal(64 << 20, striped), (272, -256, -264, 67_104_768, 130_800));
        assert_eq!(internal((64 << 20) + 1536, plain).3, 67_104_768, "the tail is not used");
    }

    #[test]
    fn external_metadata_limits_the_data() {
        let log = LogShape::default();
        let new = |placement, data, meta| Layout::for_new(placement, data, meta, log);
        let layout = new(Placement::FlexibleExternal, 1 << 40, 1 << 20).expect("valid");
        assert_eq!((layout.log_offset_sectors(), layout.bitmap_offset_sectors()), (8, 72));
        assert_eq!(layout.usable_sectors, (2048 - 72) * 32768);
        let layout = new(Placement::Indexed(1), 8 << 40, 256 << 20).expect("valid");
        assert_eq!(layout.superblock_offset_bytes, 128 << 20);
        assert_eq!(layout.usable_sectors, (262_144 - 72) * 32768);
        assert!(new(Placement::Indexed(2), 1 << 30, 256 << 20).is_err(), "needs 384 MiB");
        assert!(new(Placement::FlexibleExternal, 1 << 30, (1 << 20) - 512).is_err());
        assert!(new(Placement::Indexed(u32::MAX), 1 << 30, u64::MAX).is_ok(), "no overflow");
    }

    #[test]
    fn a_log_without_blocks_is_refused() {
        for (stripes, stripe_blocks) in [(0, 8), (1, 7), (u32::MAX, u32::MAX)] {
            let log = LogShape { stripes, stripe_blocks };
            let error = Layout::for_new(Placement::Internal, 1 << 30, 1 << 30, log);
            assert!(matches!(error, Err(MetaError::Field { .. })), "{log:?}");
        }
    }

    #[test]
    fn consecutive_transactions_go_to_different_stripes() {
        let log = LogShape { stripes: 4, stripe_blocks: 8 };
        let blocks: Vec<u64> = (0..5).map(|number| log.block_of(number)).collect();
        assert_eq!(blocks, [0, 8, 16, 24, 1]);
        assert_eq!(LogShape::default().block_of(13), 5);
    }
}
