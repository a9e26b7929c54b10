//! Whether clients are served, and what those are told that are not.

use twinblk_proto::state::{DiskState, Role, State};
use twinblk_proto::units::SECTOR_BYTES;

use super::run::Driver;
use crate::nbd::ExportInfo;

/// Largest read or write that is taken; cut into pieces for the engine (nbd.md 1.4).
const MAX_BLOCK_BYTES: u32 = 32 << 20;

impl Driver {
    pub(super) fn state_changed(&mut self, old: State, new: State, reason: &str) {
        tracing::info!(
            resource = self.setup.name,
            old = %describe(&old),
            new = %describe(&new),
            reason,
            "state"
        );
        self.changed = true;
        if old.role == Role::Primary && new.role != Role::Primary {
            self.clients.shut_down();
        }
    }

    /// Tells listeners and watchers what has changed in this turn.
    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.exports.publish(self.export());
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn export(&self) -> ExportInfo {
        let size_bytes = self.engine.device_sectors() * SECTOR_BYTES;
        let state = self.engine.state();
        ExportInfo {
            name: self.setup.name.clone(),
            size_bytes,
            read_only: false,
            rotational: false,
            description: format!("twinblk resource {} ({})", self.setup.name, describe(&state)),
            serving: self.serving(&state, size_bytes),
            min_block: SECTOR_BYTES as u32,
            preferred_block: 4096,
            max_block: MAX_BLOCK_BYTES,
        }
    }

    fn serving(&self, state: &State, size_bytes: u64) -> Result<(), String> {
        let name = &self.setup.name;
        if state.role != Role::Primary {
            let here = format!("{name} is Secondary on this node");
            return Err(match state.peer {
                Role::Primary => {
                    let host = &self.setup.peer_host;
                    match self.setup.peer_uris.as_slice() {
                        [] => format!("{here}; the primary is {host}"),
                        uris => format!("{here}; the primary is {host}: {}", uris.join(" or ")),
                    }
                }
                Role::Secondary => {
                    format!("{here} and on {}; try: twinblk primary {name}", self.setup.peer_host)
                }
                Role::Unknown => format!(
                    "{here} and {} is not connected; try: twinblk primary {name}",
                    self.setup.peer_host
                ),
            });
        }
        if size_bytes == 0 {
            return Err(format!("{name} has no size yet: neither disk was ever attached"));
        }
        Ok(())
    }
}

/// `Primary/Secondary Connected UpToDate/UpToDate`, as an operator reads it.
pub(super) fn describe(state: &State) -> String {
    let mut text = format!(
        "{}/{} {} {}/{}",
        state.role, state.peer, state.connection, state.disk, state.peer_disk
    );
    for (set, word) in [
        (state.suspended_user, " suspended:user"),
        (state.suspended_no_data, " suspended:no-data"),
        (state.suspended_fencing, " suspended:fencing"),
    ] {
        if set {
            text.push_str(word);
        }
    }
    text
}

/// Whether the local disk alone knows what the device holds.
pub(super) fn local_disk_is_authoritative(state: &State) -> bool {
    state.disk == DiskState::UpToDate
}
