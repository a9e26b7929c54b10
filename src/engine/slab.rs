//! Values by key: constant time, no allocation in the steady state, and a stale key never finds a
//! newer value.

/// Values of one kind; keys are (use count of the slot, slot), so they never repeat in practice.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub fn insert(&mut self, value: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (uses, place) = &mut self.slots[slot as usize];
        // The first use is number 1: key 0 never names anything.
        *uses = uses.wrapping_add(1).max(1);
        *place = Some(value);
        u64::from(*uses) << 32 | u64::from(slot)
    }

    fn check(&self, key: u64) -> Option<usize> {
        let slot = (key & 0xFFFF_FFFF) as usize;
        let (uses, value) = self.slots.get(slot)?;
        (u64::from(*uses) == key >> 32 && value.is_some()).then_some(slot)
    }

    pub fn get(&self, key: u64) -> Option<&T> {
        self.check(key).and_then(|slot| self.slots[slot].1.as_ref())
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        self.check(key).and_then(|slot| self.slots[slot].1.as_mut())
    }

    pub fn remove(&mut self, key: u64) -> Option<T> {
        let slot = self.check(key)?;
        self.free.push(slot as u32);
        self.slots[slot].1.take()
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, (uses, value))| {
            value.as_ref().map(|value| (u64::from(*uses) << 32 | slot as u64, value))
        })
    }

    pub fn keys(&self) -> Vec<u64> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }
}
