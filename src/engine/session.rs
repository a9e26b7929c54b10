//! One connection to the peer, from the moment both sockets are authenticated until it is lost.

use twinblk_proto::packet::{Packet, features};
use twinblk_proto::run_length::BitmapReceiver;
use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};

use super::Engine;
use super::effect::{CloseManner, Effect, NoteLevel};
use super::event::{Generations, HandshakeFailure, LossCause, PayloadId, SessionId, Time, Timer};
use super::limits::{RECONNECT_AFTER_FAILURE_MS, REQUEST_TIMEOUT_CHECK_MS};

/// What is known of the peer in this connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) version: u32,
    pub(super) features: u32,
    pub(super) resolve: bool,
    sequence: u32,
    pub(super) protocol_seen: bool,
    pub(super) peer_sizes: Option<twinblk_proto::packet::Sizes>,
    pub(super) peer_uuids: Option<twinblk_proto::packet::Uuids>,
    pub(super) peer_discards: bool,
    pub(super) peer_dry_run: bool,
    /// Bits that I had set when I last told the peer.
    pub(super) my_bits_told: u64,
    /// Both were Inconsistent and the peer was forced: decide again at its next state.
    pub(super) consider_resync: bool,
    pub(super) bitmap_receiver: Option<BitmapReceiver>,
    /// The bitmap is sent when the writes that it stands for are on the disk.
    pub(super) bitmap_due: bool,
    /// A resync that waits for a before-resync handler.
    pub(super) held_resync: Option<super::handler::HeldResync>,
    last_heard: Time,
    ping_sent: Option<Time>,
    /// Pings without answer: only the answer to the last one says that all is through.
    pings_open: u32,
    /// Who waits for the answer to a ping.
    pub(super) ping_for: Option<PingPurpose>,
}

/// Whose disk is Outdated from the end of the connection on: whoever leaves a Primary with fencing
/// must not come back as one (session.md 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outdating {
    pub(super) mine: bool,
    pub(super) peers: bool,
}

/// Why a ping was sent besides looking for signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PingPurpose {
    /// All acknowledgements of the resync target are through once it is answered.
    TargetFinish,
    /// All results of the verify are through once it is answered.
    VerifyFinish,
}

impl Session {
    pub(super) const fn peer_is_twinblk(&self) -> bool {
        self.features & features::TWINBLK != 0
    }
}

impl Engine {
    pub(super) fn is_session(&self, session: SessionId) -> bool {
        self.session.as_ref().is_some_and(|current| current.id == session)
    }

    pub(super) fn peer_generations(&self) -> Option<Generations> {
        let uuids = self.session.as_ref()?.peer_uuids?;
        Some(Generations { current: uuids.current, bitmap: uuids.bitmap, history: uuids.history })
    }

    pub(super) fn send_data(&mut self, packet: Packet, payload: Option<PayloadId>) {
        if let Some(session) = &self.session {
            let session = session.id;
            self.emit(Effect::SendData { session, packet, payload });
        }
    }

    pub(super) fn send_meta(&mut self, packet: Packet) {
        if let Some(session) = &self.session {
            let session = session.id;
            self.emit(Effect::SendMeta { session, packet });
        }
    }

    /// The one counter for writes and acknowledgements (wire.md 9.1).
    pub(super) fn next_sequence(&mut self) -> u32 {
        let Some(session) = &mut self.session else { return 0 };
        session.sequence = session.sequence.wrapping_add(1);
        session.sequence
    }

    pub(super) fn session_established(
        &mut self,
        id: SessionId,
        version: u32,
        features: u32,
        resolve: bool,
    ) {
        if self.state.connection != C::WFConnection {
            return self.emit(Effect::CloseSession { session: id, manner: CloseManner::Now });
        }
        self.connecting = false;
        self.sessions_established += 1;
        self.session = Some(Session {
            id,
            version,
            features,
            resolve,
            sequence: 0,
            protocol_seen: false,
            peer_sizes: None,
            peer_uuids: None,
            peer_discards: false,
            peer_dry_run: false,
            my_bits_told: 0,
            consider_resync: false,
            bitmap_receiver: None,
            bitmap_due: false,
            held_resync: None,
            last_heard: self.now,
            ping_sent: None,
            pings_open: 0,
            ping_for: None,
        });
        self.change(format!("handshake: protocol version {version}"), |s| {
            s.connection = C::WFReportParams;
        });
        self.set_timer(Timer::Ping, self.ping_interval_ms());
        self.set_timer(Timer::RequestTimeout, REQUEST_TIMEOUT_CHECK_MS);
        self.send_introduction();
    }

    fn ping_interval_ms(&self) -> u64 {
        u64::from(self.settings.ping_interval_s.max(1)) * 1000
    }

    pub(super) fn ping_timeout_ms(&self) -> u64 {
        u64::from(self.settings.ping_timeout.max(1)) * 100
    }

    pub(super) fn handshake_failed(&mut self, failure: HandshakeFailure) {
        if !self.connecting {
            return;
        }
        self.connecting = false;
        let (text, hint) = match failure {
            HandshakeFailure::IncompatibleVersions(text) => {
                (text, "upgrade the older node: DRBD 8.4 or twinblk speaks protocol 86 to 101")
            }
            HandshakeFailure::AuthenticationFailed(text) => (
                text,
                "make cram-hmac-alg and shared-secret the same on both nodes, then: twinblk connect RES",
            ),
        };
        self.note(NoteLevel::Error, text.clone());
        self.status.hint = hint.to_owned();
        self.change(text.clone(), |s| s.connection = C::Disconnecting);
        self.change(text, |s| s.connection = C::StandAlone);
        self.connection_ended();
    }

    pub(super) fn start_connecting(&mut self, after_ms: u64) {
        self.change("looking for the peer", |s| s.connection = C::WFConnection);
        self.connect_after_drain_ms = Some(after_ms);
        if !self.is_draining_peer_writes() {
            self.connect_after_drain();
        }
    }

    pub(super) fn connect_after_drain(&mut self) {
        if let Some(after_ms) = self.connect_after_drain_ms.take() {
            self.connecting = true;
            self.emit(Effect::StartConnecting { after_ms });
        }
    }

    pub(super) fn stop_connecting(&mut self) {
        let waited = self.connect_after_drain_ms.take().is_some();
        if !waited {
            self.connecting = false;
            self.emit(Effect::StopConnecting);
        }
        self.change("disconnected by command", |s| s.connection = C::Disconnecting);
        self.change("disconnected by command", |s| s.connection = C::StandAlone);
    }

    pub(super) fn session_lost(&mut self, session: SessionId, cause: LossCause) {
        if !self.is_session(session) {
            return;
        }
        let (state, text) = match cause {
            LossCause::BrokenPipe(text) => (C::BrokenPipe, text),
            LossCause::ProtocolError(text) => (C::ProtocolError, text),
            LossCause::Timeout(text) => (C::Timeout, text),
        };
        self.end_session(state, &text, None);
    }

    /// Gives the connection up from this side and tries again.
    pub(super) fn drop_session(&mut self, state: C, why: &str) {
        self.end_session(state, why, Some(CloseManner::Now));
    }

    /// Gives the connection up for good: only the operator starts a new one.
    pub(super) fn refuse_session(&mut self, why: &str, hint: &str) {
        self.note(NoteLevel::Error, why.to_owned());
        self.status.hint = hint.to_owned();
        self.end_session(C::Disconnecting, why, Some(CloseManner::Refused));
    }

    /// `close`: the sockets are still open and must be closed so.
    pub(super) fn end_session(&mut self, state: C, why: &str, close: Option<CloseManner>) {
        self.end_session_outdating(state, why, close, Outdating::default());
    }

    pub(super) fn end_session_outdating(
        &mut self,
        state: C,
        why: &str,
        close: Option<CloseManner>,
        outdating: Outdating,
    ) {
        let Some(session) = &self.session else { return };
        let id = session.id;
        let failed_in_handshake = self.state.connection < C::Connected;
        // A source whose last bit was acknowledged counts as done: the target may believe so
        // already, and must not share its generation with what is written here from now on (I8).
        let may_have_finished = self.source_lost_target();
        if let Some(manner) = close {
            self.emit(Effect::CloseSession { session: id, manner });
        }
        self.session = None;
        self.change(why.to_owned(), |s| {
            s.connection = state;
            if may_have_finished {
                // Not Inconsistent any more, perhaps: what it misses from now on needs a generation.
                s.peer_disk = D::DUnknown;
            }
            if outdating.mine && s.disk > D::Outdated && s.role != Role::Primary {
                s.disk = D::Outdated;
            }
            if outdating.peers {
                s.peer_disk = D::Outdated;
            }
        });
        self.emit(Effect::ClearTimer(Timer::Ping));
        self.emit(Effect::ClearTimer(Timer::RequestTimeout));
        self.end_resync_roles();
        self.status.held_state = None;
        self.status.held_sync_uuid = None;
        self.orphan_peer_writes();
        self.drop_peer_reads();
        self.drop_waiting_comparisons();
        self.drop_epochs();
        self.flushes_lost_peer();
        self.reads_lost_peer();
        // Only now: what waited for the peer's generation must not be answered for a peer that is
        // gone, and may not remember that this node's disk misses it.
        if self.status.awaits_generation {
            self.forget_held_writes();
        }
        self.generation_came();
        self.write_all_pages(super::record::AfterBitmap::Nothing);
        self.cluster_peer_gone();
        self.resize_lost_peer();
        self.settle_negotiation();
        self.take_held_disk();
        if state == C::Disconnecting {
            self.change(why.to_owned(), |s| s.connection = C::StandAlone);
            self.connection_ended();
        } else {
            self.change(why.to_owned(), |s| s.connection = C::Unconnected);
            let pause = if failed_in_handshake { RECONNECT_AFTER_FAILURE_MS } else { 0 };
            self.start_connecting(pause);
        }
    }

    // --- signs of life (wire.md 1.3) ---

    pub(super) fn heard_of_peer(&mut self) {
        let now = self.now;
        if let Some(session) = &mut self.session {
            session.last_heard = now;
        }
    }

    pub(super) fn send_ping(&mut self, purpose: Option<PingPurpose>) {
        let now = self.now;
        let timeout = self.ping_timeout_ms();
        let Some(session) = &mut self.session else { return };
        session.ping_sent = Some(now);
        session.pings_open += 1;
        session.ping_for = purpose.or(session.ping_for);
        self.send_meta(Packet::Ping);
        self.set_timer(Timer::Ping, timeout);
    }

    pub(super) fn probe_peer(&mut self) {
        if self.session.as_ref().is_some_and(|session| session.ping_sent.is_none()) {
            self.send_ping(None);
        }
    }

    pub(super) fn ping_answered(&mut self) {
        let interval = self.ping_interval_ms();
        let Some(session) = &mut self.session else { return };
        session.pings_open = session.pings_open.saturating_sub(1);
        if session.pings_open > 0 {
            return;
        }
        session.ping_sent = None;
        let purpose = session.ping_for.take();
        self.set_timer(Timer::Ping, interval);
        match purpose {
            Some(PingPurpose::TargetFinish) => self.target_acks_are_through(),
            Some(PingPurpose::VerifyFinish) => self.verify_results_are_through(),
            None => {}
        }
    }

    pub(super) fn ping_timer(&mut self) {
        let interval = self.ping_interval_ms();
        let timeout = self.ping_timeout_ms();
        let Some(session) = &self.session else { return };
        let quiet_since = session.last_heard;
        match session.ping_sent {
            Some(sent) if quiet_since > sent => {
                // Something else came meanwhile: the peer lives, its answer is still due.
                let due = quiet_since.after_ms(timeout);
                if self.now >= due {
                    self.drop_session(C::NetworkFailure, "PingAck did not arrive in time.");
                } else {
                    self.emit(Effect::SetTimer { timer: Timer::Ping, at: due });
                }
            }
            Some(sent) => {
                let due = sent.after_ms(timeout);
                if self.now >= due {
                    self.drop_session(C::NetworkFailure, "PingAck did not arrive in time.");
                } else {
                    self.emit(Effect::SetTimer { timer: Timer::Ping, at: due });
                }
            }
            None => {
                let due = quiet_since.after_ms(interval);
                if self.now >= due {
                    self.send_ping(None);
                } else {
                    self.emit(Effect::SetTimer { timer: Timer::Ping, at: due });
                }
            }
        }
    }

    /// A request that the peer has not finished within ko-count x timeout ends the connection.
    pub(super) fn request_timer(&mut self) {
        if self.session.is_none() {
            return;
        }
        let limit_ms = u64::from(self.settings.ko_count) * u64::from(self.settings.timeout) * 100;
        let oldest =
            [self.oldest_unconfirmed_write(), self.epochs.oldest_sent(), self.oldest_remote_read()]
                .into_iter()
                .flatten()
                .min();
        if limit_ms > 0 && oldest.is_some_and(|since| self.now >= since.after_ms(limit_ms)) {
            let why = format!("Remote failed to finish a request within {limit_ms} ms");
            return self.drop_session(C::Timeout, &why);
        }
        self.set_timer(Timer::RequestTimeout, REQUEST_TIMEOUT_CHECK_MS);
    }

    pub(super) fn timer_fired(&mut self, timer: Timer) {
        match timer {
            Timer::Ping => self.ping_timer(),
            Timer::RequestTimeout => self.request_timer(),
            Timer::Resync => self.resync_timer(),
            // What it was set for happens at the end of the batch.
            Timer::ResyncPace => {}
            Timer::EpochIdle => self.epoch_timer(),
            Timer::DiskTimeout => self.disk_timer(),
            Timer::CommandRetry => self.command_timer(),
            Timer::Repair => self.repair_timer(),
            Timer::FenceAgain => self.fence_again(),
        }
    }
}
