//! The tests of this crate in one binary, which is linked once. Each module says what it tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../fastpath/tests/drawn/mod.rs"]
mod drawn;
mod fake;
mod faults;
#[path = "../../fastpath/tests/oracle.rs"]
#[allow(dead_code, reason = "`drawn` reads fields by it")]
mod oracle;
mod parser;
mod probing;
mod sound;
mod words;
