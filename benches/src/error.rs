//! Why there is no figure.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// What functions here return.
pub type Result<T> = std::result::Result<T, BenchError>;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("the private switch failed")]
    Testbed(#[from] portcullis_testbed::TestbedError),
    /// A document that was made here is not one.
    #[error("the generated document is refused")]
    Document(#[from] portcullis_policy::DocumentError),
    /// A name that was made here is none.
    #[error("the generated document has a name that is none")]
    Name(#[from] portcullis_policy::ParseError),
    /// A value that was made here is not one.
    #[error("the generated document is no document")]
    Generated(#[from] serde_json::Error),
    /// There is no class id for it.
    #[error("the generated document has too many classes")]
    Classes(#[from] portcullis_compiler::OutOfClasses),
    /// The compiler refused it.
    #[error("the generated document does not compile")]
    Compile(#[from] portcullis_compiler::CompileError),
    /// The P4 program of the build cannot be read.
    #[error("our P4 program is unusable")]
    P4Program(#[from] portcullis_p4runtime::ProgramError),
    /// It has no rows in our P4 program.
    #[error("the generated document has no rows on a P4Runtime device")]
    P4Rows(#[from] portcullis_p4runtime::units::BuildError),
    /// A P4Runtime device does not answer, or refuses.
    #[error("the P4Runtime device cannot be used")]
    P4Device(#[from] portcullis_p4runtime::client::ClientError),
    /// A message that was made here is none.
    #[error("a message does not fit")]
    Encode(#[from] portcullis_openflow::EncodeError),
    /// The switch said something else.
    #[error("the switch sent what is no OpenFlow")]
    Decode(#[from] portcullis_openflow::DecodeError),
    /// A file, a process or a thread.
    #[error("cannot {what}")]
    Io { what: String, source: std::io::Error },
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        command: String,
        status: ExitStatus,
        stderr: String,
    },
    /// Something did not happen in time.
    #[error("not {what} within {limit:?}; last seen: {seen}")]
    Late {
        /// What was waited for.
        what: String,
        limit: Duration,
        /// What was there instead.
        seen: String,
    },
    /// The program that is measured is not built.
    #[error("{0} is not there: build it with `cargo build --release -p portcullis`, or name it with --agent")]
    NotBuilt(PathBuf),
    #[error("the agent ended with {status}; its log: {log}")]
    AgentEnded {
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The agent refused a call.
    #[error("the agent refused {what}")]
    Call {
        what: &'static str,
        source: Box<tonic::Status>,
    },
    /// What was measured is not what the figure would say.
    #[error("the figure would not be true: {0}")]
    Untrue(String),
}

impl BenchError {
    /// An I/O error with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| BenchError::Io { what, source }
    }

    pub(crate) fn call(what: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| BenchError::Call {
            what,
            source: Box::new(status),
        }
    }
}
