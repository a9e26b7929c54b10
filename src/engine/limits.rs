//! Every bound of the engine in one place, with its arithmetic (I12).

use twinblk_proto::units::BLOCK_SECTORS;

/// Largest client write or read, in sectors: 1 MiB, the largest data packet (wire.md 2.1). The
/// driver splits larger requests.
pub const MAX_REQUEST_SECTORS: u32 = 2048;

/// Largest client zero-out, in sectors: 32 MiB touches at most 9 activity log extents, so that even
/// the smallest log (67 slots) can hold several at once.
pub const MAX_ZERO_SECTORS: u32 = 65_536;

/// Client requests that may be open at once: 64 NBD connections x 128 requests, times the pieces a
/// 32 MiB request is split into is bounded again by the NBD layer's bytes; beyond this the engine
/// answers EIO rather than grow.
pub const MAX_OPEN_REQUESTS: usize = 64 * 1024;

/// Updates of one activity log transaction (metadata.md 4.1).
pub const MAX_LOG_UPDATES: usize = 64;

/// Writes of the peer that may be unfinished here: a kernel Primary sends at most max-epoch-size
/// (20000) per epoch and a handful of epochs; the link's receive budget bounds the bytes.
pub const MAX_PEER_WRITES: usize = 128 * 1024;

/// Reads that the peer may have outstanding here: a kernel target keeps max-buffers / 2 pages
/// (65536) under way at most.
pub const MAX_PEER_READS: usize = 64 * 1024;

/// Epochs that the peer may have open here: one barrier each, and each barrier follows at least
/// one write, but for one at a time that asks for a flush.
pub const MAX_PEER_EPOCHS: usize = MAX_PEER_WRITES;

/// Epochs of ours without barrier acknowledgement; a new write waits in the open epoch beyond it.
pub const MAX_OPEN_EPOCHS: usize = 256;

/// One resync request, in blocks: 1 MiB, the largest data packet (wire.md 2.1). Only while the
/// application is quiet.
pub const RESYNC_REQUEST_BLOCKS: u64 = (1 << 20) / 4096;

/// One request with csums-alg, in blocks: 32 KiB. One block that differs makes the whole request be sent;
/// a request costs 40 bytes and its digest.
pub const RESYNC_CHECKSUM_BLOCKS: u64 = (32 << 10) / 4096;

/// A resync request does not cross a multiple of this (wire.md 6.2): 16 MiB in blocks.
pub const RESYNC_EXTENT_BLOCKS: u64 = (16 << 20) / 4096;

/// Resync data under way while the application is idle: 4 MiB fill a 10 Gbit/s link with 3 ms of
/// round trip.
pub const RESYNC_WINDOW_BYTES: u64 = 4 << 20;

/// Resync data under way while the application writes: one request at a time, so that a write waits
/// for at most one.
pub const RESYNC_BUSY_WINDOW_BYTES: u64 = 64 << 10;

/// The pause after an answer that came while the application writes, in times that the answer took: a
/// third of the time for the resync.
pub const RESYNC_PAUSE_FACTOR: u64 = 2;

/// Longest pause that a single slow answer makes a resync take while the application writes.
pub const MAX_RESYNC_PAUSE_US: u64 = 100_000;

/// With a limit on its speed a resync asks this often at least, as DRBD's controller does: an even
/// trickle, no bursts.
pub const RESYNC_REQUESTS_PER_S: u64 = 10;

/// A timer of the driver comes up to a millisecond late, a busy machine later: this much is caught up.
pub const RESYNC_LATENESS_US: u64 = 20_000;

/// The speed of a resync is that of the last 8 marks, 3 s apart, as in DRBD.
pub const RESYNC_MARK_US: u64 = 3_000_000;
pub const RESYNC_MARKS: usize = 8;

/// How long a kernel peer is left alone after a verify before it is asked for a repair: it runs its
/// out-of-sync handler and writes its bitmap then, and a resync that begins meanwhile makes it
/// queue a second use of the bitmap over the first. Its handler takes a few tens of milliseconds.
pub const REPAIR_SETTLE_MS: u64 = 2000;

/// Verify requests under way at once, whatever their size: 1024 blocks of 4 KiB are 4 MiB.
pub const MAX_VERIFY_REQUESTS: usize = 1024;

/// Answers to verify requests being compared here: as many as may have been asked for, and as many
/// again of a session that ended.
pub const MAX_COMPARISONS: usize = 2 * MAX_VERIFY_REQUESTS;

/// The application counts as busy for this long after its last request.
pub const APPLICATION_BUSY_MS: u64 = 100;

/// Bits cleared by a resync are written back this often (behaviour.md 2.3).
pub const RESYNC_CHECKPOINT_MS: u64 = 2000;

/// An epoch without a new write for this long is closed, so that its extents may leave the activity
/// log and its writes may be forgotten.
pub const EPOCH_IDLE_MS: u64 = 20;

/// Bitmap pages of one write: 256 x 4 KiB = 1 MiB.
pub const BITMAP_PAGES_PER_WRITE: usize = 256;

/// A promotion that meets "peer is Primary" looks again once after ping-timeout and this much.
pub const PROMOTE_RETRY_MARGIN_MS: u64 = 100;

/// Handlers of a resource that may run at once: each of the dozen kinds, and a few again while a slow
/// one of an earlier connection still runs.
pub const MAX_HANDLERS_RUNNING: usize = 16;

/// How long a resize waits for the peer's word: it looks at its disk and moves its metadata first,
/// 32 MiB for each TiB, and writes as much again.
pub const RESIZE_ANSWER_MS: u64 = 30_000;

/// Random numbers kept in stock: one call creates at most two generations.
pub const RANDOM_STOCK: usize = 4;

/// Pause before dialling again after a handshake that failed (wire.md 1.3).
pub const RECONNECT_AFTER_FAILURE_MS: u64 = 1000;

/// How often the oldest unanswered request is compared with ko-count x timeout.
pub const REQUEST_TIMEOUT_CHECK_MS: u64 = 1000;

const _: () = assert!(RESYNC_REQUEST_BLOCKS * BLOCK_SECTORS <= MAX_REQUEST_SECTORS as u64);
