//! Errors of the store.

use std::path::PathBuf;

use portcullis_compiler::OutOfClasses;

/// Why the database did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder or file cannot be used.
    #[error("cannot use the database {file}; check that its folder exists and belongs to this user")]
    File { file: PathBuf, source: std::io::Error },
    /// Another process has it.
    #[error("the database {file} is in use by another agent: stop it, or set another [store] path")]
    InUse { file: PathBuf },
    /// Not a database, or a damaged one.
    #[error(
        "the database {file} is damaged ({problem}): restore a backup with `portcullis database restore`, or give it up with \
         `portcullis database accept` and apply the policy again"
    )]
    Damaged { file: PathBuf, problem: String },
    /// Written by another program.
    #[error("{file} is a database of another program: set another [store] path")]
    Foreign { file: PathBuf },
    /// Written by a newer version.
    #[error(
        "the database {file} has format {found}, this version reads up to {known}: install the newer version again"
    )]
    Newer {
        file: PathBuf,
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// The agent had a database here, and it is gone or empty.
    #[error(
        "the database {file} is gone or empty, and the agent had one: restore a backup with `portcullis database \
         restore`, or give it up with `portcullis database accept` and apply the policy again"
    )]
    Missing { file: PathBuf },
    /// The database lacks commits that it had.
    #[error(
        "the database {file} is older than the agent left it ({found} commits of {wanted}): its -wal file was lost, or an \
         older copy was put in its place: restore a backup with `portcullis database restore`, or take it as it is with \
         `portcullis database accept`"
    )]
    Older { file: PathBuf, found: u64, wanted: u64 },
    /// The agent runs without its database.
    #[error("nothing can be changed or read: {problem}")]
    Unusable {
        /// What is wrong with the database, and what to do.
        problem: String,
    },
    /// The disk is nearly full.
    #[error(
        "the disk of the database has {free} MiB left, less than the {least} MiB of audit.free_disk_mib: nothing is opened \
         until there is more room"
    )]
    LittleRoom {
        /// What is left, in MiB.
        free: u64,
        /// Least that must be left to open anything, in MiB.
        least: u64,
    },
    /// A commit failed, and so did asking what became of it.
    #[error(
        "the database does not say whether a change was committed: the agent asks it again until it does, and changes \
         nothing meanwhile"
    )]
    Unknown { source: rusqlite::Error },
    /// A reader of the history ended without an answer: a bug.
    #[error("the history was not read to its end; see the agent's log")]
    Lost(#[source] tokio::task::JoinError),
    /// The stored policy has more classes than there are numbers for.
    #[error("the stored policy cannot be taken up")]
    Classes(#[from] OutOfClasses),
    /// Nothing says which leases of a backup ended since it was made.
    #[error(
        "{open} leases are open in the backup, and what ended since cannot be read from the present database ({problem}): \
         say --leases end to close all of them, or --leases keep to open them as the backup has them"
    )]
    Undecided {
        open: usize,
        /// Why the present database does not say it.
        problem: String,
    },
    /// A file beside the database could not be used.
    #[error("cannot {action} {file}")]
    Beside {
        /// What was tried: `write`.
        action: &'static str,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("the database failed to {action}; look at the disk's space and health")]
    Sqlite {
        /// What it was doing.
        action: &'static str,
        source: rusqlite::Error,
    },
}
