//! What happened, for the determinism self-test (a hash) and for reading (a trace).

use std::fmt::{self, Write};

use crate::node::Crash;

/// How much to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Times, nodes and counts: cheap.
    Outline,
    /// Every event and effect.
    Everything,
}

#[derive(Debug)]
pub struct Recorder {
    detail: Detail,
    hash: u64,
    lines: Option<Vec<String>>,
    scratch: String,
}

impl Recorder {
    pub fn new(detail: Detail, keep_lines: bool) -> Self {
        Self {
            detail,
            hash: 0xcbf2_9ce4_8422_2325,
            lines: keep_lines.then(Vec::new),
            scratch: String::new(),
        }
    }

    fn absorb(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Records one thing that `what` describes; `count` stands for it in an outline.
    pub fn note(&mut self, now_us: u64, node: usize, count: usize, what: fmt::Arguments<'_>) {
        self.absorb(now_us);
        self.absorb((node as u64) << 32 | count as u64);
        if self.detail == Detail::Outline && self.lines.is_none() {
            return;
        }
        self.scratch.clear();
        let seconds = now_us / 1_000_000;
        let _ = write!(self.scratch, "{seconds:>4}.{:06} {node} {what}", now_us % 1_000_000);
        for chunk in self.scratch.clone().as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.absorb(u64::from_le_bytes(word));
        }
        if let Some(lines) = &mut self.lines {
            lines.push(self.scratch.clone());
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

/// What a run, or many, met.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub seeds: u64,
    pub events: u64,
    pub effects: u64,
    pub requests: u64,
    pub kills: u64,
    pub power_losses: u64,
    pub cuts: u64,
    pub pauses: u64,
    pub disk_errors: u64,
    pub sessions: u64,
    pub resyncs: u64,
    pub handlers: u64,
    pub failovers: u64,
    pub promotions: u64,
    pub split_brains: u64,
    pub stuck_requests: u64,
    pub blocks_moved: u64,
    pub blocks_verified: u64,
    pub simulated_s: u64,
}

impl Statistics {
    pub fn crashed(&mut self, crash: Crash) {
        match crash {
            Crash::Kill => self.kills += 1,
            Crash::PowerLoss => self.power_losses += 1,
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.effects += other.effects;
        self.requests += other.requests;
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.cuts += other.cuts;
        self.pauses += other.pauses;
        self.disk_errors += other.disk_errors;
        self.sessions += other.sessions;
        self.resyncs += other.resyncs;
        self.handlers += other.handlers;
        self.failovers += other.failovers;
        self.promotions += other.promotions;
        self.split_brains += other.split_brains;
        self.stuck_requests += other.stuck_requests;
        self.blocks_moved += other.blocks_moved;
        self.blocks_verified += other.blocks_verified;
        self.simulated_s += other.simulated_s;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} simulated s: {} events, {} effects, {} requests; {} kills, {} power \
             losses, {} pauses, {} cuts, {} disk errors; {} sessions, {} resyncs ({} blocks), {} \
             blocks verified, {} promotions, {} failovers, {} split brains, {} handlers",
            self.seeds,
            self.simulated_s,
            self.events,
            self.effects,
            self.requests,
            self.kills,
            self.power_losses,
            self.pauses,
            self.cuts,
            self.disk_errors,
            self.sessions,
            self.resyncs,
            self.blocks_moved,
            self.blocks_verified,
            self.promotions,
            self.failovers,
            self.split_brains,
            self.handlers,
        )
    }
}
