//! Backend for Open vSwitch with DPDK: OVSDB to know the ports, OpenFlow to write the rows.
//!
//! ```text
//! OVSDB ──▶ ports (which port is what) ─┐
//! intent ──▶ programs (proved rows) ────┴─▶ units (tables/*.rs) ──▶ machine ──▶ session ──▶ OpenFlow bundles
//! ```
//!
//! Pure: [`ports`], [`units`], [`tables`], [`expiry`], [`session`] and what it observes, `offload`, `doctor`. I/O: `driver`, `no_flood`, `discover`.

mod backend;
mod caches;
mod config;
mod discover;
mod doctor;
mod driver;
pub mod expiry;
mod flow;
mod io;
mod no_flood;
mod observe;
mod offload;
pub mod ports;
mod query;
pub mod regs;
pub mod session;
pub mod tables;
pub mod units;
mod unixctl;

pub use backend::OvsBackend;
pub use config::{Config, FailMode, FinalAction};
pub use discover::{Fitness, NotFound, fitness, look};
pub use flow::{Flow, FlowBody, FlowIdentity, FlowKey, SharedIdentity, Writer, text};
