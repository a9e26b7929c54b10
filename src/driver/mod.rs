//! The only loop of a resource: collect events, `engine.handle`, perform effects. One thread for
//! each resource does everything, disk, peer and clients, so that no request ever changes threads.
//!
//! ```text
//!   daemon ---- Order ----> |                | ---- Disk (io_uring or threads)
//!   (control, NBD listeners)|  turn: drain,  | ---- Session (data and meta socket)
//!                           |  handle, act,  | ---- Clients (NBD)
//!   Exports <-- publish --- |  settle, flush | ---- Timers
//! ```
//!
//! A turn takes everything that has arrived (bounded), hands each event to the engine, performs
//! the effects in order, and ends with one submission to the disk, one write to each peer socket
//! and one to each client that has something to hear. Payload bytes stay in a slab here; the
//! engine knows their numbers.

use std::path::PathBuf;

mod allocation;
mod backing;
mod clients;
mod exports;
mod growing;
mod handle;
mod handlers;
mod nbd_requests;
mod open;
mod peer;
mod perform;
mod polling;
mod roles;
mod run;
mod serving;
mod size_note;
mod slab;
mod snapshot;
mod takeover;
mod timers;

pub use clients::Asked;
pub use exports::Exports;
pub use handle::{Gone, ResourceHandle, spawn};
pub use handlers::HandlerPlan;
pub use open::BackingPlace;
pub use roles::RoleTimes;
pub use size_note::SizeNote;
pub use snapshot::{ClientSnapshot, Snapshot};
pub use takeover::Takeover;

use crate::engine::event::Settings;
use crate::link::LinkSettings;

/// Everything that a resource needs to know to run.
#[derive(Clone, Debug)]
pub struct ResourceSetup {
    pub name: String,
    pub engine: Settings,
    pub link: LinkSettings,
    pub backing: BackingPlace,
    pub handlers: HandlerPlan,
    /// Where clients find the device while the peer is Primary: host name and NBD URIs.
    pub peer_host: String,
    pub peer_uris: Vec<String>,
    /// Where the times of this node's roles are kept; none: nowhere.
    pub roles_file: Option<PathBuf>,
    /// Look around briefly before sleeping when traffic is dense.
    pub polling: bool,
}
