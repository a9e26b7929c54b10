//! The code words of P_COMPRESSED_BITMAP: a prefix that selects a level, then data bits; all least
//! significant bit first (wire.md 8.2).

use super::BitmapError;

struct Level {
    prefix_bits: u32,
    prefix: u64,
    data_bits: u32,
    /// The run that data bits of zero stand for.
    base: u64,
}

const LEVELS: [Level; 10] = levels(&[
    (1, 0x00, 1),
    (2, 0x01, 1),
    (3, 0x03, 2),
    (4, 0x07, 3),
    (5, 0x0F, 5),
    (6, 0x1F, 8),
    (8, 0x3F, 13),
    (8, 0x7F, 21),
    (8, 0xBF, 34),
    (8, 0xFF, 56),
]);

/// Each level begins where the one before it ends.
const fn levels(table: &[(u32, u64, u32); 10]) -> [Level; 10] {
    let mut levels = [const { Level { prefix_bits: 0, prefix: 0, data_bits: 0, base: 0 } }; 10];
    let (mut index, mut base) = (0, 1);
    while index < table.len() {
        let (prefix_bits, prefix, data_bits) = table[index];
        levels[index] = Level { prefix_bits, prefix, data_bits, base };
        base += 1 << data_bits;
        index += 1;
    }
    levels
}

/// Reads runs from a code.
pub(super) struct CodeReader<'a> {
    code: &'a [u8],
    position_bits: usize,
    end_bits: usize,
}

impl<'a> CodeReader<'a> {
    /// `padding` bits, at most 7, at the end of a code of at least one byte are not part of it.
    pub(super) fn new(code: &'a [u8], padding: u8) -> Self {
        let end_bits = (code.len() * 8).saturating_sub(usize::from(padding));
        Self { code, position_bits: 0, end_bits }
    }

    pub(super) fn next_run(&mut self) -> Result<Option<u64>, BitmapError> {
        if self.position_bits == self.end_bits {
            return Ok(None);
        }
        let word = self.peek();
        let level = LEVELS
            .iter()
            .find(|level| word & ((1 << level.prefix_bits) - 1) == level.prefix)
            .expect("the prefixes cover every bit pattern");
        self.position_bits += (level.prefix_bits + level.data_bits) as usize;
        if self.position_bits > self.end_bits {
            return Err(BitmapError::CodeCutOff);
        }
        let data = word >> level.prefix_bits & ((1 << level.data_bits) - 1);
        Ok(Some(level.base + data))
    }

    /// The next 64 bits: the longest code word. Zeroes behind the end.
    fn peek(&self) -> u64 {
        let rest = &self.code[self.position_bits / 8..];
        let mut bytes = [0; 16];
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        (u128::from_le_bytes(bytes) >> (self.position_bits % 8)) as u64
    }
}

/// Writes runs into a code of limited length.
pub(super) struct CodeWriter {
    code: Vec<u8>,
    limit_bytes: usize,
    /// Bits that do not fill a byte yet.
    pending: u128,
    pending_bits: u32,
}

impl CodeWriter {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { code: Vec::new(), limit_bytes, pending: 0, pending_bits: 0 }
    }

    /// Whether the code word of the run, which is at least 1, did fit in.
    pub(super) fn put_run(&mut self, run: u64) -> bool {
        debug_assert!(run >= 1);
        let level = LEVELS
            .iter()
            .rfind(|level| run >= level.base)
            .expect("the first level begins with a run of 1");
        let (word, bits) = (
            level.prefix | (run - level.base) << level.prefix_bits,
            level.prefix_bits + level.data_bits,
        );
        let bytes = self.code.len() + (self.pending_bits + bits).div_ceil(8) as usize;
        if bytes > self.limit_bytes {
            return false;
        }
        self.pending |= u128::from(word) << self.pending_bits;
        self.pending_bits += bits;
        while self.pending_bits >= 8 {
            self.code.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
        true
    }

    /// The code and the number of padding bits in its last byte.
    pub(super) fn finish(mut self) -> (Vec<u8>, u8) {
        if self.pending_bits == 0 {
            return (self.code, 0);
        }
        self.code.push(self.pending as u8);
        (self.code, 8 - self.pending_bits as u8)
    }
}
