//! DRBD 8.4's wire protocol as typed values: bytes in, packets out. No I/O, no async, no clock.
//!
//! | module | what |
//! | --- | --- |
//! | [`units`] | sectors, blocks, activity log extents: the distances of a DRBD device |
//! | [`state`] | roles, connection and disk states, and the 32-bit word that carries them |
//! | [`packet`] | every packet as a value |
//! | [`codec`] | packets to bytes and back |
//! | [`digest`] | digests of data, and the HMAC of the authentication |
//! | [`run_length`] | the bitmap exchange: plain and run-length chunks |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod codec;
pub mod digest;
pub mod packet;
pub mod run_length;
pub mod state;
pub mod units;
