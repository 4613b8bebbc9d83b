//! The API of a running agent: real sockets, a real database, targets in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod approvals;
mod bypass;
mod certificates;
mod closing;
mod crowds;
mod database;
mod discovery;
mod documents;
mod embedded;
mod evidence;
mod explain;
mod grants;
mod limits;
mod oidc;
mod pair;
mod partial;
mod process;
mod reading;
mod refusals;
mod resources;
mod restart;
mod rewritten;
mod serve;
mod small;
mod support;
mod targets;
mod tenants;
mod tls;
mod two_targets;
mod unlock_log;
mod unlock_rig;
mod unlocks;
mod upgrade;
mod watch;
