//! Data in the simulator: one number per 512-byte sector instead of 512 bytes. A stamp names the
//! write it came from and the sector it belongs to, so that lost, stale, torn and misplaced data
//! are told apart.

use std::rc::Rc;

/// The content of a sector. 0 reads as zeroes.
pub type Stamp = u64;

/// The content of a run of sectors.
pub type Content = Rc<[Stamp]>;

pub const ZEROES: Stamp = 0;

const SECTOR_BITS: u32 = 24;
/// Write numbers of a disk's content from before the run: this, plus the node's index.
const FIRST_UNWRITTEN: u64 = 1 << 38;

/// The number of what a scenario puts onto a disk behind everybody's back.
pub const PLANTED: u64 = FIRST_UNWRITTEN + 9;

/// What write `number` leaves in `sector`.
pub fn stamp(number: u64, sector: u64) -> Stamp {
    assert!(sector < 1 << SECTOR_BITS, "devices of the simulator are below 8 GiB");
    number << SECTOR_BITS | sector
}

/// What was in `sector` of a disk that nobody has written to yet.
pub fn unwritten(node: usize, sector: u64) -> Stamp {
    stamp(FIRST_UNWRITTEN + node as u64, sector)
}

pub fn is_unwritten(value: Stamp, sector: u64) -> bool {
    (0..2).any(|node| value == unwritten(node, sector))
}

/// The number of the write that left `stamp`, 0 for zeroes.
pub fn write_number(stamp: Stamp) -> u64 {
    stamp >> SECTOR_BITS
}

pub fn belongs_to(stamp: Stamp, sector: u64) -> bool {
    stamp == ZEROES || stamp & ((1 << SECTOR_BITS) - 1) == sector
}

/// A stamp in words.
pub fn describe(content: Stamp) -> String {
    let number = write_number(content);
    let place = content & ((1 << SECTOR_BITS) - 1);
    if content == ZEROES {
        "zeroes".to_owned()
    } else if number >= FIRST_UNWRITTEN {
        format!("what disk {} held at first in sector {place}", number - FIRST_UNWRITTEN)
    } else {
        format!("write {number} of sector {place}")
    }
}
