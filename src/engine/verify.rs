//! Online verify (wire.md 6.3, session.md 5.4): the node where it was started (VerifyS) asks the other
//! (VerifyT) for digests, compares them with its own data, and tells what differs; both mark that in
//! their bitmaps.
//!
//! ```text
//!   VerifyS                                                      VerifyT
//!   lock against clients here   P_OV_REQUEST -->
//!                                                   lock against writes, read, digest
//!                               <-- P_OV_REPLY      unlock
//!   lock against the peer's writes, read, digest, compare, unlock
//!                               P_OV_RESULT -->     out of sync: mark
//!   the last one: ping, then    P_STATE Connected -->
//! ```
//!
//! No false alarm while the application writes. A write of a client here is on both disks before the
//! block is asked for, or waits until it is compared. A write of a client there is in front of the
//! answer on its way here, and on this disk before the block is read, or it comes after the answer
//! and waits here until the block was read.
//!
//! A kernel peer counts requests, one for each block. Between twinblk nodes one request covers as much
//! as a resync request does, and what differs is asked for once more block by block.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use twinblk_proto::digest::Algorithm;
use twinblk_proto::packet::{Ack, BlockId, BlockRequest, Digest, Packet};
use twinblk_proto::state::{ConnectionState as C, DiskState as D, State};
use twinblk_proto::units::{BLOCK_SECTORS, SectorRange};

use super::effect::{DiskAction, Examination, NoteLevel, Refusal};
use super::event::{DiskFailure, Finding, PayloadId, RepairFrom, SessionId, Time};
use super::handler::Handler;
use super::limits::{MAX_COMPARISONS, MAX_VERIFY_REQUESTS};
use super::peer_write::Waiting;
use super::range_lock::Kind;
use super::record::AfterBitmap;
use super::refusal::Code;
use super::session::PingPurpose;
use super::slab::Slab;
use super::status::VerifyProgress;
use super::{Engine, Examined, Purpose};

/// What two twinblk nodes use without being told, as for data-integrity-alg.
const DEFAULT_ALGORITHM: Algorithm = Algorithm::Crc32c;

/// A digest that was asked for.
#[derive(Debug)]
struct Request {
    range: SectorRange,
    lock: u64,
    asked: Time,
}

/// An answer that is being compared with the data here.
#[derive(Debug)]
pub(super) struct Comparison {
    session: SessionId,
    range: SectorRange,
    theirs: Digest,
    lock: Option<u64>,
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Sectors.
    pub(super) start: Option<u64>,
    pub(super) stop: Option<u64>,
    pub(super) repair: Option<RepairFrom>,
}

/// The end of the last comparison, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// First block that was compared, and the first that was not.
    pub from_block: u64,
    pub to_block: u64,
    pub found_blocks: u64,
    /// It reached where it should.
    pub complete: bool,
}

#[derive(Debug, Default)]
pub(super) struct Verify {
    /// As VerifyS: blocks.
    start: u64,
    cursor: u64,
    stop: u64,
    /// Differed as a whole: to be asked for block by block.
    closer: VecDeque<Range<u64>>,
    /// By first sector; stays until compared.
    requests: BTreeMap<u64, Request>,
    bytes_under_way: u64,
    comparisons: Slab<Comparison>,
    pub(super) repair: Option<RepairFrom>,
    finishing: bool,
    /// Where the next one begins unless it is told: an interrupted one is continued.
    continue_at: u64,
    /// As VerifyT: where the peer is.
    peer_cursor: u64,
    /// Both.
    found: u64,
    /// Neighbouring blocks found, not reported yet.
    run: Range<u64>,
    pub(super) started: Time,
    pub(super) last: Option<Verified>,
}

impl Verify {
    /// Every block in front of it was compared.
    fn position(&self) -> u64 {
        let asked = self.requests.keys().next().map(|sector| sector / BLOCK_SECTORS);
        let closer = self.closer.iter().map(|range| range.start).min();
        [asked, closer].into_iter().flatten().fold(self.cursor, u64::min)
    }
}

impl Engine {
    pub(super) fn verify_algorithm(&self) -> Option<Algorithm> {
        match self.settings.verify_alg.as_str() {
            "" => {
                let twins =
                    self.session.as_ref().is_some_and(super::session::Session::peer_is_twinblk);
                twins.then_some(DEFAULT_ALGORITHM)
            }
            name => Algorithm::from_name(name),
        }
    }

    /// Whether a comparison may begin, on either side.
    pub(super) fn check_verify(&self) -> Result<(), Code> {
        let s = &self.state;
        match s.connection {
            C::Connected => {}
            connection if connection < C::Connected => return Err(Code::NeedConnection),
            _ => return Err(Code::ResyncRunning),
        }
        if s.disk < D::Inconsistent {
            return Err(Code::NoLocalDisk);
        }
        if s.peer_disk < D::Inconsistent {
            return Err(Code::NoRemoteDisk);
        }
        if s.disk != D::UpToDate || s.peer_disk != D::UpToDate {
            return Err(Code::NoUpToDateDisk);
        }
        self.verify_algorithm().map(|_| ()).ok_or(Code::NoVerifyAlg)
    }

    // --- VerifyS ---

    pub(super) fn check_verify_command(&self, wanted: &Wanted) -> Result<(), Refusal> {
        if self.state.connection != C::VerifyS
            && let Err(code) = self.check_verify()
        {
            let detail = match code {
                Code::NoVerifyAlg => "the peer is no twinblk node, so both must name it".to_owned(),
                _ => format!(
                    "connection {}, disks {}/{}",
                    self.state.connection, self.state.disk, self.state.peer_disk
                ),
            };
            let hint = match code {
                Code::NeedConnection => "twinblk connect RES, then verify",
                Code::NoVerifyAlg => "net { verify-alg sha256; } on both nodes, then reconnect",
                Code::ResyncRunning => "twinblk wait-sync RES, then verify",
                _ => "twinblk attach RES where the disk is missing, then verify",
            };
            return Err(code.refuse(detail, hint));
        }
        let first = wanted.start.unwrap_or(0);
        if first >= self.sectors || wanted.stop.is_some_and(|stop| stop <= first) {
            let detail = format!("nothing to compare: the device has {} sectors", self.sectors);
            return Err(Code::Unknown.refuse(detail, "choose --start below --stop and the size"));
        }
        wanted.repair.map_or(Ok(()), |from| self.is_repair_source(from).map(|_| ()))
    }

    /// The peer agreed.
    pub(super) fn begin_verify(&mut self, wanted: Wanted) {
        let bits = self.bitmap.bits();
        let start = match wanted.start {
            Some(sector) => sector / BLOCK_SECTORS,
            None if self.verify.continue_at < bits => self.verify.continue_at,
            None => 0,
        };
        let stop = wanted.stop.map_or(bits, |sector| sector.div_ceil(BLOCK_SECTORS)).min(bits);
        self.verify = Verify {
            start,
            cursor: start,
            stop,
            repair: wanted.repair,
            started: self.now,
            comparisons: std::mem::take(&mut self.verify.comparisons),
            ..Verify::default()
        };
        self.reset_pace();
        let text = format!("Starting Online Verify from sector {}", start * BLOCK_SECTORS);
        self.change(text, |s| s.connection = C::VerifyS);
        if self.state.connection == C::VerifyS {
            self.pump_verify();
        } else {
            // The state did not allow it any more; the peer must not wait for requests.
            self.send_state();
        }
    }

    /// Another `verify` while one is running here.
    pub(super) fn adjust_verify(&mut self, wanted: Wanted) {
        if let Some(stop) = wanted.stop {
            self.verify.stop = stop.div_ceil(BLOCK_SECTORS).min(self.bitmap.bits());
        }
        self.verify.repair = wanted.repair.or(self.verify.repair);
    }

    /// Asks for the next digests; at the end of each batch of events.
    pub(super) fn pump_verify(&mut self) {
        if self.state.connection != C::VerifyS || self.verify.finishing {
            return;
        }
        let twins = self.session.as_ref().is_some_and(super::session::Session::peer_is_twinblk);
        let (window, most) = (self.resync_window(), self.resync_request_blocks());
        while self.verify.bytes_under_way < window
            && self.verify.requests.len() < MAX_VERIFY_REQUESTS
        {
            if !self.resync_is_due() {
                return;
            }
            let verify = &self.verify;
            let blocks = match verify.closer.front() {
                Some(range) => range.start..range.start + 1,
                None if verify.cursor >= verify.stop => break,
                None if twins => {
                    let aligned = (verify.cursor / most + 1) * most;
                    verify.cursor..aligned.min(verify.stop)
                }
                None => verify.cursor..verify.cursor + 1,
            };
            let range = SectorRange::of_blocks(blocks.clone(), self.sectors);
            if self.locks.is_busy(range, Kind::TargetRequest) {
                // A client writes there right now (this node is Primary): come back afterwards.
                return;
            }
            match self.verify.closer.front_mut() {
                Some(range) => {
                    range.start += 1;
                    if range.is_empty() {
                        self.verify.closer.pop_front();
                    }
                }
                None => self.verify.cursor = blocks.end,
            }
            let (lock, _) = self.locks.join(range, Kind::TargetRequest, 0);
            self.verify.requests.insert(range.start.0, Request { range, lock, asked: self.now });
            self.verify.bytes_under_way += range.bytes();
            self.resync_asked(range.bytes());
            let request = BlockRequest { range, id: BlockId::RESYNC };
            self.send_data(Packet::VerifyRequest(request), None);
        }
        if self.verify.requests.is_empty() && self.verify.cursor >= self.verify.stop {
            self.verify.finishing = true;
            self.send_ping(Some(PingPurpose::VerifyFinish));
        }
    }

    fn has_asked(&self, range: SectorRange) -> bool {
        let request = self.verify.requests.get(&range.start.0);
        self.state.connection == C::VerifyS && request.is_some_and(|asked| asked.range == range)
    }

    fn take_verify_request(&mut self, range: SectorRange) {
        if self.has_asked(range) {
            let request = self.verify.requests.remove(&range.start.0).expect("just seen");
            self.verify.bytes_under_way -= range.bytes();
            self.leave_lock(request.lock);
            self.resync_answered(request.asked);
            self.count_progress(range.blocks_touched().count() as u64);
        }
    }

    /// `P_OV_REPLY`.
    pub(super) fn verify_replied(
        &mut self,
        request: BlockRequest,
        theirs: Digest,
    ) -> Result<(), String> {
        let range = request.range;
        if self.state.connection != C::VerifyS {
            // Given up here while the answer was on its way (wire.md 6.1).
            self.send_verify_result(range, BlockId::VERIFY_IN_SYNC);
            return Ok(());
        }
        if !self.has_asked(range) {
            return Err(format!("P_OV_REPLY for {range:?} that was not asked for"));
        }
        if self.verify.comparisons.len() >= MAX_COMPARISONS {
            return Err(format!("more than {MAX_COMPARISONS} verify replies under way"));
        }
        let session = self.session.as_ref().expect("packets come from the session").id;
        let comparison = Comparison { session, range, theirs, lock: None };
        let key = self.verify.comparisons.insert(comparison);
        self.read_behind_peer_writes(range, Waiting::Comparison(key));
        Ok(())
    }

    pub(super) fn lock_comparison(&mut self, key: u64) {
        let Some(comparison) = self.verify.comparisons.get(key) else { return };
        let (lock, granted) = self.locks.join(comparison.range, Kind::VerifyRead, key);
        self.verify.comparisons.get_mut(key).expect("just seen").lock = Some(lock);
        if granted {
            self.start_comparison(key);
        }
    }

    pub(super) fn start_comparison(&mut self, key: u64) {
        let Some(comparison) = self.verify.comparisons.get(key) else { return };
        if !self.local_usable() || !self.has_asked(comparison.range) {
            return self.drop_comparison(key);
        }
        let range = comparison.range;
        self.disk_op(Purpose::VerifyRead(key), DiskAction::Read { range });
        self.status.counters.disk_read += u64::from(range.count);
    }

    fn take_comparison(&mut self, key: u64) -> Option<Comparison> {
        let comparison = self.verify.comparisons.remove(key)?;
        if let Some(lock) = comparison.lock {
            self.leave_lock(lock);
        }
        Some(comparison)
    }

    fn drop_comparison(&mut self, key: u64) {
        let _ = self.take_comparison(key);
    }

    pub(super) fn verify_read_done(
        &mut self,
        key: u64,
        result: Result<Option<PayloadId>, DiskFailure>,
    ) {
        let algorithm = self.verify_algorithm();
        match (result, algorithm) {
            (Ok(Some(payload)), Some(algorithm)) if self.verify.comparisons.get(key).is_some() => {
                self.examine(Examined::Comparison(key), payload, Examination::Digest(algorithm));
                self.release(Some(payload));
            }
            (Ok(payload), _) => {
                self.release(payload);
                self.drop_comparison(key);
            }
            (Err(failure), _) => {
                if let Some(comparison) = self.take_comparison(key) {
                    self.bitmap.set_range(comparison.range.blocks_touched());
                }
                self.local_io_error("verify read", &failure);
            }
        }
    }

    pub(super) fn comparison_examined(&mut self, key: u64, finding: Finding) {
        let Some(comparison) = self.take_comparison(key) else { return };
        let Comparison { session, range, theirs, .. } = comparison;
        if !self.is_session(session) || !self.has_asked(range) {
            return;
        }
        self.take_verify_request(range);
        let blocks = range.blocks_touched();
        let equal = matches!(&finding, Finding::Digest(mine) if *mine == theirs);
        if equal {
            self.send_verify_result(range, BlockId::VERIFY_IN_SYNC);
        } else if blocks.end - blocks.start > 1 {
            self.verify.closer.push_back(blocks);
        } else {
            self.found_difference(range);
            self.send_verify_result(range, BlockId::VERIFY_OUT_OF_SYNC);
        }
    }

    fn send_verify_result(&mut self, range: SectorRange, id: BlockId) {
        let ack = self.ack(range, id);
        self.send_meta(Packet::VerifyResult(ack));
    }

    /// The peer cannot read it now; its state says why.
    pub(super) fn verify_refused(&mut self, range: SectorRange) {
        self.take_verify_request(range);
    }

    // --- VerifyT ---

    /// `P_OV_REQUEST`: how far the peer is.
    pub(super) fn peer_verifies(&mut self, range: SectorRange) {
        if self.state.connection == C::VerifyT {
            let end = range.blocks_touched().end;
            self.count_progress(
                end.saturating_sub(self.verify.peer_cursor.max(range.start.0 / BLOCK_SECTORS)),
            );
            self.verify.peer_cursor = self.verify.peer_cursor.max(end);
            if self.verify.stop == 0 {
                self.verify.start = range.start.0 / BLOCK_SECTORS;
                self.verify.stop = self.bitmap.bits();
            }
        }
    }

    /// The peer began; its requests follow.
    pub(super) fn begin_verify_for_peer(&mut self) {
        self.reset_pace();
        self.verify.found = 0;
        self.verify.peer_cursor = 0;
        self.verify.stop = 0;
        self.verify.repair = None;
        self.verify.started = self.now;
    }

    /// `P_OV_RESULT`.
    pub(super) fn verify_result(&mut self, ack: Ack) -> Result<(), String> {
        if ack.range.end().0 > self.sectors {
            return Err(format!("P_OV_RESULT for {:?} beyond the device", ack.range));
        }
        match ack.id {
            BlockId::VERIFY_IN_SYNC => Ok(()),
            BlockId::VERIFY_OUT_OF_SYNC => {
                self.found_difference(ack.range);
                Ok(())
            }
            other => Err(format!("P_OV_RESULT {} is neither equal nor different", other.0)),
        }
    }

    // --- both ---

    fn found_difference(&mut self, range: SectorRange) {
        let blocks = range.blocks_touched();
        self.bitmap.set_range(blocks.clone());
        self.verify.found += blocks.end - blocks.start;
        if self.verify.run.end == blocks.start && !self.verify.run.is_empty() {
            self.verify.run.end = blocks.end;
        } else {
            self.report_run();
            self.verify.run = blocks;
        }
    }

    fn report_run(&mut self) {
        let run = std::mem::take(&mut self.verify.run);
        if !run.is_empty() {
            let range = SectorRange::of_blocks(run, self.sectors);
            let text =
                format!("Out of sync: start={}, size={} (sectors)", range.start.0, range.count);
            self.note(NoteLevel::Warning, text);
        }
    }

    /// All results are through: the peer may go on as well.
    pub(super) fn verify_results_are_through(&mut self) {
        if self.state.connection != C::VerifyS || !self.verify.finishing {
            return;
        }
        if self.verify.cursor < self.verify.stop || !self.verify.closer.is_empty() {
            // The stop sector was moved meanwhile.
            self.verify.finishing = false;
            return;
        }
        let text = format!("Online verify found {} 4k block out of sync!", self.verify.found);
        self.change(text, |s| s.connection = C::Connected);
        self.send_state();
        self.begin_repair();
    }

    /// The state left VerifyS or VerifyT, for whatever reason.
    pub(super) fn verify_left(&mut self, old: &State) {
        self.report_run();
        let source = old.connection == C::VerifyS;
        let (from_block, to_block) = match source {
            true => (self.verify.start, self.verify.position()),
            false => (self.verify.start, self.verify.peer_cursor),
        };
        let complete = !source || self.verify.finishing && to_block >= self.verify.stop;
        if source {
            self.verify.continue_at = if to_block >= self.bitmap.bits() { 0 } else { to_block };
        }
        self.verify.finishing = false;
        self.verify.closer.clear();
        self.verify.bytes_under_way = 0;
        for (_, request) in std::mem::take(&mut self.verify.requests) {
            self.leave_lock(request.lock);
        }
        let found_blocks = self.verify.found;
        self.verify.last = Some(Verified { from_block, to_block, found_blocks, complete });
        let text = match (complete, found_blocks) {
            (true, 0) => "Online verify done: no difference found".to_owned(),
            (true, found) => format!("Online verify found {found} 4k block out of sync!"),
            (false, _) => format!("Online Verify reached sector {}", to_block * BLOCK_SECTORS),
        };
        let level = if found_blocks > 0 { NoteLevel::Warning } else { NoteLevel::Info };
        self.note(level, text);
        if complete && found_blocks > 0 && self.session.is_some() {
            self.run_handler(Handler::OutOfSync);
        }
        self.write_all_pages(AfterBitmap::Nothing);
    }

    /// The connection is gone: answers that wait for a write are of no use any more.
    pub(super) fn drop_waiting_comparisons(&mut self) {
        for key in self.verify.comparisons.keys() {
            if self.verify.comparisons.get(key).is_some_and(|waiting| waiting.lock.is_none()) {
                self.drop_comparison(key);
            }
        }
    }

    pub(super) fn verify_progress(&self) -> Option<VerifyProgress> {
        let verify = &self.verify;
        let done_to = match self.state.connection {
            C::VerifyS => verify.position(),
            C::VerifyT => verify.peer_cursor,
            _ => return None,
        };
        Some(VerifyProgress {
            done_blocks: done_to.saturating_sub(verify.start),
            total_blocks: verify.stop.saturating_sub(verify.start),
            found_blocks: verify.found,
            elapsed_us: self.now.0.saturating_sub(verify.started.0),
            bytes_per_s: self.resync_speed(),
        })
    }
}
