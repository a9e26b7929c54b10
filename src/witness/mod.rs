//! The third vote of a pair (DESIGN.md 6): two nodes that lost each other cannot tell a dead peer from
//! a cut cable, so whoever wants to go on alone asks a witness, which says yes to one of them.
//!
//! ```text
//!   client   a node asks: may I go on alone?          (driver, as its fence-peer)
//!   message  one line of JSON each way
//!   server   `twinblk witness`: a small process on a third host, without data
//!   ledger   who holds a pair's grant, and the rules  (no I/O)
//!   store    one file a pair, on disk before anybody hears of it
//! ```
//!
//! A grant has no time limit and needs no clock. It is safe because a node that was not granted cannot
//! finish a write without the peer's acknowledgement (protocol B or C), and because it is given back
//! only while both nodes are connected and in sync. Each grant has a number, so that a late "given
//! back" of an older one changes nothing.

pub mod client;
mod ledger;
pub mod message;
pub mod server;
pub mod store;

pub use message::{Answer, Cluster, Request};
pub use store::{Store, StoreError};
