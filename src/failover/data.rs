//! What the coordinator wants to know of a resource, out of its status.

use crate::control::ResourceStatus;
use crate::election::failover::{Data, Seen};

/// `before` is what was known. A resource that is down: nothing is known any more.
pub(super) fn data(status: Option<&ResourceStatus>, before: &Data) -> Data {
    let Some(status) = status else { return Data::default() };
    let seen = Seen {
        role: status.role,
        peer_role: status.peer_role,
        connection: status.connection,
        disk: status.disk,
        peer_disk: status.peer_disk,
        is_replaced: status.is_replaced,
    };
    Data::of(&seen, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_that_is_down_says_nothing() {
        let before = Data { met_peer: true, is_up: true, ..Data::default() };
        assert_eq!(data(None, &before), Data::default());
        assert!(data(Some(&ResourceStatus::default()), &before).met_peer);
    }
}
