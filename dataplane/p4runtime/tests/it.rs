//! The tests of this crate in one binary, which is linked once. Each module says what it tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod any_bytes;
mod beside;
mod by_address;
mod by_port;
mod conformance;
mod drawn;
mod ends;
mod hostile;
mod left;
mod mixes;
mod odd_devices;
mod partial;
mod pipelines;
mod restricted;
mod rig;
mod roles;
mod suite;
mod transitions;
