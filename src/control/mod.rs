//! The conversation between the command line and the daemon: one unix socket in the run directory,
//! one JSON object per line in each direction.
//!
//! ```text
//!   cli ---- Request ----> server ---- Handler ----> resources' threads
//!       <--- Response ----        (perform, status)
//! ```
//!
//! A request gets zero or more `status` responses and then exactly one `outcome`. The server answers
//! waiting and watching itself, out of [`server::Handler::status`]; a handler only acts and reports.

use std::path::{Path, PathBuf};

pub mod client;
pub mod message;
pub mod outcome;
pub mod server;
pub mod status;
pub mod wait;

pub use client::{Client, ClientError};
pub use message::{Command, Request, Response};
pub use outcome::Outcome;
pub use server::{Handler, listen, serve};
pub use status::ResourceStatus;

/// Where the socket of a run directory is.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("twinblk.sock")
}

#[cfg(test)]
mod tests;
