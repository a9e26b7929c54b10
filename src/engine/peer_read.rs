//! What the peer reads here: its application's reads, resync blocks when this node is source, and
//! digests when it compares both disks.

use twinblk_proto::packet::{BlockRequest, Digest, Packet};
use twinblk_proto::state::{ConnectionState as C, DiskState as D};

use super::effect::{DiskAction, Effect, Examination};
use super::event::{DiskFailure, Finding, PayloadId, SessionId};
use super::limits::{MAX_PEER_READS, MAX_REQUEST_SECTORS};
use super::peer_write::Waiting;
use super::range_lock::Kind;
use super::{Engine, Examined, Purpose};

/// What a block is read for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// `P_DATA_REQUEST`.
    Application,
    /// `P_RS_DATA_REQUEST`.
    Resync,
    /// `P_RS_THIN_REQ`: zeroes need not be sent.
    ThinResync,
    /// `P_CSUM_RS_REQUEST`, with the digest of what the target has.
    ChecksumResync(Digest),
    /// `P_OV_REQUEST`.
    Verify,
}

#[derive(Debug)]
pub(super) struct PeerRead {
    session: SessionId,
    request: BlockRequest,
    asked: Asked,
    lock: Option<u64>,
    /// What was read, while it is being examined and may have to be sent.
    payload: Option<PayloadId>,
}

impl Engine {
    pub(super) fn peer_read(&mut self, request: BlockRequest, asked: Asked) -> Result<(), String> {
        let range = request.range;
        if range.is_empty() || range.count > MAX_REQUEST_SECTORS || range.end().0 > self.sectors {
            return Err(format!("read request for {range:?} beyond the device or the limit"));
        }
        if self.peer_reads.len() >= MAX_PEER_READS {
            return Err(format!("more than {MAX_PEER_READS} read requests under way"));
        }
        let application = asked == Asked::Application;
        if self.state.disk != D::UpToDate {
            self.refuse_peer_read(request, application);
            return Ok(());
        }
        if !application && self.state.connection == C::Ahead {
            let ack = self.ack(range, request.id);
            self.send_meta(Packet::ResyncCancel(ack));
            return Ok(());
        }
        if asked == Asked::Verify {
            if self.verify_algorithm().is_none() {
                return Err("verify request without a verify-alg".into());
            }
            self.peer_verifies(range);
        }
        let session = self.session.as_ref().expect("packets come from the session").id;
        let read = PeerRead { session, request, asked, lock: None, payload: None };
        let key = self.peer_reads.insert(read);
        // An application's read too: under A and B what it wrote before is answered already (I9).
        self.read_behind_peer_writes(range, Waiting::Read(key));
        Ok(())
    }

    /// Never mixes with a write: the target would take old data for newer (range_lock).
    pub(super) fn lock_peer_read(&mut self, key: u64) {
        let Some(read) = self.peer_reads.get(key) else { return };
        let (lock, granted) = self.locks.join(read.request.range, Kind::SourceRead, key);
        self.peer_reads.get_mut(key).expect("just seen").lock = Some(lock);
        if granted {
            self.start_peer_read(key);
        }
    }

    pub(super) fn start_peer_read(&mut self, key: u64) {
        let Some(read) = self.peer_reads.get(key) else { return };
        let (range, request) = (read.request.range, read.request);
        let application = read.asked == Asked::Application;
        if self.state.disk != D::UpToDate {
            self.take_peer_read(key);
            return self.refuse_peer_read(request, application);
        }
        self.disk_op(Purpose::PeerRead(key), DiskAction::Read { range });
        self.status.counters.disk_read += u64::from(range.count);
    }

    fn take_peer_read(&mut self, key: u64) -> Option<PeerRead> {
        let mut read = self.peer_reads.remove(key)?;
        self.release(read.payload.take());
        if let Some(lock) = read.lock {
            self.leave_lock(lock);
        }
        Some(read)
    }

    fn refuse_peer_read(&mut self, request: BlockRequest, application: bool) {
        let ack = self.ack(request.range, request.id);
        self.send_meta(if application {
            Packet::NegativeDataReply(ack)
        } else {
            Packet::NegativeResyncReply(ack)
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
        let (session, request) = (read.session, read.request);
        let application = read.asked == Asked::Application;
        match result {
            Ok(payload) => self.answer_peer_read(key, payload.expect("a read brings data")),
            Err(failure) => {
                self.take_peer_read(key);
                self.bitmap.set_range(request.range.blocks_touched());
                self.local_io_error("read for the peer", &failure);
                if self.is_session(session) {
                    self.refuse_peer_read(request, application);
                }
            }
        }
    }

    /// Sent before the lock is left: a write that waits follows it on the wire.
    fn answer_peer_read(&mut self, key: u64, payload: PayloadId) {
        let read = self.peer_reads.get(key).expect("its caller saw it");
        let (request, asked) = (read.request, read.asked.clone());
        if !self.is_session(read.session) {
            self.release(Some(payload));
            self.take_peer_read(key);
            return;
        }
        let look = match asked {
            Asked::Application | Asked::Resync => None,
            Asked::ThinResync => Some(Examination::IsZero),
            Asked::ChecksumResync(_) => self.checksum_algorithm().map(Examination::Digest),
            Asked::Verify => self.verify_algorithm().map(Examination::Digest),
        };
        if let Some(what) = look {
            // Only the digest of what is verified goes out.
            let keep = asked != Asked::Verify;
            self.peer_reads.get_mut(key).expect("as above").payload = keep.then_some(payload);
            self.examine(Examined::PeerRead(key), payload, what);
            if !keep {
                self.release(Some(payload));
            }
            return;
        }
        let reply = match asked {
            Asked::Application => Packet::DataReply(request),
            _ => Packet::ResyncReply(request),
        };
        self.send_block(reply, payload);
        self.take_peer_read(key);
    }

    fn send_block(&mut self, reply: Packet, payload: PayloadId) {
        if let Packet::DataReply(request) | Packet::ResyncReply(request) = &reply {
            self.status.counters.net_sent += u64::from(request.range.count);
        }
        self.send_data(reply, Some(payload));
        self.release(Some(payload));
    }

    /// What the driver found in what was read.
    pub(super) fn peer_read_examined(&mut self, key: u64, finding: Finding) {
        let Some(read) = self.peer_reads.get_mut(key) else { return };
        let (session, request, asked) = (read.session, read.request, read.asked.clone());
        let payload = read.payload.take();
        if !self.is_session(session) {
            self.release(payload);
            self.take_peer_read(key);
            return;
        }
        let range = request.range;
        match (asked, finding, payload) {
            (Asked::Verify, Finding::Digest(digest), _) => {
                self.send_data(Packet::VerifyReply(request, digest), None);
            }
            (Asked::ThinResync, Finding::IsZero(true), payload) => {
                self.send_data(Packet::ResyncDeallocated(range), None);
                self.release(payload);
            }
            (Asked::ChecksumResync(theirs), Finding::Digest(mine), payload) if theirs == mine => {
                let ack = self.ack(range, request.id);
                self.send_meta(Packet::ResyncIsInSync(ack));
                self.blocks_are_equal(range);
                self.release(payload);
            }
            (_, _, Some(payload)) => self.send_block(Packet::ResyncReply(request), payload),
            (asked, finding, None) => unreachable!("{asked:?} was answered with {finding:?}"),
        }
        self.take_peer_read(key);
    }

    /// The connection is gone: reads that wait are dropped, those under way end unanswered.
    pub(super) fn drop_peer_reads(&mut self) {
        for key in self.peer_reads.keys() {
            // What is under way comes back to peer_read_done, which finds the key or not; the
            // lock must not stay.
            self.take_peer_read(key);
        }
    }

    /// Has the driver look at a payload; what it found comes back to `then`.
    pub(super) fn examine(&mut self, then: Examined, payload: PayloadId, what: Examination) {
        let examination = super::event::ExaminationId(self.examinations.insert(then));
        self.emit(Effect::Examine { examination, payload, what });
    }
}
