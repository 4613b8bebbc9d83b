//! The tests of this crate in one binary, which is linked once. Each module says what it tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod any_writes;
mod changes;
mod clients;
mod conformance;
mod forwarding;
mod leaks;
mod order;
mod rig;
mod server;
mod spread;
mod swap;
