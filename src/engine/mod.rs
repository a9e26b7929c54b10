//! The sans-io core of a resource. It decides everything and does nothing: events come in, effects
//! go out, and neither clock, socket, disk, thread nor randomness is inside. The same code runs in
//! the daemon and in the simulator.

pub mod effect;
pub mod event;
