//! What follows from a state, and which states and transitions are legal (behaviour.md 1.2, 1.4,
//! 1.5). Pure functions over two states; the engine applies them to every change.

use twinblk_proto::state::{ConnectionState, DiskState, Role, State};

use super::refusal::Code;
use ConnectionState as C;
use DiskState as D;

/// Derives the consequences of a change (DRBD's sanitize_state).
pub fn sanitize(s: &mut State) {
    if s.connection < C::Connected {
        s.peer = Role::Unknown;
        s.paused_peer = false;
        if s.peer_disk > D::DUnknown || s.peer_disk < D::Inconsistent {
            s.peer_disk = D::DUnknown;
        }
    }
    // A resync or verify without one of the disks ends.
    if s.connection > C::Connected
        && s.connection < C::Ahead
        && (s.disk <= D::Failed || s.peer_disk <= D::Failed)
    {
        if matches!(s.connection, C::WFBitMapS | C::StartingSyncS) {
            // What the peer itself knows: it was about to get what it misses.
            s.peer_disk = s.peer_disk.min(D::Outdated);
        }
        s.connection = C::Connected;
    }
    // Nothing to compare with: a disk that is not good does not become so by being verified.
    if matches!(s.connection, C::VerifyS | C::VerifyT)
        && (s.disk == D::Inconsistent || s.peer_disk == D::Inconsistent)
    {
        s.connection = C::Connected;
    }
    if s.connection >= C::Connected && s.connection < C::Ahead {
        // Deliberate difference: DRBD makes an Outdated disk UpToDate here even if the other node has
        // none, so that the target of a resync whose source lost its disk would serve old data (I8).
        let (disk, peer_disk) = (s.disk, s.peer_disk);
        if disk == D::Consistent || disk == D::Outdated && peer_disk > D::Failed {
            s.disk = D::UpToDate;
        }
        if peer_disk == D::Consistent || peer_disk == D::Outdated && disk > D::Failed {
            s.peer_disk = D::UpToDate;
        }
    }
    match s.connection {
        C::WFBitMapT | C::PausedSyncT | C::StartingSyncT | C::WFSyncUUID | C::Behind => {
            s.disk = s.disk.clamp(D::Inconsistent, D::Outdated);
            s.peer_disk = D::UpToDate;
        }
        C::VerifyS | C::VerifyT => {
            s.disk = D::UpToDate;
            s.peer_disk = D::UpToDate;
        }
        C::WFBitMapS | C::PausedSyncS | C::StartingSyncS | C::Ahead => {
            s.disk = D::UpToDate;
            s.peer_disk = s.peer_disk.clamp(D::Inconsistent, D::Consistent);
        }
        C::SyncTarget => {
            s.disk = D::Inconsistent;
            s.peer_disk = D::UpToDate;
        }
        C::SyncSource => {
            s.disk = D::UpToDate;
            s.peer_disk = D::Inconsistent;
        }
        _ => {}
    }
    let paused = s.paused_after || s.paused_peer || s.paused_user;
    s.connection = match (s.connection, paused) {
        (C::SyncSource, true) => C::PausedSyncS,
        (C::SyncTarget, true) => C::PausedSyncT,
        (C::PausedSyncS, false) => C::SyncSource,
        (C::PausedSyncT, false) => C::SyncTarget,
        (other, _) => other,
    };
}

/// Whether the state may be as an operator's or a peer's wish; facts are not asked.
pub fn valid(s: &State) -> Result<(), Code> {
    let primary = s.role == Role::Primary;
    let up_to_date = s.disk == D::UpToDate || s.peer_disk == D::UpToDate;
    if primary && s.peer == Role::Primary {
        return Err(Code::TwoPrimaries);
    }
    if primary && s.connection < C::Connected && s.disk < D::UpToDate {
        return Err(Code::NoUpToDateDisk);
    }
    if primary && s.disk <= D::Inconsistent && s.peer_disk <= D::Inconsistent {
        return Err(Code::NoUpToDateDisk);
    }
    if s.connection > C::Connected {
        if s.disk < D::Inconsistent {
            return Err(Code::NoLocalDisk);
        }
        if s.peer_disk < D::Inconsistent {
            return Err(Code::NoRemoteDisk);
        }
        if !up_to_date {
            return Err(Code::NoUpToDateDisk);
        }
    }
    let connected_states = [C::Connected, C::WFBitMapS, C::SyncSource, C::PausedSyncS];
    if connected_states.contains(&s.connection) && s.disk == D::Outdated {
        return Err(Code::ConnectedOutdates);
    }
    if primary && !up_to_date {
        return Err(Code::NoUpToDateDisk);
    }
    if s.connection >= C::Connected && s.peer_disk == D::DUnknown {
        return Err(Code::ConnectedOutdates);
    }
    Ok(())
}

/// Transitions that no event may make, not even a fact: a violation is a bug of the engine.
pub fn possible(old: &State, new: &State) -> Result<(), Code> {
    if old.connection == new.connection {
        return if old.disk == D::Diskless && new.disk == D::Failed {
            Err(Code::IsDiskless)
        } else {
            Ok(())
        };
    }
    if old.connection == C::StandAlone && new.connection != C::Unconnected {
        return Err(if new.connection == C::Disconnecting {
            Code::AlreadyStandAlone
        } else {
            Code::NeedConnection
        });
    }
    if old.connection < C::WFReportParams && new.connection >= C::Connected {
        return Err(Code::NeedConnection);
    }
    let leaving = old.connection >= C::Timeout && old.connection <= C::TearDown;
    if leaving && !matches!(new.connection, C::Unconnected | C::Disconnecting) {
        return Err(Code::InTransientState);
    }
    if old.connection == C::Disconnecting && new.connection != C::StandAlone {
        return Err(Code::InTransientState);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> State {
        State {
            role: Role::Primary,
            peer: Role::Secondary,
            connection: C::Connected,
            disk: D::UpToDate,
            peer_disk: D::UpToDate,
            ..State::default()
        }
    }

    #[test]
    fn the_states_imply_the_disk_states() {
        let mut s = State { connection: C::SyncTarget, ..connected() };
        sanitize(&mut s);
        assert_eq!((s.disk, s.peer_disk), (D::Inconsistent, D::UpToDate));
        let mut s = State { connection: C::WFBitMapT, ..connected() };
        sanitize(&mut s);
        assert_eq!(s.disk, D::Outdated);
        let mut s = State { connection: C::SyncSource, peer_disk: D::Diskless, ..connected() };
        sanitize(&mut s);
        assert_eq!(s.connection, C::Connected, "nothing to sync to");
        let mut s = State { connection: C::WFSyncUUID, peer_disk: D::Failed, ..connected() };
        s.disk = D::Outdated;
        sanitize(&mut s);
        assert_eq!((s.connection, s.disk), (C::Connected, D::Outdated), "nobody vouches for it");
        let mut s = State { connection: C::WFBitMapS, disk: D::Failed, ..connected() };
        s.peer_disk = D::Consistent;
        sanitize(&mut s);
        assert_eq!((s.connection, s.peer_disk), (C::Connected, D::Outdated));
        let mut s = State { connection: C::Connected, disk: D::Outdated, ..connected() };
        sanitize(&mut s);
        assert_eq!(s.disk, D::UpToDate, "no resync was needed");
        let mut s = State { connection: C::WFConnection, ..connected() };
        sanitize(&mut s);
        assert_eq!((s.peer, s.peer_disk), (Role::Unknown, D::DUnknown));
        let mut s = State { connection: C::SyncSource, paused_peer: true, ..connected() };
        sanitize(&mut s);
        assert_eq!(s.connection, C::PausedSyncS);
        s.paused_peer = false;
        sanitize(&mut s);
        assert_eq!(s.connection, C::SyncSource);
    }

    #[test]
    fn refusals() {
        assert_eq!(valid(&connected()), Ok(()));
        let two = State { peer: Role::Primary, ..connected() };
        assert_eq!(valid(&two), Err(Code::TwoPrimaries));
        let alone = State {
            connection: C::WFConnection,
            disk: D::Inconsistent,
            peer_disk: D::DUnknown,
            ..connected()
        };
        assert_eq!(valid(&alone), Err(Code::NoUpToDateDisk));
        let diskless = State { disk: D::Diskless, ..connected() };
        assert_eq!(valid(&diskless), Ok(()), "served by the peer");
    }

    #[test]
    fn every_pair_of_connection_states_is_judged() {
        let mut legal = 0;
        for &from in C::ALL {
            for &to in C::ALL {
                let old = State { connection: from, ..connected() };
                let new = State { connection: to, ..connected() };
                legal += usize::from(possible(&old, &new).is_ok());
            }
        }
        // StandAlone 2, Disconnecting 2, Unconnected and WFConnection 10 each, Timeout..TearDown
        // 3 each, the rest 24 each: any change of this number is a change of the machine.
        assert_eq!(legal, 2 + 2 + 2 * 10 + 5 * 3 + 15 * 24);
    }
}
