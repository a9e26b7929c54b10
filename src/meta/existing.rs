//! What stands in the way of new metadata: file systems, volumes, other metadata. Decided as
//! drbdmeta does (observed with drbd-utils 9.22): a recognised occupant that the metadata would
//! damage is refused for good, what is only a guess can be overruled.

use std::fmt;

use super::PAGE_BYTES;
use super::error::MetaError;
use super::layout::{Layout, Placement};
use super::open::read_superblock_page;
use super::storage::Storage;
use super::superblock::Superblock;

/// How much of the start of a device is looked at: what drbdmeta examines.
const EXAMINED_BYTES: u64 = 68 << 10;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExistingData {
    /// DRBD metadata in the very place, v08 or older.
    Metadata { offset_bytes: u64 },
    /// Something with a known signature; its size if it tells.
    Known { name: &'static str, used_bytes: Option<u64> },
    /// Bytes that are not zero.
    Unknown,
}

/// Why `create` refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub found: ExistingData,
    /// Bytes left for data if the metadata were internal; `None` when it is external.
    pub usable_bytes: Option<u64>,
    /// `force` overrules it.
    pub overridable: bool,
}

impl Obstacle {
    pub(super) fn hint(&self, resource: &str) -> String {
        if self.overridable {
            return format!("if it may be overwritten: `twinblk create-md --force {resource}`");
        }
        match self.usable_bytes {
            Some(usable) => format!(
                "shrink it below {usable} bytes, or use external metadata; if it may be lost: \
                 `wipefs -a` on the device, then `twinblk create-md {resource}`"
            ),
            None => format!(
                "choose another meta-disk; if it may be lost: `wipefs -a` on the device, then \
                 `twinblk create-md {resource}`"
            ),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            ExistingData::Metadata { offset_bytes } => {
                write!(f, "found DRBD metadata in place at byte {offset_bytes}")?;
            }
            ExistingData::Known { name, used_bytes: None } => write!(f, "found {name}")?,
            ExistingData::Known { name, used_bytes: Some(used) } => {
                write!(f, "found {name} of {used} bytes")?;
            }
            ExistingData::Unknown => f.write_str("found some data")?,
        }
        match self.usable_bytes {
            Some(usable) => write!(f, "; {usable} bytes would be left for data"),
            None => f.write_str("; the metadata would overwrite it"),
        }
    }
}

/// Looks for a reason not to put metadata there.
pub(super) fn find_obstacle(
    storage: &mut impl Storage,
    layout: &Layout,
) -> Result<Option<Obstacle>, MetaError> {
    let offset_bytes = layout.superblock_offset_bytes;
    let in_place = Superblock::decode(&*read_superblock_page(storage, offset_bytes)?, offset_bytes);
    let usable_bytes =
        (layout.placement == Placement::Internal).then_some(layout.bitmap_offset_bytes);
    // A field that does not fit still tells that the magic is there.
    if !matches!(in_place, Err(MetaError::NoMagic { .. })) {
        let found = ExistingData::Metadata { offset_bytes };
        return Ok(Some(Obstacle { found, usable_bytes, overridable: true }));
    }
    let start = read_start(storage, 0)?;
    if let Some((name, used_bytes)) = recognise(&start) {
        let fits = used_bytes.zip(usable_bytes).is_some_and(|(used, usable)| used <= usable);
        let found = ExistingData::Known { name, used_bytes };
        return Ok(Some(Obstacle { found, usable_bytes, overridable: fits }));
    }
    // Slots of an indexed device are independent: only this one counts.
    let own = match layout.placement {
        Placement::Indexed(_) => read_start(storage, layout.superblock_offset_bytes)?,
        Placement::Internal | Placement::FlexibleExternal => start,
    };
    let used = own.iter().any(|&byte| byte != 0);
    Ok(used.then_some(Obstacle { found: ExistingData::Unknown, usable_bytes, overridable: true }))
}

fn read_start(storage: &mut impl Storage, offset: u64) -> Result<Vec<u8>, MetaError> {
    let length =
        EXAMINED_BYTES.min(storage.size() - offset) / PAGE_BYTES as u64 * PAGE_BYTES as u64;
    let mut bytes = vec![0; length as usize];
    storage.read_at(offset, &mut bytes).map_err(|source| MetaError::Io {
        action: "look for existing data",
        offset,
        source,
    })?;
    Ok(bytes)
}

/// Name and size of what begins with `start`, by its signature.
fn recognise(start: &[u8]) -> Option<(&'static str, Option<u64>)> {
    let has = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    if has(0, b"XFSB") {
        let block = u32::from_be_bytes(array(start, 4)?);
        let blocks = u64::from_be_bytes(array(start, 8)?);
        return Some(("an xfs file system", Some(blocks.saturating_mul(block.into()))));
    }
    if has(1024 + 56, &[0x53, 0xEF]) {
        return Some(("an ext2/ext3/ext4 file system", ext_bytes(start)));
    }
    if has(PAGE_BYTES - 10, b"SWAPSPACE2") || has(PAGE_BYTES - 10, b"SWAP-SPACE") {
        return Some(("swap space", None));
    }
    if (0..4).any(|sector| has(sector * 512, b"LABELONE") && has(sector * 512 + 24, b"LVM2 001")) {
        return Some(("an LVM2 physical volume", None));
    }
    None
}

/// Size by the ext superblock at byte 1024: blocks at 4 (and 0x150 with the 64bit feature), logarithm
/// of the block size at 24.
fn ext_bytes(start: &[u8]) -> Option<u64> {
    const FEATURE_64BIT: u32 = 0x80;
    let field = |at: usize| Some(u32::from_le_bytes(array(start, 1024 + at)?));
    let high = if field(0x60)? & FEATURE_64BIT != 0 { field(0x150)? } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(field(4)?);
    let block = 1024u64.checked_shl(field(24)?)?;
    Some(blocks.saturating_mul(block))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::meta::{LogShape, MemoryStorage};

    const SIZE: u64 = 64 << 20;

    fn obstacle(placement: Placement, at: u64, bytes: &[u8]) -> Option<Obstacle> {
        let mut disk = MemoryStorage::new(SIZE);
        let start = at / 512 * 512;
        let mut sectors = vec![0; ((at - start) as usize + bytes.len()).next_multiple_of(512)];
        sectors[(at - start) as usize..][..bytes.len()].copy_from_slice(bytes);
        disk.preset(start, &sectors);
        let layout = Layout::for_new(placement, SIZE, SIZE, LogShape::default()).expect("fits");
        find_obstacle(&mut disk, &layout).expect("readable")
    }

    fn ext(blocks: u32) -> Vec<u8> {
        let mut superblock = vec![0; 1024];
        superblock[4..8].copy_from_slice(&blocks.to_le_bytes());
        superblock[24] = 2;
        superblock[56..58].copy_from_slice(&[0x53, 0xEF]);
        superblock
    }

    #[test]
    fn a_file_system_in_the_way_is_refused_for_good() {
        let found = obstacle(Placement::Internal, 1024, &ext(16384)).expect("64 MiB");
        assert!(!found.overridable);
        assert_eq!(
            found.to_string(),
            "found an ext2/ext3/ext4 file system of 67108864 bytes; 67067904 bytes would be left \
             for data"
        );
        assert!(found.hint("r0").contains("shrink it below 67067904 bytes"));
        assert!(obstacle(Placement::Internal, 1024, &ext(8192)).expect("32 MiB").overridable);
        let found = obstacle(Placement::FlexibleExternal, 1024, &ext(8192)).expect("found");
        assert!(!found.overridable, "the metadata would lie on it");
    }

    #[test]
    fn other_signatures_are_known() {
        let xfs = |blocks: u64| [&b"XFSB\0\0\x10\0"[..], &blocks.to_be_bytes()].concat();
        let lvm = [&b"LABELONE"[..], &[0; 16], b"LVM2 001"].concat();
        for (at, bytes, overridable) in [
            (0, xfs(16384), false),
            (0, xfs(8192), true),
            (4086, b"SWAPSPACE2".to_vec(), false),
            (512, lvm, false),
            (66000, b"x".to_vec(), true),
        ] {
            let found = obstacle(Placement::Internal, at, &bytes).expect("recognised");
            assert_eq!(found.overridable, overridable, "{found}");
        }
        assert_eq!(obstacle(Placement::Internal, 69632, b"x"), None, "not looked at");
    }

    #[test]
    fn metadata_in_place_is_recognised_even_when_it_does_not_fit() {
        let magic = 0x8374_026Cu32.to_be_bytes();
        let found = obstacle(Placement::Internal, SIZE - 4096 + 60, &magic).expect("magic");
        assert_eq!(found.found, ExistingData::Metadata { offset_bytes: SIZE - 4096 });
        assert!(found.overridable);
    }

    proptest! {
        #[test]
        fn any_start_is_examined_without_panic(
            noise in prop::collection::vec(any::<u8>(), 0..2048), magic in 0usize..3,
        ) {
            let mut start = noise;
            let (at, bytes): (usize, &[u8]) = [(0, &b"XFSB"[..]), (1080, b"\x53\xEF"), (0, b"")][magic];
            if start.len() >= at + bytes.len() {
                start[at..at + bytes.len()].copy_from_slice(bytes);
            }
            let _ = recognise(&start);
        }
    }
}
