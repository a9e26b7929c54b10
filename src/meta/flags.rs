//! The flags word of the superblock (metadata.md 2.1).

use std::fmt;
use std::ops::BitOr;

/// Flags at offset 56. Unknown bits are carried along.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// The disk state is above Inconsistent.
    pub const CONSISTENT: Self = Self(0x001);
    /// This node is Primary, or holds the only disk of a diskless Primary.
    pub const PRIMARY_IND: Self = Self(0x002);
    /// The connection state is above WFReportParams.
    pub const CONNECTED_IND: Self = Self(0x004);
    /// The bitmap is about to be set wholly: at attach every block counts as out of sync.
    pub const FULL_SYNC: Self = Self(0x008);
    /// The disk state is above Outdated.
    pub const WAS_UP_TO_DATE: Self = Self(0x010);
    /// The peer's disk is Outdated or Inconsistent.
    pub const PEER_OUT_DATED: Self = Self(0x020);
    /// Attached after a crash as Primary, and not in sync with the peer since.
    pub const CRASHED_PRIMARY: Self = Self(0x040);
    /// The activity log is applied and empty.
    pub const AL_CLEAN: Self = Self(0x080);
    /// The activity log is not kept: after a crash everything counts as out of sync.
    pub const AL_DISABLED: Self = Self(0x100);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::CONSISTENT, "CONSISTENT"),
        (Self::PRIMARY_IND, "PRIMARY_IND"),
        (Self::CONNECTED_IND, "CONNECTED_IND"),
        (Self::FULL_SYNC, "FULL_SYNC"),
        (Self::WAS_UP_TO_DATE, "WAS_UP_TO_DATE"),
        (Self::PEER_OUT_DATED, "PEER_OUT_DATED"),
        (Self::CRASHED_PRIMARY, "CRASHED_PRIMARY"),
        (Self::AL_CLEAN, "AL_CLEAN"),
        (Self::AL_DISABLED, "AL_DISABLED"),
    ];

    pub const fn contains(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// With `flag` set or cleared.
    #[must_use]
    pub const fn with(self, flag: Self, set: bool) -> Self {
        if set { Self(self.0 | flag.0) } else { Self(self.0 & !flag.0) }
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#05x}", self.0)?;
        for (flag, name) in Self::NAMES {
            if self.contains(flag) {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_their_names() {
        let flags = Flags(0x051);
        assert_eq!(format!("{flags:?}"), "0x051 CONSISTENT WAS_UP_TO_DATE CRASHED_PRIMARY");
        assert_eq!(flags.with(Flags::CONSISTENT, false).with(Flags::AL_CLEAN, true), Flags(0x0d0));
    }
}
