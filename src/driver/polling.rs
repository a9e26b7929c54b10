//! When to look again before going to sleep. Waking an idle core costs about 100 us on a small
//! machine, an awake one answers in under 10 (DESIGN.md 9), so a loop that was busy a moment ago
//! looks around for a little while first. The bounds keep an idle resource at zero CPU.

use crate::engine::event::Time;

/// Traffic is dense when two batches of events were at most this far apart: twice the time below,
/// so that the client has its turn too.
const DENSE_GAP_US: u64 = 200;
/// How long to look around before sleeping: the price of the wake-up that it may save, so that it
/// never costs more than twice of what the best choice would have.
const LOOK_AROUND_US: u64 = 100;

#[derive(Clone, Copy, Debug)]
pub(super) struct Polling {
    enabled: bool,
    /// Whether the last two batches were close to each other.
    dense: bool,
    last_batch: Time,
}

impl Polling {
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, dense: false, last_batch: Time(0) }
    }

    /// A batch of events was handled.
    pub(super) fn saw_events(&mut self, now: Time) {
        self.dense = now.0.saturating_sub(self.last_batch.0) <= DENSE_GAP_US;
        self.last_batch = now;
    }

    /// Whether to look once more instead of sleeping.
    pub(super) fn look_again(&self, now: Time) -> bool {
        self.enabled && self.dense && now.0.saturating_sub(self.last_batch.0) < LOOK_AROUND_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dense_traffic_is_polled_for_and_not_for_long() {
        let mut polling = Polling::new(true);
        polling.saw_events(Time(1000));
        assert!(!polling.look_again(Time(1001)), "one lonely event");
        polling.saw_events(Time(1080));
        assert!(polling.look_again(Time(1100)));
        assert!(!polling.look_again(Time(1180)), "bounded");
        polling.saw_events(Time(5000));
        assert!(!polling.look_again(Time(5001)), "sparse again");
        let mut off = Polling::new(false);
        off.saw_events(Time(10));
        off.saw_events(Time(20));
        assert!(!off.look_again(Time(21)));
    }
}
