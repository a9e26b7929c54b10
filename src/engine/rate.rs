//! How fast a target asks for blocks (behaviour.md 5). As long as the options are DRBD's defaults the
//! speed follows from what is seen: a full window while the application is quiet; while it works, one
//! small request, and after its answer a pause of twice the time that the answer took, so that the
//! application has the disks and the link for two thirds of the time at least. DRBD's own defaults
//! would stop at 100 MiB/s and, under load, at 250 KiB/s. Options that were chosen are obeyed:
//!
//! | option | effect |
//! | --- | --- |
//! | `c-plan-ahead 0` | `resync-rate` is the speed, whatever the application does |
//! | `c-max-rate` | never faster |
//! | `c-min-rate` | no yielding to the application below this speed; 0 = none at all |
//! | `c-fill-target` | as much under way, instead of the window |
//! | `c-delay-target`, with `c-fill-target 0` | as much under way as arrives in this time |

use super::Engine;
use super::event::{Settings, Time, Timer};
use super::limits::{
    APPLICATION_BUSY_MS, MAX_RESYNC_PAUSE_US, RESYNC_BUSY_WINDOW_BYTES, RESYNC_LATENESS_US,
    RESYNC_MARK_US, RESYNC_MARKS, RESYNC_PAUSE_FACTOR, RESYNC_REQUEST_BLOCKS,
    RESYNC_REQUESTS_PER_S, RESYNC_WINDOW_BYTES,
};
use twinblk_proto::units::BLOCK_BYTES;

/// DRBD's defaults: whoever did not choose otherwise gets the automatic speed.
const DEFAULT_PLAN_AHEAD: u32 = 20;
const DEFAULT_DELAY_TARGET: u32 = 10;
const DEFAULT_FILL_TARGET: u32 = 100;
const DEFAULT_MIN_RATE: u32 = 250;

/// What the operator chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chosen {
    /// Bytes a second, never more; 0 = no limit.
    limit: u64,
    /// Bytes under way.
    fill: Option<u64>,
    /// Microseconds of arrivals under way.
    delay_us: Option<u64>,
    /// Yield to the application above this speed only; none: do not yield.
    yield_above: Option<u64>,
}

fn chosen(settings: &Settings) -> Chosen {
    if settings.c_plan_ahead == 0 {
        let limit = u64::from(settings.resync_rate) * 1024;
        return Chosen { limit, ..Chosen::default() };
    }
    let fill = settings.c_fill_target;
    let delay = settings.c_delay_target;
    let own_delay =
        fill == 0 && (delay != DEFAULT_DELAY_TARGET || settings.c_plan_ahead != DEFAULT_PLAN_AHEAD);
    Chosen {
        limit: if settings.c_max_rate_limits { u64::from(settings.c_max_rate) * 1024 } else { 0 },
        fill: (fill != 0 && fill != DEFAULT_FILL_TARGET).then(|| u64::from(fill) * 512),
        delay_us: own_delay.then(|| u64::from(delay) * 100_000),
        yield_above: match settings.c_min_rate {
            0 => None,
            DEFAULT_MIN_RATE => Some(0),
            rate => Some(u64::from(rate) * 1024),
        },
    }
}

/// The speed of a resync, and when it may go on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// No request before.
    next: Time,
    /// Moments and the bytes done until then, oldest first.
    marks: std::collections::VecDeque<(Time, u64)>,
    done: u64,
}

impl Pace {
    fn bytes_per_s(&self, now: Time) -> u64 {
        let Some((since, done)) = self.marks.front() else { return 0 };
        let elapsed_us = now.0.saturating_sub(since.0).max(1);
        (u128::from(self.done - done) * 1_000_000 / u128::from(elapsed_us)) as u64
    }
}

impl Engine {
    /// Whether a request of the application, here or on the peer, came lately.
    pub fn application_is_busy(&self, now: Time) -> bool {
        now < self.last_client_request.after_ms(APPLICATION_BUSY_MS)
    }

    /// Whether the application comes first now.
    fn resync_yields(&self) -> bool {
        let Some(above) = chosen(&self.settings).yield_above else { return false };
        self.application_is_busy(self.now)
            && (above == 0 || self.pace.bytes_per_s(self.now) > above)
    }

    /// Bytes that may be under way.
    pub(super) fn resync_window(&self) -> u64 {
        let chosen = chosen(&self.settings);
        let buffers = u64::from(self.settings.max_buffers) * BLOCK_BYTES / 2;
        let window = match chosen {
            _ if self.resync_yields() => RESYNC_BUSY_WINDOW_BYTES,
            Chosen { fill: Some(fill), .. } => fill,
            Chosen { delay_us: Some(delay_us), .. } => {
                let rate = u128::from(self.pace.bytes_per_s(self.now));
                (rate * u128::from(delay_us) / 1_000_000) as u64
            }
            _ => RESYNC_WINDOW_BYTES,
        };
        window.max(RESYNC_BUSY_WINDOW_BYTES).min(buffers.max(RESYNC_BUSY_WINDOW_BYTES))
    }

    /// The largest single request, in blocks.
    pub(super) fn resync_request_blocks(&self) -> u64 {
        if self.resync_yields() {
            return RESYNC_BUSY_WINDOW_BYTES / BLOCK_BYTES;
        }
        match chosen(&self.settings).limit {
            0 => RESYNC_REQUEST_BLOCKS,
            limit => (limit / RESYNC_REQUESTS_PER_S / BLOCK_BYTES).clamp(1, RESYNC_REQUEST_BLOCKS),
        }
    }

    /// Whether the next request may go out; if not, a timer comes back.
    pub(super) fn resync_is_due(&mut self) -> bool {
        if self.now >= self.pace.next {
            return true;
        }
        let at = self.pace.next;
        self.emit(super::effect::Effect::SetTimer { timer: Timer::ResyncPace, at });
        false
    }

    pub(super) fn resync_asked(&mut self, bytes: u64) {
        let limit = chosen(&self.settings).limit;
        if limit > 0 {
            let takes_us = (u128::from(bytes) * 1_000_000 / u128::from(limit)) as u64;
            // A timer that came late does not lower the speed.
            let since = self.pace.next.0.max(self.now.0.saturating_sub(RESYNC_LATENESS_US));
            self.pace.next = Time(since + takes_us);
        }
    }

    /// An answer to what was asked for at `asked` is on the disk.
    pub(super) fn resync_answered(&mut self, asked: Time) {
        if self.resync_yields() {
            let took_us = self.now.0.saturating_sub(asked.0);
            let pause_us = (RESYNC_PAUSE_FACTOR * took_us).min(MAX_RESYNC_PAUSE_US);
            let until = Time(self.now.0 + pause_us);
            self.pace.next = self.pace.next.max(until);
        }
    }

    // --- the speed ---

    pub(super) fn reset_pace(&mut self) {
        self.pace = Pace::default();
        self.pace.marks.push_back((self.now, 0));
    }

    /// Blocks were brought in sync.
    pub(super) fn count_progress(&mut self, blocks: u64) {
        self.pace.done += blocks * BLOCK_BYTES;
        let (now, done) = (self.now, self.pace.done);
        let last = self.pace.marks.back().map_or(Time(0), |(at, _)| *at);
        if now.0 >= last.0 + RESYNC_MARK_US {
            self.pace.marks.push_back((now, done));
            if self.pace.marks.len() > RESYNC_MARKS {
                self.pace.marks.pop_front();
            }
        }
    }

    /// Bytes a second over the last marks.
    pub(super) fn resync_speed(&self) -> u64 {
        self.pace.bytes_per_s(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_automatic_and_choices_are_obeyed() {
        let defaults = Settings::default();
        assert_eq!(chosen(&defaults), Chosen { yield_above: Some(0), ..Chosen::default() });
        let fixed = Settings { c_plan_ahead: 0, resync_rate: 1000, ..defaults.clone() };
        assert_eq!(chosen(&fixed), Chosen { limit: 1_024_000, ..Chosen::default() });
        let limited = Settings {
            c_max_rate: 300,
            c_max_rate_limits: true,
            c_min_rate: 0,
            ..defaults.clone()
        };
        assert_eq!(chosen(&limited), Chosen { limit: 307_200, ..Chosen::default() });
        let filled = Settings { c_fill_target: 2000, c_min_rate: 500, ..defaults.clone() };
        let expected =
            Chosen { fill: Some(1_024_000), yield_above: Some(512_000), ..Chosen::default() };
        assert_eq!(chosen(&filled), expected);
        let delayed = Settings { c_fill_target: 0, c_delay_target: 5, ..defaults };
        assert_eq!(chosen(&delayed).delay_us, Some(500_000));
    }

    #[test]
    fn the_speed_is_that_of_the_last_marks() {
        let mut pace = Pace::default();
        pace.marks.push_back((Time(0), 0));
        assert_eq!(pace.bytes_per_s(Time(1)), 0);
        pace.done = 10 << 20;
        assert_eq!(pace.bytes_per_s(Time(1_000_000)), 10 << 20);
        pace.marks.push_back((Time(1_000_000), pace.done));
        pace.marks.pop_front();
        assert_eq!(pace.bytes_per_s(Time(2_000_000)), 0, "it stands still since");
    }
}
