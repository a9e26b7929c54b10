//! The two TCP connections between DRBD peers (wire.md 1 to 3.2).
//!
//! ```text
//!   establish()                     one sequential conversation, from nothing to two live sockets
//!     socket     bind, listen, dial: socket options
//!     connect    both sides dial and listen at once; who has the data socket, who the meta socket
//!     handshake  P_CONNECTION_FEATURES, then P_AUTH_* when a secret is configured
//!        |
//!        v  Established
//!   Session                         packets both ways until one side is lost or closes
//!     reader     one task, both sockets: bytes -> packets + payloads -> LinkEvent
//!     sender     a queue for each socket: one vectored write for each flush, a task for the rest
//!     integrity  digests before data, in each direction as its P_PROTOCOL says
//! ```
//!
//! Nothing here decides what a packet means. The link knows sockets, framing, digests, limits and
//! time; everything else goes to the engine as [`LinkEvent`]s.

mod connect;
mod handshake;
mod integrity;
mod random;
mod reader;
mod sender;
mod session;
mod settings;
mod socket;

#[cfg(test)]
mod tests;

pub use crate::engine::effect::CloseManner;
pub use crate::engine::event::{HandshakeFailure, LossCause};
pub use handshake::{Established, establish};
pub use random::{Random, SystemRandom};
pub use session::{Closing, Session};
pub use settings::{Authentication, LinkSettings};

use twinblk_proto::packet::Packet;

use crate::buffer::Payload;

/// What a session tells the driver.
#[derive(Debug)]
pub enum LinkEvent {
    /// A packet of either socket; those of one socket in the order in which they were sent.
    /// `payload` is the bulk data of packets that carry it, digest verified.
    Packet { packet: Packet, payload: Option<Payload> },
    /// The session is over. Nothing follows.
    Lost(LossCause),
}
