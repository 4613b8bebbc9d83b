//! Refusals of the guard, and the gRPC status of each.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::ErrorDetails;

use super::Caller;
use crate::grpc_status::{info, with_details};

/// Why a call is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller is unauthenticated; the reason.
    #[error("{0}")]
    Nobody(&'static str),
    /// Its caller's role may not.
    #[error("{} is a {}, which may not call {method}", .caller.name, .caller.role)]
    Role { caller: Caller, method: String },
    /// There is no such method.
    #[error("the agent does not know this method: is it older than the caller?")]
    NoMethod(Caller),
    /// Its caller asks too often.
    #[error("{} asks too often: [access.rate] of the agent's configuration", .0.name)]
    TooOften(Caller, Duration),
}

/// Why a request that may be made is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unaccepted {
    /// It is larger than its caller may send.
    #[error("the request is larger than the {limit} bytes that its caller may send: limits.{setting}")]
    TooLarge {
        /// How many it may.
        limit: usize,
        setting: &'static str,
    },
    /// It did not arrive in time.
    #[error("the request was not there within {} s: limits.request_arrival", .limit.as_secs())]
    TooSlow {
        /// How long it may take.
        limit: Duration,
    },
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, details) = match &refusal {
            Refusal::Nobody(_) => (Code::Unauthenticated, info("NO_CREDENTIAL", [])),
            Refusal::Role { caller, method } => {
                let metadata = [("method", method.as_str()), ("role", caller.role.as_str())];
                (Code::PermissionDenied, info("ROLE", metadata))
            }
            Refusal::NoMethod(caller) => (
                Code::Unimplemented,
                info("NO_METHOD", [("role", caller.role.as_str())]),
            ),
            Refusal::TooOften(_, wait) => (
                Code::ResourceExhausted,
                ErrorDetails::with_retry_info(Some(*wait)),
            ),
        };
        with_details(code, &refusal, details)
    }
}

impl From<Unaccepted> for Status {
    fn from(unaccepted: Unaccepted) -> Self {
        let (code, details) = match &unaccepted {
            Unaccepted::TooLarge { .. } => (Code::OutOfRange, info("TOO_LARGE", [])),
            Unaccepted::TooSlow { .. } => (Code::DeadlineExceeded, info("TOO_SLOW", [])),
        };
        with_details(code, &unaccepted, details)
    }
}
