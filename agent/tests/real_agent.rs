//! The tests of the agent over a real Open vSwitch in one binary, which is linked once. They need root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bed;
#[path = "api/pair.rs"]
mod pair;
mod real_bypass;
mod real_discovery;
mod real_rack;
mod real_soak;
mod real_two_targets;
mod real_upgrade;
#[path = "api/small.rs"]
mod small;
mod soak;
#[allow(dead_code, reason = "the tests of the API use more of it")]
#[path = "api/support.rs"]
mod support;
