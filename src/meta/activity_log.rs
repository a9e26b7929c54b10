//! The activity log (metadata.md 4, 5): a ring of 4 KiB transactions that tells which 4 MiB
//! extents may be written to.
//!
//! ```text
//!   0 magic | 4 number | 8 crc | 12 type | 14 updates | 16 slots | 18 first context slot | 20 zero
//!  36 64 slot numbers (u16) | 164 64 extents (u32) | 420 919 extents: context, before the updates
//! ```

use super::PAGE_BYTES;
use super::error::MetaError;
use super::layout::Layout;
use super::storage::Storage;

const MAGIC: u32 = 0x69CB_65A2;
const TYPE_UPDATE: u16 = 0;
const TYPE_INITIALISED: u16 = 0xFFFF;
const UNUSED_SLOT: u16 = 0xFFFF;

/// A slot without an extent.
pub const FREE_SLOT: u32 = u32::MAX;
/// Changes of slots that a transaction has room for.
pub const MAX_UPDATES: usize = 64;
/// Slots that a transaction repeats as context.
pub const CONTEXT_ENTRIES: usize = 919;

/// One update of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// +1 each, wraps.
    pub number: u32,
    /// Slot and the extent in it from now on; at most [`MAX_UPDATES`].
    pub updates: Vec<(u16, u32)>,
    /// Number of slots in all.
    pub slot_count: u16,
    /// First slot of the context.
    pub context_start: u16,
    /// What slots `context_start`.. held before the updates.
    pub context: Box<[u32; CONTEXT_ENTRIES]>,
}

/// What a block of the ring holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockContent {
    /// Written by create-md or apply-al, no transaction yet.
    Initialised,
    Transaction(Transaction),
    /// Torn, never written, or damaged: magic, checksum or a count is wrong.
    Invalid,
}

/// CRC-32C as the log has it: it starts at 0 and is not inverted at the end.
fn checksum(block: &[u8; PAGE_BYTES]) -> u32 {
    let mut checked = *block;
    checked[8..12].fill(0);
    !crc32c::crc32c_append(u32::MAX, &checked)
}

fn seal(block: &mut [u8; PAGE_BYTES]) {
    let sum = checksum(block);
    block[8..12].copy_from_slice(&sum.to_be_bytes());
}

/// A block without a transaction.
pub fn encode_initialised() -> Box<[u8; PAGE_BYTES]> {
    let mut block = Box::new([0; PAGE_BYTES]);
    block[0..4].copy_from_slice(&MAGIC.to_be_bytes());
    block[12..14].copy_from_slice(&TYPE_INITIALISED.to_be_bytes());
    seal(&mut block);
    block
}

/// # Panics
/// With more than [`MAX_UPDATES`] updates.
pub fn encode_transaction(transaction: &Transaction) -> Box<[u8; PAGE_BYTES]> {
    assert!(transaction.updates.len() <= MAX_UPDATES, "the caller splits larger updates");
    let mut block = Box::new([0; PAGE_BYTES]);
    block[0..4].copy_from_slice(&MAGIC.to_be_bytes());
    block[4..8].copy_from_slice(&transaction.number.to_be_bytes());
    block[12..14].copy_from_slice(&TYPE_UPDATE.to_be_bytes());
    block[14..16].copy_from_slice(&(transaction.updates.len() as u16).to_be_bytes());
    block[16..18].copy_from_slice(&transaction.slot_count.to_be_bytes());
    block[18..20].copy_from_slice(&transaction.context_start.to_be_bytes());
    for index in 0..MAX_UPDATES {
        let unused = (UNUSED_SLOT, FREE_SLOT);
        let (slot, extent) = transaction.updates.get(index).copied().unwrap_or(unused);
        block[36 + 2 * index..][..2].copy_from_slice(&slot.to_be_bytes());
        block[164 + 4 * index..][..4].copy_from_slice(&extent.to_be_bytes());
    }
    for (index, extent) in transaction.context.iter().enumerate() {
        block[420 + 4 * index..][..4].copy_from_slice(&extent.to_be_bytes());
    }
    seal(&mut block);
    block
}

/// Reads a block; anything that is not certainly a transaction is `Invalid`.
pub fn decode_block(block: &[u8; PAGE_BYTES]) -> BlockContent {
    let u16_at = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let u32_at = |at: usize| u32::from_be_bytes(block[at..at + 4].try_into().expect("4 bytes"));
    if u32_at(0) != MAGIC || u32_at(8) != checksum(block) {
        return BlockContent::Invalid;
    }
    let updates = usize::from(u16_at(14));
    match u16_at(12) {
        TYPE_INITIALISED => BlockContent::Initialised,
        TYPE_UPDATE if updates <= MAX_UPDATES => BlockContent::Transaction(Transaction {
            number: u32_at(4),
            updates: (0..updates)
                .map(|index| (u16_at(36 + 2 * index), u32_at(164 + 4 * index)))
                .collect(),
            slot_count: u16_at(16),
            context_start: u16_at(18),
            context: Box::new(std::array::from_fn(|index| u32_at(420 + 4 * index))),
        }),
        _ => BlockContent::Invalid,
    }
}

/// What the ring says (metadata.md 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Extents left in a slot, ascending, each once.
    pub hot: Vec<u32>,
    pub invalid_blocks: u64,
    pub valid_blocks: u64,
    /// Blocks that do not hold what [`encode_initialised`] makes, in the order to empty them: what
    /// is torn first, so that a crash meanwhile leaves no second torn block; then from the oldest,
    /// so that what remains is the newest part of the log.
    pub used_blocks: Vec<u64>,
}

/// Reads all blocks and replays their transactions from the oldest to the newest.
pub(super) fn replay(storage: &mut impl Storage, layout: &Layout) -> Result<Replayed, MetaError> {
    let mut replayed = Replayed::default();
    let mut numbers: Vec<(u32, u64)> = Vec::new();
    for block in 0..layout.log.blocks() {
        match decode_block(&*read_block(storage, layout, block)?) {
            BlockContent::Initialised => replayed.valid_blocks += 1,
            BlockContent::Invalid => {
                replayed.invalid_blocks += 1;
                replayed.used_blocks.push(block);
            }
            BlockContent::Transaction(transaction) => {
                replayed.valid_blocks += 1;
                numbers.push((transaction.number, block));
            }
        }
    }
    let Some(newest) = numbers.iter().map(|&(number, _)| number).reduce(|newest, number| {
        if (number.wrapping_sub(newest) as i32) > 0 { number } else { newest }
    }) else {
        return Ok(replayed);
    };
    // Ages are unsigned: numbers that make no sense together still have one order.
    numbers.sort_by_key(|&(number, _)| std::cmp::Reverse(newest.wrapping_sub(number)));
    let mut slots = Vec::new();
    for (_, block) in numbers {
        replayed.used_blocks.push(block);
        if let BlockContent::Transaction(transaction) =
            decode_block(&*read_block(storage, layout, block)?)
        {
            apply(&transaction, &mut slots);
        }
    }
    replayed.hot = slots.into_iter().filter(|&extent| extent != FREE_SLOT).collect();
    replayed.hot.sort_unstable();
    replayed.hot.dedup();
    Ok(replayed)
}

/// The table grows to the largest slot named: 2^16 + 919 at most, as slot numbers have 16 bits.
fn apply(transaction: &Transaction, slots: &mut Vec<u32>) {
    let mut put = |slot: usize, extent: u32| {
        if slot >= slots.len() {
            slots.resize(slot + 1, FREE_SLOT);
        }
        slots[slot] = extent;
    };
    let start = usize::from(transaction.context_start);
    for (index, &extent) in transaction.context.iter().enumerate() {
        // Beyond the last slot "free" is only filling.
        if extent != FREE_SLOT || start + index < usize::from(transaction.slot_count) {
            put(start + index, extent);
        }
    }
    for &(slot, extent) in &transaction.updates {
        if slot != UNUSED_SLOT {
            put(usize::from(slot), extent);
        }
    }
}

fn read_block(
    storage: &mut impl Storage,
    layout: &Layout,
    block: u64,
) -> Result<Box<[u8; PAGE_BYTES]>, MetaError> {
    let offset = layout.log_offset_bytes + block * PAGE_BYTES as u64;
    let mut bytes = Box::new([0; PAGE_BYTES]);
    storage.read_at(offset, &mut bytes[..]).map_err(|source| MetaError::Io {
        action: "read the activity log",
        offset,
        source,
    })?;
    Ok(bytes)
}

/// Makes `blocks` empty, one at a time with a flush after each: a crash in between tears one block
/// at most, which replay tolerates; the bits of what they held are already durable.
pub(super) fn initialise(
    storage: &mut impl Storage,
    layout: &Layout,
    blocks: &[u64],
) -> Result<(), MetaError> {
    let empty = encode_initialised();
    for &block in blocks {
        let offset = layout.log_offset_bytes + block * PAGE_BYTES as u64;
        storage.write_at(offset, &empty[..]).map_err(|source| MetaError::Io {
            action: "write the activity log",
            offset,
            source,
        })?;
        storage.sync().map_err(MetaError::Sync)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::meta::{LogShape, MemoryStorage, Placement};

    fn transaction(number: u32, updates: Vec<(u16, u32)>) -> Transaction {
        let context = Box::new([FREE_SLOT; CONTEXT_ENTRIES]);
        Transaction { number, updates, slot_count: 67, context_start: 0, context }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(
            number in any::<u32>(), slot_count in any::<u16>(), context_start in any::<u16>(),
            updates in prop::collection::vec((0u16..0xFFFF, any::<u32>()), 0..=MAX_UPDATES),
            some in prop::collection::vec(any::<u32>(), 0..CONTEXT_ENTRIES),
        ) {
            let mut context = Box::new([FREE_SLOT; CONTEXT_ENTRIES]);
            context[..some.len()].copy_from_slice(&some);
            let before = Transaction { number, updates, slot_count, context_start, context };
            let block = encode_transaction(&before);
            prop_assert_eq!(decode_block(&block), BlockContent::Transaction(before));
        }

        #[test]
        fn one_wrong_bit_makes_a_block_invalid(at in 0..PAGE_BYTES * 8) {
            let mut block = encode_transaction(&transaction(7, vec![(66, 0), (65, 1)]));
            block[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(decode_block(&block), BlockContent::Invalid);
        }

        /// Numbers, counts and slots may be anything as long as the checksum is right.
        #[test]
        fn a_hostile_ring_replays_without_panic(
            heads in prop::collection::vec(prop::collection::vec(any::<u8>(), 36 + 128), 8),
        ) {
            let size = 1 << 20;
            let mut disk = MemoryStorage::new(size);
            let layout = Layout::for_new(Placement::Internal, size, size, LogShape::default())
                .expect("large enough");
            for (index, head) in (0u64..).zip(heads) {
                let mut block = encode_transaction(&transaction(0, Vec::new()));
                block[4..8].copy_from_slice(&head[4..8]);
                block[14..164].copy_from_slice(&head[14..164]);
                block[14] = 0;
                block[15] &= 63;
                seal(&mut block);
                let offset = layout.log_offset_bytes + index * PAGE_BYTES as u64;
                disk.write_at(offset, &block[..]).expect("in memory");
            }
            let replayed = replay(&mut disk, &layout).expect("readable");
            prop_assert_eq!(replayed.valid_blocks, 8);
        }
    }

    #[test]
    fn transactions_are_ordered_across_the_wrap_of_their_number() {
        let size = 1 << 20;
        let mut disk = MemoryStorage::new(size);
        let layout = Layout::for_new(Placement::Internal, size, size, LogShape::default())
            .expect("large enough");
        for (number, extent) in [(u32::MAX, 1), (0, 2), (1, 3)] {
            let mut change = transaction(number, vec![(5, extent)]);
            change.slot_count = 0;
            let offset = layout.log_offset_bytes + layout.log.block_of(number) * 4096;
            disk.write_at(offset, &encode_transaction(&change)[..]).expect("in memory");
        }
        let replayed = replay(&mut disk, &layout).expect("readable");
        assert_eq!(replayed.hot, [3]);
        assert_eq!((replayed.valid_blocks, replayed.invalid_blocks), (3, 5));
    }

    #[test]
    fn too_many_updates_in_a_block_make_it_invalid() {
        let mut block = encode_transaction(&transaction(1, Vec::new()));
        block[15] = 65;
        seal(&mut block);
        assert_eq!(decode_block(&block), BlockContent::Invalid);
    }
}
