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
mod clock;
pub mod delta;
mod footprint;
mod handle;
pub mod machine;
mod numbers;
mod status;
mod time;
pub mod timers;
mod windows;

pub use backoff::Backoff;
pub use clock::{Clock, Now};
pub use footprint::{Footprint, FootprintError, Footprints, Unstored};
pub use handle::{
    Backend, EnforcingRow, Hit, Plan, Query, QueryError, TablePlan, TargetContext, TargetHandle, Trace,
    launch,
};
pub use numbers::{Numbers, OutOfNumbers};
pub use status::{Exposure, Pending, SessionState, TableUse, TargetStatus};
pub use time::Time;
pub use windows::{Windows, cause};
