//! Runs of bits, a word at a time: a bitmap of 64 TiB has 2^34 bits, mostly of one kind.

use std::ops::Range;

use super::WORD_BITS;

/// The first bit of `range` that has the value `wanted`, or the end of the range.
pub(super) fn next_bit(words: &[u64], range: Range<u64>, wanted: bool) -> u64 {
    if range.is_empty() {
        return range.end;
    }
    // Searching clear bits is searching set ones in the inverted words.
    let invert = if wanted { 0 } else { u64::MAX };
    let mut index = (range.start / WORD_BITS) as usize;
    let last = ((range.end - 1) / WORD_BITS) as usize;
    let mut word = (words[index] ^ invert) & (u64::MAX << (range.start % WORD_BITS));
    while word == 0 {
        if index == last {
            return range.end;
        }
        index += 1;
        word = words[index] ^ invert;
    }
    (index as u64 * WORD_BITS + u64::from(word.trailing_zeros())).min(range.end)
}

/// Sets every bit of `range`.
pub(super) fn set_range(words: &mut [u64], range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    let first = (range.start / WORD_BITS) as usize;
    let last = ((range.end - 1) / WORD_BITS) as usize;
    let head = u64::MAX << (range.start % WORD_BITS);
    let tail = u64::MAX >> (WORD_BITS - 1 - (range.end - 1) % WORD_BITS);
    if first == last {
        words[first] |= head & tail;
        return;
    }
    words[first] |= head;
    words[first + 1..last].fill(u64::MAX);
    words[last] |= tail;
}
