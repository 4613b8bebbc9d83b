//! The tests over network interfaces of the kernel in one binary, which is linked once. They need root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod real_af_packet;
mod real_interface;
mod real_tap;
mod rig;
