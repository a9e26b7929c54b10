//! Clock and timers of a resource: one deadline per kind, one sleep for all of them.

use std::time::{Duration, Instant};

use crate::engine::event::{Time, Timer};

/// Turns the machine's monotonic clock into the engine's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(&self) -> Time {
        Time(self.start.elapsed().as_micros() as u64)
    }

    /// When the machine's clock will show `time`.
    pub(super) fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_micros(time.0)
    }
}

/// The engine has a handful of timer kinds: a list that is searched is quicker than a map.
#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: Vec<(Timer, Time)>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Time) {
        match self.armed.iter_mut().find(|(kind, _)| *kind == timer) {
            Some(entry) => entry.1 = at,
            None => self.armed.push((timer, at)),
        }
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.armed.retain(|(kind, _)| *kind != timer);
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.armed.iter().map(|(_, at)| *at).min()
    }

    /// Takes one timer that is due, the earliest first.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Timer> {
        let (index, _) = self
            .armed
            .iter()
            .enumerate()
            .filter(|(_, (_, at))| *at <= now)
            .min_by_key(|(_, (timer, at))| (*at, *timer))?;
        Some(self.armed.swap_remove(index).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_setting_replaces_the_old_and_due_timers_come_in_order() {
        let mut timers = Timers::default();
        timers.set(Timer::Ping, Time(50));
        timers.set(Timer::Resync, Time(20));
        timers.set(Timer::Ping, Time(10));
        timers.set(Timer::EpochIdle, Time(90));
        timers.set(Timer::RequestTimeout, Time(5));
        timers.clear(Timer::RequestTimeout);
        assert_eq!(timers.next(), Some(Time(10)));
        assert_eq!(timers.take_due(Time(9)), None);
        assert_eq!(timers.take_due(Time(30)), Some(Timer::Ping));
        assert_eq!(timers.take_due(Time(30)), Some(Timer::Resync));
        assert_eq!(timers.take_due(Time(30)), None);
        assert_eq!(timers.next(), Some(Time(90)));
    }
}
