//! Who calls, and what they may do. `rights` is the one table of methods and roles, `people` tells who is who by what
//! they show, `caller` what is within a tenant's reach; `guard` is the layer in front of every service that asks them,
//! so that a refused call never comes to one.

mod accounts;
mod arrival;
mod caller;
mod door;
mod guard;
mod oidc;
mod peer;
mod people;
mod rate;
mod right;
mod rights;
mod role;
mod san;
mod summary;
mod witness;

pub use accounts::Accounts;
pub use arrival::Activity;
pub use caller::{Caller, Denied};
pub use door::{Door, Place};
pub use guard::{Access, Guarded, Refusal, Report, Trust};
pub use oidc::KeysError;
pub use peer::{Connection, Peer, Shows};
pub use people::{AccessError, People};
pub use rate::Allowances;
pub use rights::{Grant, METHODS, Method, reference};
pub use role::Role;
pub use san::{Pattern, San, Shown};
pub use summary::Summaries;
pub use witness::{Denial, Witness, witness};
