//! twinblk beside the kernel's own DRBD 8.4 in guests: first sync, writes, resync, failures, takeover
//! of each other's disks (DESIGN.md 8, rung 6).
//!
//! `kernel_attach` and `nbd_connect` are about twinblk alone: devices of the guest's kernel.
//!
//! Each test boots a guest by `scripts/guest` and runs itself in there, where the kernel is one node
//! and a twinblk daemon is the other. Where no guest can be had it says `skipped: REASON`.

#[path = "../common/mod.rs"]
mod common;

mod guest;
mod kernel;
mod lab;
mod load;

mod authentication;
mod discard;
mod failures;
mod first_sync;
mod kernel_attach;
mod nbd_connect;
mod resize;
mod resync;
mod resync_speed;
mod roles;
mod split_brain;
mod takeover;
mod verify;
mod writes;
