//! What can go wrong with the testbed itself; every variant is a failure of the test's surroundings.

use std::io;
use std::path::PathBuf;

/// Result of a testbed operation.
pub type Result<T, E = TestbedError> = std::result::Result<T, E>;

/// A failure of the testbed.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// A command could not be started.
    #[error("cannot run `{command}`: is it installed?")]
    Spawn {
        command: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
    /// A command ran and failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        command: String,
        status: std::process::ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A file of the sandbox could not be read or made.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A socket operation inside a namespace failed.
    #[error("{action} in namespace {namespace} failed")]
    Namespace {
        /// The namespace, as `ip netns` names it.
        namespace: String,
        action: &'static str,
        #[source]
        source: io::Error,
    },
}
