//! The tests of this crate in one binary, which is linked once. Each module says what it tests.

mod capacity;
mod equal;
mod exhaustive;
mod golden;
mod ortc;
mod support;
mod witness;
