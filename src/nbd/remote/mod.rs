//! The client's side: an export of another host that outlives its server.
//!
//! ```text
//!   kernel (or a test) -- socket pair --> lane -- TCP --> the server that serves at the moment
//!                                          |
//!                            keeps each request until it is answered; when the connection is lost,
//!                            dials until the export is served again and sends them all once more
//! ```
//!
//! The kernel's driver could redial by itself, but repeats what was in flight only when a time limit
//! of whole seconds has run out (nbd.md 3.2), and cannot tell a server that is silent from one that
//! is slow. A lane asks the server for a sign of life; both halves of a failover take as long as the
//! new server needs.
//!
//! `target` is the URI, `dial` the handshake, `lane` one connection, `device` the kernel's device on
//! top of lanes. Why repeating is safe: docs/nbd-clients.md.

mod device;
mod dial;
mod lane;
mod target;

use std::time::Duration;

pub use device::{DeviceError, Held, hold, release};
pub use dial::{DialError, Offer, first_offer};
pub use lane::{Lanes, serve};
pub use target::{Target, TargetError};

/// How long what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A server that says nothing for this long, not even when asked, is given up and dialled anew.
    pub silence: Duration,
    /// Requests fail after this time without a server.
    pub dead: Duration,
}
