//! Stories with a name: one thing happens, at one moment, and the outcome is known (testing.md 5).

pub mod crashes;
pub mod generations;
pub mod network;
pub mod resync;
pub mod resync_forms;
pub mod stage;
pub mod verbs;
pub mod verify;
