//! The P4Runtime server, spoken to over a socket, with workers that the test plays itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod atomic;
mod elections;
mod programs;
mod reads;
mod refusals;
