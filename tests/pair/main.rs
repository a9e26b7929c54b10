//! Pairs of real processes on loopback: the main job, end to end (DESIGN.md 8, rung 4).

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod failover;
mod first_sync;
mod kills;
mod order;
mod refusals;
mod resync;
mod split_brain;
mod tools;
mod verbs;
mod verify;
