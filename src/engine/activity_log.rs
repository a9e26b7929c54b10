//! The activity log in memory: which 4 MiB extents may be written to (behaviour.md 2.2).
//!
//! An extent is hot when a durable transaction names it (I7). A write holds a reference on its
//! extents from before it starts until it is done on both nodes or known out of sync; only extents
//! without references may be replaced, the least recently used first.
//!
//! Writes to hot extents go at once. The others queue in order of arrival and one transaction at a
//! time makes room for as many as fit: all of a write's extents or none, so that two writes never
//! hold what the other needs.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::effect::ActivityLogUpdate;
use super::limits::MAX_LOG_UPDATES;

#[derive(Debug)]
struct Entry {
    slot: u16,
    references: u32,
    /// Named by a durable transaction.
    hot: bool,
    /// Position among the unreferenced extents, when there are no references.
    idle_since: u64,
}

#[derive(Debug)]
struct Waiting<O> {
    extents: Range<u32>,
    owner: O,
}

/// What to write to make the next waiting writes possible.
#[derive(Debug, PartialEq, Eq)]
pub struct Transaction {
    pub update: ActivityLogUpdate,
    /// Extents that lose their slot: their bitmap pages must be durable first.
    pub replaced: Vec<u32>,
}

#[derive(Debug)]
pub struct ActivityLog<O> {
    entries: BTreeMap<u32, Entry>,
    free_slots: Vec<u16>,
    idle: BTreeMap<u64, u32>,
    clock: u64,
    waiting: VecDeque<Waiting<O>>,
    /// Owners whose extents are all hot once the transaction under way is durable.
    under_way: Vec<O>,
    busy: bool,
    transactions: u64,
}

impl<O: Copy + PartialEq> ActivityLog<O> {
    /// An empty log with `slots` slots.
    pub fn new(slots: u16) -> Self {
        Self {
            entries: BTreeMap::new(),
            free_slots: (0..slots).collect(),
            idle: BTreeMap::new(),
            clock: 0,
            waiting: VecDeque::new(),
            under_way: Vec::new(),
            busy: false,
            transactions: 0,
        }
    }

    fn reference(&mut self, extents: Range<u32>) {
        for extent in extents {
            let entry = self.entries.get_mut(&extent).expect("referenced extents have a slot");
            if entry.references == 0 {
                self.idle.remove(&entry.idle_since);
            }
            entry.references += 1;
        }
    }

    /// Takes references on all extents if they are hot; otherwise the owner queues and is named by
    /// [`Self::completed`] later.
    pub fn acquire(&mut self, extents: Range<u32>, owner: O) -> bool {
        let hot =
            extents.clone().all(|extent| self.entries.get(&extent).is_some_and(|entry| entry.hot));
        if hot {
            self.reference(extents);
            return true;
        }
        self.waiting.push_back(Waiting { extents, owner });
        false
    }

    /// Lets go of the references that [`Self::acquire`] took.
    pub fn release(&mut self, extents: Range<u32>) {
        for extent in extents {
            let entry = self.entries.get_mut(&extent).expect("released extents have a slot");
            assert!(entry.references > 0, "extent {extent} released more often than acquired");
            entry.references -= 1;
            if entry.references == 0 {
                self.clock += 1;
                entry.idle_since = self.clock;
                self.idle.insert(self.clock, extent);
            }
        }
    }

    /// The next transaction, when none is under way and something waits that has room. Owners that
    /// need none (their extents became hot) are put into `ready`.
    pub fn next_transaction(&mut self, ready: &mut Vec<O>) -> Option<Transaction> {
        if self.busy {
            return None;
        }
        let mut slots = Vec::new();
        let mut replaced = Vec::new();
        while let Some(first) = self.waiting.front() {
            let extents = first.extents.clone();
            let missing: Vec<u32> =
                extents.clone().filter(|extent| !self.entries.contains_key(extent)).collect();
            // Idle extents of this very write do not count as room.
            let own_idle = extents
                .clone()
                .filter(|extent| self.entries.get(extent).is_some_and(|e| e.references == 0))
                .count();
            let room = self.free_slots.len() + self.idle.len() - own_idle;
            if missing.len() > room || slots.len() + missing.len() > MAX_LOG_UPDATES {
                break;
            }
            let owner = self.waiting.pop_front().expect("just seen").owner;
            for extent in extents.clone().filter(|extent| !missing.contains(extent)) {
                self.reference(extent..extent + 1);
            }
            for extent in missing {
                let slot = self.free_slots.pop().unwrap_or_else(|| {
                    let (_, victim) = self.idle.pop_first().expect("room was counted");
                    replaced.push(victim);
                    self.entries.remove(&victim).expect("idle extents have a slot").slot
                });
                let entry = Entry { slot, references: 1, hot: false, idle_since: 0 };
                self.entries.insert(extent, entry);
                slots.push((slot, extent));
            }
            if extents.clone().all(|extent| self.entries[&extent].hot) {
                ready.push(owner);
            } else {
                self.under_way.push(owner);
            }
        }
        if slots.is_empty() {
            return None;
        }
        self.busy = true;
        self.transactions += 1;
        Some(Transaction { update: ActivityLogUpdate { slots }, replaced })
    }

    /// The transaction under way is durable: its extents are hot, its owners may go.
    pub fn completed(&mut self) -> Vec<O> {
        assert!(self.busy, "no activity log transaction was under way");
        self.busy = false;
        for entry in self.entries.values_mut() {
            entry.hot = true;
        }
        std::mem::take(&mut self.under_way)
    }

    /// Everybody who waits or whose transaction is under way; the log is gone (disk lost).
    pub fn abandon(&mut self) -> Vec<O> {
        let mut owners = std::mem::take(&mut self.under_way);
        owners.extend(self.waiting.drain(..).map(|waiting| waiting.owner));
        owners
    }

    /// A transaction is on its way to the disk.
    pub const fn is_busy(&self) -> bool {
        self.busy
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Transactions written since the disk was attached.
    pub const fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Extents with writes under way.
    pub fn active(&self) -> usize {
        self.entries.len() - self.idle.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(log: &mut ActivityLog<u64>) -> Option<Transaction> {
        log.next_transaction(&mut Vec::new())
    }

    #[test]
    fn a_cold_extent_waits_for_its_transaction_and_a_hot_one_does_not() {
        let mut log = ActivityLog::new(4);
        assert!(!log.acquire(7..8, 1));
        let first = transaction(&mut log).expect("something waits");
        assert_eq!(first.update.slots, [(3, 7)]);
        assert!(first.replaced.is_empty());
        assert!(!log.acquire(7..8, 2), "named, but not durable yet");
        assert_eq!(log.completed(), [1]);
        let mut ready = Vec::new();
        assert_eq!(log.next_transaction(&mut ready), None);
        assert_eq!(ready, [2], "became hot while it waited");
        assert!(log.acquire(7..8, 3));
        assert_eq!(log.active(), 1);
    }

    #[test]
    fn only_extents_without_references_are_replaced_the_oldest_first() {
        let mut log = ActivityLog::new(2);
        log.acquire(1..3, 1);
        transaction(&mut log).expect("fits");
        log.completed();
        log.acquire(9..10, 2);
        assert_eq!(transaction(&mut log), None, "both slots are in use");
        log.release(2..3);
        log.release(1..2);
        assert_eq!(transaction(&mut log).expect("room now").replaced, [2]);
    }

    #[test]
    fn a_write_never_evicts_its_own_idle_extents() {
        let mut log = ActivityLog::new(2);
        log.acquire(1..2, 1);
        transaction(&mut log);
        log.completed();
        log.release(1..2);
        log.acquire(5..6, 2);
        transaction(&mut log);
        log.completed();
        // 1 is idle, 5 is in use; a write to 1 and 2 needs a slot that is not its own.
        log.acquire(1..3, 3);
        assert_eq!(transaction(&mut log), None);
        log.release(5..6);
        let next = transaction(&mut log).expect("slot of 5");
        assert_eq!(next.replaced, [5]);
    }

    #[test]
    fn a_transaction_holds_at_most_64_updates() {
        let mut log = ActivityLog::new(200);
        for extent in 0..100 {
            log.acquire(extent..extent + 1, u64::from(extent));
        }
        assert_eq!(transaction(&mut log).expect("first").update.slots.len(), 64);
        assert_eq!(log.completed().len(), 64);
        assert_eq!(transaction(&mut log).expect("second").update.slots.len(), 36);
    }
}
