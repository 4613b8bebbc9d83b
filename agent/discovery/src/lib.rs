//! What datapaths are on this machine, and which of them an agent without a `[[target]]` programs.
//!
//! ```text
//! OVSDB, P4Runtime servers, /proc, /sys ──look──▶ Findings ──datapaths──▶ [Datapath] ──decide──▶ Decision
//! ```
//!
//! Looking reads only: no arbitration, no row, no setting. I/O: `look`. Everything else is pure.

mod bridges;
mod datapath;
mod decide;
mod host;
mod look;
mod section;
mod servers;
mod uplinks;

pub use bridges::bridges;
pub use datapath::{Datapath, DatapathKind, PortSeen, datapaths};
pub use decide::{Decision, decide};
pub use host::Host;
pub use look::{Absent, EMBEDDED_SOCKET, Findings, Places, look};
pub use section::{LOCAL, sections};
pub use servers::server;
