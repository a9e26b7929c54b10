//! What the coordinator wants to know of a resource, out of its status.

use twinblk_proto::state::{ConnectionState, DiskState, Role};

use crate::control::ResourceStatus;
use crate::election::failover::{Data, Disk, Peer};

/// `before` is what was known: that the peer was met is remembered while the resource is up.
pub(super) fn data(status: Option<&ResourceStatus>, before: &Data) -> Data {
    let Some(status) = status else { return Data::default() };
    let is_connected = status.connection >= ConnectionState::Connected;
    let disk = match status.disk {
        DiskState::UpToDate => Disk::Good,
        DiskState::Consistent => Disk::Perhaps,
        _ => Disk::Unfit,
    };
    let peer = match (is_connected, status.peer_role) {
        (false, _) => Peer::Unseen,
        (true, Role::Primary) => Peer::Primary,
        (true, _) => Peer::Secondary,
    };
    // A disk that is being attached will soon be something else.
    let is_settled = !matches!(status.disk, DiskState::Attaching | DiskState::Negotiating);
    Data {
        is_up: is_settled || before.is_up,
        is_primary: status.role == Role::Primary,
        disk,
        peer,
        peer_can_serve: is_connected && status.peer_disk == DiskState::UpToDate,
        is_replaced: status.is_replaced,
        met_peer: before.met_peer || is_connected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_as_the_coordinator_sees_them() {
        let mut status = ResourceStatus {
            connection: ConnectionState::Connected,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::UpToDate,
            peer_role: Role::Primary,
            ..ResourceStatus::default()
        };
        let seen = data(Some(&status), &Data::default());
        let expected = Data {
            is_up: true,
            is_primary: false,
            disk: Disk::Good,
            peer: Peer::Primary,
            peer_can_serve: true,
            is_replaced: false,
            met_peer: true,
        };
        assert_eq!(seen, expected);
        status.connection = ConnectionState::NetworkFailure;
        let seen = data(Some(&status), &seen);
        assert_eq!((seen.peer, seen.peer_can_serve, seen.met_peer), (Peer::Unseen, false, true));
        assert_eq!(data(None, &seen), Data::default(), "down: nothing is known any more");
        status.disk = DiskState::Attaching;
        assert!(!data(Some(&status), &Data::default()).is_up);
        status.connection = ConnectionState::SyncTarget;
        status.disk = DiskState::Inconsistent;
        assert_eq!(data(Some(&status), &seen).disk, Disk::Unfit);
    }
}
