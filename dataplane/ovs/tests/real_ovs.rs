//! The tests over a real Open vSwitch with DPDK in one binary, which is linked once. They need root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod corpus;
mod real_bridge;
mod real_change;
mod real_closed;
mod real_corpus;
mod real_cut_short;
mod real_expiry;
mod real_forward;
mod real_full;
mod real_kernel;
mod real_offload;
mod real_readback;
mod real_replug;
mod real_rules;
mod real_story;
mod rig;
