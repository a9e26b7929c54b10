//! Who decided what, and why, in sentences.

use std::fmt;

/// Why a service is not started, or is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    Shutdown,
    Standby,
    /// A tracker of the VRRP instance, or the check of the service.
    Unfit(String),
    Handover,
    Replaced,
    LostPrimary,
    NotMaster,
    NotUp,
    Disk,
    PeerIsPrimary,
    WaitsForPeer,
    BacksOff {
        after: String,
        for_us: u64,
    },
    StepFailed {
        step: String,
        error: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => write!(formatter, "the daemon is to end"),
            Self::Standby => write!(formatter, "this node is in standby"),
            Self::Unfit(what) => write!(formatter, "{what}"),
            Self::Handover => write!(formatter, "it is handed over"),
            Self::Replaced => write!(formatter, "the other node went on without this one"),
            Self::LostPrimary => write!(formatter, "this node is not Primary any more"),
            Self::NotMaster => write!(formatter, "this node is not VRRP Master"),
            Self::NotUp => write!(formatter, "the resource is not up"),
            Self::Disk => write!(formatter, "the disk of this node is not UpToDate"),
            Self::PeerIsPrimary => write!(formatter, "the other node is Primary"),
            Self::WaitsForPeer => write!(
                formatter,
                "this node has just started and does not know what the other one has: it waits for \
                 it (startup wfc-timeout)"
            ),
            Self::BacksOff { after, for_us } => {
                write!(formatter, "{after}; tried again in {} s", for_us.div_ceil(1_000_000))
            }
            Self::StepFailed { step, error } => write!(formatter, "{step} failed: {error}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Starting,
    Serving,
    Stopping(Why),
    Stopped,
    /// Would start, but for this.
    Waits(Why),
    StartFailed(Why),
    /// Something could not be stopped as it should, and was forced.
    Forced {
        step: String,
        error: String,
    },
    /// VRRP Backup, but nobody else could serve.
    HoldsOn,
}

impl Notice {
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::StartFailed(_) | Self::Forced { .. } | Self::HoldsOn)
            || matches!(self, Self::Stopping(Why::Replaced | Why::LostPrimary | Why::Unfit(_)))
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => write!(formatter, "starts the service"),
            Self::Serving => write!(formatter, "serves"),
            Self::Stopping(why) => write!(formatter, "stops the service: {why}"),
            Self::Stopped => write!(formatter, "the service is stopped, the data given up"),
            Self::Waits(why) => write!(formatter, "does not serve: {why}"),
            Self::StartFailed(why) => write!(formatter, "the service could not be started: {why}"),
            Self::Forced { step, error } => {
                write!(formatter, "could not undo {step} ({error}): goes on by force")
            }
            Self::HoldsOn => write!(
                formatter,
                "is not VRRP Master any more, but no other node can serve the data: goes on"
            ),
        }
    }
}
