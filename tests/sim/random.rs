//! Seeded random numbers, in streams: a draw added to one stream changes nothing in another.

/// A splitmix64 generator: small, quick, and its whole state is one number.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

/// What a stream is drawn for.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    Options,
    Schedule,
    Disk,
    Link,
    Workload,
    Operator,
    Faults,
    Crash,
    Generations,
    Verbs,
    /// Administrators' programs: their presence, and what they do.
    Handlers,
    Maintenance,
    /// Disks, and links, that are too slow.
    Slow,
    Growth,
    /// What runs above the engines, and who uses it.
    Service,
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Random {
    pub fn new(seed: u64, stream: Stream, instance: u64) -> Self {
        Self { state: mix(mix(seed ^ mix(stream as u64 + 1)).wrapping_add(instance)) }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`; `bound` is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw needs at least one possibility");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `per_million` times of a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }

    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Roughly logarithmic between `low` and `high`: small numbers often, large ones sometimes.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let magnitudes = u64::from((high - low + 1).ilog2()) + 1;
        let top = 1u64 << self.below(magnitudes + 1).min(62);
        (low + self.below(top)).min(high)
    }
}
