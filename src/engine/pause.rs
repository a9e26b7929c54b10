//! Holding a resync on (behaviour.md 5, session.md 4.2): by the operator here, by the peer, or because
//! another resource of this node is to be resynced first. Each is a flag of the state; a resync runs
//! while none is set on either node. The flags of this node travel in `P_STATE`.

use twinblk_proto::state::{ConnectionState as C, State};

use super::Engine;
use super::effect::Refusal;

/// DRBD's numbers and texts for a flag that is what it should become (behaviour.md 7.2).
const IS_SET: (i32, &str) = (134, "Sync-pause flag is already set");
const IS_CLEAR: (i32, &str) = (135, "Sync-pause flag is already cleared");
const OTHERS_FIRST: (i32, &str) = (
    156,
    "Sync-pause flag is already cleared. Device is in pause state due to resync-after dependency",
);
const PEER_PAUSES: (i32, &str) = (
    157,
    "Sync-pause flag is already cleared. Device is in pause state since its peer paused the resync",
);

impl Engine {
    pub(super) fn pause_sync(&mut self, pause: bool) -> Result<(), Refusal> {
        let s = self.state;
        if s.paused_user == pause {
            let held = matches!(s.connection, C::PausedSyncS | C::PausedSyncT);
            let ((code, text), hint) = match (pause, held) {
                (true, _) => (IS_SET, "twinblk resume-sync RES"),
                (false, true) if s.paused_after => {
                    (OTHERS_FIRST, "it goes on by itself; twinblk status shows the others")
                }
                (false, true) if s.paused_peer => {
                    (PEER_PAUSES, "on the peer: twinblk resume-sync RES")
                }
                (false, _) => (IS_CLEAR, "twinblk pause-sync RES"),
            };
            return Err(Refusal { code, text, detail: String::new(), hint: hint.to_owned() });
        }
        let reason = if pause { "resync paused by command" } else { "resync resumed by command" };
        self.change(reason, |s| s.paused_user = pause);
        Ok(())
    }

    pub(super) fn await_others(&mut self, waits: bool) {
        let reason = match waits {
            true => "another resource is resynced first (resync-after)",
            false => "the resource that is resynced first is done (resync-after)",
        };
        self.change(reason, |s| s.paused_after = waits);
    }

    /// The peer learns of a flag that changed here.
    pub(super) fn tell_pause(&mut self, old: &State, new: &State) {
        let mine = |s: &State| (s.paused_user, s.paused_after);
        let connected = old.connection >= C::Connected && new.connection >= C::Connected;
        if connected && self.session.is_some() && mine(old) != mine(new) {
            self.send_state();
        }
    }
}
