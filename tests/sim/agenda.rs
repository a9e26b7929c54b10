//! What happens next: a heap of items by time. Items of the same time come in an order drawn by
//! the seed, so that orders are explored.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::random::{Random, Stream};

struct Entry<T> {
    at_us: u64,
    tie: u64,
    number: u64,
    item: T,
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64, u64) {
        (self.at_us, self.tie, self.number)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// Reversed: the heap gives its greatest, and the earliest is wanted.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

pub struct Agenda<T> {
    heap: BinaryHeap<Entry<T>>,
    random: Random,
    number: u64,
}

impl<T> Agenda<T> {
    pub fn new(seed: u64) -> Self {
        Self { heap: BinaryHeap::new(), random: Random::new(seed, Stream::Schedule, 0), number: 0 }
    }

    pub fn add(&mut self, at_us: u64, item: T) {
        self.number += 1;
        self.heap.push(Entry { at_us, tie: self.random.next(), number: self.number, item });
    }

    pub fn next(&mut self) -> Option<(u64, T)> {
        self.heap.pop().map(|entry| (entry.at_us, entry.item))
    }

    pub fn next_time_us(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.at_us)
    }
}
