//! The daemon: one control socket, one thread per resource that is up.

pub mod options;

pub use options::DaemonOptions;
