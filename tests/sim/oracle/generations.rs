//! The resync decision as session.md 3.1 has it, written a second time for the oracle, from the
//! durable records of both disks. Side effects and flags that live in memory are left out: the
//! oracle asks only what kind of resync two disks would get.

use twinblk::engine::event::DeviceRecord;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// None, or by the bits that are set.
    ByBitmap,
    /// One disk is copied as a whole.
    Full,
    SplitBrain,
    Unrelated,
}

const JUST_CREATED: u64 = 4;
/// What a sync UUID differs by from the bitmap UUID that it continues.
const SYNC_STEP: u64 = 0x0001_0000_0000_0000;

/// Bit 0 says Primary and is never compared.
pub fn plain(uuid: u64) -> u64 {
    uuid & !1
}

pub fn compare(mine: &DeviceRecord, peers: &DeviceRecord) -> Outcome {
    let [a, b] = [mine.generations, peers.generations];
    let (a_current, b_current) = (plain(a.current), plain(b.current));
    let (a_bitmap, b_bitmap) = (plain(a.bitmap), plain(b.bitmap));
    let a_history = a.history.map(plain);
    let b_history = b.history.map(plain);
    let fresh = |current: u64| current == JUST_CREATED || current == 0;
    if mine.full_sync || peers.full_sync {
        return Outcome::Full;
    }
    if fresh(a_current) || fresh(b_current) {
        return Outcome::Full;
    }
    if a_current == b_current || a_current == b_bitmap || a_bitmap == b_current {
        return Outcome::ByBitmap;
    }
    let lost_sync_uuid = |current: u64, bitmap: u64, history: [u64; 2]| {
        current == history[0] && plain(history[0].wrapping_add(SYNC_STEP)) == bitmap
    };
    if lost_sync_uuid(a_current, b_bitmap, b_history)
        || lost_sync_uuid(b_current, a_bitmap, a_history)
    {
        return Outcome::ByBitmap;
    }
    if b_history.contains(&a_current) || a_history.contains(&b_current) {
        return Outcome::Full;
    }
    if a_bitmap == b_bitmap && a_bitmap != 0 {
        return Outcome::SplitBrain;
    }
    if a_history.iter().any(|uuid| b_history.contains(uuid)) {
        return Outcome::SplitBrain;
    }
    Outcome::Unrelated
}

/// Whether a disk carries generation `wanted` or one that came after it.
pub fn descends_from(record: &DeviceRecord, wanted: u64) -> bool {
    let generations = record.generations;
    [generations.current, generations.bitmap, generations.history[0], generations.history[1]]
        .into_iter()
        .any(|uuid| plain(uuid) == plain(wanted))
}

#[cfg(test)]
mod tests {
    use twinblk::engine::event::Generations;

    use super::*;

    fn record(current: u64, bitmap: u64, history: [u64; 2]) -> DeviceRecord {
        let generations = Generations { current, bitmap, history };
        DeviceRecord { generations, consistent: true, ..DeviceRecord::default() }
    }

    #[test]
    fn the_rules_of_the_table() {
        let outcome = |a, b| {
            assert_eq!(compare(&a, &b), compare(&b, &a), "both nodes must agree");
            compare(&a, &b)
        };
        assert_eq!(outcome(record(4, 0, [0, 0]), record(0x80, 0, [0, 0])), Outcome::Full);
        assert_eq!(outcome(record(0x81, 0, [2, 2]), record(0x80, 0, [2, 2])), Outcome::ByBitmap);
        assert_eq!(outcome(record(0x90, 0x80, [2, 2]), record(0x80, 0, [2, 2])), Outcome::ByBitmap);
        assert_eq!(outcome(record(0x90, 0, [0x80, 6]), record(0x80, 0, [6, 6])), Outcome::Full);
        let split = outcome(record(0x90, 0x80, [2, 2]), record(0xa0, 0x80, [2, 2]));
        assert_eq!(split, Outcome::SplitBrain);
        let split = outcome(record(0x90, 0x70, [2, 6]), record(0xa0, 0x80, [8, 2]));
        assert_eq!(split, Outcome::SplitBrain);
        assert_eq!(outcome(record(0x90, 1, [2, 2]), record(0xa0, 1, [8, 8])), Outcome::Unrelated);
    }
}
