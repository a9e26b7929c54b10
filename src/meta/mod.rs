//! DRBD's v08 metadata on disk (metadata.md): the superblock, the activity log and the bitmap.
//!
//! ```text
//!   internal   | data ...                     | bitmap | activity log | superblock |
//!   external   | superblock | activity log | bitmap ...                            |
//! ```
//!
//! Reading is sequential ([`open`], [`create`], the offline commands) over a small [`Storage`].
//! At run time [`MetadataWriter`] turns what the engine wants remembered into single aligned 4 KiB
//! writes; the caller performs them and answers for their order.
//!
//! # What the order must be
//!
//! "Durable" means: the write, then a flush (or FUA), both completed. The media is assumed to
//! write 512-byte sectors whole or not at all, in any order until flushed.
//!
//! | before this | this must be durable | else |
//! |---|---|---|
//! | a data write into an extent | a transaction that puts the extent into a slot (4.3) | a crash loses track of it: I7 |
//! | a transaction that replaces an extent in a slot | the bitmap page that covers the replaced extent ([`page_of_extent`]) | its dirty bits exist in memory only: I7 |
//! | the next transaction | the transaction before it | two torn blocks: the log counts as damaged, every block as out of sync |
//! | the first activity log transaction | a record with `PRIMARY_IND` | replay sets nothing: I7 |
//! | a record without `PRIMARY_IND` | every changed bitmap page | the log is no longer looked at: I7 |
//! | completing the first write of a generation | the record with the new current UUID (2.3) | I10 |
//! | bitmap pages of a wholly set bitmap | a record with `FULL_SYNC`; and it stays until all pages are durable | a half-set bitmap is believed |
//! | a bitmap page with cleared bits | the data that made the blocks equal, on both nodes | I7 |
//! | completing a resync (`CONSISTENT` set) | the data written by it | I3 |
//! | a record with a larger agreed size | the bitmap pages of the new space | blocks that differ count as equal: I7 |
//! | data where internal metadata was | that metadata at its new place, and the old superblock gone ([`grow`]) | I6 |
//!
//! I6 needs nothing of the caller: the fields of the superblock lie in its first sector, which is
//! written whole or not at all; a torn transaction fails its checksum and the ones before it hold
//! every slot (the context rotates through all slots within one turn of the ring less one); a torn
//! bitmap page mixes old and new words, and where they differ the extent is still in the log, or
//! only lost bits by a resync.

mod activity_log;
mod bitmap;
mod command;
mod create;
mod dump;
mod error;
mod existing;
mod flags;
mod grow;
mod layout;
mod memory;
mod open;
mod storage;
mod superblock;
mod writer;

pub use activity_log::{
    BlockContent, CONTEXT_ENTRIES, FREE_SLOT, MAX_UPDATES, Transaction, decode_block,
    encode_initialised, encode_transaction,
};
pub use bitmap::{PAGE_BITS, PAGE_WORDS, count_bits, device_bits, page_of_extent};
pub use command::{AppliedLog, apply_activity_log, invalidate, outdate, read_superblock, wipe};
pub use create::{CreateOptions, create};
pub use dump::{disk_state, dump, dump_header, generation_line};
pub use error::MetaError;
pub use existing::{ExistingData, Obstacle};
pub use flags::Flags;
pub use grow::{Clipped, find_internal, grow, wipe_stale_end};
pub use layout::{Layout, LogShape, Placement};
pub use memory::{CrashImages, MemoryStorage};
pub use open::{FullSyncCause, OpenOptions, Opened, open};
pub use storage::Storage;
pub use superblock::{Magic, Record, Superblock};
pub use writer::{MetadataWriter, Write, largest_slot_count};

/// Bytes of every run-time write, and of the superblock, a log block and a bitmap page.
pub const PAGE_BYTES: usize = 4096;
