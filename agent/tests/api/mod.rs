//! The API of a running agent: real sockets, a real database, targets in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod bypass;
mod certificates;
mod closing;
mod crowds;
mod database;
mod documents;
mod embedded;
mod evidence;
mod explain;
mod grants;
mod limits;
mod oidc;
mod pair;
mod process;
mod reading;
mod resources;
mod restart;
mod rewritten;
mod serve;
mod small;
mod support;
mod targets;
mod tls;
mod two_targets;
mod unlock_log;
mod unlocks;
mod upgrade;
mod watch;
