//! Who calls, and what they may do. `rights` is the one table of methods and roles, `people` tells who is who by what
//! they show, `caller` what is within a tenant's reach; `guard` is the layer in front of every service that asks them,
//! so that a refused call never comes to one.

mod accounts;
mod caller;
mod guard;
mod peer;
mod people;
mod rate;
mod rights;
mod role;
mod san;
mod witness;

pub use accounts::Accounts;
pub use caller::{Caller, Denied};
pub use guard::{Access, Guarded};
pub use peer::{Connection, Peer};
pub use people::{AccessError, People};
pub use rate::Allowances;
pub use rights::{Grant, METHODS, Method, reference};
pub use role::Role;
pub use san::{Pattern, San, Shown};
pub use witness::{Denial, Witness, witness};
