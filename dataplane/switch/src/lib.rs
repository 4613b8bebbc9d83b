//! The embedded switch: the logical pipeline of `p4/` on DPDK, served over P4Runtime.
//!
//! ```text
//! P4Runtime ──server──▶ engine ──store──▶ tables ──publish──▶ snapshot ──hub──▶ workers: receive, process, send
//! ```
//!
//! [`store::Store`] and [`server::roles`] decide without I/O. Workers ([`worker`]) run each frame to completion under one
//! snapshot; a Write is answered when every worker forwards by it.

#![allow(
    missing_docs,
    reason = "its interface is the command and P4Runtime, which have docs of their own"
)]
pub mod config;
pub mod counters;
pub mod engine;
pub mod entry;
pub mod hub;
pub mod nic;
pub mod ports;
pub mod program;
pub mod report;
pub mod serve;
pub mod server;

pub mod distributor;
pub mod store;
pub mod switch;
pub mod top;
pub mod worker;

pub use counters::{Counters, Sums};
pub use engine::Engine;
pub use hub::Hub;
pub use server::Service;
