//! What runs on top of a replicated device: a mounted file system and the programs that use it.
//!
//! Each step can be done, undone, and asked whether it is so already; each has a time limit and an
//! escalation, and ends in a typed error that says what to try next. In which order steps are taken,
//! and when, is decided elsewhere.
//!
//! ```text
//!   step        do                     undo                                   is it so?
//!   FileSystem  mount(8)               umount(8), then end its users,         mountinfo
//!                                      then let go of it lazily
//!   Program     its start command      its stop command                       nobody knows: its
//!               (failed: stop command)                                        commands may repeat
//! ```
//!
//! `leftovers` clears what a daemon that died left behind, at the next start, and `guard` does so at
//! the moment of its death.

mod error;
mod file_system;
pub mod guard;
mod leftovers;
mod program;
mod thread;
mod unmount;
pub mod users;

pub use error::ServiceError;
pub use file_system::FileSystem;
pub use leftovers::{Cleared, Estate, Note, clear};
pub use program::Program;
pub use unmount::{UnmountLimits, Unmounted};
