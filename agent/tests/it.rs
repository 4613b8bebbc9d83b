//! The tests of this crate in one binary, which is linked once. Each module says what it tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod api;
mod arrows;
mod cli_args;
mod cli_client;
mod cli_compile;
mod cli_errors;
mod cli_support;
mod cli_views;
mod docs;
