//! Ratios that are promised, measured between real processes on loopback: in a program of their own,
//! one after the other, since whatever runs beside them is measured as well (DESIGN.md 9).

#[path = "../common/mod.rs"]
mod common;

mod resync;
