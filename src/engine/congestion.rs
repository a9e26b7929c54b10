//! A link that is too slow for protocol A (session.md 5.8): rather than have clients wait, the Primary
//! goes ahead. The peer is only told which blocks it misses, and gets them when the link is free.
//!
//! ```text
//!   Connected --in flight >= congestion-fill, or active extents >= congestion-extents--> Ahead
//!   Ahead --everything sent is stable, and a second more--> SyncSource --> Connected
//! ```
//!
//! The peer is Behind, its disk Outdated, until it is SyncTarget. No bitmaps are exchanged: both have
//! set the same bits.

use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState as C, DiskState as D};

use super::Engine;
use super::effect::NoteLevel;
use super::event::{CongestionPolicy, Timer};
use super::limits::{CATCH_UP_AFTER_MS, CONGESTION_FILL_MAX_SECTORS};

impl Engine {
    /// Before a write is mirrored.
    pub(super) fn relieve_congestion(&mut self) {
        let s = &self.state;
        let policy = self.settings.on_congestion;
        if policy == CongestionPolicy::Block
            || self.settings.protocol != ReplicationProtocol::A
            || s.connection != C::Connected
            || s.disk != D::UpToDate
            || s.peer_disk != D::UpToDate
        {
            return;
        }
        let fill = self.settings.congestion_fill_sectors.min(CONGESTION_FILL_MAX_SECTORS);
        let (sectors, extents) = (self.epochs.sectors(), self.log.active());
        let why = if fill > 0 && sectors >= fill {
            format!("congestion-fill reached: {sectors} sectors in flight")
        } else if extents >= self.settings.congestion_extents as usize {
            format!("congestion-extents reached: {extents} extents active")
        } else {
            return;
        };
        if policy == CongestionPolicy::Disconnect {
            return self.refuse_session(&why, "when the link is free again: twinblk connect RES");
        }
        self.note(NoteLevel::Info, format!("{why}: going ahead of the peer"));
        self.close_epoch();
        self.send_barriers();
        self.change(why, |s| {
            s.connection = C::Ahead;
            s.peer_disk = D::Consistent;
        });
        self.send_state();
        self.ahead_progressed();
    }

    /// An epoch became stable on the peer.
    pub(super) fn ahead_progressed(&mut self) {
        if self.state.connection == C::Ahead && self.epochs.newest().is_none() {
            self.set_timer(Timer::CatchUp, CATCH_UP_AFTER_MS);
        }
    }

    pub(super) fn catch_up_timer(&mut self) {
        if self.state.connection == C::Ahead && self.epochs.newest().is_none() {
            self.begin_as_source();
        }
    }
}
