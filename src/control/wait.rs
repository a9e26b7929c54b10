//! When a wait is over. Pure: the server asks after every change.

use twinblk_proto::state::ConnectionState;

use super::status::ResourceStatus;

/// What a status means to somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    Pending,
    /// Waiting will not help: nobody is trying to connect.
    Hopeless,
}

/// `wait-connect`: the handshake with the peer is over.
pub fn connected(status: &ResourceStatus) -> Progress {
    match status.connection {
        state if state >= ConnectionState::Connected => Progress::Done,
        ConnectionState::StandAlone | ConnectionState::Disconnecting => Progress::Hopeless,
        _ => Progress::Pending,
    }
}

/// `wait-sync`: connected, and no resync under way or about to start.
pub fn synchronised(status: &ResourceStatus) -> Progress {
    match connected(status) {
        Progress::Done if status.is_resyncing() => Progress::Pending,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_state_has_an_answer() {
        use ConnectionState as C;
        let at = |connection| ResourceStatus { connection, ..ResourceStatus::default() };
        for &state in C::ALL {
            let expected = match state {
                C::StandAlone | C::Disconnecting => Progress::Hopeless,
                C::Connected | C::VerifyS | C::VerifyT => Progress::Done,
                _ => Progress::Pending,
            };
            assert_eq!(synchronised(&at(state)), expected, "{state}");
        }
        assert_eq!(connected(&at(C::SyncTarget)), Progress::Done);
        assert_eq!(connected(&at(C::WFReportParams)), Progress::Pending);
    }
}
