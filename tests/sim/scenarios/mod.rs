//! Stories with a name: one thing happens, at one moment, and the outcome is known (testing.md 5).

pub mod crashes;
pub mod freeze;
pub mod generations;
pub mod handlers;
pub mod network;
pub mod policies;
pub mod rate;
pub mod resize;
pub mod resync;
pub mod resync_forms;
pub mod slow;
pub mod stage;
pub mod verbs;
pub mod verify;
