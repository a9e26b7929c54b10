//! twinblk: DRBD in userspace.
//!
//! ```text
//!   cli, main          verbs, rendering, demo
//!      |
//!   control  failover  unix-socket API between CLI and daemon; a running keepalived.conf
//!      |
//!   driver             the only loop of a resource: events in, engine.handle, effects out
//!      |        \__________________________
//!   disk  link  nbd  vrrp  service  watch  notify  witness   shells: no decisions, strangers
//!      |     |    |    |
//!   program            runs a program of others: group, user, time limit
//!      |
//!   engine meta config election      the sans-io core, the on-disk format, drbd.conf, who serves
//!      |     |    |
//!   buffer  proto  mountinfo   payload memory; wire packets; what is mounted
//! ```
//!
//! A lower layer never imports a higher one; `tests/tidy.rs` enforces it. The layers marked below
//! are a function of their input: no clocks, no sleeping, no order that differs from run to run.

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod buffer;
pub mod cli;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod config;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod driver;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod election;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod engine;
pub mod failover;
pub mod link;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod meta;
pub mod mountinfo;
pub mod nbd;
pub mod notify;
pub mod program;
pub mod service;
pub mod vrrp;
pub mod watch;
pub mod witness;
