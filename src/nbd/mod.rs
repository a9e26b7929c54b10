//! The NBD server: a volume as a block device for any NBD client.
//!
//! ```text
//!   listener   accepts on TCP and unix sockets, runs the negotiation      accepting runtime
//!      |            negotiation: options until GO, plain async code
//!      |            option:      bytes of one option -> what is asked (pure)
//!      v  Accepted (a plain socket and what was agreed)
//!   client     one connection in transmission                             resource's thread
//!      |            request: bytes -> Step (pure)
//!      |            receiver: large reads, payloads into pooled buffers
//!      |            outbox:  queued replies, one vectored write for many
//!      v  ClientEvent up, Client::reply down
//!   driver
//! ```
//!
//! A device of this machine's kernel (`kernel`, over `netlink`) is a client that needs no listener:
//! it gets the far ends of socket pairs. `holders` tells who uses it.
//!
//! `remote` is the other side: a client of exports of other hosts that lives through their failovers.
//!
//! Requests that reach the driver are inside the export, aligned and allowed; everything malformed
//! is answered here. The numbers are in `wire`, the export and its features in `export`.

pub mod allow;
pub mod client;
pub mod export;
pub mod holders;
pub mod kernel;
pub mod listener;
pub mod negotiation;
pub mod netlink;
pub mod option;
mod outbox;
mod receiver;
pub mod remote;
pub mod reply;
pub mod request;
mod slots;
pub mod stream;
pub mod wire;

pub use client::{Client, ClientEvent, ClientId, GoneReason};
pub use export::{Context, Contexts, Directory, ExportInfo};
pub use listener::{
    Accepted, CONNECTION_LIMIT, Handover, Listener, ListenerError, ListenerLimits, Origin,
    UnixOptions,
};
pub use negotiation::{Limits, Negotiated, NegotiationError, negotiate};
pub use reply::{Extent, Reply};
pub use request::{Cookie, Request};
pub use stream::Socket;
pub use wire::Errno;
