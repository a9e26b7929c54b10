//! What tests of whole processes share.

#![allow(dead_code, reason = "every test program uses another part of this")]

pub mod device;
pub mod ledger;
pub mod nbd;
pub mod pair;
