//! The steps of a service on real file systems: mounts, users in the way, disks that do not answer,
//! and what a daemon leaves behind when it is killed.
//!
//! Each test runs itself again in namespaces of its own, where it mounts what it likes and sees no
//! process but its own. Needs root; says `skipped: REASON` otherwise.

mod alone;
mod disk;

mod dead_daemon;
mod file_systems;
mod in_the_way;
mod silent_disk;
