//! Requests of one connection that the driver has not answered, by cookie.
//!
//! A cookie is a place and the number of times the place was used before, so that a second or late
//! reply finds nothing: on the wire it would make a kernel client drop its device (nbd.md 0.5).

use super::request::{Ask, Cookie};

#[derive(Debug, Default)]
struct Slot {
    used: u32,
    ask: Option<Ask>,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn open(&mut self, ask: Ask) -> Cookie {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.ask.is_none());
        slot.ask = Some(ask);
        Cookie(u64::from(slot.used) << 32 | u64::from(index))
    }

    /// The request that `cookie` names, once.
    pub(super) fn close(&mut self, cookie: Cookie) -> Option<Ask> {
        let index = cookie.0 as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.used) != cookie.0 >> 32 {
            return None;
        }
        let ask = slot.ask.take()?;
        slot.used = slot.used.wrapping_add(1);
        self.free.push(index);
        Some(ask)
    }

    /// Closes all of them.
    pub(super) fn take_all(&mut self) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(ask) = slot.ask.take() {
                slot.used = slot.used.wrapping_add(1);
                self.free.push(index as u32);
                asks.push(ask);
            }
        }
        asks
    }

    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::request::Kind;

    fn ask(handle: u64) -> Ask {
        Ask { handle, kind: Kind::Other, offset: 0, length: 0, held_bytes: 0 }
    }

    #[test]
    fn every_request_is_answered_once() {
        let mut slots = Slots::default();
        let (first, second) = (slots.open(ask(1)), slots.open(ask(1)));
        assert_ne!(first, second, "the client used one cookie twice");
        assert_eq!(slots.close(first).map(|ask| ask.handle), Some(1));
        assert_eq!(slots.close(first), None, "a second reply");
        let third = slots.open(ask(3));
        assert_eq!(slots.close(first), None, "a late reply does not hit the place's next user");
        assert_eq!(slots.outstanding(), 2);
        assert_eq!(slots.take_all().len(), 2);
        assert_eq!((slots.close(second), slots.close(third)), (None, None));
        assert_eq!(slots.outstanding(), 0);
        assert_eq!(slots.close(Cookie(99)), None);
    }
}
