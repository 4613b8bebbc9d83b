//! The tests of this crate in one binary, which is linked once. Each module says what it tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod by_address;
mod capacity;
mod equal;
mod exhaustive;
mod golden;
mod hidden;
mod layers;
mod ortc;
mod overlays;
mod partial;
mod placement;
mod priorities;
mod support;
mod witness;
