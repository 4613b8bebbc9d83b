//! Interface to targets, and what all of them share.
//!
//! A [`Backend`] programs one datapath. The agent holds a [`TargetHandle`]: it sets the newest intent, reads
//! the [`TargetStatus`], and asks [queries](TargetHandle::plan). Between them runs the session, whose core,
//! the [`Machine`](machine::Machine), is pure: desired rows, observed rows, the delta and its order.
//!
//! * [`machine`] — what to write next, in batches that never let a packet meet a mix.
//! * [`timers`] — every period of a session: how often it reads back, connects and tries again.
//!
//! The conformance suite that every backend's session passes is in `portcullis-testbed`.

mod backoff;
mod checkup;
mod clock;
pub mod delta;
mod drift;
mod footprint;
mod handle;
pub mod machine;
mod numbers;
mod offload;
mod overlays;
mod plan;
pub mod ports;
mod proofs;
mod run;
mod state;
mod status;
mod time;
pub mod timers;
mod windows;

pub use backoff::Backoff;
pub use checkup::{Check, Cost, Outcome};
pub use clock::{Clock, Now};
pub use drift::{REFUSED_AT_MOST, RefusedRow, log_ended};
pub use footprint::{Footprint, FootprintError, Footprints, Unstored};
pub use handle::{
    Backend, EnforcingRow, Gap, Hit, Lack, OnGap, Place, Plan, Query, QueryError, TablePlan, TargetContext,
    TargetHandle, Trace, launch,
};
pub use numbers::{Numbers, OutOfNumbers};
pub use offload::{Carried, Nic, NicMoves, Offload, RuleOffload, Unit};
pub use overlays::{Lead, Overlays};
pub use plan::plan;
pub use ports::{PortPolicy, Resolution};
pub use proofs::Proofs;
pub use run::{Answer, TargetDriver, end_unlocks, run};
pub use state::{Lists, Report, TargetState};
pub use status::{Exposure, LeftRules, Pending, SessionState, TableUse, TargetStatus};
pub use time::Time;
pub use windows::{Windows, cause};
