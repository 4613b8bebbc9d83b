//! Who calls, and what they may do. `rights` is the one table of methods and roles, `people` tells who is who by what
//! they show, `caller` what is within a tenant's reach; `guard` is the layer in front of every service that asks them,
//! so that a refused call never reaches one.

mod accounts;
mod arrival;
mod authenticator;
mod caller;
mod denial_log;
mod door;
mod guard;
mod oidc;
mod peer;
mod rate;
mod refusal;
mod right;
mod rights;
mod shown;
mod summary;

pub use crate::config::{Pattern, Role, San};
pub use accounts::Accounts;
pub use arrival::Activity;
pub use authenticator::{AccessError, Authenticator};
pub use caller::{Caller, Denied};
pub use denial_log::{Denial, DenialLog, denial_log};
pub use door::{ConnectionSlot, Door};
pub use guard::{Access, Guarded, ReadingReport, Trust};
pub use oidc::KeysError;
pub use peer::{Connection, Peer, Shows};
pub use rate::{Allowances, Limiter};
pub use refusal::Refusal;
pub use rights::{METHODS, Method, Permission, reference};
pub use shown::Shown;
pub use summary::Summaries;
