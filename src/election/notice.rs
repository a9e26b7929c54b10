//! What is worth a line in the log. The words are keepalived's where it has some (vrrp.md 1.7), so
//! that whoever watches its log finds the same lines.

use std::fmt;
use std::net::IpAddr;

use super::check::Rejection;

/// Why an instance may not take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultReason {
    LinkDown,
    NoSourceAddress,
    /// A tracker without weight is bad.
    Tracker(String),
    /// Another member of the sync group is in Fault.
    Group,
}

impl fmt::Display for FaultReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkDown => write!(formatter, "its interface is down"),
            Self::NoSourceAddress => write!(formatter, "its interface has no address to send from"),
            Self::Tracker(name) => write!(formatter, "{name} failed"),
            Self::Group => write!(formatter, "another instance of its group is in FAULT"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    EnteringBackup,
    TransitionToMaster,
    EnteringMaster,
    EnteringFault(FaultReason),
    SettingAddresses,
    RemovingAddresses,
    SentPriorityZero,
    /// Yielded to it.
    HigherPriority {
        theirs: u8,
        ours: u8,
        source: IpAddr,
    },
    /// Answered with an advertisement and announcements.
    ForcingElection {
        theirs: u8,
        ours: u8,
        source: IpAddr,
    },
    /// Heard as Backup: the timer runs on. Once for each master.
    LowerPriority {
        theirs: u8,
        ours: u8,
        source: IpAddr,
    },
    PreemptDelay {
        delay_us: u64,
    },
    OtherInterval {
        theirs_us: u64,
        ours_us: u64,
    },
    /// Each first, second, fourth, eighth, ... of a kind.
    Rejected {
        source: IpAddr,
        rejection: Rejection,
        times: u64,
    },
    /// The process was not run for so long that another node may have taken over: it listens again
    /// before it serves.
    Late {
        by_us: u64,
        was_master: bool,
    },
    /// Nothing is heard from the master, which another path says is alive.
    SilentMaster,
    Stopped,
}

impl Notice {
    /// Something that an administrator should look into.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::EnteringFault(_)
                | Self::ForcingElection { .. }
                | Self::OtherInterval { .. }
                | Self::Rejected { .. }
                | Self::Late { .. }
                | Self::SilentMaster
        )
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnteringBackup => write!(formatter, "Entering BACKUP STATE"),
            Self::TransitionToMaster => write!(formatter, "Transition to MASTER STATE"),
            Self::EnteringMaster => write!(formatter, "Entering MASTER STATE"),
            Self::EnteringFault(reason) => write!(formatter, "Entering FAULT STATE: {reason}"),
            Self::SettingAddresses => write!(formatter, "setting protocol VIPs."),
            Self::RemovingAddresses => write!(formatter, "removing protocol VIPs."),
            Self::SentPriorityZero => write!(formatter, "sent 0 priority"),
            Self::HigherPriority { theirs, ours, source } => write!(
                formatter,
                "Received advert with higher priority {theirs}, ours {ours}, from {source}"
            ),
            Self::ForcingElection { theirs, ours, source } => write!(
                formatter,
                "Received advert with lower priority {theirs}, ours {ours}, from {source}, forcing \
                 new election"
            ),
            Self::LowerPriority { theirs, ours, source } => write!(
                formatter,
                "received lower priority ({theirs}) advert from {source}, ours {ours} - discarding"
            ),
            Self::PreemptDelay { delay_us } => {
                write!(formatter, "start preempt delay of {} ms", delay_us / 1000)
            }
            Self::OtherInterval { theirs_us, ours_us } => write!(
                formatter,
                "the master advertises every {} ms, ours is {} ms: its interval is used",
                theirs_us / 1000,
                ours_us / 1000
            ),
            Self::Rejected { source, rejection, times } => {
                write!(formatter, "ignored a packet from {source}: {rejection}")?;
                if *times > 1 { write!(formatter, " ({times} times so far)") } else { Ok(()) }
            }
            Self::Late { by_us, was_master } => {
                let held = if *was_master { "gives MASTER up and " } else { "" };
                let ms = by_us / 1000;
                write!(
                    formatter,
                    "was not run for {ms} ms too long, another node may have taken over: {held}\
                     listens again"
                )
            }
            Self::SilentMaster => write!(
                formatter,
                "Receive advertisement timeout, but the other node is known to be Primary: stays \
                 BACKUP"
            ),
            Self::Stopped => write!(formatter, "Stopped"),
        }
    }
}
