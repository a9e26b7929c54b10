//! How a coordinator sees its surroundings: the states of a resource, and those of VRRP. Production
//! and the simulator look through the same glasses.

use twinblk_proto::state::{ConnectionState, DiskState, Role};

use super::{Data, Disk, Peer, Standing};
use crate::election::State;

/// The states of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub role: Role,
    pub peer_role: Role,
    pub connection: ConnectionState,
    pub disk: DiskState,
    pub peer_disk: DiskState,
    pub is_replaced: bool,
}

impl Data {
    /// `before` is what was known: that the peer was met is remembered while the resource is up.
    pub fn of(seen: &Seen, before: &Self) -> Self {
        let is_connected = seen.connection >= ConnectionState::Connected;
        let disk = match seen.disk {
            DiskState::UpToDate => Disk::Good,
            DiskState::Consistent => Disk::Perhaps,
            _ => Disk::Unfit,
        };
        let peer = match (is_connected, seen.peer_role) {
            (false, _) => Peer::Unseen,
            (true, Role::Primary) => Peer::Primary,
            (true, _) => Peer::Secondary,
        };
        // A disk that is being attached will soon be something else.
        let is_settled = !matches!(seen.disk, DiskState::Attaching | DiskState::Negotiating);
        Self {
            is_up: is_settled || before.is_up,
            is_primary: seen.role == Role::Primary,
            disk,
            peer,
            peer_can_serve: is_connected && seen.peer_disk == DiskState::UpToDate,
            is_replaced: seen.is_replaced,
            met_peer: before.met_peer || is_connected,
        }
    }

    /// Whether the other node could take over what is given up here.
    pub fn can_be_handed_over(&self) -> bool {
        self.peer != Peer::Unseen && self.peer_can_serve
    }
}

impl Standing {
    /// All instances of a group count as one; each with its state, and whether it is in doubt.
    pub fn of(members: impl IntoIterator<Item = (State, bool)>) -> Self {
        let one = |(state, is_in_doubt)| match state {
            State::Init | State::Stopped => Self::Init,
            State::Backup if is_in_doubt => Self::Doubt,
            State::Backup => Self::Backup,
            State::Master => Self::Master,
            State::Fault => Self::Fault,
        };
        let standings: Vec<Self> = members.into_iter().map(one).collect();
        let order = [Self::Fault, Self::Init, Self::Backup, Self::Doubt];
        order.into_iter().find(|wanted| standings.contains(wanted)).unwrap_or(Self::Master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_as_the_coordinator_sees_them() {
        let mut seen = Seen {
            role: Role::Secondary,
            peer_role: Role::Primary,
            connection: ConnectionState::Connected,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::UpToDate,
            is_replaced: false,
        };
        let data = Data::of(&seen, &Data::default());
        let expected = Data {
            is_up: true,
            is_primary: false,
            disk: Disk::Good,
            peer: Peer::Primary,
            peer_can_serve: true,
            is_replaced: false,
            met_peer: true,
        };
        assert_eq!(data, expected);
        assert!(data.can_be_handed_over());
        seen.connection = ConnectionState::NetworkFailure;
        let data = Data::of(&seen, &data);
        assert_eq!((data.peer, data.peer_can_serve, data.met_peer), (Peer::Unseen, false, true));
        seen.disk = DiskState::Attaching;
        assert!(!Data::of(&seen, &Data::default()).is_up);
        seen.connection = ConnectionState::SyncTarget;
        seen.disk = DiskState::Inconsistent;
        assert_eq!(Data::of(&seen, &data).disk, Disk::Unfit);
    }

    #[test]
    fn a_group_stands_where_its_worst_member_stands() {
        let of = |members: &[(State, bool)]| Standing::of(members.iter().copied());
        assert_eq!(of(&[(State::Master, false), (State::Master, false)]), Standing::Master);
        assert_eq!(of(&[(State::Master, false), (State::Backup, true)]), Standing::Doubt);
        assert_eq!(of(&[(State::Backup, true), (State::Backup, false)]), Standing::Backup);
        assert_eq!(of(&[(State::Fault, false), (State::Backup, false)]), Standing::Fault);
    }
}
