//! The tests of this crate in one binary, which is linked once. Each module says what it tests.

mod common;
mod fixtures;
mod messages;
mod roundtrip;
mod witness;
