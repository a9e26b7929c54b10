//! How the target of a resync asks for a block (wire.md 6.2): for its data; for its data unless it is
//! zero everywhere; or, with csums-alg, for its data unless it has the digest that the target's own
//! data has. The last one reads twice to send less: for a slow link, and after a crash, when whole
//! extents are suspected and little differs.

use twinblk_proto::digest::Algorithm;
use twinblk_proto::packet::{BlockId, BlockRequest, Packet, features, uuid_flags};
use twinblk_proto::state::ConnectionState as C;
use twinblk_proto::units::SectorRange;

use super::effect::{DiskAction, Examination};
use super::event::{DiskFailure, Finding, PayloadId, SessionId};
use super::{Engine, Examined, Purpose};

/// Own data on its way to become a digest.
#[derive(Debug)]
pub(super) struct ChecksumRead {
    session: SessionId,
    range: SectorRange,
}

impl Engine {
    /// As source: what the target's digests are made with.
    pub(super) fn checksum_algorithm(&self) -> Option<Algorithm> {
        Algorithm::from_name(&self.settings.csums_alg)
    }

    /// As target, when a resync begins.
    pub(super) fn wants_checksums(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let peer_flags = session.peer_uuids.map_or(0, |uuids| uuids.flags);
        let crashed = self.crashed_primary || peer_flags & uuid_flags::CRASHED_PRIMARY != 0;
        session.version >= 89
            && self.checksum_algorithm().is_some()
            && (crashed || !self.settings.csums_after_crash_only)
    }

    /// Sends the request for a range that is locked and listed, or reads it first.
    pub(super) fn ask_for_resync_block(&mut self, range: SectorRange) {
        let Some(session) = &self.session else { return };
        if self.target.checksums {
            let read = ChecksumRead { session: session.id, range };
            let key = self.target.reads.insert(read);
            self.disk_op(Purpose::ChecksumRead(key), DiskAction::Read { range });
            self.status.counters.disk_read += u64::from(range.count);
            return;
        }
        let thin = session.features & features::THIN_RESYNC != 0;
        let request = BlockRequest { range, id: BlockId::RESYNC };
        self.send_data(
            if thin { Packet::ThinResyncRequest(request) } else { Packet::ResyncRequest(request) },
            None,
        );
    }

    pub(super) fn checksum_read_done(
        &mut self,
        key: u64,
        result: Result<Option<PayloadId>, DiskFailure>,
    ) {
        match (result, self.checksum_algorithm()) {
            (Ok(Some(payload)), Some(algorithm)) => {
                self.examine(Examined::ChecksumRead(key), payload, Examination::Digest(algorithm));
                self.release(Some(payload));
            }
            (Ok(payload), _) => {
                self.release(payload);
                self.target.reads.remove(key);
            }
            (Err(failure), _) => {
                let read = self.target.reads.remove(key);
                self.local_io_error("read for a checksum", &failure);
                // What cannot be read may still be overwritten.
                if let Some(read) = read
                    && self.is_session(read.session)
                    && self.has_asked_for_resync(read.range)
                {
                    let request = BlockRequest { range: read.range, id: BlockId::RESYNC };
                    self.send_data(Packet::ResyncRequest(request), None);
                }
            }
        }
    }

    pub(super) fn checksum_found(&mut self, key: u64, finding: Finding) {
        let Some(read) = self.target.reads.remove(key) else { return };
        let Finding::Digest(digest) = finding else { return };
        if self.is_session(read.session) && self.has_asked_for_resync(read.range) {
            let request = BlockRequest { range: read.range, id: BlockId::RESYNC };
            self.send_data(Packet::ChecksumResyncRequest(request, digest), None);
        }
    }

    /// `P_RS_IS_IN_SYNC`: the source has the same.
    pub(super) fn resync_is_in_sync(&mut self, range: SectorRange) -> Result<(), String> {
        if !self.has_asked_for_resync(range) {
            // Given up here while the answer was on its way.
            let target = matches!(self.state.connection, C::SyncTarget | C::PausedSyncT);
            return match target {
                true => Err(format!("P_RS_IS_IN_SYNC for {range:?} that was not asked for")),
                false => Ok(()),
            };
        }
        if self.take_resync_request(range) {
            // A write of the peer into it failed here after the digest was made: walk again.
            self.target.dirtied = true;
        } else {
            self.blocks_are_equal(range);
        }
        self.target_progressed();
        Ok(())
    }

    /// Both have the same in whole blocks of the range, though one may have it in its cache only.
    pub(super) fn blocks_are_equal(&mut self, range: SectorRange) {
        let cleared = self.bitmap.clear_range(range.blocks_covered(self.sectors));
        self.status.counters.resync_equal_blocks += cleared;
        self.count_progress(cleared);
        if cleared > 0 {
            self.bitmap_writer.cleared_for_cached_data();
        }
    }
}
