//! The audit log without its database: entries, the hash over each, and archives of them.
//!
//! The agent writes and verifies the log with it, and the command verifies archives where there is no agent.

mod archive;
mod entry;

pub use archive::{ARCHIVED, Archive, Fault, Names};
pub use entry::{Entry, Head, LONGEST_DETAIL, LONGEST_WORD, hash, hex};
