//! The payloads that a node's driver holds for its engine. Every one is released exactly once, and
//! none is named after that.

use std::collections::BTreeMap;

use twinblk::engine::event::PayloadId;

use crate::stamp::Content;

#[derive(Debug, Default)]
pub struct Slab {
    held: BTreeMap<u64, Content>,
    /// Not reused, not even after a restart: a stale name is always noticed.
    last: u64,
    peak: usize,
}

impl Slab {
    pub fn insert(&mut self, content: Content) -> PayloadId {
        self.last += 1;
        self.held.insert(self.last, content);
        self.peak = self.peak.max(self.held.len());
        PayloadId(self.last)
    }

    pub fn get(&self, id: PayloadId) -> Result<Content, String> {
        self.held.get(&id.0).cloned().ok_or_else(|| self.absent(id))
    }

    pub fn release(&mut self, id: PayloadId) -> Result<Content, String> {
        self.held.remove(&id.0).ok_or_else(|| self.absent(id))
    }

    fn absent(&self, id: PayloadId) -> String {
        let why = if id.0 <= self.last { "was released before" } else { "never existed" };
        format!("payload {} {why}", id.0)
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    /// The process is gone, and its memory with it.
    pub fn clear(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_release_and_a_late_use_are_noticed() {
        let mut slab = Slab::default();
        let id = slab.insert(vec![1].into());
        assert!(slab.get(id).is_ok());
        assert!(slab.release(id).is_ok());
        assert!(slab.release(id).is_err());
        assert!(slab.get(id).is_err());
        assert!(slab.get(PayloadId(9)).is_err());
    }
}
