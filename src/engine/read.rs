//! A client's read: from the local disk where it is good, else from the peer.

use twinblk_proto::packet::{BlockId, BlockRequest, Packet};
use twinblk_proto::state::{ConnectionState as C, DiskState as D};
use twinblk_proto::units::SectorRange;

use super::effect::DiskAction;
use super::event::{ClientOperation, DiskFailure, PayloadId, RequestId, Time};
use super::limits::MAX_REQUEST_SECTORS;
use super::range_lock::Kind;
use super::{Engine, Purpose};

#[derive(Debug)]
pub(super) struct ClientRead {
    request: RequestId,
    range: SectorRange,
    remote: bool,
    since: Time,
}

impl Engine {
    pub(super) fn client_read(&mut self, request: RequestId, range: SectorRange) {
        assert!(
            range.count > 0 && range.count <= MAX_REQUEST_SECTORS && range.end().0 <= self.sectors,
            "read of {range:?} on a device of {} sectors",
            self.sectors
        );
        let read = ClientRead { request, range, remote: false, since: self.now };
        let key = self.reads.insert(read);
        if self.locally_good(range) && !self.may_have_been_read_at_peer(range) {
            self.disk_op(Purpose::ClientRead(key), DiskAction::Read { range });
            self.status.counters.disk_read += u64::from(range.count);
        } else {
            self.read_from_peer(key);
        }
    }

    /// Whether the local disk holds the current content of the range.
    fn locally_good(&self, range: SectorRange) -> bool {
        match self.state.disk {
            D::UpToDate => true,
            D::Inconsistent => {
                matches!(self.state.connection, C::SyncTarget | C::PausedSyncT)
                    && !self.bitmap.any_set(range.blocks_touched())
                    // What is being written may be taken back here if the source dies: its copy
                    // counts until the write is answered (I9).
                    && !self.locks.is_busy(range, Kind::SourceRead)
            }
            _ => false,
        }
    }

    fn read_from_peer(&mut self, key: u64) {
        let fit = self.is_connected() && self.state.peer_disk == D::UpToDate;
        let Some(read) = self.reads.get_mut(key) else { return };
        if !fit {
            let read = self.reads.remove(key).expect("just seen");
            let operation = ClientOperation::Read { range: read.range };
            return self.freeze_or_fail(read.request, operation);
        }
        read.remote = true;
        let request = BlockRequest { range: read.range, id: BlockId(key) };
        self.send_data(Packet::DataRequest(request), None);
    }

    pub(super) fn client_read_done(
        &mut self,
        key: u64,
        result: Result<Option<PayloadId>, DiskFailure>,
    ) {
        match result {
            Ok(payload) => {
                if let Some(read) = self.reads.remove(key) {
                    self.answer_read(&read, payload);
                } else {
                    self.release(payload);
                }
            }
            Err(failure) => {
                if let Some(read) = self.reads.get(key) {
                    let range = read.range;
                    self.bitmap.set_range(range.blocks_touched());
                    self.local_io_error("read", &failure);
                    self.read_from_peer(key);
                }
            }
        }
    }

    fn answer_read(&mut self, read: &ClientRead, payload: Option<PayloadId>) {
        if self.is_frozen() {
            // Another node may write by now: it is read again when I/O goes on.
            self.release(payload);
            let operation = ClientOperation::Read { range: read.range };
            return self.freeze_request(read.request, operation);
        }
        self.reply_client(read.request, Ok(payload));
    }

    /// The peer answered; `Err` gives the packet back as a protocol error.
    pub(super) fn data_reply(
        &mut self,
        reply: BlockRequest,
        payload: Option<PayloadId>,
    ) -> Result<(), String> {
        let key = reply.id.0;
        let expected =
            self.reads.get(key).is_some_and(|read| read.remote && read.range == reply.range);
        if !expected || payload.is_none() {
            self.release(payload);
            return Err(format!("data reply for {:?} that was not asked for", reply.range));
        }
        let read = self.reads.remove(key).expect("just seen");
        self.answer_read(&read, payload);
        Ok(())
    }

    pub(super) fn data_refused(&mut self, key: u64) {
        if let Some(read) = self.reads.remove(key) {
            if self.state.disk == D::UpToDate {
                self.status.begun_as_target.clear();
                return self.client_read(read.request, read.range);
            }
            let operation = ClientOperation::Read { range: read.range };
            self.freeze_or_fail(read.request, operation);
        }
    }

    /// The connection is gone: reads that the peer was to answer look for data again.
    pub(super) fn reads_lost_peer(&mut self) {
        self.status.begun_as_target.clear();
        for key in self.reads.keys() {
            if self.reads.get(key).is_some_and(|read| read.remote) {
                let read = self.reads.remove(key).expect("just seen");
                if self.locally_good(read.range) && !self.is_frozen() {
                    self.client_read(read.request, read.range);
                } else {
                    let operation = ClientOperation::Read { range: read.range };
                    self.freeze_or_fail(read.request, operation);
                }
            }
        }
    }

    pub(super) fn oldest_remote_read(&self) -> Option<Time> {
        self.reads.iter().filter(|(_, read)| read.remote).map(|(_, read)| read.since).min()
    }
}
