//! The distances of a DRBD device: 512-byte sectors, 4 KiB blocks (one bitmap bit each), 4 MiB
//! activity log extents. Newtypes, so that none is taken for another.

use std::ops::Range;

/// Bytes of a sector, the unit of every address on the wire.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes that one bit of the bitmap stands for.
pub const BLOCK_BYTES: u64 = 4096;
/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;
/// Bytes of an activity log extent (4 MiB).
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Sectors of an activity log extent.
pub const EXTENT_SECTORS: u64 = EXTENT_BYTES / SECTOR_BYTES;
/// Blocks, and so bitmap bits, of an activity log extent.
pub const EXTENT_BLOCKS: u64 = EXTENT_BYTES / BLOCK_BYTES;

/// Address of a 512-byte sector, from the start of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// Number of a 4 KiB block: one bit of the bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u64);

/// Number of a 4 MiB activity log extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent(pub u32);

/// A run of sectors, at most 2 TiB long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorRange {
    pub start: Sector,
    /// Length in sectors.
    pub count: u32,
}

impl SectorRange {
    pub const fn new(start: u64, count: u32) -> Self {
        Self { start: Sector(start), count }
    }

    /// The range of `length` bytes at byte `offset`; `None` unless both are multiples of 512 and
    /// the length fits.
    pub fn from_bytes(offset: u64, length: u64) -> Option<Self> {
        if !offset.is_multiple_of(SECTOR_BYTES) || !length.is_multiple_of(SECTOR_BYTES) {
            return None;
        }
        let count = u32::try_from(length / SECTOR_BYTES).ok()?;
        Some(Self { start: Sector(offset / SECTOR_BYTES), count })
    }

    /// First sector after the range; saturates, so that a hostile address stays out of range.
    pub const fn end(&self) -> Sector {
        Sector(self.start.0.saturating_add(self.count as u64))
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.count as u64 * SECTOR_BYTES
    }

    /// Byte offset of the first sector.
    pub const fn offset_bytes(&self) -> u64 {
        self.start.0.saturating_mul(SECTOR_BYTES)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    pub fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Every block that the range touches: what becomes out of sync when it is lost.
    pub fn blocks_touched(&self) -> Range<u64> {
        if self.is_empty() {
            return 0..0;
        }
        self.start.0 / BLOCK_SECTORS..self.end().0.div_ceil(BLOCK_SECTORS)
    }

    /// The blocks that lie wholly inside: what may be called in sync once it is written. A short
    /// last block of a device of `device_sectors` counts as whole when the range reaches the end.
    pub fn blocks_covered(&self, device_sectors: u64) -> Range<u64> {
        let first = self.start.0.div_ceil(BLOCK_SECTORS);
        let end = self.end().0;
        let last =
            if end >= device_sectors { end.div_ceil(BLOCK_SECTORS) } else { end / BLOCK_SECTORS };
        if first < last { first..last } else { 0..0 }
    }

    /// The activity log extents that the range touches.
    pub fn extents(&self) -> Range<u32> {
        if self.is_empty() {
            return 0..0;
        }
        let first = self.start.0 / EXTENT_SECTORS;
        let last = self.end().0.div_ceil(EXTENT_SECTORS);
        first.min(u64::from(u32::MAX)) as u32..last.min(u64::from(u32::MAX)) as u32
    }

    /// The sectors of blocks `blocks`, cut off at the end of a device of `device_sectors`.
    pub fn of_blocks(blocks: Range<u64>, device_sectors: u64) -> Self {
        let start = blocks.start * BLOCK_SECTORS;
        let end = (blocks.end * BLOCK_SECTORS).min(device_sectors);
        Self::new(start, end.saturating_sub(start).min(u64::from(u32::MAX)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_touched_and_covered_differ_at_the_edges() {
        let range = SectorRange::new(4, 16);
        assert_eq!(range.blocks_touched(), 0..3);
        assert_eq!(range.blocks_covered(1000), 1..2);
        assert_eq!(SectorRange::new(0, 12).blocks_covered(12), 0..2, "short last block is whole");
        assert_eq!(SectorRange::new(0, 12).blocks_covered(13), 0..1);
        assert_eq!(SectorRange::new(5, 0).blocks_touched(), 0..0);
    }

    #[test]
    fn a_hostile_address_neither_wraps_nor_panics() {
        let range = SectorRange::new(u64::MAX - 1, 8);
        assert_eq!(range.end(), Sector(u64::MAX));
        assert!(!range.is_empty());
    }
}
