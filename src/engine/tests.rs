//! Tests of the engine that need no second node: see also tests/sim.
