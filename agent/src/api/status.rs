//! The one map from errors to gRPC status.

use std::time::Duration;

use portcullis_policy::FieldError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::access::Denied;
use crate::engine::ChangeError;
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
        ChangeError::Document(error) => (Code::InvalidArgument, bad_request(&error.fields())),
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
        ChangeError::Store(_) => (Code::Internal, info("STORE", [])),
        ChangeError::Encode { .. } => (Code::Internal, info("ENCODE", [])),
        ChangeError::Unknown => (Code::Unknown, info("STORE", [])),
        ChangeError::Stopping => (Code::Unavailable, info("STOPPING", [])),
    }
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
            ApiError::History(_) => (Code::Internal, info("STORE", [])),
            ApiError::Yaml(_) => (Code::Internal, info("ENCODE", [])),
            ApiError::Denied(denied) => (
                Code::PermissionDenied,
                info("OUT_OF_REACH", [("role", "tenant"), ("tenant", &denied.tenant)]),
            ),
            ApiError::Lost => (Code::Internal, info("LOST", [])),
            ApiError::Stopping => (Code::Unavailable, info("STOPPING", [])),
        };
        if matches!(code, Code::Internal | Code::Unknown) {
            tracing::error!("{}", crate::daemon::chain(&error));
        }
        Status::with_error_details(code, error.to_string(), details)
    }
}
