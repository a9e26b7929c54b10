//! DRBD's refusal codes and texts (behaviour.md 1.5): scripts match on them.

use super::effect::Refusal;

macro_rules! codes {
    ($($name:ident = $code:literal, $text:literal;)+) => {
        /// A state change return code; negative (and 0) means refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Code { $($name = $code),+ }

        impl Code {
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            pub const fn from_wire(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

codes! {
    NoNeedClusterWide = 4, "No need for a cluster wide state change";
    ClusterWideSuccess = 3, "Cluster wide state change succeeded";
    NothingToDo = 2, "State changed, nothing to do";
    Success = 1, "State change succeeded";
    Unknown = 0, "Unknown error";
    TwoPrimaries = -1, "Multiple primaries not allowed by config";
    NoUpToDateDisk = -2, "Need access to UpToDate data";
    NoLocalDisk = -4, "Can not resync without local disk";
    NoRemoteDisk = -5, "Can not resync without remote disk";
    ConnectedOutdates = -6, "Refusing to be Outdated while Connected";
    PrimaryNop = -7, "Refusing to be Primary while peer is not outdated";
    ResyncRunning = -8, "Can not start OV/resync since it is already active";
    AlreadyStandAlone = -9, "Can not disconnect a StandAlone device";
    RefusedByPeer = -10, "State change was refused by peer node";
    IsDiskless = -11, "Device is diskless, the requested operation requires a disk";
    DeviceInUse = -12, "Device is held open by someone";
    NoNetConfig = -13, "Have no net/connection configuration";
    NoVerifyAlg = -14, "Need a verify algorithm to start online verify";
    NeedConnection = -15, "Need a connection to start verify or resync";
    LowerThanOutdated = -16, "Disk state is lower than outdated";
    NotSupported = -17, "Peer does not support protocol";
    InTransientState = -18, "In transient state, retry after next state change";
    ConcurrentChange = -19, "Concurrent state changes detected and aborted";
    OtherVolumePrimary = -20, "Other vol primary on peer not allowed by config";
    OutdateWithoutConnection = -21, "Need a connection for a graceful disconnect/outdate peer";
}

/// One of the numbers above 100 (behaviour.md 7.2): a failure, not a refused state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(pub i32, pub &'static str);

pub const NO_DISK: Failure = Failure(138, "Device does not have a disk-config");
pub const NET_CONFIGURED: Failure = Failure(125, "Device has a net-config (use disconnect first).");
pub const NEED_STANDALONE: Failure = Failure(151, "Need to be StandAlone");
pub const DISCARD_AS_PRIMARY: Failure = Failure(123, "--discard-my-data not allowed when primary.");

pub const DISK_TOO_SMALL: Failure = Failure(111, "Low.dev. smaller than requested DRBD-dev. size.");
pub const RESIZE_IN_RESYNC: Failure = Failure(130, "Resize not allowed during resync.");
pub const NEED_PRIMARY: Failure = Failure(131, "Need one Primary node to resize.");
pub const NEED_VERSION_93: Failure =
    Failure(153, "Protocol version 93 required to use --assume-clean");
pub const IMPLICIT_SHRINK: Failure =
    Failure(170, "Implicit device shrinking not allowed. See kernel log.");

impl Failure {
    pub fn refuse(self, detail: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { code: self.0, text: self.1, detail: detail.into(), hint: hint.into() }
    }
}

impl Code {
    /// A refusal with what happened here and what to try next.
    pub fn refuse(self, detail: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { code: self as i32, text: self.text(), detail: detail.into(), hint: hint.into() }
    }
}
