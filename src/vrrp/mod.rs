//! VRRP on real interfaces: raw sockets, virtual addresses, announcements. The decisions are those
//! of [`crate::election`]; nothing here decides.
//!
//! ```text
//!   router      the loop: what has come, what is due, what is to be done
//!     reload    another plan in place of the one that runs
//!     slot      one instance on its interface: its sockets and addresses
//!       socket    adverts in and out, frames out
//!       announce  the frames
//!     netlink   interfaces and addresses of this machine
//!   guard     a process that takes addresses away when this one dies
//! ```
//!
//! All instances of a process run on one thread of their own ([`spawn`]), which does nothing that
//! waits for disks or other programs: who advertises late is taken for dead (vrrp.md 7).

use std::io;
use std::thread::{self, JoinHandle};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot, watch};

pub mod announce;
pub mod guard;
pub mod netlink;
mod reload;
mod router;
mod slot;
pub mod socket;

pub use guard::GuardProgram;
pub use reload::{Change, Difference, check, difference};
pub use router::run;

use crate::election::check::Counters;
use crate::election::settings::WrongSettings;
use crate::election::{Group, InstanceSettings, Notice, NotifiedState, State, Time};
use netlink::NetlinkError;

/// A burst of commands is one for each tracker of each instance; who sends more waits.
const COMMANDS_MAX: usize = 1024;
/// What happened and was not yet taken. Whoever does not take it finds the state in the status.
const OCCURRENCES_MAX: usize = 1024;

/// The instances of a process, by their places in the list.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub instances: Vec<Placement>,
    pub groups: Vec<Group>,
    /// Absent: the addresses stay when the process is killed.
    pub guard: Option<GuardProgram>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub interface: String,
    pub settings: InstanceSettings,
    /// Trackers that are good while the interface of that name is up.
    pub tracked_interfaces: Vec<(usize, String)>,
}

#[derive(Debug)]
pub enum Command {
    /// A tracker of an instance is good or bad now.
    Tracker { instance: usize, tracker: usize, good: bool },
    /// A bound instance: its service wants its addresses, or wants them no more.
    Serve { instance: usize, serves: bool },
    /// The silence of the master alone is no reason to take over.
    Veto { instance: usize, is_vetoed: bool },
    /// Whether a master of lower priority may be replaced.
    MayPreempt { instance: usize, may_preempt: bool },
    /// Let another node be Master.
    Yield { instance: usize },
    /// The same for one that weighs by a number (`track_file`).
    TrackerNumber { instance: usize, tracker: usize, number: i64 },
    /// Run another plan from now on. What it leaves alone, or changes in a way that neighbours do not
    /// see, keeps its state without a gap; what else it changes begins again; what it does not have
    /// is released. Places in later commands,
    /// occurrences and status are those of the new plan.
    Reload { plan: Plan, answer: oneshot::Sender<Result<Difference, VrrpError>> },
    /// Release what is held, then end.
    Stop,
}

/// Something that notify programs and logs want to know, in order.
#[derive(Clone, Debug)]
pub struct Occurrence {
    pub instance: usize,
    pub name: String,
    pub kind: OccurrenceKind,
}

#[derive(Clone, Debug)]
pub enum OccurrenceKind {
    Notify {
        state: NotifiedState,
        priority: u8,
    },
    Said(Notice),
    /// Not of an instance: places and names are those of another plan from here on.
    Reloaded,
    /// The kernel refused to send, which a filter does as well as a missing route.
    CannotSend(String),
}

#[derive(Clone, Debug)]
pub struct InstanceStatus {
    pub name: String,
    pub interface: String,
    pub state: State,
    pub effective_priority: u8,
    /// Listens after it was not run for long, and has not heard that it was replaced.
    pub is_in_doubt: bool,
    pub has_addresses: bool,
    /// The master that was heard last.
    pub master: Option<std::net::IpAddr>,
    pub counters: Counters,
}

#[derive(Debug, thiserror::Error)]
pub enum VrrpError {
    #[error("vrrp_instance {name}: {error}")]
    Settings { name: String, error: WrongSettings },
    #[error("vrrp_sync_group {0}: it names an instance that is not there, or one of another group")]
    Group(String),
    #[error("cannot start the guard of virtual addresses: {0}")]
    Guard(io::Error),
    #[error("cannot speak VRRP: {0}; it needs CAP_NET_ADMIN and CAP_NET_RAW")]
    NotPermitted(io::Error),
    #[error("cannot speak VRRP: {0}")]
    Netlink(#[from] NetlinkError),
    #[error("cannot speak VRRP: {0}")]
    Io(#[from] io::Error),
}

/// Where the router tells what happens.
#[derive(Debug)]
pub struct Outlet {
    pub occurrences: mpsc::Sender<Occurrence>,
    pub status: watch::Sender<Vec<InstanceStatus>>,
}

/// A router on its thread. Dropping it stops the router and lets it release its addresses.
#[derive(Debug)]
pub struct Handle {
    pub commands: mpsc::Sender<Command>,
    pub occurrences: mpsc::Receiver<Occurrence>,
    pub status: watch::Receiver<Vec<InstanceStatus>>,
    pub thread: JoinHandle<Result<(), VrrpError>>,
}

/// Runs `plan` on a thread of its own.
pub fn spawn(plan: Plan) -> io::Result<Handle> {
    let (commands, orders) = mpsc::channel(COMMANDS_MAX);
    let (occurrence_sender, occurrences) = mpsc::channel(OCCURRENCES_MAX);
    let (status_sender, status) = watch::channel(Vec::new());
    let outlet = Outlet { occurrences: occurrence_sender, status: status_sender };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new()
        .name("vrrp".to_owned())
        .spawn(move || runtime.block_on(run(plan, orders, outlet)))?;
    Ok(Handle { commands, occurrences, status, thread })
}

/// The clock of [`Time`]. It goes on while the machine sleeps.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    Time(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}
