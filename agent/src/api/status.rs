//! The one map from errors to gRPC status.

use std::time::Duration;

use portcullis_policy::text;
use portcullis_policy::{FieldError, Name};
use portcullis_unlock::ledger::Refusal as LedgerRefusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation};

use crate::access::Denied;
use crate::engine::{ChangeError, UnlockError};
use crate::grpc_status::{info, with_details};
use crate::store::{Key, StoreError};

/// Longest description of one wrong field.
const LONGEST_PROBLEM: usize = 1024;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Fields of the request are wrong.
    #[error("{}", list(.0))]
    Fields(Vec<FieldError>),
    /// A change was refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The resource does not exist.
    #[error("there is no {0}")]
    NotFound(Key),
    /// The history does not reach so far.
    #[error("generation {wanted} is not available: {why}")]
    OutOfRange {
        /// What was asked for.
        wanted: u64,
        /// Why, and what can be.
        why: String,
    },
    #[error("{limit} watchers are all the agent's [limits] allow{whom}: end one, or raise limits.{setting}")]
    TooManyWatchers {
        /// How many there may be.
        limit: usize,
        /// Whom: all, or each caller.
        whom: &'static str,
        setting: &'static str,
    },
    /// A tenant asked for more than it may within an hour.
    #[error(
        "the tenant made {limit} requests for unlocks and renewals within an hour: the next one is taken in {} s \
         (limits.tenant_requests)",
        .wait.as_secs()
    )]
    TooManyRequests {
        /// How many it may make.
        limit: u32,
        /// When it may make one again.
        wait: Duration,
    },
    /// The history cannot be read.
    #[error("the history cannot be read: {0}")]
    History(#[from] StoreError),
    /// The answer could not be written.
    #[error("the policy cannot be written as YAML: {0}")]
    Yaml(String),
    /// A part of the call ended without an answer: a bug, reported in the log.
    #[error("the call ended without an answer; see the agent's log")]
    Lost,
    /// A change of unlocks was refused.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// A watcher did not read fast enough.
    #[error("{}changes were missed, since they were not read fast enough: list, and watch again", count(.missed))]
    FellBehind {
        /// How many; a tenant does not learn it, since others' changes count, too.
        missed: Option<u64>,
    },
    /// It is out of the caller's reach.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The agent is stopping.
    #[error("the agent is stopping: ask again when it is back")]
    Stopping,
}

impl ApiError {
    pub(super) fn field(path: impl Into<String>, problem: impl Into<String>) -> Self {
        ApiError::Fields(vec![FieldError {
            path: path.into(),
            problem: problem.into(),
        }])
    }
}

fn count(missed: &Option<u64>) -> String {
    missed.map_or_else(String::new, |missed| format!("{missed} "))
}

fn list(fields: &[FieldError]) -> String {
    fields
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn bad_request(fields: &[FieldError]) -> ErrorDetails {
    // What cannot be read at all has no field but the one that carries it.
    let path = |f: &FieldError| {
        if matches!(f.path.as_str(), "" | ".") {
            "document"
        } else {
            &f.path
        }
        .to_string()
    };
    let violation = |f: &FieldError| {
        FieldViolation::new(text::cut(&path(f), 256), text::cut(&f.problem, LONGEST_PROBLEM))
    };
    ErrorDetails::with_bad_request(fields.iter().map(violation).collect::<Vec<_>>())
}

fn of_change(error: &ChangeError) -> (Code, ErrorDetails) {
    let resource =
        |key: &Key, why: &str| ErrorDetails::with_resource_info(key.kind.as_str(), &key.name, "", why);
    match error {
        ChangeError::NotFound(key) => (Code::NotFound, resource(key, "does not exist")),
        ChangeError::Exists(key) => (Code::AlreadyExists, resource(key, "exists")),
        ChangeError::Stale { key, now, .. } => (
            Code::Aborted,
            info("STALE_ETAG", [("resource", &key.to_string()), ("etag", now)]),
        ),
        ChangeError::InUse { key, some, .. } => (
            Code::FailedPrecondition,
            ErrorDetails::with_precondition_failure_violation(
                "IN_USE",
                key.to_string(),
                format!("bound to {some}"),
            ),
        ),
        ChangeError::EmptyOverFull { .. } => (
            Code::FailedPrecondition,
            ErrorDetails::with_precondition_failure_violation(
                "EMPTY_DOCUMENT",
                "document",
                "set allow_empty",
            ),
        ),
        ChangeError::Clears { list, .. } => (
            Code::FailedPrecondition,
            ErrorDetails::with_precondition_failure_violation("EMPTY_RULES", *list, "set allow_empty"),
        ),
        ChangeError::Document(error) => (Code::InvalidArgument, bad_request(&error.fields())),
        ChangeError::OperatorsOnly { path } => {
            (Code::PermissionDenied, info("OPERATORS_ONLY", [("field", path)]))
        }
        ChangeError::TooMany { setting, .. } => (
            Code::ResourceExhausted,
            ErrorDetails::with_quota_failure_violation(format!("limits.{setting}"), error.to_string()),
        ),
        ChangeError::TenantRows { .. } => (
            Code::ResourceExhausted,
            ErrorDetails::with_quota_failure_violation("limits.tenant_rows", error.to_string()),
        ),
        ChangeError::Busy { .. } => (
            Code::ResourceExhausted,
            ErrorDetails::with_retry_info(Some(Duration::from_secs(1))),
        ),
        ChangeError::Unsupported {
            target,
            unsupported: u,
        } => (
            Code::Unimplemented,
            info(
                "UNSUPPORTED",
                [
                    ("target", target),
                    ("rule", &u.rule),
                    ("table", &u.table),
                    ("why", &u.why),
                ],
            ),
        ),
        ChangeError::OutOfClasses(error) => (
            Code::ResourceExhausted,
            ErrorDetails::with_quota_failure_violation("classes", error.to_string()),
        ),
        ChangeError::Unproved { target, .. } => (Code::Internal, info("UNPROVED", [("target", target)])),
        ChangeError::Store(error) => of_store(error),
        ChangeError::Encode { .. } => (Code::Internal, info("ENCODE", [])),
        ChangeError::Unknown => (Code::Unknown, info("STORE", [])),
        ChangeError::Stopping => (Code::Unavailable, info("STOPPING", [])),
    }
}

/// The database: an operator has to do something before a call can succeed.
fn of_store(error: &StoreError) -> (Code, ErrorDetails) {
    match error {
        StoreError::Unusable { problem } => (
            Code::FailedPrecondition,
            ErrorDetails::with_precondition_failure_violation("DATABASE", "store", problem),
        ),
        StoreError::LittleRoom { .. } => (
            Code::ResourceExhausted,
            ErrorDetails::with_quota_failure_violation("audit.free_disk_mib", error.to_string()),
        ),
        _ => (Code::Internal, info("STORE", [])),
    }
}

fn of_unlock(error: &UnlockError) -> (Code, ErrorDetails) {
    let stands = |kind: &str, subject: &Name| {
        ErrorDetails::with_precondition_failure_violation(kind, subject.to_string(), error.to_string())
    };
    let missing = |kind: &str, name: &str| ErrorDetails::with_resource_info(kind, name, "", "does not exist");
    match error {
        UnlockError::Change(error) => of_change(error),
        UnlockError::Evidence(fields) => (Code::InvalidArgument, bad_request(fields)),
        UnlockError::KeyReused(_) => (
            Code::InvalidArgument,
            bad_request(&[FieldError {
                path: "idempotency_key".to_string(),
                problem: error.to_string(),
            }]),
        ),
        UnlockError::Bypasses(_) => (
            Code::ResourceExhausted,
            ErrorDetails::with_quota_failure_violation("limits.bypasses", error.to_string()),
        ),
        UnlockError::NotFound(id) => (Code::NotFound, missing("unlocks", id)),
        UnlockError::Refused(refusal) => match refusal {
            LedgerRefusal::NoUnlock(id) => (Code::NotFound, missing("unlocks", id.as_str())),
            LedgerRefusal::NoProgram(name) => (Code::NotFound, missing("programs", name.as_str())),
            LedgerRefusal::NoEndpoint(name) => (Code::NotFound, missing("endpoints", name.as_str())),
            LedgerRefusal::IdInUse(id) => (Code::AlreadyExists, missing("unlocks", id.as_str())),
            LedgerRefusal::PerEndpoint { program, .. } => {
                (Code::FailedPrecondition, stands("PER_ENDPOINT", program))
            }
            LedgerRefusal::PerTenant { program, .. } => {
                (Code::FailedPrecondition, stands("PER_TENANT", program))
            }
            LedgerRefusal::Tenant { .. } => (
                Code::ResourceExhausted,
                ErrorDetails::with_quota_failure_violation("limits.tenant_unlocks", error.to_string()),
            ),
            LedgerRefusal::CoolingDown { program, left, .. } => {
                let mut details = stands("COOLING_DOWN", program);
                details.set_retry_info(Some((*left).into()));
                (Code::FailedPrecondition, details)
            }
            LedgerRefusal::Needs { needed, .. } => (Code::FailedPrecondition, stands("NEEDS", needed)),
            LedgerRefusal::WrongState { id, .. } => (Code::FailedPrecondition, stands("WRONG_STATE", id)),
            LedgerRefusal::LongOver { id, .. } => (Code::FailedPrecondition, stands("WRONG_STATE", id)),
            LedgerRefusal::Unmet { id, .. } => (Code::FailedPrecondition, stands("UNMET", id)),
            LedgerRefusal::NotRenewable(program) => {
                (Code::FailedPrecondition, stands("NOT_RENEWABLE", program))
            }
            LedgerRefusal::TooLong { .. } => (Code::InvalidArgument, field("lease_seconds", error)),
            LedgerRefusal::NoReason => (Code::InvalidArgument, field("reason", error)),
        },
    }
}

fn field(path: &str, error: &UnlockError) -> ErrorDetails {
    bad_request(&[FieldError {
        path: path.to_string(),
        problem: error.to_string(),
    }])
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (code, details) = match &error {
            ApiError::Change(error) => of_change(error),
            ApiError::Fields(fields) => (Code::InvalidArgument, bad_request(fields)),
            ApiError::NotFound(key) => (
                Code::NotFound,
                ErrorDetails::with_resource_info(key.kind.as_str(), &key.name, "", "does not exist"),
            ),
            ApiError::OutOfRange { .. } => (Code::OutOfRange, info("HISTORY", [])),
            ApiError::TooManyWatchers { setting, .. } => (
                Code::ResourceExhausted,
                ErrorDetails::with_quota_failure_violation(format!("limits.{setting}"), error.to_string()),
            ),
            ApiError::TooManyRequests { wait, .. } => {
                let mut details = ErrorDetails::with_retry_info(Some(*wait));
                details.add_quota_failure_violation("limits.tenant_requests", error.to_string());
                (Code::ResourceExhausted, details)
            }
            ApiError::History(error) => of_store(error),
            ApiError::Yaml(_) => (Code::Internal, info("ENCODE", [])),
            ApiError::Denied(denied) => (
                Code::PermissionDenied,
                info("OUT_OF_REACH", [("role", "tenant"), ("tenant", &denied.tenant)]),
            ),
            ApiError::Unlock(error) => of_unlock(error),
            ApiError::FellBehind { .. } => (Code::DataLoss, info("FELL_BEHIND", [])),
            ApiError::Lost => (Code::Internal, info("LOST", [])),
            ApiError::Stopping => (Code::Unavailable, info("STOPPING", [])),
        };
        with_details(code, &error, details)
    }
}
