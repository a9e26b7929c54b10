//! Pairs of real processes on loopback: the main job, end to end (DESIGN.md 8, rung 4).

#[path = "../common/mod.rs"]
mod common;

mod adjust;
mod bad_input;
mod drbdadm;
mod failover;
mod first_sync;
mod freeze;
mod handlers;
mod kills;
mod order;
mod refusal_table;
mod refusals;
mod resize;
mod resync;
mod split_brain;
mod stale;
mod takeover;
mod tools;
mod verbs;
mod verify;
