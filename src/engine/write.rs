//! A client's write on its way (DESIGN section 3):
//!
//! ```text
//!   lock --> activity log --> packet to the peer + local write --> answer --> epoch stable --> gone
//! ```
//!
//! It is answered once, when the local disk and the protocol's condition are met and no new
//! generation waits to become durable. It is forgotten when the peer has it on stable storage, or
//! its blocks are marked out of sync.

use twinblk_proto::packet::{BlockId, Packet, ReplicationProtocol, Write, dp_flags};
use twinblk_proto::state::{ConnectionState as C, DiskState as D};
use twinblk_proto::units::SectorRange;

use super::effect::{ClientError, DiskAction};
use super::event::{DiskFailure, PayloadId, RequestId, Time};
use super::limits::{MAX_REQUEST_SECTORS, MAX_ZERO_SECTORS};
use super::range_lock::Kind;
use super::{Engine, LogOwner, Purpose};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Data(PayloadId),
    Zeroes { may_unmap: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    /// No local disk when it started.
    None,
    UnderWay,
    Done,
    Failed,
}

/// How far the peer is; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Remote {
    /// Not sent: the peer is not there, or not fit.
    None,
    /// The connection went away, or the peer could not write: its blocks are out of sync.
    Missed,
    Sent,
    Received,
    Written,
    /// Its epoch is on the peer's stable storage.
    Stable,
}

#[derive(Debug)]
pub(super) struct ClientWrite {
    request: RequestId,
    range: SectorRange,
    content: Content,
    fua: bool,
    lock: Option<u64>,
    logged: bool,
    started: bool,
    local: Local,
    remote: Remote,
    needs: Remote,
    /// The peer has it, and so will this disk: its blocks are in sync then.
    heals: bool,
    answered: bool,
    since: Time,
}

impl Engine {
    pub(super) fn client_write(
        &mut self,
        request: RequestId,
        range: SectorRange,
        content: Content,
        fua: bool,
    ) {
        let limit = match content {
            Content::Data(_) => MAX_REQUEST_SECTORS,
            Content::Zeroes { .. } => MAX_ZERO_SECTORS,
        };
        assert!(
            range.count > 0 && range.count <= limit && range.end().0 <= self.sectors,
            "write of {range:?} on a device of {} sectors",
            self.sectors
        );
        let write = ClientWrite {
            request,
            range,
            content,
            fua,
            lock: None,
            logged: false,
            started: false,
            local: Local::None,
            remote: Remote::None,
            needs: Remote::Sent,
            heals: false,
            answered: false,
            since: self.now,
        };
        let key = self.writes.insert(write);
        let (lock, granted) = self.locks.join(range, Kind::Client, key);
        self.writes.get_mut(key).expect("just inserted").lock = Some(lock);
        if granted {
            self.start_write(key);
        }
    }

    /// Nothing older overlaps any more.
    pub(super) fn start_write(&mut self, key: u64) {
        let Some(write) = self.writes.get(key) else { return };
        let extents = write.range.extents();
        if self.holds_writes() || self.is_frozen() {
            // Neither the peer nor the disk being attached would remember what it misses now, and
            // a mixture of old and new must not be on a disk that calls itself Consistent (I3): a
            // few round trips later all is in order.
            self.status.held_for_target.push(key);
        } else if self.local_usable() {
            if self.log.acquire(extents, LogOwner::Client(key)) {
                self.write_is_logged(key);
            }
        } else {
            self.submit_write(key);
        }
    }

    pub(super) fn write_is_logged(&mut self, key: u64) {
        if let Some(write) = self.writes.get_mut(key) {
            write.logged = true;
            self.submit_write(key);
        }
    }

    /// The disk failed while the write waited for the log.
    pub(super) fn log_gone_for_write(&mut self, key: u64) {
        if self.writes.get(key).is_some_and(|write| !write.started) {
            self.submit_write(key);
        }
    }

    pub(super) fn writes_under_way(&self) -> bool {
        self.writes.iter().any(|(_, write)| write.started)
    }

    /// What is being written here belongs to the generation that has just begun.
    pub(super) fn mark_writes_under_way(&mut self) {
        for (_, write) in self.writes.iter().filter(|(_, write)| write.started) {
            self.bitmap.set_range(write.range.blocks_touched());
        }
    }

    /// Whether writes go to the peer now (session.md 4.3).
    pub(super) fn mirrors(&self) -> bool {
        let s = &self.state;
        self.session.is_some()
            && s.connection >= C::Connected
            && (s.peer_disk == D::UpToDate
                || s.peer_disk >= D::Inconsistent
                    && s.connection >= C::WFBitMapT
                    && s.connection < C::Ahead)
    }

    fn submit_write(&mut self, key: u64) {
        let local = self.local_usable();
        let mirrored = self.mirrors();
        let Some(write) = self.writes.get_mut(key) else { return };
        write.started = true;
        let (range, content, fua) = (write.range, write.content, write.fua);
        if !mirrored && self.state.disk != D::UpToDate {
            // An Inconsistent disk alone promises nothing: its next resync would take it back.
            return self.write_has_no_data(key);
        }
        if mirrored {
            self.send_write(key, range, content, fua, local);
        }
        if !mirrored {
            // The peer misses it: set before the write is under way, so that a bitmap sent from
            // now on has it.
            self.bitmap.set_range(range.blocks_touched());
            if self.session.is_some() && matches!(self.state.connection, C::WFBitMapS | C::Ahead) {
                self.send_data(Packet::OutOfSync(range), None);
            }
        }
        if local {
            self.writes.get_mut(key).expect("checked above").local = Local::UnderWay;
            let action = match content {
                Content::Data(payload) => DiskAction::Write { range, payload, fua },
                Content::Zeroes { may_unmap } => DiskAction::Zero { range, may_unmap, fua },
            };
            self.disk_op(Purpose::ClientWrite(key), action);
            self.status.counters.disk_written += u64::from(range.count);
        }
        self.advance_write(key);
    }

    fn send_write(
        &mut self,
        key: u64,
        range: SectorRange,
        content: Content,
        fua: bool,
        local: bool,
    ) {
        let protocol = if local { self.settings.protocol } else { ReplicationProtocol::C };
        let (mut flags, needs) = match protocol {
            ReplicationProtocol::A => (0, Remote::Sent),
            ReplicationProtocol::B => (dp_flags::SEND_RECEIVE_ACK, Remote::Received),
            ReplicationProtocol::C => (dp_flags::SEND_WRITE_ACK, Remote::Written),
        };
        if self.in_sync_states() {
            flags |= dp_flags::MAY_SET_IN_SYNC | dp_flags::SEND_WRITE_ACK;
        }
        if fua {
            flags |= dp_flags::FUA | dp_flags::RW_SYNC;
        }
        // Within an epoch the peer may reorder. Under C an overlapping write is on the peer's disk
        // before the next one is sent; under A and B it may not be, so the epoch ends between them.
        if protocol != ReplicationProtocol::C {
            self.separate_overlapping(range);
        }
        self.enter_epoch(key);
        let sequence = self.next_sequence();
        let id = BlockId(key);
        let (packet, payload) = match content {
            Content::Data(payload) => {
                (Packet::Data(Write { range, id, sequence, flags }), Some(payload))
            }
            Content::Zeroes { may_unmap } => {
                flags |= dp_flags::ZEROES;
                if may_unmap {
                    flags |= dp_flags::DISCARD;
                }
                (Packet::Zeroes(Write { range, id, sequence, flags }), None)
            }
        };
        self.send_data(packet, payload);
        self.status.counters.net_sent += u64::from(range.count);
        let write = self.writes.get_mut(key).expect("its caller holds it");
        write.remote = Remote::Sent;
        write.needs = needs;
    }

    /// From SyncSource to PausedSyncT: a mirrored write also heals its blocks.
    pub(super) fn in_sync_states(&self) -> bool {
        matches!(
            self.state.connection,
            C::SyncSource | C::SyncTarget | C::PausedSyncS | C::PausedSyncT
        )
    }

    /// Neither disk is there: it waits for one, or fails (on-no-data-accessible).
    fn write_has_no_data(&mut self, key: u64) {
        let Some(mut write) = self.writes.remove(key) else { return };
        if std::mem::take(&mut write.logged) {
            self.log_release(write.range);
        }
        if self.is_frozen() && !write.answered {
            // A client may have read it from a disk that is gone: nothing that overlaps comes before
            // it is done again. Its number is new, since the peer may still speak of the old one.
            write.started = false;
            (write.local, write.remote) = (Local::None, Remote::None);
            self.replay_ended(key);
            let key = self.writes.insert(write);
            self.replay_later(key);
            return self.status.held_for_target.push(key);
        }
        if let Some(lock) = write.lock {
            self.leave_lock(lock);
        }
        if !write.answered {
            self.release_content(write.content);
            self.reply_client(write.request, Err(ClientError::Io));
        }
        self.replay_ended(key);
    }

    fn release_content(&mut self, content: Content) {
        if let Content::Data(payload) = content {
            self.release(Some(payload));
        }
    }

    pub(super) fn log_release(&mut self, range: SectorRange) {
        self.log.release(range.extents());
    }

    pub(super) fn client_write_done(&mut self, key: u64, failure: Option<DiskFailure>) {
        let Some(write) = self.writes.get_mut(key) else { return };
        let range = write.range;
        write.local = if failure.is_some() { Local::Failed } else { Local::Done };
        let heals = write.heals && write.local == Local::Done;
        if heals && self.in_sync_states() {
            self.target_wrote(range);
        }
        if let Some(failure) = failure {
            // Only the peer has it, if anybody.
            self.bitmap.set_range(range.blocks_touched());
            self.local_io_error("write", &failure);
        }
        self.advance_write(key);
    }

    /// The peer wrote it whole during a resync. Blocks are in sync when both disks have it, not before:
    /// this one may have failed meanwhile.
    pub(super) fn write_heals(&mut self, key: u64) {
        let syncing = self.in_sync_states();
        let Some(write) = self.writes.get_mut(key) else { return };
        let range = write.range;
        match write.local {
            Local::Done if syncing && write.remote > Remote::Missed => self.target_wrote(range),
            Local::UnderWay if syncing => write.heals = true,
            _ => {}
        }
    }

    /// The peer's word on a write: received, written, or not.
    pub(super) fn write_acked(&mut self, key: u64, range: SectorRange, remote: Remote) -> bool {
        let Some(write) = self.writes.get_mut(key) else { return false };
        if write.range != range || write.remote == Remote::None {
            return false;
        }
        match remote {
            Remote::Missed => {
                write.remote = Remote::Missed;
                self.bitmap.set_range(range.blocks_touched());
                self.peer_missed_a_write();
            }
            _ if write.remote == Remote::Missed => {}
            _ => write.remote = write.remote.max(remote),
        }
        self.advance_write(key);
        true
    }

    /// The peer could not write it.
    pub(super) fn write_was_missed(&self, key: u64) -> bool {
        self.writes.get(key).is_some_and(|write| write.remote == Remote::Missed)
    }

    /// The write's epoch is stable on the peer.
    pub(super) fn write_is_stable(&mut self, key: u64) {
        let Some(write) = self.writes.get_mut(key) else { return };
        // Without a data packet lost in between, a stable epoch means that the write was done,
        // unless the peer said that it failed.
        if write.remote != Remote::Missed {
            write.remote = Remote::Stable;
        } else {
            write.remote = Remote::None;
        }
        self.advance_write(key);
    }

    /// The connection is gone: what was not stable on the peer is out of sync (DESIGN 3).
    pub(super) fn forget_mirrored(&mut self, keys: Vec<u64>) {
        // Nor does its stable copy count for what is still on its way to the own disk: clients go on
        // from that one, and a resync would take the peer's back.
        for key in self.writes.keys() {
            let write = self.writes.get_mut(key).expect("listed");
            if !write.answered && write.remote == Remote::Stable {
                (write.remote, write.heals) = (Remote::None, false);
            }
        }
        for &key in &keys {
            let Some(write) = self.writes.get_mut(key) else { continue };
            (write.remote, write.heals) = (Remote::None, false);
            let range = write.range;
            self.bitmap.set_range(range.blocks_touched());
        }
        for key in keys {
            self.advance_write(key);
        }
    }

    /// Writes that only the peer has, held back until it would have noted that: they fail.
    pub(super) fn forget_held_writes(&mut self) {
        for key in self.status.held_writes.clone() {
            if let Some(write) = self.writes.get_mut(key)
                && write.local != Local::Done
            {
                write.remote = Remote::None;
            }
        }
    }

    pub(super) fn advance_write(&mut self, key: u64) {
        let gate_closed = self.record.gate_is_closed();
        let frozen = self.is_frozen();
        let disk_is_good = self.state.disk == D::UpToDate;
        // A peer that is half in sync is the target again when this node's disk is back.
        let peer_is_good = self.state.peer_disk == D::UpToDate;
        let Some(write) = self.writes.get(key) else { return };
        if !write.started || write.local == Local::UnderWay {
            return;
        }
        if !write.answered {
            // On an Inconsistent disk (this node is target) only the peer's copy counts.
            let local_good = write.local == Local::Done && disk_is_good;
            let remote_open =
                matches!(write.remote, Remote::Sent | Remote::Received | Remote::Written);
            // Without a good local copy the peer's must be certain, whatever the protocol.
            let needs = if local_good { write.needs } else { Remote::Written };
            if remote_open && write.remote < needs {
                return;
            }
            if gate_closed {
                return self.status.held_writes.push(key);
            }
            let remote_good = write.remote >= needs && (local_good || peer_is_good);
            if !local_good && !remote_good {
                return self.write_has_no_data(key);
            }
            if frozen {
                return self.status.held_writes.push(key);
            }
            self.answer_write(key, Ok(()));
        }
        let Some(write) = self.writes.get(key) else { return };
        if matches!(write.remote, Remote::None | Remote::Stable) {
            let write = self.writes.remove(key).expect("just seen");
            if write.logged {
                self.log_release(write.range);
            }
        }
    }

    fn answer_write(&mut self, key: u64, result: Result<(), ClientError>) {
        let Some(write) = self.writes.get_mut(key) else { return };
        write.answered = true;
        let (request, content) = (write.request, write.content);
        let lock = write.lock.take();
        self.release_content(content);
        self.reply_client(request, result.map(|()| None));
        if let Some(lock) = lock {
            self.leave_lock(lock);
        }
        self.replay_ended(key);
    }

    /// The node stops being Primary while answers wait: the disks may have the writes or not.
    pub(super) fn refuse_held_answers(&mut self) {
        for key in std::mem::take(&mut self.status.held_for_target) {
            if self.writes.get(key).is_some_and(|write| !write.started) {
                self.answer_write(key, Err(ClientError::NotPrimary));
                if let Some(write) = self.writes.remove(key)
                    && write.logged
                {
                    self.log_release(write.range);
                }
            }
        }
        for key in std::mem::take(&mut self.status.held_writes) {
            if self.writes.get(key).is_some_and(|write| !write.answered) {
                self.answer_write(key, Err(ClientError::NotPrimary));
                self.advance_write(key);
            }
        }
        for key in std::mem::take(&mut self.status.held_flushes) {
            self.refuse_flush(key);
        }
    }

    /// The new generation is durable: answers held back go out (I10).
    pub(super) fn gate_opened(&mut self) {
        for key in std::mem::take(&mut self.status.held_writes) {
            self.advance_write(key);
        }
        for key in std::mem::take(&mut self.status.held_flushes) {
            self.advance_flush(key);
        }
    }

    /// The activity log is gone with its disk; its references with it.
    pub(super) fn forget_log_references(&mut self) {
        for key in self.writes.keys() {
            self.writes.get_mut(key).expect("listed").logged = false;
        }
        for key in self.peer_writes.keys() {
            self.peer_writes.get_mut(key).expect("listed").logged = false;
        }
    }

    /// Start of the oldest write that the peer has not confirmed as its protocol demands.
    pub(super) fn oldest_unconfirmed_write(&self) -> Option<Time> {
        self.writes
            .iter()
            .filter(|(_, write)| {
                matches!(write.remote, Remote::Sent | Remote::Received)
                    && write.remote < write.needs
            })
            .map(|(_, write)| write.since)
            .min()
    }

    /// This disk is UpToDate from now on. What is being written may still be old here, and clients
    /// may have seen the peer's copy of it.
    pub(super) fn remember_writes_of_target(&mut self) {
        let open = self.writes.iter().filter(|(_, write)| write.started && !write.answered);
        self.status.begun_as_target = open.map(|(key, _)| key).collect();
    }

    /// Whether the peer's copy of the range is to be read until a write is answered: a client that
    /// saw the new content there must not see the old one here (I9).
    pub(super) fn may_have_been_read_at_peer(&self, range: SectorRange) -> bool {
        self.is_connected()
            && self.state.peer_disk == D::UpToDate
            && self.status.begun_as_target.iter().any(|&key| {
                let write = self.writes.get(key);
                write.is_some_and(|write| !write.answered && write.range.overlaps(&range))
            })
    }

    pub(super) fn writes_open(&self) -> bool {
        self.writes.iter().any(|(_, write)| !write.answered)
    }
}
