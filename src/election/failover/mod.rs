//! Where an election and data meet (DESIGN.md 6): VRRP says who should serve, the data says who may,
//! and a service is started and stopped in order, one step at a time.
//!
//! ```text
//!   VRRP ------ Master, Backup, Fault -----+            +--> perform, undo: one step at a time
//!   data ------ role, disk, peer, frozen --+--> coordinator --> eligible, veto, preempt: to VRRP
//!   operator -- standby, handover ---------+            +--> look at the peer, yield
//!   trackers -- what makes it unfit -------+
//!
//!   Idle --(Master, and the data may)--> Starting --> Serving
//!     ^                                     |            |
//!     +---- every step undone <---------- Stopping <-----+
//! ```
//!
//! Only after the last step is undone, the Primary role given up, does VRRP hear that this node does
//! not want to be Master any more: whoever waits takes over data that nobody writes to.

pub mod coordinator;
pub mod notice;
mod sight;

pub use coordinator::{Coordinator, Effect, Event};
pub use notice::{Notice, Why};
pub use sight::Seen;

#[cfg(test)]
mod tests;

/// One thing of a service. They are started in the order of the list and stopped in reverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: StepKind,
    /// For people: `promote r0`, `mount /var/lib/mysql`.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// The Primary role; undone by giving it up.
    Promote,
    /// The block device of this machine.
    Attach,
    Mount,
    /// The virtual addresses.
    Addresses,
    /// A program that starts something, and one that stops it.
    Command,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSettings {
    pub steps: Vec<Step>,
    /// The takeover policy lets only one of two nodes go on that do not see each other.
    pub is_exclusive: bool,
    /// How long a node that has just started, and whose policy is not exclusive, waits for its peer
    /// before it takes over alone: it may have missed everything. Absent: for ever.
    pub wait_for_peer_us: Option<u64>,
}

/// What the resource says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// Its configuration is loaded, its disk attached or given up.
    pub is_up: bool,
    pub is_primary: bool,
    pub disk: Disk,
    pub peer: Peer,
    /// The peer's disk is UpToDate, as far as it is connected.
    pub peer_can_serve: bool,
    /// The policy has said that the other node went on without this one.
    pub is_replaced: bool,
    /// Was connected since it came up.
    pub met_peer: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disk {
    /// Not there, Inconsistent or Outdated: not to be served from.
    #[default]
    Unfit,
    /// Consistent: whether it is the newest is for the policy to say.
    Perhaps,
    Good,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// Not connected.
    #[default]
    Unseen,
    Secondary,
    Primary,
}

/// What VRRP says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Init,
    Backup,
    /// Was Master until its process was not run for long, and has not heard that it was replaced.
    Doubt,
    Master,
    Fault,
}

/// Where the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Idle,
    /// The step under way.
    Starting(usize),
    Serving,
    /// The step being undone.
    Stopping(usize),
}
