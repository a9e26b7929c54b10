//! Roles, connection states and disk states, and the 32-bit word that carries them in `P_STATE`,
//! `P_STATE_CHG_REQ` and `P_CONN_ST_CHG_REQ` (wire.md 3.8, 7.1).

use std::fmt;

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $value),+ }

        impl $name {
            /// Every value, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn from_wire(value: u32) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)+ _ => None }
            }

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

wire_enum! {
    /// What a node does with the device.
    Role { Unknown = 0, Primary = 1, Secondary = 2 }
}

wire_enum! {
    /// State of the connection; the order matters, code compares with `<` and `>`.
    ConnectionState {
        StandAlone = 0, Disconnecting = 1, Unconnected = 2, Timeout = 3, BrokenPipe = 4,
        NetworkFailure = 5, ProtocolError = 6, TearDown = 7, WFConnection = 8, WFReportParams = 9,
        Connected = 10, StartingSyncS = 11, StartingSyncT = 12, WFBitMapS = 13, WFBitMapT = 14,
        WFSyncUUID = 15, SyncSource = 16, SyncTarget = 17, VerifyS = 18, VerifyT = 19,
        PausedSyncS = 20, PausedSyncT = 21, Ahead = 22, Behind = 23,
    }
}

wire_enum! {
    /// State of a disk; the order matters.
    DiskState {
        Diskless = 0, Attaching = 1, Failed = 2, Negotiating = 3, Inconsistent = 4, Outdated = 5,
        DUnknown = 6, Consistent = 7, UpToDate = 8,
    }
}

/// The state of one volume as one node sees it: the fields of the 32-bit word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub role: Role,
    pub peer: Role,
    pub connection: ConnectionState,
    pub disk: DiskState,
    pub peer_disk: DiskState,
    /// I/O suspended by the administrator (`susp`).
    pub suspended_user: bool,
    /// Resync paused because of a resync-after dependency (`aftr_isp`).
    pub paused_after: bool,
    /// Resync paused by the peer (`peer_isp`).
    pub paused_peer: bool,
    /// Resync paused by the local administrator (`user_isp`).
    pub paused_user: bool,
    /// I/O suspended, no data (`susp_nod`).
    pub suspended_no_data: bool,
    /// I/O suspended, fencing (`susp_fen`).
    pub suspended_fencing: bool,
}

impl Default for State {
    /// A resource that was just configured: no disk, no connection.
    fn default() -> Self {
        Self {
            role: Role::Secondary,
            peer: Role::Unknown,
            connection: ConnectionState::StandAlone,
            disk: DiskState::Diskless,
            peer_disk: DiskState::DUnknown,
            suspended_user: false,
            paused_after: false,
            paused_peer: false,
            paused_user: false,
            suspended_no_data: false,
            suspended_fencing: false,
        }
    }
}

/// The raw word: what `P_STATE` carries, and mask and value of a change request.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StateWord(pub u32);

impl StateWord {
    pub const ROLE: u32 = 0x3;
    pub const PEER: u32 = 0xC;
    pub const CONNECTION: u32 = 0x1F0;
    pub const DISK: u32 = 0x1E00;
    pub const PEER_DISK: u32 = 0x1_E000;

    /// The fields; `None` when one holds a number that no state has.
    pub fn unpack(self) -> Option<State> {
        let bit = |n: u32| self.0 >> n & 1 == 1;
        Some(State {
            role: Role::from_wire(self.0 & 3)?,
            peer: Role::from_wire(self.0 >> 2 & 3)?,
            connection: ConnectionState::from_wire(self.0 >> 4 & 31)?,
            disk: DiskState::from_wire(self.0 >> 9 & 15)?,
            peer_disk: DiskState::from_wire(self.0 >> 13 & 15)?,
            suspended_user: bit(17),
            paused_after: bit(18),
            paused_peer: bit(19),
            paused_user: bit(20),
            suspended_no_data: bit(21),
            suspended_fencing: bit(22),
        })
    }
}

impl From<State> for StateWord {
    fn from(s: State) -> Self {
        Self(
            s.role as u32
                | (s.peer as u32) << 2
                | (s.connection as u32) << 4
                | (s.disk as u32) << 9
                | (s.peer_disk as u32) << 13
                | u32::from(s.suspended_user) << 17
                | u32::from(s.paused_after) << 18
                | u32::from(s.paused_peer) << 19
                | u32::from(s.paused_user) << 20
                | u32::from(s.suspended_no_data) << 21
                | u32::from(s.suspended_fencing) << 22,
        )
    }
}

impl fmt::Debug for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_the_first_capture() {
        // 01-connect-nodata: Secondary/Unknown WFConnection Inconsistent/DUnknown
        let state = StateWord(0x0000_c882).unpack().expect("known fields");
        assert_eq!(state.role, Role::Secondary);
        assert_eq!(state.peer, Role::Unknown);
        assert_eq!(state.connection, ConnectionState::WFConnection);
        assert_eq!(state.disk, DiskState::Inconsistent);
        assert_eq!(state.peer_disk, DiskState::DUnknown);
        assert_eq!(StateWord::from(state).0, 0x0000_c882);
    }

    #[test]
    fn numbers_that_no_state_has_are_refused() {
        assert_eq!(StateWord(3).unpack(), None);
        assert_eq!(StateWord(24 << 4).unpack(), None);
        assert_eq!(StateWord(9 << 9).unpack(), None);
    }
}
