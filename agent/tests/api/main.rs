//! The API of a running agent: real sockets, a real database, targets in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod documents;
mod explain;
mod limits;
mod process;
mod resources;
mod restart;
mod serve;
mod support;
mod targets;
mod watch;
