//! Who serves: VRRP elections as RFC 3768, RFC 9568 and keepalived hold them (vrrp.md 1).
//!
//! ```text
//!   packet      bytes of an advertisement, and every reason why some are not one
//!   settings    what an instance is told; a configuration fills it
//!   check       whether an advertisement that was received concerns an instance
//!   instance    Init, Backup, Master, Fault: events in, effects out
//!   group       instances that move together
//!   notice      what is worth a line in the log, with keepalived's words
//! ```
//!
//! No clock, no socket: time is an argument, so that two nodes, their network and their pauses run
//! in a test. An election is not a lock: adverts flow one way, and nothing here makes two writers
//! impossible. It chooses who asks for the data.

pub mod check;
pub mod failover;
pub mod group;
pub mod instance;
pub mod notice;
pub mod packet;
pub mod settings;

pub use group::Group;
pub use instance::{Effect, Event, Instance, NotifiedState, State};
pub use notice::Notice;
pub use settings::InstanceSettings;

#[cfg(test)]
mod simulation;

/// Microseconds since some moment that does not change; the shell's clock goes on while the
/// machine sleeps (CLOCK_BOOTTIME), or a node would wake up as Master without noticing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    pub fn after(self, microseconds: u64) -> Self {
        Self(self.0.saturating_add(microseconds))
    }

    /// Microseconds since `earlier`; 0 when that is still to come.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
