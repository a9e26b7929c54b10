//! twinblk: DRBD in userspace.
//!
//! ```text
//!   cli, main          verbs, rendering, demo
//!      |
//!   control            unix-socket API between CLI and daemon
//!      |
//!   driver             the only loop of a resource: events in, engine.handle, effects out
//!      |        \__________________________
//!   disk  link  nbd    shells: I/O, no decisions; they do not know each other
//!      |     |    |
//!   engine meta config the sans-io core, the on-disk format, drbd.conf
//!      |     |    |
//!   buffer  proto      payload memory; wire packets
//! ```
//!
//! A lower layer never imports a higher one; `tests/tidy.rs` enforces it.

pub mod buffer;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod engine;
pub mod link;
pub mod meta;
pub mod nbd;
