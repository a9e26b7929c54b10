//! The bitmap exchange of a volume: P_BITMAP and P_COMPRESSED_BITMAP, freely mixed, covering the
//! bits in ascending order (wire.md 8). Bit n of the bitmap is bit n mod 64 of word n / 64.
//!
//! ```text
//!   bits  | compressed: runs, ends at any bit | compressed ... | plain, from a word's start |
//!   position --->                                                                    empty P_BITMAP
//! ```
//!
//! A transfer ends with the compressed packet that reaches the last bit, or with an empty P_BITMAP
//! behind the last plain one.

mod code;
mod scan;

use crate::codec::WireError;
use crate::packet::Packet;
use code::{CodeReader, CodeWriter};
use scan::{next_bit, set_range};

/// Code of the encoding byte: run lengths in the code of [`code`], the only one there is.
const CODE_RUN_LENGTHS: u8 = 2;
const CODE_MASK: u8 = 0x0F;
const PADDING_SHIFT: u32 = 4;
const PADDING_MASK: u8 = 7;
/// First run is of set bits.
const FIRST_SET: u8 = 0x80;

const WORD_BITS: u64 = 64;
const WORD_BYTES: usize = 8;
/// Below this a chunk might not hold the longest code word.
const CHUNK_LIMIT_MIN: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    #[error("plain chunk of {given} bytes, {expected} expected")]
    PlainLength { given: usize, expected: usize },
    #[error("compressed chunk of {0} bytes")]
    CompressedLength(usize),
    #[error("unknown encoding {0:#04x}")]
    Encoding(u8),
    #[error("code word cut off")]
    CodeCutOff,
    #[error("run of {run} bits where {left} are left")]
    RunTooLong { run: u64, left: u64 },
    #[error("chunk after the end of the transfer")]
    AfterEnd,
    #[error("packet is no part of a bitmap")]
    OtherPacket,
}

/// The whole transfer of a bitmap of `bits` bits, to its end. `chunk_limit` is the longest payload:
/// [`crate::codec::Framing::bitmap_chunk_limit`].
///
/// # Panics
///
/// When `words` is not the bitmap of `bits` bits, has surplus bits set behind them, or no code word
/// fits in `chunk_limit`.
pub fn encode_chunks(words: &[u64], bits: u64, use_rle: bool, chunk_limit: usize) -> Vec<Packet> {
    check_shape(words, bits, chunk_limit);
    let surplus = words.last().map_or(0, |last| last & surplus_mask(words.len(), bits));
    assert_eq!(surplus, 0, "bits behind the last block are clear");
    let mut packets = Vec::new();
    let mut position = 0;
    loop {
        if use_rle
            && position < bits
            && let Some((payload, covered)) = compress(words, position..bits, chunk_limit)
        {
            packets.push(Packet::CompressedBitmap(payload));
            position += covered;
            if position == bits {
                return packets;
            }
            continue;
        }
        let first = word_at(position, words.len());
        let count = plain_words(words.len() - first, chunk_limit);
        let chunk = &words[first..first + count];
        let mut payload = Vec::with_capacity(count * WORD_BYTES);
        payload.extend(chunk.iter().flat_map(|word| word.to_le_bytes()));
        packets.push(Packet::Bitmap(payload));
        if count == 0 {
            return packets;
        }
        position = (first + count) as u64 * WORD_BITS;
    }
}

/// Takes the chunks of one transfer.
#[derive(Debug)]
pub struct BitmapReceiver {
    bits: u64,
    chunk_limit: usize,
    /// First bit that is still to come; behind a plain chunk it may be past the last bit.
    position: u64,
    complete: bool,
}

impl BitmapReceiver {
    /// For a bitmap of `bits` bits; `chunk_limit` as for [`encode_chunks`].
    pub fn new(bits: u64, chunk_limit: usize) -> Self {
        assert!(chunk_limit >= CHUNK_LIMIT_MIN, "chunks of {chunk_limit} bytes");
        Self { bits, chunk_limit, position: 0, complete: false }
    }

    /// Bits received so far.
    pub fn position(&self) -> u64 {
        self.position.min(self.bits)
    }

    /// ORs one chunk into `words`; true when the transfer is complete. After an error the part of
    /// the chunk before it may have been taken: the connection drops anyhow, and a bit too many
    /// only costs a resync of its block.
    ///
    /// # Panics
    ///
    /// When `words` is not the bitmap of the number of bits given to [`Self::new`].
    pub fn receive(&mut self, packet: &Packet, words: &mut [u64]) -> Result<bool, WireError> {
        check_shape(words, self.bits, self.chunk_limit);
        if self.complete {
            return Err(BitmapError::AfterEnd.into());
        }
        match packet {
            Packet::Bitmap(payload) => self.plain(payload, words)?,
            Packet::CompressedBitmap(payload) => self.compressed(payload, words)?,
            _ => return Err(BitmapError::OtherPacket.into()),
        }
        Ok(self.complete)
    }

    /// wire.md 8.1. The chunk begins at the word that holds the position.
    fn plain(&mut self, payload: &[u8], words: &mut [u64]) -> Result<(), BitmapError> {
        let first = word_at(self.position, words.len());
        let count = plain_words(words.len() - first, self.chunk_limit);
        let expected = count * WORD_BYTES;
        if payload.len() != expected {
            return Err(BitmapError::PlainLength { given: payload.len(), expected });
        }
        let (chunks, _) = payload.as_chunks::<WORD_BYTES>();
        for (word, bytes) in words[first..first + count].iter_mut().zip(chunks) {
            *word |= u64::from_le_bytes(*bytes);
        }
        // The peer should have left the surplus bits zero; they must not count as blocks.
        let surplus = surplus_mask(words.len(), self.bits);
        if let Some(last) = words.last_mut() {
            *last &= !surplus;
        }
        self.position = (first + count) as u64 * WORD_BITS;
        self.complete = count == 0;
        Ok(())
    }

    /// wire.md 8.2.
    fn compressed(&mut self, payload: &[u8], words: &mut [u64]) -> Result<(), BitmapError> {
        let Some((&encoding, code)) = payload.split_first() else {
            return Err(BitmapError::CompressedLength(0));
        };
        if code.is_empty() || payload.len() > self.chunk_limit {
            return Err(BitmapError::CompressedLength(payload.len()));
        }
        if encoding & CODE_MASK != CODE_RUN_LENGTHS {
            return Err(BitmapError::Encoding(encoding));
        }
        let padding = encoding >> PADDING_SHIFT & PADDING_MASK;
        let mut is_set = encoding & FIRST_SET != 0;
        let mut reader = CodeReader::new(code, padding);
        while let Some(run) = reader.next_run()? {
            let left = self.bits.saturating_sub(self.position);
            if run > left {
                return Err(BitmapError::RunTooLong { run, left });
            }
            if is_set {
                set_range(words, self.position..self.position + run);
            }
            is_set = !is_set;
            self.position += run;
        }
        self.complete = self.position == self.bits;
        Ok(())
    }
}

fn check_shape(words: &[u64], bits: u64, chunk_limit: usize) {
    assert_eq!(words.len() as u64, bits.div_ceil(WORD_BITS), "words of a bitmap of {bits} bits");
    assert!(chunk_limit >= CHUNK_LIMIT_MIN, "chunks of {chunk_limit} bytes");
}

/// The bits of the last word that stand for no block.
fn surplus_mask(word_count: usize, bits: u64) -> u64 {
    let used = WORD_BITS - (word_count as u64 * WORD_BITS - bits);
    u64::MAX.checked_shl(used as u32).unwrap_or(0)
}

/// The word where a plain chunk at `position` begins; the number of words behind the last one.
fn word_at(position: u64, word_count: usize) -> usize {
    usize::try_from(position / WORD_BITS).map_or(word_count, |word| word.min(word_count))
}

/// Words of the next plain chunk; its length is fixed (wire.md 8.1).
fn plain_words(words_left: usize, chunk_limit: usize) -> usize {
    words_left.min(chunk_limit / WORD_BYTES)
}

/// A compressed chunk from the start of `range` and the bits that it covers; `None` where the plain
/// form is shorter.
fn compress(
    words: &[u64],
    range: std::ops::Range<u64>,
    chunk_limit: usize,
) -> Option<(Vec<u8>, u64)> {
    let mut writer = CodeWriter::new(chunk_limit - 1);
    let first_set = words[word_at(range.start, words.len())] >> (range.start % WORD_BITS) & 1 == 1;
    let (mut position, mut is_set) = (range.start, first_set);
    while position < range.end {
        let end = next_bit(words, position..range.end, !is_set);
        if !writer.put_run(end - position) {
            break;
        }
        position = end;
        is_set = !is_set;
    }
    let covered = position - range.start;
    let (code, padding) = writer.finish();
    if covered < code.len() as u64 * 8 {
        return None;
    }
    let first = if first_set { FIRST_SET } else { 0 };
    let mut payload = Vec::with_capacity(1 + code.len());
    payload.push(first | padding << PADDING_SHIFT | CODE_RUN_LENGTHS);
    payload.extend_from_slice(&code);
    Some((payload, covered))
}

#[cfg(test)]
mod tests;
