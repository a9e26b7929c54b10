//! Whether clients are served, and what those are told that are not.

use tokio::sync::mpsc::UnboundedSender;
use twinblk_proto::state::{ConnectionState, DiskState, Role, State};
use twinblk_proto::units::SECTOR_BYTES;

use super::handle::Order;
use super::run::Driver;
use crate::nbd::ExportInfo;

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
        self.roles.changed(old.role, new.role);
        if old.role == Role::Primary && new.role != Role::Primary {
            self.is_leaving = false;
            self.clients.let_go();
        }
        self.takeovers += u64::from(takes_the_peers_data(&new));
        self.handlers.state_changed(&old, &new);
    }

    /// From now on clients can find this resource.
    pub(super) fn offer(&self, orders: UnboundedSender<Order>) {
        self.exports.add(self.export(), orders);
    }

    /// Tells listeners and watchers what has changed in this turn.
    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.exports.update(self.export());
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn export(&self) -> ExportInfo {
        let size_bytes = self.engine.device_sectors() * SECTOR_BYTES;
        let state = self.engine.state();
        let mut export = ExportInfo::new(&self.setup.name, size_bytes);
        export.description = format!("twinblk resource {}", describe(&state));
        export.serving = self.serving(&state, size_bytes);
        export
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

/// The peer writes, or copies its data here, while this node does not: what a client of this node
/// remembers of the content may be of the past.
fn takes_the_peers_data(state: &State) -> bool {
    use ConnectionState as C;
    let is_target = matches!(
        state.connection,
        C::StartingSyncT | C::WFBitMapT | C::WFSyncUUID | C::SyncTarget | C::PausedSyncT
    );
    state.role != Role::Primary && (is_target || state.peer == Role::Primary)
}

/// Whether the local disk alone knows what the device holds.
pub(super) fn local_disk_is_authoritative(state: &State) -> bool {
    state.disk == DiskState::UpToDate
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of the kernel that waits for its server must not go on with these behind its back.
    #[test]
    fn the_peers_data_takes_over() {
        let at = |role, peer, connection| {
            takes_the_peers_data(&State { role, peer, connection, ..State::default() })
        };
        let (primary, secondary) = (Role::Primary, Role::Secondary);
        assert!(at(secondary, primary, ConnectionState::Connected));
        assert!(at(secondary, secondary, ConnectionState::SyncTarget));
        assert!(at(secondary, secondary, ConnectionState::WFBitMapT));
        assert!(!at(secondary, secondary, ConnectionState::SyncSource));
        assert!(!at(secondary, secondary, ConnectionState::Connected));
        assert!(!at(secondary, Role::Unknown, ConnectionState::WFConnection));
        assert!(!at(primary, secondary, ConnectionState::SyncTarget), "it reads what is newer");
    }
}
