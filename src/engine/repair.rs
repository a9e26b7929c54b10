//! `verify --repair`: what a comparison found is resynced at once, from the side that the operator
//! names. It is an ordinary resync by the bitmap, begun in two ways that a kernel peer understands
//! too (session.md 3: a node that is Connected decides anew when the peer's state asks for a resync):
//!
//! | this node is | what it says | why the peer agrees |
//! | --- | --- | --- |
//! | source | a new generation whose base both share, and WFBitMapS | rules 70 and 50 |
//! | target | that its disk is Inconsistent, and WFBitMapT | an Inconsistent disk becomes target |
//!
//! The target is Inconsistent until its blocks are mended, as in any resync: whoever loses the source
//! in between has not lost the knowledge of which blocks are bad.

use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};

use super::Engine;
use super::effect::{NoteLevel, Refusal};
use super::event::{RepairFrom, SessionId, Timer};
use super::limits::REPAIR_SETTLE_MS;
use super::record::AfterRecord;
use super::refusal::Code;

impl Engine {
    /// Whether this node would be the source. Only the Primary's data is in use, so only it can be
    /// kept while there is one.
    pub(super) fn is_repair_source(&self, from: RepairFrom) -> Result<bool, Refusal> {
        let refuse = |detail: &str, hint: &str| Err(Code::Unknown.refuse(detail, hint));
        match (self.state.role, self.state.peer, from) {
            (Role::Primary, _, RepairFrom::Peer) => refuse(
                "this node is Primary: what its clients use cannot be replaced by the peer's data",
                "without --from the Primary's data is kept; or first: twinblk secondary RES",
            ),
            (_, Role::Primary, RepairFrom::ThisNode) => refuse(
                "the peer is Primary: what its clients use cannot be replaced by this node's data",
                "without --from the Primary's data is kept; or first, on the peer: twinblk secondary RES",
            ),
            (Role::Primary, ..) => Ok(true),
            (_, Role::Primary, _) => Ok(false),
            (.., RepairFrom::ThisNode) => Ok(true),
            (.., RepairFrom::Peer) => Ok(false),
            (.., RepairFrom::Primary) => refuse(
                "no node is Primary, so nobody has said whose data is good",
                "name the node whose data is to be kept: twinblk verify --repair --from NODE RES",
            ),
        }
    }

    fn may_repair(&self) -> bool {
        let s = &self.state;
        s.connection == C::Connected && s.disk == D::UpToDate && s.peer_disk == D::UpToDate
    }

    /// A comparison is over. A kernel that would be the source needs a moment first.
    pub(super) fn begin_repair(&mut self) {
        let Some(from) = self.verify.repair else { return };
        let twins = self.session.as_ref().is_some_and(super::session::Session::peer_is_twinblk);
        if !twins && self.is_repair_source(from) == Ok(false) {
            return self.set_timer(Timer::Repair, REPAIR_SETTLE_MS);
        }
        self.verify.repair = None;
        self.repair(from);
    }

    /// A verify that was begun meanwhile ends with the repair itself.
    pub(super) fn repair_timer(&mut self) {
        if self.state.connection != C::VerifyS
            && let Some(from) = self.verify.repair.take()
        {
            self.repair(from);
        }
    }

    fn repair(&mut self, from: RepairFrom) {
        if self.bitmap.count() == 0 || !self.may_repair() {
            return;
        }
        let session = self.session.as_ref().expect("a connected state has a session").id;
        match self.is_repair_source(from) {
            Ok(true) => {
                if self.record.wanted().generations.bitmap == 0 {
                    self.begin_generation();
                }
                self.after_record(AfterRecord::RepairAsSource(session));
            }
            Ok(false) => {
                let text = format!("{} blocks are to be mended", self.bitmap.count());
                self.change(text, |s| {
                    s.connection = C::WFBitMapT;
                    s.disk = D::Inconsistent;
                });
                self.expect_bitmap();
                self.after_record(AfterRecord::RepairAsTarget(session));
            }
            Err(refusal) => {
                let text = format!("nothing is mended: {}; {}", refusal.detail, refusal.hint);
                self.note(NoteLevel::Error, text);
            }
        }
    }

    /// The new generation is durable: the peer may hear of it.
    pub(super) fn repair_as_source(&mut self, session: SessionId) {
        if !self.is_session(session) {
            // The handshake of the next session finds what is to be done.
            return;
        }
        self.send_uuids(0);
        if !self.may_repair() || self.state.peer == Role::Primary {
            return self.note(NoteLevel::Warning, "the repair waits for the next connection");
        }
        let text = format!("{} blocks are to be mended", self.bitmap.count());
        self.change(text, |s| s.connection = C::WFBitMapS);
        self.send_state();
        self.send_bitmap();
    }

    /// This disk is known to be Inconsistent: the peer may become source.
    pub(super) fn repair_as_target(&mut self, session: SessionId) {
        if self.is_session(session) && self.state.connection == C::WFBitMapT {
            self.send_state();
        }
    }
}
