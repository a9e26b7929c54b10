//! A machine's own clock: it goes a little faster or slower than the world's.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Microseconds that it gains in a second.
    pub drift_ppm: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// What it shows at a moment of the world.
    pub fn local(self, now_us: u64) -> u64 {
        (i128::from(now_us) * (MILLION + i128::from(self.drift_ppm)) / MILLION) as u64
    }

    /// The first moment of the world at which it shows `local_us`.
    pub fn global(self, local_us: u64) -> u64 {
        let rate = MILLION + i128::from(self.drift_ppm);
        ((i128::from(local_us) * MILLION + rate - 1) / rate) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_when_the_clock_shows_its_time_and_not_before() {
        for drift_ppm in [-20_000, 0, 1, 20_000] {
            let clock = Clock { drift_ppm };
            for local_us in [0, 1, 999_999, 1_000_000, 12_345_678_901] {
                let due = clock.global(local_us);
                assert!(clock.local(due) >= local_us, "{drift_ppm} {local_us}");
                assert!(due == 0 || clock.local(due - 1) < local_us, "{drift_ppm} {local_us}");
            }
        }
        assert_eq!(Clock { drift_ppm: 20_000 }.local(10_000_000), 10_200_000);
    }
}
