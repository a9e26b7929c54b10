//! The writer's side of epochs (wire.md 5.4): which mirrored writes the peer has not made stable.
//!
//! An epoch ends when somebody may depend on its order: at a client's FLUSH, before an overlapping
//! write under A and B, when it is full, and when it went quiet, so that its extents may leave the
//! activity log. Ending it at each completed write, as the kernel does, would make the peer flush
//! its disk for every write at queue depth 1; the promises of DESIGN section 3 do not need that,
//! since a block device's user orders writes by FLUSH alone.

use std::collections::VecDeque;

use twinblk_proto::packet::Packet;
use twinblk_proto::state::DiskState;
use twinblk_proto::units::SectorRange;

use super::Engine;
use super::event::{Time, Timer};
use super::limits::{EPOCH_IDLE_MS, MAX_OPEN_EPOCHS};
use super::range_lock::{Kind, RangeLocks};
use super::session::Session;

#[derive(Debug, Default)]
struct Epoch {
    number: u64,
    writes: Vec<u64>,
    sent_at: Option<Time>,
}

#[derive(Debug, Default)]
pub(super) struct Epochs {
    open: Epoch,
    /// Ended ones, oldest first; those whose barrier was sent come before the others.
    closed: VecDeque<Epoch>,
    last_write: Time,
    timer_set: bool,
    /// Ranges of the open epoch, kept under A and B only.
    ranges: RangeLocks,
    /// Writes of a lost session are on the peer alone, if only in its cache: no epoch of this session
    /// has been stable since (I1).
    owed: bool,
}

/// What a flush that rests on the peer's copy waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerCopy {
    Stable,
    /// When this epoch is.
    After(u64),
    /// Nothing makes a kernel's DRBD flush without a write.
    Unknown,
}

impl Epochs {
    /// Number of the newest epoch that holds a write.
    pub(super) fn newest(&self) -> Option<u64> {
        if self.open.writes.is_empty() {
            self.closed.back().map(|epoch| epoch.number)
        } else {
            Some(self.open.number)
        }
    }

    /// Whether every epoch up to `number` is stable on the peer.
    pub(super) fn is_stable(&self, number: u64) -> bool {
        let oldest = self.closed.front().unwrap_or(&self.open);
        oldest.number > number
    }

    pub(super) const fn is_owed(&self) -> bool {
        self.owed
    }

    pub(super) fn oldest_sent(&self) -> Option<Time> {
        self.closed.front().and_then(|epoch| epoch.sent_at)
    }

    pub(super) fn len(&self) -> usize {
        self.closed.len() + 1
    }
}

impl Engine {
    pub(super) fn enter_epoch(&mut self, key: u64) {
        let full = self.settings.max_epoch_size.max(1) as usize;
        if self.epochs.open.writes.len() >= full && self.epochs.closed.len() < MAX_OPEN_EPOCHS {
            self.close_epoch();
        }
        self.send_barriers();
        self.epochs.open.writes.push(key);
        self.epochs.last_write = self.now;
        if !self.epochs.timer_set {
            self.epochs.timer_set = true;
            self.set_timer(Timer::EpochIdle, EPOCH_IDLE_MS);
        }
    }

    /// Under A and B: ends the epoch when `range` overlaps a write in it.
    pub(super) fn separate_overlapping(&mut self, range: SectorRange) {
        if self.epochs.ranges.is_busy(range, Kind::Client) {
            self.close_epoch();
        }
        self.epochs.ranges.join(range, Kind::Client, 0);
    }

    pub(super) fn close_epoch(&mut self) {
        if !self.epochs.open.writes.is_empty() {
            self.end_open_epoch();
        }
    }

    /// What makes everything stable that the peer was sent so far, and ends the epoch for it. Between
    /// twinblk nodes an epoch without writes asks for what a lost session left in the peer's cache.
    pub(super) fn peer_copy(&mut self) -> PeerCopy {
        let newest = self.epochs.newest();
        self.close_epoch();
        let twins = self.session.as_ref().is_some_and(Session::peer_is_twinblk);
        match newest {
            Some(number) => PeerCopy::After(number),
            None if !self.epochs.owed => PeerCopy::Stable,
            // At most one: it is the newest until it is stable.
            None if twins => PeerCopy::After(self.end_open_epoch()),
            None => PeerCopy::Unknown,
        }
    }

    fn end_open_epoch(&mut self) -> u64 {
        let epochs = &mut self.epochs;
        let number = epochs.open.number;
        let next = Epoch { number: number + 1, ..Epoch::default() };
        epochs.closed.push_back(std::mem::replace(&mut epochs.open, next));
        epochs.ranges = RangeLocks::default();
        number
    }

    /// Sends the barriers of the epochs that ended; before the next write, and at the end of a
    /// batch of events.
    pub(super) fn send_barriers(&mut self) {
        if self.session.is_none() {
            return;
        }
        for index in 0..self.epochs.closed.len() {
            let epoch = &mut self.epochs.closed[index];
            if epoch.sent_at.is_none() {
                epoch.sent_at = Some(self.now);
                let handle = epoch.number as u32;
                self.send_data(Packet::Barrier { handle }, None);
            }
        }
    }

    pub(super) fn barrier_acked(&mut self, handle: u32, writes: u32) -> Result<(), String> {
        let Some(epoch) = self.epochs.closed.front() else {
            return Err(format!("barrier acknowledgement {handle} without a barrier"));
        };
        let expected = (epoch.number as u32, epoch.writes.len());
        if epoch.sent_at.is_none() || expected != (handle, writes as usize) {
            return Err(format!(
                "barrier acknowledgement {handle} of {writes} writes, expected {} of {}",
                expected.0, expected.1
            ));
        }
        let epoch = self.epochs.closed.pop_front().expect("just seen");
        // Of an epoch that failed as a whole the peer flushes nothing.
        let reached = |key: &u64| !self.write_was_missed(*key);
        if epoch.writes.is_empty() || epoch.writes.iter().any(reached) {
            self.epochs.owed = false;
        }
        for key in epoch.writes {
            self.write_is_stable(key);
        }
        self.flushes_may_be_stable();
        Ok(())
    }

    pub(super) fn epoch_timer(&mut self) {
        self.epochs.timer_set = false;
        if self.epochs.open.writes.is_empty() {
            return;
        }
        if self.now >= self.epochs.last_write.after_ms(EPOCH_IDLE_MS) {
            self.close_epoch();
        } else {
            self.epochs.timer_set = true;
            self.set_timer(Timer::EpochIdle, EPOCH_IDLE_MS);
        }
    }

    /// The connection is gone: every write of every epoch is out of sync.
    pub(super) fn drop_epochs(&mut self) {
        let number = self.epochs.open.number + 1;
        let timer_set = self.epochs.timer_set;
        let old = std::mem::take(&mut self.epochs);
        self.epochs.open.number = number;
        self.epochs.timer_set = timer_set;
        let keys: Vec<u64> =
            old.closed.into_iter().chain([old.open]).flat_map(|epoch| epoch.writes).collect();
        // With a good disk of its own this node has them, and resyncs them.
        self.epochs.owed = old.owed || !keys.is_empty() && self.state.disk != DiskState::UpToDate;
        self.forget_mirrored(keys);
    }
}
