//! The bitmap on disk (metadata.md 3): little-endian 64-bit words, one bit per 4 KiB of data,
//! read and written in pages of 4 KiB (128 MiB of data).

use super::PAGE_BYTES;
use super::error::MetaError;
use super::layout::Layout;
use super::storage::Storage;

/// 64-bit words of a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / 8;
/// Bits of a page.
pub const PAGE_BITS: u64 = PAGE_WORDS as u64 * 64;
/// Words that cover an activity log extent: 1024 bits.
const EXTENT_WORDS: usize = 16;
/// Sectors of data per bit.
const BIT_SECTORS: u64 = 8;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The page that covers `extent`: what must be written before the extent leaves the log.
pub const fn page_of_extent(extent: u32) -> u32 {
    extent / (PAGE_WORDS / EXTENT_WORDS) as u32
}

/// Bits of a device; a short last block has its own.
pub const fn device_bits(sectors: u64) -> u64 {
    sectors.div_ceil(BIT_SECTORS)
}

/// Number of bits that are set.
pub fn count_bits(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

pub(super) fn words_for(sectors: u64) -> usize {
    device_bits(sectors).div_ceil(64) as usize
}

/// Reads the words that cover `sectors`, in whole pages, so that a page can be written back as it
/// was.
pub(super) fn load(
    storage: &mut impl Storage,
    layout: &Layout,
    sectors: u64,
) -> Result<Vec<u64>, MetaError> {
    let count = words_for(sectors).next_multiple_of(PAGE_WORDS);
    assert!(count as u64 * 8 <= layout.bitmap_bytes, "the layout limits the data to its bitmap");
    let mut words = Vec::with_capacity(count);
    let mut chunk = vec![0; CHUNK_BYTES.min(count * 8)];
    while words.len() < count {
        let offset = layout.bitmap_offset_bytes + words.len() as u64 * 8;
        let part = chunk.len().min((count - words.len()) * 8);
        storage.read_at(offset, &mut chunk[..part]).map_err(|source| MetaError::Io {
            action: "read the bitmap",
            offset,
            source,
        })?;
        let (eights, _) = chunk[..part].as_chunks::<8>();
        words.extend(eights.iter().map(|eight| u64::from_le_bytes(*eight)));
    }
    Ok(words)
}

/// Writes page `index` of `words`, which [`load`] returned.
pub(super) fn store_page(
    storage: &mut impl Storage,
    layout: &Layout,
    words: &[u64],
    index: usize,
) -> Result<(), MetaError> {
    let page = words[index * PAGE_WORDS..].first_chunk().expect("whole pages");
    let offset = layout.bitmap_offset_bytes + (index * PAGE_BYTES) as u64;
    let bytes = encode_page(page);
    storage.write_at(offset, &bytes[..]).map_err(|source| MetaError::Io {
        action: "write the bitmap",
        offset,
        source,
    })
}

pub(super) fn encode_page(words: &[u64; PAGE_WORDS]) -> Box<[u8; PAGE_BYTES]> {
    let mut bytes = Box::new([0; PAGE_BYTES]);
    let (eights, _) = bytes.as_chunks_mut::<8>();
    for (eight, word) in eights.iter_mut().zip(words) {
        *eight = word.to_le_bytes();
    }
    bytes
}

/// Sets the bits of `extent`; `None` when they lie outside of the bitmap, else how many were new.
pub(super) fn mark_extent(words: &mut [u64], extent: u32) -> Option<u64> {
    let start = (extent as usize).checked_mul(EXTENT_WORDS)?;
    let part = words.get_mut(start..start.checked_add(EXTENT_WORDS)?)?;
    let marked = EXTENT_WORDS as u64 * 64 - count_bits(part);
    part.fill(u64::MAX);
    Some(marked)
}

/// Sets the first `bits` bits.
pub(super) fn set_first(words: &mut [u64], bits: u64) {
    let whole = (bits / 64) as usize;
    words[..whole].fill(u64::MAX);
    if !bits.is_multiple_of(64) {
        words[whole] |= (1 << (bits % 64)) - 1;
    }
}

/// Clears every bit from `bits` on: what lies beyond the device is not to be believed.
pub(super) fn cut_off(words: &mut [u64], bits: u64) {
    let whole = (bits / 64) as usize;
    if whole >= words.len() {
        return;
    }
    words[whole] &= (1 << (bits % 64)) - 1;
    words[whole + 1..].fill(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn setting_and_cutting_meet_at_the_same_bit(bits in 0u64..640, further in 0u64..640) {
            let mut words = [0; 10];
            set_first(&mut words, bits);
            prop_assert_eq!(count_bits(&words), bits);
            cut_off(&mut words, further);
            prop_assert_eq!(count_bits(&words), bits.min(further));
        }
    }

    #[test]
    fn an_extent_is_1024_bits_and_outside_ones_are_ignored() {
        let mut words = vec![0; PAGE_WORDS];
        words[16] = 1;
        assert_eq!(mark_extent(&mut words, 1), Some(1023));
        assert_eq!(words[15..33], [vec![0], vec![u64::MAX; 16], vec![0]].concat());
        assert_eq!(mark_extent(&mut words, 31), Some(1024));
        assert_eq!(mark_extent(&mut words, 32), None);
        assert_eq!(mark_extent(&mut words, u32::MAX), None);
        assert_eq!((page_of_extent(31), page_of_extent(32)), (0, 1));
    }
}
