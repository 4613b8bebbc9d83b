//! Errors of the command, and their messages.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use portcullis_compiler::Unsupported;
use portcullis_policy::{DocumentError, Family};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Exit;

/// A command line that parses and makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// An address of no use.
    #[error("--address {0} is not an agent's address: write https://HOST:PORT or http://HOST:PORT")]
    Address(String),
    /// A socket path that cannot be passed on.
    #[error("--socket {} is not UTF-8: use another path", .0.display())]
    Socket(PathBuf),
    /// TLS without an authority.
    #[error("--address https://… needs --ca FILE: the authority that signed the agent's certificate")]
    NoAuthority,
    /// Half a client certificate.
    #[error("--cert and --key come together: give both or neither")]
    HalfIdentity,
    /// A token that everybody on the way could read.
    #[error(
        "--token-file goes with --address https://… or the socket: over http:// others could read the token"
    )]
    BareToken,
    /// A file that holds no token.
    #[error("--token-file {} holds no token: one line of letters, digits and signs", .0.display())]
    Token(PathBuf),
    /// Two IP versions in one packet.
    #[error("the packet would be IPv4 and IPv6 at once: --local, --remote, --ip and the protocol must agree")]
    Families(Family, Family),
    /// ICMP options with another protocol.
    #[error("--icmp-type is for icmp and icmpv6")]
    IcmpType,
    /// A source port with a protocol that has none.
    #[error("--source-port is for tcp, udp and sctp")]
    SourcePort,
    /// `--established` with another protocol than TCP.
    #[error("--established is for tcp")]
    Established,
    /// A name where there is only one thing.
    #[error("`get {0}` takes no name: only profiles and endpoints have names")]
    Name(&'static str),
    /// Labels of something else.
    #[error("--label is for `get endpoints`")]
    Label,
    #[error("nothing to compile: give a document with -f FILE or a filter set with --classbench FILE")]
    NoInput,
    /// A filter set without a default.
    #[error("--classbench needs --default allow or --default deny")]
    NoDefault,
    /// A kind of target that does not exist.
    #[error(
        "there is no stage model `{name}`: known are {}; or write model:FILE or p4info:FILE",
        .known.join(", ")
    )]
    Target {
        /// What was asked for.
        name: String,
        known: Vec<&'static str>,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// There is no agent to talk to.
    #[error("cannot reach the agent at {at}")]
    Unreachable {
        /// Its socket or address.
        at: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent said no, or failed.
    #[error("the agent refused")]
    Status(#[source] Box<Status>),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A picture cannot be written.
    #[error("cannot write the picture to {}", path.display())]
    Picture { path: PathBuf, source: io::Error },
    /// A document is wrong.
    #[error("{} is not a policy document", path.display())]
    Document { path: PathBuf, source: DocumentError },
    /// A filter set is wrong.
    #[error("{} is not a filter set", path.display())]
    Filters {
        path: PathBuf,
        source: portcullis_policy::classbench::LineError,
    },
    /// A stage model is wrong.
    #[error("{} is not a stage model", path.display())]
    Model {
        path: PathBuf,
        source: portcullis_compiler::ModelError,
    },
    /// A document has more classes than a target can tell apart.
    #[error(transparent)]
    Classes(#[from] portcullis_compiler::OutOfClasses),
    /// The P4 program that this binary carries is unusable.
    #[error(transparent)]
    Program(#[from] portcullis_p4runtime::ProgramError),
    /// A P4 program's description, or the mapping for it, is wrong.
    #[error("{} cannot be used as a stage model or a mapping", path.display())]
    P4Info {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent's document cannot be read here.
    #[error("the agent's document cannot be read: is the agent newer than this command?")]
    ForeignDocument(#[source] serde_saphyr::Error),
    /// The target cannot do what the document wants.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A command that works on the agent's own files failed.
    #[error(transparent)]
    Local(Box<dyn std::error::Error + Send + Sync>),
    /// The answer cannot be written to stdout.
    #[error("cannot write the answer")]
    Write(#[source] io::Error),
    /// An answer cannot be written as JSON.
    #[error("cannot write the answer as JSON")]
    Json(#[source] serde_json::Error),
    /// An answer cannot be written as YAML.
    #[error("cannot write the answer as YAML")]
    Yaml(#[source] serde_saphyr::SerializeError),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(Box::new(status))
    }
}

impl Failure {
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Misuse(_) => Exit::Usage,
            Failure::Unreachable { .. } => Exit::Unreachable,
            _ => Exit::Failed,
        }
    }
}

/// The I/O error at the bottom of an error, if there is one.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    std::iter::successors(Some(error), |e| e.source())
        .find_map(|e| e.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

/// The innermost cause, in its own words.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// A failure for people: what went wrong first, then what it consists of, then what to do.
pub fn report(failure: &Failure) -> String {
    let mut text = format!("error: {failure}");
    match failure {
        Failure::Unreachable { at, source } => unreachable(&mut text, at, source.as_ref()),
        Failure::Status(status) => return refusal(status),
        Failure::Document { source, .. } => {
            text.push(':');
            for field in source.fields() {
                violation(&mut text, &field.path, &field.problem);
            }
        }
        _ => {
            if let Some(source) = std::error::Error::source(failure) {
                let _ = write!(text, ": {}", root_cause(source));
            }
        }
    }
    text
}

fn unreachable(text: &mut String, at: &str, source: &(dyn std::error::Error + 'static)) {
    let _ = write!(text, ": {}", root_cause(source));
    let tcp = at.starts_with("http");
    let hint = match io_kind(source) {
        Some(io::ErrorKind::PermissionDenied) => {
            "the socket is not yours to open: run the command as root or join the socket's group"
        }
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) if !tcp => {
            "is it running? Start it (`systemctl start portcullis`, or `portcullis agent --config FILE`), or say \
             where it listens with --socket PATH or PORTCULLIS_SOCKET"
        }
        Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut) => {
            "is it running, and does its configuration let it listen on TCP?"
        }
        _ if tcp => "check the address, and that --ca, --cert and --key belong to it",
        _ => "is it running? See its log: `journalctl -u portcullis`",
    };
    let _ = write!(text, "\n  {hint}");
}

fn violation(text: &mut String, path: &str, problem: &str) {
    let _ = match path {
        "" => write!(text, "\n  {problem}"),
        path => write!(text, "\n  {path}: {problem}"),
    };
}

/// A status for people.
fn refusal(status: &Status) -> String {
    let details = status.get_error_details();
    let message = status.message().trim();
    let fields = details
        .bad_request()
        .map(|b| b.field_violations.as_slice())
        .unwrap_or_default();
    if !fields.is_empty() {
        let mut text = match fields.len() {
            1 => "error: refused, one field is wrong:".to_string(),
            n => format!("error: refused, {n} fields are wrong:"),
        };
        fields
            .iter()
            .for_each(|f| violation(&mut text, &f.field, &f.description));
        return text;
    }
    let said = |fallback: &str| {
        if message.is_empty() {
            fallback.to_string()
        } else {
            message.to_string()
        }
    };
    let (head, hint) = match status.code() {
        Code::Aborted => (
            said("somebody else changed it since it was read"),
            Some("nothing was changed: read it again and repeat the change"),
        ),
        Code::Unimplemented => (
            said("the agent does not know this call"),
            message
                .is_empty()
                .then_some("is the agent older than this command?"),
        ),
        Code::PermissionDenied | Code::Unauthenticated => (
            said("not allowed"),
            Some("see --cert and --key, --token-file, and the rights of the socket"),
        ),
        Code::OutOfRange => (said("that is not kept any more"), None),
        Code::Unavailable => (
            said("the agent is not ready"),
            Some("it may be starting or stopping: try again"),
        ),
        Code::DeadlineExceeded => (said("the agent did not answer in time"), None),
        Code::Internal | Code::Unknown | Code::DataLoss => (
            format!("the agent failed: {}", said("it does not say why")),
            Some("see its log: `journalctl -u portcullis`"),
        ),
        code => (said(code.description()), None),
    };
    let mut text = format!("error: {head}");
    for v in details
        .quota_failure()
        .map(|q| q.violations.as_slice())
        .unwrap_or_default()
    {
        violation(&mut text, &v.subject, &v.description);
    }
    for v in details
        .precondition_failure()
        .map(|p| p.violations.as_slice())
        .unwrap_or_default()
    {
        violation(&mut text, &v.subject, &v.description);
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\n  {hint}");
    }
    text
}
