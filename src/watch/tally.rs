//! Counting, apart from what is counted: when a row of findings changes a verdict. No clock; time is
//! an argument.

use std::time::Duration;

/// A script's verdict: `rise` good ones in a row make it good, `fall` bad ones make it bad. Before
/// the first finding there is none, and that one decides at once (vrrp.md 2.4).
#[derive(Clone, Debug)]
pub struct RiseAndFall {
    rise: u32,
    fall: u32,
    is_good: Option<bool>,
    /// Findings in a row that contradict the verdict.
    streak: u32,
}

impl RiseAndFall {
    pub fn new(rise: u32, fall: u32, is_good: Option<bool>) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), is_good, streak: 0 }
    }

    /// The new verdict, where it changes.
    pub fn count(&mut self, good: bool) -> Option<bool> {
        let needed = match self.is_good {
            None => 1,
            Some(is_good) if is_good == good => {
                self.streak = 0;
                return None;
            }
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        self.streak += 1;
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.is_good = Some(good);
        self.is_good
    }
}

/// A verdict that must last for a while before it counts: `fork_delay` and `terminate_delay` of a
/// process. The first one counts at once.
#[derive(Clone, Debug)]
pub struct Lasting {
    until_good: Duration,
    until_bad: Duration,
    is_good: Option<bool>,
    /// Since when the findings contradict the verdict.
    differs_since: Option<Duration>,
}

impl Lasting {
    pub fn new(until_good: Duration, until_bad: Duration) -> Self {
        Self { until_good, until_bad, is_good: None, differs_since: None }
    }

    /// The new verdict, where it changes. `now` counts from anywhere.
    pub fn count(&mut self, now: Duration, good: bool) -> Option<bool> {
        if self.is_good == Some(good) {
            self.differs_since = None;
            return None;
        }
        let since = *self.differs_since.get_or_insert(now);
        let needed = match self.is_good {
            None => Duration::ZERO,
            Some(_) if good => self.until_good,
            Some(_) => self.until_bad,
        };
        if now.saturating_sub(since) < needed {
            return None;
        }
        self.differs_since = None;
        self.is_good = Some(good);
        self.is_good
    }
}

/// The pace of a health check: each `delay_loop`; after a failure of a server that is up again after
/// `delay_before_retry`, and down after `retry` of these (vrrp.md 2.4).
#[derive(Clone, Debug)]
pub struct Retries {
    pub retry: u32,
    pub delay_loop: Duration,
    pub delay_before_retry: Duration,
    is_up: bool,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The new verdict, where it changes.
    pub change: Option<bool>,
    pub wait: Duration,
}

impl Retries {
    /// A server counts as up until it is found down, with `alpha` the other way round.
    pub fn new(
        retry: u32,
        delay_loop: Duration,
        delay_before_retry: Duration,
        is_up: bool,
    ) -> Self {
        Self { retry, delay_loop, delay_before_retry, is_up, failures: 0 }
    }

    pub fn is_up(&self) -> bool {
        self.is_up
    }

    pub fn count(&mut self, good: bool) -> Pace {
        let was_up = self.is_up;
        if good {
            self.failures = 0;
            self.is_up = true;
        } else if was_up {
            if self.failures < self.retry {
                self.failures += 1;
                return Pace { change: None, wait: self.delay_before_retry };
            }
            self.failures = 0;
            self.is_up = false;
        }
        let change = (self.is_up != was_up).then_some(self.is_up);
        Pace { change, wait: self.delay_loop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings as `+` and `-`; what changed after each as `+`, `-` or `.`.
    fn verdicts(rise: u32, fall: u32, begin: Option<bool>, findings: &str) -> String {
        let mut tally = RiseAndFall::new(rise, fall, begin);
        findings.chars().map(|finding| sign(tally.count(finding == '+'))).collect()
    }

    fn sign(change: Option<bool>) -> char {
        match change {
            None => '.',
            Some(true) => '+',
            Some(false) => '-',
        }
    }

    #[test]
    fn rise_and_fall() {
        for (rise, fall, begin, findings, expected) in [
            // The first finding decides, whatever rise and fall are.
            (1, 1, None, "++--+", "+.-.+"),
            (3, 2, None, "+", "+"),
            (3, 2, None, "-", "-"),
            // Only an unbroken row counts.
            (3, 2, None, "+-+--", "+...-"),
            (3, 2, None, "-++-+++", "-.....+"),
            // init_fail: bad from the beginning.
            (2, 1, Some(false), "+++", ".+."),
            (1, 1, Some(false), "-", "."),
            // 0 is no number to count to.
            (0, 0, None, "+-+", "+-+"),
        ] {
            let found = verdicts(rise, fall, begin, findings);
            assert_eq!(found, expected, "rise {rise} fall {fall} {begin:?}: {findings}");
        }
    }

    #[test]
    fn a_verdict_that_does_not_last_does_not_count() {
        // (milliseconds, finding, change), with 100 ms until good and 300 ms until bad.
        let steps = [
            (0, true, '+'),
            (10, false, '.'),
            (200, true, '.'),
            (210, false, '.'),
            (509, false, '.'),
            (510, false, '-'),
            (520, false, '.'),
            (530, true, '.'),
            (600, false, '.'),
            (610, true, '.'),
            (709, true, '.'),
            (710, true, '+'),
        ];
        let mut lasting = Lasting::new(Duration::from_millis(100), Duration::from_millis(300));
        for (ms, good, expected) in steps {
            let change = sign(lasting.count(Duration::from_millis(ms), good));
            assert_eq!(change, expected, "at {ms} ms");
        }
        let mut first = Lasting::new(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(first.count(Duration::ZERO, false), Some(false), "nothing to last against");
    }

    #[test]
    fn retries_come_before_down_and_never_before_up() {
        let (long, short) = (Duration::from_secs(6), Duration::from_secs(3));
        // What follows each finding: the change, and whether the next look comes early.
        for (retry, begins_up, findings, changes, early) in [
            (3, true, "+----", "....-", ".!!!."),
            (3, true, "---+----", ".......-", "!!!.!!!."),
            (0, true, "-+", "-+", ".."),
            (1, true, "---+", ".-.+", "!..."),
            // alpha
            (1, false, "--+--", "..+.-", "...!."),
        ] {
            let mut retries = Retries::new(retry, long, short, begins_up);
            let paces: Vec<_> = findings.chars().map(|c| retries.count(c == '+')).collect();
            let found: String = paces.iter().map(|pace| sign(pace.change)).collect();
            assert_eq!(found, changes, "retry {retry}, up {begins_up}: {findings}");
            let found: String =
                paces.iter().map(|pace| if pace.wait == short { '!' } else { '.' }).collect();
            assert_eq!(found, early, "retry {retry}, up {begins_up}: {findings}");
        }
    }
}
