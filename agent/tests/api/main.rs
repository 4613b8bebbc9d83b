//! The API of a running agent: real sockets, a real database, targets in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod certificates;
mod documents;
mod embedded;
mod explain;
mod limits;
mod pair;
mod process;
mod resources;
mod restart;
mod serve;
mod support;
mod targets;
mod tls;
mod two_targets;
mod unlocks;
mod watch;
