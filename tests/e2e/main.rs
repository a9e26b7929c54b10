//! The whole thing: two nodes, their witness and a client as hosts of their own, real daemons, a real
//! service on a file system on the replicated device, and every fault that a person would try
//! (DESIGN.md 8, rung 5).
//!
//! ```text
//!                  service network 172.16.22.0/24, virtual address .219
//!        +---------------------+----------------------+
//!     a .221                b .222                 w .100   witness and client
//!        +---------------------+
//!                  replication network 10.78.0.0/24
//! ```
//!
//! A host is namespaces (network, mounts, processes, name) that can be unplugged, paused and killed
//! at once. Needs root, and what `lab::missing` names; says `skipped: REASON` otherwise.

#[path = "../common/mod.rs"]
mod common;

mod client;
mod host;
mod lab;
mod network;
mod server;
mod service;

mod by_hand;
mod mariadb;
mod nbd_clients;
mod nginx;
