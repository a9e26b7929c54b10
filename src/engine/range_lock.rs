//! Who may touch which sectors now. Overlapping writes of one node are applied in the order in which
//! they arrived, on both nodes (DESIGN section 3), and resync never mixes with them.
//!
//! A holder joins with its range and waits for everything older that conflicts; it may go when the
//! last of those has left. Waiting is by arrival, so there are no cycles and nobody starves.
//!
//! Rows wait for columns that came before:
//!
//! | | Client | Peer | SourceRead | TargetRequest | TargetWrite | VerifyRead |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Client: a client's write | x | x | x | x | x | x |
//! | Peer: a write that the peer sent | x | x | x | | x | x |
//! | SourceRead: any read for the peer | x | x | | | | |
//! | TargetRequest: resync data or a digest asked for | x | | | | | |
//! | TargetWrite: resync data being written | | x | | | x | |
//! | VerifyRead: own data, to compare with the answer | | x | | | | |
//!
//! A peer's write does not wait for resync data that was only asked for: the source holds that
//! answer back until the write is acknowledged, so the two would wait for each other.

use std::collections::BTreeMap;

use twinblk_proto::units::SectorRange;

use super::slab::Slab;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Client,
    Peer,
    SourceRead,
    TargetRequest,
    TargetWrite,
    VerifyRead,
}

impl Kind {
    /// Whether a newcomer of this kind waits for an older holder.
    const fn conflicts(self, older: Self) -> bool {
        use Kind::*;
        match (self, older) {
            // The clients that overlap wait for the request that this data answers.
            (TargetWrite | VerifyRead, Client) => false,
            (Client, _) | (_, Client) => true,
            (Peer, TargetRequest) | (TargetRequest, Peer) => false,
            (Peer, _) | (_, Peer) => true,
            (TargetWrite, TargetWrite) => true,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Holder {
    range: SectorRange,
    kind: Kind,
    /// What the holder is to its owner; handed back when it may go.
    owner: u64,
    /// Older conflicting holders that have not left.
    waits_for: u32,
    /// Younger holders that wait for this one.
    waiters: Vec<u64>,
}

/// A holder that may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub kind: Kind,
    pub owner: u64,
}

/// All holders of a device, found by the 4 MiB extents they touch.
#[derive(Debug, Default)]
pub struct RangeLocks {
    holders: Slab<Holder>,
    by_extent: BTreeMap<u32, Vec<u64>>,
}

impl RangeLocks {
    /// Joins; the second value says whether the holder may go at once.
    pub fn join(&mut self, range: SectorRange, kind: Kind, owner: u64) -> (u64, bool) {
        let mut older = Vec::new();
        for extent in range.extents() {
            for &key in self.by_extent.get(&extent).map_or(&[][..], Vec::as_slice) {
                let holder = self.holders.get(key).expect("listed holders exist");
                let counts = kind.conflicts(holder.kind) && holder.range.overlaps(&range);
                if counts && !older.contains(&key) {
                    older.push(key);
                }
            }
        }
        let waits_for = older.len() as u32;
        let key =
            self.holders.insert(Holder { range, kind, owner, waits_for, waiters: Vec::new() });
        for other in older {
            self.holders.get_mut(other).expect("just seen").waiters.push(key);
        }
        for extent in range.extents() {
            self.by_extent.entry(extent).or_default().push(key);
        }
        (key, waits_for == 0)
    }

    /// Leaves; `granted` receives those that may go now, oldest first.
    pub fn leave(&mut self, key: u64, granted: &mut Vec<Granted>) {
        let Some(holder) = self.holders.remove(key) else { return };
        for extent in holder.range.extents() {
            let list = self.by_extent.get_mut(&extent).expect("joined in every extent");
            list.retain(|&other| other != key);
            if list.is_empty() {
                self.by_extent.remove(&extent);
            }
        }
        for waiter in holder.waiters {
            let Some(other) = self.holders.get_mut(waiter) else { continue };
            other.waits_for -= 1;
            if other.waits_for == 0 {
                granted.push(Granted { kind: other.kind, owner: other.owner });
            }
        }
    }

    /// Whether anything in the range conflicts with `kind` right now.
    pub fn is_busy(&self, range: SectorRange, kind: Kind) -> bool {
        range.extents().any(|extent| {
            self.by_extent.get(&extent).is_some_and(|keys| {
                keys.iter().any(|&key| {
                    let holder = self.holders.get(key).expect("listed holders exist");
                    kind.conflicts(holder.kind) && holder.range.overlaps(&range)
                })
            })
        })
    }

    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, count: u32) -> SectorRange {
        SectorRange::new(start, count)
    }

    #[test]
    fn overlapping_writes_go_in_order_of_arrival() {
        let mut locks = RangeLocks::default();
        let (first, go) = locks.join(range(0, 16), Kind::Client, 1);
        assert!(go);
        let (second, go) = locks.join(range(8, 16), Kind::Client, 2);
        assert!(!go);
        let (_third, go) = locks.join(range(16, 16), Kind::Client, 3);
        assert!(!go, "overlaps the second only, and still waits");
        let (_other, go) = locks.join(range(100, 8), Kind::Client, 4);
        assert!(go);
        let mut granted = Vec::new();
        locks.leave(first, &mut granted);
        assert_eq!(granted, [Granted { kind: Kind::Client, owner: 2 }]);
        granted.clear();
        locks.leave(second, &mut granted);
        assert_eq!(granted, [Granted { kind: Kind::Client, owner: 3 }]);
    }

    #[test]
    fn a_range_over_two_extents_is_counted_once() {
        let mut locks = RangeLocks::default();
        let (first, _) = locks.join(range(8190, 4), Kind::Client, 1);
        let (_, go) = locks.join(range(8190, 4), Kind::Client, 2);
        assert!(!go);
        let mut granted = Vec::new();
        locks.leave(first, &mut granted);
        assert_eq!(granted.len(), 1);
    }

    #[test]
    fn resync_data_does_not_wait_for_a_client_that_waits_for_it() {
        let mut locks = RangeLocks::default();
        let (request, _) = locks.join(range(0, 16), Kind::TargetRequest, 1);
        assert!(!locks.join(range(4, 4), Kind::Client, 2).1);
        let (write, go) = locks.join(range(0, 16), Kind::TargetWrite, 3);
        assert!(go);
        let mut granted = Vec::new();
        locks.leave(write, &mut granted);
        assert!(granted.is_empty());
        locks.leave(request, &mut granted);
        assert_eq!(granted, [Granted { kind: Kind::Client, owner: 2 }]);
    }

    #[test]
    fn a_waiter_that_leaves_is_forgotten() {
        let mut locks = RangeLocks::default();
        let (first, _) = locks.join(range(0, 8), Kind::Client, 1);
        let (second, _) = locks.join(range(0, 8), Kind::Client, 2);
        let mut granted = Vec::new();
        locks.leave(second, &mut granted);
        locks.leave(first, &mut granted);
        assert!(granted.is_empty());
        assert!(locks.is_empty());
    }

    #[test]
    fn a_peer_write_does_not_wait_for_resync_data_only_asked_for() {
        let mut locks = RangeLocks::default();
        locks.join(range(0, 8), Kind::TargetRequest, 1);
        assert!(locks.join(range(0, 8), Kind::Peer, 2).1);
        assert!(!locks.join(range(0, 8), Kind::TargetWrite, 3).1);
        assert!(locks.is_busy(range(4, 1), Kind::Client));
    }
}
