//! The one map from errors to gRPC status.

use std::time::Duration;

use portcullis_policy::{FieldError, Name};
use portcullis_unlock::ledger::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::access::Denied;
use crate::engine::{ChangeError, UnlockError};
use crate::store::{Key, StoreError};

/// `domain` of every ErrorInfo.
pub(crate) const DOMAIN: &str = "portcullis";

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
    #[error("generation {wanted} cannot be told: {why}")]
    OutOfRange {
        /// What was asked for.
        wanted: u64,
        /// Why, and what can be.
        why: String,
    },
    /// Too many streams.
    #[error("{limit} watchers are all the agent's [limits] allow: end one, or raise limits.watchers")]
    TooManyWatchers {
        /// How many there may be.
        limit: usize,
    },
    /// The history cannot be read.
    #[error("the history cannot be read: {0}")]
    History(#[from] StoreError),
    /// The answer could not be written.
    #[error("the policy cannot be written as YAML: {0}")]
    Yaml(String),
    /// A part of the call ended without an answer: a bug, told in the log.
    #[error("the call ended without an answer; the agent's log tells why")]
    Lost,
    /// A change of unlocks was refused.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// A watcher did not read fast enough.
    #[error("{missed} changes were missed, since they were not read fast enough: list, and watch again")]
    FellBehind {
        /// How many.
        missed: u64,
    },
    /// It is out of the caller's reach.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The agent is stopping.
    #[error("the agent is stopping: ask again when it is back")]
    Stopping,
}

impl ApiError {
    /// One wrong field.
    pub(super) fn field(path: impl Into<String>, problem: impl Into<String>) -> Self {
        ApiError::Fields(vec![FieldError {
            path: path.into(),
            problem: problem.into(),
        }])
    }
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
    let violation = |f: &FieldError| FieldViolation::new(path(f), f.problem.clone());
    ErrorDetails::with_bad_request(fields.iter().map(violation).collect::<Vec<_>>())
}

fn info<const N: usize>(reason: &str, metadata: [(&str, &str); N]) -> ErrorDetails {
    let metadata = metadata.map(|(key, value)| (key.to_string(), value.to_string()));
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
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
        ChangeError::TooMany { what, .. } => (
            Code::ResourceExhausted,
            ErrorDetails::with_quota_failure_violation(format!("limits.{what}"), error.to_string()),
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
            Refusal::NoUnlock(id) => (Code::NotFound, missing("unlocks", id.as_str())),
            Refusal::NoProgram(name) => (Code::NotFound, missing("programs", name.as_str())),
            Refusal::NoEndpoint(name) => (Code::NotFound, missing("endpoints", name.as_str())),
            Refusal::IdInUse(id) => (Code::AlreadyExists, missing("unlocks", id.as_str())),
            Refusal::PerEndpoint { program, .. } => {
                (Code::FailedPrecondition, stands("PER_ENDPOINT", program))
            }
            Refusal::PerTenant { program, .. } => (Code::FailedPrecondition, stands("PER_TENANT", program)),
            Refusal::CoolingDown { program, left, .. } => {
                let mut details = stands("COOLING_DOWN", program);
                details.set_retry_info(Some((*left).into()));
                (Code::FailedPrecondition, details)
            }
            Refusal::Needs { needed, .. } => (Code::FailedPrecondition, stands("NEEDS", needed)),
            Refusal::WrongState { id, .. } => (Code::FailedPrecondition, stands("WRONG_STATE", id)),
            Refusal::NotRenewable(program) => (Code::FailedPrecondition, stands("NOT_RENEWABLE", program)),
            Refusal::TooLong { .. } => (Code::InvalidArgument, field("lease_seconds", error)),
            Refusal::NoReason => (Code::InvalidArgument, field("reason", error)),
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
            ApiError::TooManyWatchers { .. } => (
                Code::ResourceExhausted,
                ErrorDetails::with_quota_failure_violation("limits.watchers", error.to_string()),
            ),
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
        if matches!(code, Code::Internal | Code::Unknown) {
            tracing::error!("{}", crate::daemon::chain(&error));
        }
        Status::with_error_details(code, error.to_string(), details)
    }
}
