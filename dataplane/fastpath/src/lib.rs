//! Packet processing of the embedded switch: the logical pipeline of `p4/`, compiled for a CPU.
//!
//! [`Tables`] keeps the rows of all tables as a P4Runtime controller writes them, and compiles what changed into a
//! [`Snapshot`], an immutable tree that shares with its predecessor all that stayed. A worker runs frames through one
//! snapshot ([`Snapshot::process`]) and takes up the next between two frames, so that no frame sees two generations.
//! `tests/oracle.rs` says the same slowly: row by row, in the order of the P4 program.
//!
//! Nothing here does I/O, reads a clock or is `unsafe`.

mod classes;
mod flow;
mod frame;
mod guard;
mod header_subset;
mod mac_table;
mod path;
mod port_map;
mod ports;
mod remote;
mod roles;
mod row;
mod space;
mod table;
mod tables;

pub use flow::flow;
pub use frame::{Fields, Kind, VLAN_UNKNOWN};
#[doc(hidden)]
pub use header_subset::HeaderSubset;
pub use path::{DropReason, Forwarding, Ports, Prefetch, Tally};
pub use ports::Port;
pub use roles::Role;
pub use row::{Action, ActionKind, Cond, Decision, Lead, NO_SLOT, Row, RowId};
pub use table::{Key, Table};
pub use tables::{EgressRows, Snapshot, TableError, Tables};

/// A port of the switch: the P4 program has 9 bits for it.
pub const PORTS: usize = 512;
