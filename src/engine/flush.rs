//! A client's FLUSH: everything answered before it is stable. Locally that is one disk flush, under
//! C also the acknowledged barrier of the last epoch, which DRBD itself does not wait for.

use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::DiskState as D;

use super::effect::{ClientError, DiskAction, NoteLevel};
use super::epoch::PeerCopy;
use super::event::{ClientOperation, DiskFailure, RequestId};
use super::{Engine, Purpose};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    None,
    UnderWay,
    Done,
    Failed,
}

#[derive(Debug)]
pub(super) struct ClientFlush {
    request: RequestId,
    local: Local,
    /// Everything answered so far is on the local disk or in its cache. Not so when it is Inconsistent:
    /// what was written while it was away is on the peer alone (I1).
    local_is_whole: bool,
    /// Epoch that must be stable on the peer, while it is awaited.
    epoch: Option<u64>,
    /// The awaited epoch became stable: the peer alone is enough.
    peer_stable: bool,
}

impl Engine {
    pub(super) fn client_flush(&mut self, request: RequestId) {
        let local = self.local_usable();
        let connected = self.mirrors();
        let local_is_whole = local && self.state.disk == D::UpToDate;
        if !local_is_whole && !connected {
            return self.flush_has_no_data(request);
        }
        let waits = self.settings.protocol == ReplicationProtocol::C || !local_is_whole;
        let (epoch, peer_stable) = if !waits {
            self.close_epoch();
            (None, false)
        } else if local_is_whole {
            match self.peer_copy() {
                PeerCopy::After(number) => (Some(number), false),
                // A kernel's DRBD is not asked to flush without a write: its own promise is no more.
                PeerCopy::Stable | PeerCopy::Unknown => (None, connected),
            }
        } else {
            self.await_peer_copy()
        };
        let flush = ClientFlush {
            request,
            local: if local { Local::UnderWay } else { Local::None },
            local_is_whole,
            epoch,
            peer_stable,
        };
        let key = self.flushes.insert(flush);
        if local {
            self.disk_op(Purpose::ClientFlush(key), DiskAction::Flush);
        }
        self.advance_flush(key);
    }

    /// The epoch to wait for, and whether the peer's copy is stable without.
    fn await_peer_copy(&mut self) -> (Option<u64>, bool) {
        match self.peer_copy() {
            PeerCopy::Stable => (None, true),
            PeerCopy::After(number) => (Some(number), false),
            PeerCopy::Unknown => {
                let text = "a flush fails: what the peer was sent before the connection was lost \
                            may be in its cache, and no write has followed that would flush it";
                self.note(NoteLevel::Warning, text);
                (None, false)
            }
        }
    }

    fn flush_has_no_data(&mut self, request: RequestId) {
        self.freeze_or_fail(request, ClientOperation::Flush);
    }

    pub(super) fn client_flush_done(&mut self, key: u64, failure: Option<DiskFailure>) {
        let connected = self.mirrors();
        let Some(flush) = self.flushes.get_mut(key) else { return };
        flush.local = if failure.is_some() { Local::Failed } else { Local::Done };
        if let Some(failure) = failure {
            // Never retried as if it had worked; the peer's copy is what is left, so its epochs
            // must be stable under every protocol.
            if flush.epoch.is_none() && !flush.peer_stable && connected {
                let (epoch, peer_stable) = self.await_peer_copy();
                let flush = self.flushes.get_mut(key).expect("just seen");
                (flush.epoch, flush.peer_stable) = (epoch, peer_stable);
            }
            self.close_epoch();
            self.local_io_error("flush", &failure);
            // A disk whose flush failed holds no promise, whatever the policy for data says.
            self.fail_disk("a flush failed: what was written before may be lost");
        }
        self.advance_flush(key);
    }

    pub(super) fn flushes_may_be_stable(&mut self) {
        for key in self.flushes.keys() {
            let flush = self.flushes.get_mut(key).expect("listed");
            if flush.epoch.is_some_and(|number| self.epochs.is_stable(number)) {
                flush.epoch = None;
                flush.peer_stable = !self.epochs.is_owed();
                self.advance_flush(key);
            }
        }
    }

    /// The connection is gone: flushes rest on the local disk, or on nothing.
    pub(super) fn flushes_lost_peer(&mut self) {
        for key in self.flushes.keys() {
            let flush = self.flushes.get_mut(key).expect("listed");
            flush.epoch = None;
            flush.peer_stable = false;
            self.advance_flush(key);
        }
    }

    pub(super) fn refuse_flush(&mut self, key: u64) {
        if let Some(flush) = self.flushes.remove(key) {
            self.reply_client(flush.request, Err(ClientError::NotPrimary));
        }
    }

    pub(super) fn advance_flush(&mut self, key: u64) {
        let gate_closed = self.record.gate_is_closed();
        let Some(flush) = self.flushes.get(key) else { return };
        if flush.local == Local::UnderWay || flush.epoch.is_some() {
            return;
        }
        let answerable = flush.local_is_whole && flush.local == Local::Done || flush.peer_stable;
        if gate_closed || answerable && self.is_frozen() {
            return self.status.held_flushes.push(key);
        }
        let flush = self.flushes.remove(key).expect("just seen");
        if answerable {
            self.reply_client(flush.request, Ok(None));
        } else if flush.local_is_whole && self.state.disk > D::Failed {
            // The disk it could not flush was replaced meanwhile: nothing to promise.
            self.reply_client(flush.request, Err(ClientError::Io));
        } else {
            self.flush_has_no_data(flush.request);
        }
    }
}
