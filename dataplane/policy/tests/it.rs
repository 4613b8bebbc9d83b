//! The tests of this crate in one binary, which is linked once. Each module says what it tests.

mod bypass;
mod claims;
mod classbench;
mod findings;
mod verdicts;
mod written;
