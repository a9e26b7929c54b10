//! Both nodes learn the union of their bitmaps (wire.md 8.3): the source sends, the target merges
//! and answers with the union, the source merges that.

use twinblk_proto::packet::Packet;
use twinblk_proto::run_length::{BitmapReceiver, encode_chunks};
use twinblk_proto::state::ConnectionState as C;

use super::Engine;
use super::event::SessionId;
use super::record::AfterRecord;

/// Payload of a bitmap packet: 4096 bytes less the header of its form (wire.md 8.1).
const fn chunk_limit(version: u32) -> usize {
    4096 - if version >= 100 { 16 } else { 8 }
}

impl Engine {
    pub(super) fn expect_bitmap(&mut self) {
        let bits = self.bitmap.bits();
        if let Some(session) = &mut self.session {
            let limit = chunk_limit(session.version);
            session.bitmap_receiver = Some(BitmapReceiver::new(bits, limit));
        }
    }

    fn send_my_bitmap(&mut self) {
        let Some(session) = &self.session else { return };
        let limit = chunk_limit(session.version);
        let packets =
            encode_chunks(self.bitmap.words(), self.bitmap.bits(), self.settings.use_rle, limit);
        for packet in packets {
            self.send_data(packet, None);
        }
    }

    /// The source begins; the target's answer is awaited.
    pub(super) fn send_bitmap(&mut self) {
        if self.has_unwritten_only_copies() {
            if let Some(session) = &mut self.session {
                session.bitmap_due = true;
            }
            return;
        }
        self.send_my_bitmap();
        self.expect_bitmap();
    }

    pub(super) fn send_bitmap_if_due(&mut self) {
        let due = self.session.as_ref().is_some_and(|session| session.bitmap_due);
        if due && !self.has_unwritten_only_copies() {
            self.session.as_mut().expect("just seen").bitmap_due = false;
            if self.state.connection == C::WFBitMapS {
                self.send_bitmap();
            }
        }
    }

    /// `P_BITMAP`, `P_COMPRESSED_BITMAP`.
    pub(super) fn bitmap_packet(&mut self, packet: &Packet) -> Result<(), String> {
        if !matches!(self.state.connection, C::WFBitMapS | C::WFBitMapT) {
            return Err(format!("bitmap packet in state {}", self.state.connection));
        }
        let bits = self.bitmap.bits();
        let session = self.session.as_mut().expect("packets come from the session");
        let Some(receiver) = &mut session.bitmap_receiver else {
            return Err("bitmap packet before the bitmap was expected".into());
        };
        let scratch = self.status.bitmap_scratch.get_or_insert_with(Vec::new);
        scratch.resize(bits.div_ceil(64) as usize, 0);
        let complete =
            receiver.receive(packet, scratch).map_err(|error| format!("bitmap: {error}"))?;
        if !complete {
            return Ok(());
        }
        session.bitmap_receiver = None;
        let session_id = session.id;
        let received = self.status.bitmap_scratch.take().expect("filled above");
        self.bitmap.merge(&received);
        if self.state.connection == C::WFBitMapT {
            self.after_record(AfterRecord::AnswerBitmap(session_id));
        } else {
            self.begin_as_source();
        }
        Ok(())
    }

    /// The target's record says Outdated: its answer lets the source go on.
    pub(super) fn answer_bitmap(&mut self, session: SessionId) {
        if self.is_session(session) && self.state.connection == C::WFBitMapT {
            self.send_my_bitmap();
            self.change("bitmaps exchanged", |s| s.connection = C::WFSyncUUID);
        }
    }
}
