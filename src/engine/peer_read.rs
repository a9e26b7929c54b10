//! What the peer reads here: its application's reads, and resync blocks when this node is source.

use twinblk_proto::packet::{BlockRequest, Packet};
use twinblk_proto::state::{ConnectionState as C, DiskState as D};

use super::effect::DiskAction;
use super::event::{DiskFailure, PayloadId, SessionId};
use super::limits::{MAX_PEER_READS, MAX_REQUEST_SECTORS};
use super::range_lock::Kind;
use super::{Engine, Purpose};

#[derive(Debug)]
pub(super) struct PeerRead {
    session: SessionId,
    request: BlockRequest,
    resync: bool,
    lock: Option<u64>,
}

impl Engine {
    /// `P_DATA_REQUEST`, `P_RS_DATA_REQUEST`, `P_RS_THIN_REQ`.
    pub(super) fn peer_read(&mut self, request: BlockRequest, resync: bool) -> Result<(), String> {
        let range = request.range;
        if range.is_empty() || range.count > MAX_REQUEST_SECTORS || range.end().0 > self.sectors {
            return Err(format!("read request for {range:?} beyond the device or the limit"));
        }
        if self.peer_reads.len() >= MAX_PEER_READS {
            return Err(format!("more than {MAX_PEER_READS} read requests under way"));
        }
        if self.state.disk != D::UpToDate {
            self.refuse_peer_read(request, resync);
            return Ok(());
        }
        if resync && self.state.connection == C::Ahead {
            let ack = self.ack(range, request.id);
            self.send_meta(Packet::ResyncCancel(ack));
            return Ok(());
        }
        let session = self.session.as_ref().expect("packets come from the session").id;
        let key = self.peer_reads.insert(PeerRead { session, request, resync, lock: None });
        if resync {
            // Never mixes with a write: the target would take old data for newer (range_lock).
            let (lock, granted) = self.locks.join(range, Kind::SourceRead, key);
            self.peer_reads.get_mut(key).expect("just inserted").lock = Some(lock);
            if !granted {
                return Ok(());
            }
        }
        self.start_peer_read(key);
        Ok(())
    }

    pub(super) fn start_peer_read(&mut self, key: u64) {
        let Some(read) = self.peer_reads.get(key) else { return };
        let (range, request, resync) = (read.request.range, read.request, read.resync);
        if self.state.disk != D::UpToDate {
            self.take_peer_read(key);
            return self.refuse_peer_read(request, resync);
        }
        self.disk_op(Purpose::PeerRead(key), DiskAction::Read { range });
        self.status.counters.disk_read += u64::from(range.count);
    }

    fn take_peer_read(&mut self, key: u64) -> Option<PeerRead> {
        let read = self.peer_reads.remove(key)?;
        if let Some(lock) = read.lock {
            self.leave_lock(lock);
        }
        Some(read)
    }

    fn refuse_peer_read(&mut self, request: BlockRequest, resync: bool) {
        let ack = self.ack(request.range, request.id);
        self.send_meta(if resync {
            Packet::NegativeResyncReply(ack)
        } else {
            Packet::NegativeDataReply(ack)
        });
    }

    pub(super) fn peer_read_done(
        &mut self,
        key: u64,
        result: Result<Option<PayloadId>, DiskFailure>,
    ) {
        let Some(read) = self.peer_reads.get(key) else {
            if let Ok(payload) = result {
                self.release(payload);
            }
            return;
        };
        let (session, request, resync) = (read.session, read.request, read.resync);
        let current = self.is_session(session);
        match result {
            Ok(payload) => {
                if current {
                    self.status.counters.net_sent += u64::from(request.range.count);
                    let reply = if resync {
                        Packet::ResyncReply(request)
                    } else {
                        Packet::DataReply(request)
                    };
                    // Sent before the lock is left: a write that waits follows it on the wire.
                    self.send_data(reply, payload);
                }
                self.release(payload);
                self.take_peer_read(key);
            }
            Err(failure) => {
                self.take_peer_read(key);
                self.bitmap.set_range(request.range.blocks_touched());
                self.local_io_error("read for the peer", &failure);
                if self.is_session(session) {
                    self.refuse_peer_read(request, resync);
                }
            }
        }
    }

    /// The connection is gone: reads that wait are dropped, those under way end unanswered.
    pub(super) fn drop_peer_reads(&mut self) {
        for key in self.peer_reads.keys() {
            // What is under way comes back to peer_read_done, which finds the key or not; the
            // lock must not stay.
            self.take_peer_read(key);
        }
    }
}
