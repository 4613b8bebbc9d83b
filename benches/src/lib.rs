//! Benchmarks of Portcullis: what they measure with, shared by the criterion benches and the harness.
//!
//! Nothing here asserts a threshold: it measures, and says on which machine. What it does check is that a figure is
//! about the thing it names: the same flows, no row rewritten, every endpoint in its place.
#![allow(
    missing_docs,
    reason = "its interface is a command, whose help says what it measures"
)]

pub mod bulk;
pub mod change;
pub mod compiled;
pub mod daemon;
pub mod datapath;
pub mod documents;
mod error;
pub mod fastpath;
pub mod filters;
pub mod floor;
pub mod hostile;
pub mod machine;
pub mod offline;
pub mod p4;
pub mod packet;
pub mod report;
pub mod restart;
pub mod switch;
pub mod unlocks;

pub use error::{BenchError, Result};
