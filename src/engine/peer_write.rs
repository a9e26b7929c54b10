//! What the Primary writes here (wire.md 5): acknowledged by its flags, applied in arrival order
//! where writes overlap, and never across a barrier before the epoch in front of it is stable.

use std::collections::VecDeque;

use twinblk_proto::packet::{Ack, BlockId, Packet, Write, dp_flags};
use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};
use twinblk_proto::units::SectorRange;

use super::effect::DiskAction;
use super::event::{DiskFailure, PayloadId, SessionId};
use super::limits::{MAX_PEER_EPOCHS, MAX_PEER_WRITES};
use super::range_lock::Kind;
use super::{Engine, LogOwner, Purpose};

#[derive(Debug)]
pub(super) struct PeerWrite {
    session: SessionId,
    range: SectorRange,
    id: BlockId,
    flags: u32,
    /// None: zero-out.
    payload: Option<PayloadId>,
    /// The Primary had no disk when it sent this: its disk misses it, whatever happens until this is
    /// written.
    only_copy: bool,
    epoch: u64,
    lock: Option<u64>,
    pub(super) logged: bool,
}

/// By key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    Write(u64),
    /// A block to be resynced or verified, behind writes to it.
    Read(u64),
    Comparison(u64),
}

#[derive(Debug, Default)]
struct PeerEpoch {
    number: u64,
    /// Handle of its barrier, once that came.
    handle: Option<u32>,
    writes: u32,
    pending: u32,
    /// Writes that are on the disk, if only in its cache.
    written: u32,
    flushing: bool,
    /// What waits for the epochs in front of this one, in the order in which it came.
    waiting: Vec<Waiting>,
}

/// Epochs of the peer that are not stable here; the last one is open.
#[derive(Debug)]
pub(super) struct PeerEpochs {
    list: VecDeque<PeerEpoch>,
}

impl Default for PeerEpochs {
    fn default() -> Self {
        Self { list: VecDeque::from([PeerEpoch::default()]) }
    }
}

impl Engine {
    /// `P_DATA`, `P_TRIM`, `P_ZEROES`.
    pub(super) fn peer_write(
        &mut self,
        write: Write,
        payload: Option<PayloadId>,
    ) -> Result<(), String> {
        let session = self.session.as_ref().expect("packets come from the session").id;
        if write.range.is_empty() || write.range.end().0 > self.sectors {
            self.release(payload);
            return Err(format!("write of {:?} beyond the device", write.range));
        }
        if self.peer_writes.len() >= MAX_PEER_WRITES {
            self.release(payload);
            return Err(format!("more than {MAX_PEER_WRITES} writes under way"));
        }
        self.status.counters.net_received += u64::from(write.range.count);
        let epoch = self.peer_epochs.list.back_mut().expect("one epoch is open");
        epoch.writes += 1;
        epoch.pending += 1;
        let number = epoch.number;
        let only_copy = self.holds_the_only_disk();
        if only_copy {
            self.bitmap.set_range(write.range.blocks_touched());
        }
        let key = self.peer_writes.insert(PeerWrite {
            session,
            range: write.range,
            id: write.id,
            flags: write.flags,
            payload,
            only_copy,
            epoch: number,
            lock: None,
            logged: false,
        });
        if !self.local_usable() {
            // Drained: it counts in the epoch, and the writer knows that it is not here.
            self.fail_peer_write(key);
            return Ok(());
        }
        if write.flags & dp_flags::SEND_RECEIVE_ACK != 0 {
            let ack = self.ack(write.range, write.id);
            self.send_meta(Packet::ReceiveAck(ack));
        }
        if self.holds_the_only_disk() {
            // Also while it waits: a bitmap sent from now on has it.
            self.bitmap.set_range(write.range.blocks_touched());
        }
        if self.peer_epochs.list.len() > 1 {
            self.peer_epochs
                .list
                .back_mut()
                .expect("one is open")
                .waiting
                .push(Waiting::Write(key));
        } else {
            self.begin_peer_write(key);
        }
        Ok(())
    }

    pub(super) fn ack(&mut self, range: SectorRange, id: BlockId) -> Ack {
        Ack { range, id, sequence: self.next_sequence() }
    }

    pub(super) fn begin_peer_write(&mut self, key: u64) {
        if self.is_unready_target() {
            return self.status.held_peer_writes.push(key);
        }
        let Some(write) = self.peer_writes.get(key) else { return };
        let (lock, granted) = self.locks.join(write.range, Kind::Peer, key);
        self.peer_writes.get_mut(key).expect("just seen").lock = Some(lock);
        if granted {
            self.peer_write_unlocked(key);
        }
    }

    pub(super) fn peer_write_unlocked(&mut self, key: u64) {
        let Some(write) = self.peer_writes.get(key) else { return };
        if !self.local_usable() {
            return self.fail_peer_write(key);
        }
        if write.only_copy {
            // The diskless Primary's disk misses it: this node keeps the log and the bitmap.
            let range = write.range;
            let at_once = self.log.acquire(range.extents(), LogOwner::Peer(key));
            let write = self.peer_writes.get_mut(key).expect("just seen");
            write.logged = at_once;
            if !at_once {
                return;
            }
        }
        self.submit_peer_write(key);
    }

    fn holds_the_only_disk(&self) -> bool {
        self.state.peer == Role::Primary && self.state.peer_disk < D::Inconsistent
    }

    pub(super) fn peer_write_is_logged(&mut self, key: u64) {
        let Some(write) = self.peer_writes.get_mut(key) else { return };
        write.logged = true;
        self.submit_peer_write(key);
    }

    fn submit_peer_write(&mut self, key: u64) {
        let Some(write) = self.peer_writes.get_mut(key) else { return };
        if write.flags & dp_flags::FLUSH != 0 {
            write.flags &= !dp_flags::FLUSH;
            self.disk_op(Purpose::PeerPreflush(key), DiskAction::Flush);
            return;
        }
        let (range, flags) = (write.range, write.flags);
        // While the Primary is the target, this disk is what its next resync is taken from: an
        // answered write must survive a power loss here, or that resync takes it back (I1).
        let only_good_copy = matches!(self.state.connection, C::SyncSource | C::PausedSyncS);
        let fua = flags & dp_flags::FUA != 0 || only_good_copy;
        let action = match write.payload {
            Some(payload) => DiskAction::Write { range, payload, fua },
            None => DiskAction::Zero { range, may_unmap: flags & dp_flags::DISCARD != 0, fua },
        };
        self.disk_op(Purpose::PeerWrite(key), action);
        self.status.counters.disk_written += u64::from(range.count);
    }

    pub(super) fn peer_preflush_done(&mut self, key: u64, failure: Option<DiskFailure>) {
        match failure {
            None => self.submit_peer_write(key),
            Some(failure) => {
                self.local_io_error("flush", &failure);
                self.fail_disk("a flush failed: what was written before may be lost");
                self.fail_peer_write(key);
            }
        }
    }

    pub(super) fn peer_write_done(&mut self, key: u64, failure: Option<DiskFailure>) {
        if let Some(failure) = failure {
            self.local_io_error("write for the peer", &failure);
            return self.fail_peer_write(key);
        }
        let Some(write) = self.take_peer_write(key) else { return };
        if !self.is_session(write.session) {
            return self.peer_write_left_epoch(write.epoch, true);
        }
        let heals = write.flags & dp_flags::MAY_SET_IN_SYNC != 0 && self.in_sync_states();
        let ack = |engine: &mut Self| engine.ack(write.range, write.id);
        if heals {
            self.mark_in_sync(write.range);
            let ack = ack(self);
            self.send_meta(Packet::ResyncWriteAck(ack));
        } else if write.flags & dp_flags::SEND_WRITE_ACK != 0 {
            let ack = ack(self);
            self.send_meta(Packet::WriteAck(ack));
        }
        self.peer_write_left_epoch(write.epoch, true);
        if heals {
            self.target_progressed();
        }
    }

    /// Not written here: the writer learns it, and both mark the blocks.
    pub(super) fn fail_peer_write(&mut self, key: u64) {
        let Some(write) = self.take_peer_write(key) else { return };
        self.bitmap.set_range(write.range.blocks_touched());
        self.taint_resync_requests(write.range);
        if self.is_session(write.session) {
            let ack = self.ack(write.range, write.id);
            self.send_meta(Packet::NegativeAck(ack));
        }
        self.peer_write_left_epoch(write.epoch, false);
    }

    fn take_peer_write(&mut self, key: u64) -> Option<PeerWrite> {
        let mut write = self.peer_writes.remove(key)?;
        self.release(write.payload.take());
        if write.logged {
            self.log_release(write.range);
        }
        if let Some(lock) = write.lock {
            self.leave_lock(lock);
        }
        if write.only_copy {
            self.send_bitmap_if_due();
        }
        Some(write)
    }

    /// Writes that an attaching disk misses, but which are not on this one yet: a resync would read
    /// what they are about to replace.
    pub(super) fn has_unwritten_only_copies(&self) -> bool {
        self.peer_writes.iter().any(|(_, write)| write.only_copy)
    }

    fn peer_write_left_epoch(&mut self, number: u64, written: bool) {
        let Some(epoch) = self.peer_epochs.list.iter_mut().find(|epoch| epoch.number == number)
        else {
            return;
        };
        epoch.pending -= 1;
        epoch.written += u32::from(written);
        self.finish_peer_epochs();
        self.continue_when_drained();
    }

    pub(super) fn peer_barrier(&mut self, handle: u32) -> Result<(), String> {
        if self.peer_epochs.list.len() >= MAX_PEER_EPOCHS {
            return Err(format!("more than {MAX_PEER_EPOCHS} epochs open"));
        }
        let open = self.peer_epochs.list.back_mut().expect("one is open");
        open.handle = Some(handle);
        let next = PeerEpoch { number: open.number + 1, ..PeerEpoch::default() };
        self.peer_epochs.list.push_back(next);
        self.finish_peer_epochs();
        Ok(())
    }

    /// The oldest epoch, once its barrier came and its writes are done: flush, then acknowledge.
    fn finish_peer_epochs(&mut self) {
        loop {
            let front = self.peer_epochs.list.front_mut().expect("one is open");
            let Some(handle) = front.handle else { return };
            if front.pending > 0 || front.flushing {
                return;
            }
            // Without a write it asks for what an earlier session left in the disk's cache (I1).
            let unstable = front.written > 0 || front.writes == 0;
            if unstable && self.state.disk < D::Inconsistent {
                // Written, but the disk went before it was flushed: acknowledged as stable the
                // writer would forget it. Without an acknowledgement it marks the blocks.
                return self.give_up_epoch("the disk failed before an epoch was stable");
            }
            if unstable && self.settings.disk_flushes {
                front.flushing = true;
                let epoch = front.number;
                self.disk_op(Purpose::PeerEpochFlush { epoch }, DiskAction::Flush);
                return;
            }
            self.epoch_is_stable(handle);
        }
    }

    fn epoch_is_stable(&mut self, handle: u32) {
        let front = self.peer_epochs.list.pop_front().expect("its caller saw it");
        self.send_meta(Packet::BarrierAck { handle, writes: front.writes });
        let next = self.peer_epochs.list.front_mut().expect("one is open");
        for waiting in std::mem::take(&mut next.waiting) {
            match waiting {
                Waiting::Write(key) => self.begin_peer_write(key),
                Waiting::Read(key) => self.lock_peer_read(key),
                Waiting::Comparison(key) => self.lock_comparison(key),
            }
        }
    }

    /// A read of what the peer's writes so far leave in the range: it takes its place among the
    /// locks now, or behind a write that has none yet.
    pub(super) fn read_behind_peer_writes(&mut self, range: SectorRange, reader: Waiting) {
        let waits = |write: &PeerWrite| write.lock.is_none() && write.range.overlaps(&range);
        let epochs = &mut self.peer_epochs.list;
        if epochs.len() > 1 && self.peer_writes.iter().any(|(_, write)| waits(write)) {
            return epochs.back_mut().expect("one is open").waiting.push(reader);
        }
        match reader {
            Waiting::Write(key) => self.begin_peer_write(key),
            Waiting::Read(key) => self.lock_peer_read(key),
            Waiting::Comparison(key) => self.lock_comparison(key),
        }
    }

    pub(super) fn peer_epoch_flushed(&mut self, epoch: u64, failure: Option<DiskFailure>) {
        if let Some(failure) = failure {
            // Nothing of the epoch is promised; the writer hears it as a lost disk before the
            // barrier's answer.
            self.local_io_error("flush for the peer", &failure);
            self.fail_disk("a flush failed: what was written before may be lost");
        }
        let front = self.peer_epochs.list.front_mut().expect("one is open");
        if !front.flushing || front.number != epoch {
            // Given up with its connection.
            return;
        }
        front.flushing = false;
        let handle = front.handle.expect("flushed because its barrier came");
        if self.state.disk <= D::Failed {
            // An epoch that is not stable must never be acknowledged: the writer would forget it.
            return self.give_up_epoch("an epoch could not be made stable");
        }
        self.epoch_is_stable(handle);
        self.finish_peer_epochs();
    }

    /// The connection is gone. What was received may have been answered to the writer (protocol B),
    /// so it is still written, in order, before this node is promoted or looks for a peer again: a
    /// new session's data must find none of it on the way.
    pub(super) fn orphan_peer_writes(&mut self) {
        // Held back until the disk was a proper target, which it did not become.
        for key in std::mem::take(&mut self.status.held_peer_writes) {
            if let Some(write) = self.take_peer_write(key) {
                self.peer_write_left_epoch(write.epoch, false);
            }
        }
        if !self.local_usable() {
            self.fail_waiting_peer_writes();
        }
        self.continue_when_drained();
    }

    pub(super) fn is_draining_peer_writes(&self) -> bool {
        self.session.is_none() && !self.peer_writes.is_empty()
    }

    /// The last write of a lost session has ended.
    fn continue_when_drained(&mut self) {
        if self.session.is_some() || !self.peer_writes.is_empty() {
            return;
        }
        // A flush may be under way: its epoch's number must not come again.
        let last = self.peer_epochs.list.back().expect("one is open").number;
        let first = PeerEpoch { number: last + 1, ..PeerEpoch::default() };
        self.peer_epochs.list = VecDeque::from([first]);
        self.connect_after_drain();
    }

    /// The disk failed under an epoch, and with it every write that waits behind.
    fn give_up_epoch(&mut self, why: &str) {
        if self.session.is_some() {
            return self.drop_session(C::NetworkFailure, why);
        }
        self.fail_waiting_peer_writes();
    }

    fn fail_waiting_peer_writes(&mut self) {
        let waiting = self.peer_epochs.list.iter_mut().flat_map(|epoch| epoch.waiting.drain(..));
        for waiting in waiting.collect::<Vec<_>>() {
            match waiting {
                Waiting::Write(key) => self.fail_peer_write(key),
                // They find the disk as it is.
                Waiting::Read(key) => self.lock_peer_read(key),
                Waiting::Comparison(key) => self.lock_comparison(key),
            }
        }
    }
}
