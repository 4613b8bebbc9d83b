//! gRPC statuses with machine-readable details (google.rpc.Status).

use portcullis_policy::text;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Longest message of a status, in bytes: it repeats what the caller sent, and it is a header.
const LONGEST: usize = 4096;

/// `domain` of every ErrorInfo.
const DOMAIN: &str = "portcullis";

/// Details with a reason (google.rpc.ErrorInfo).
pub fn info<const N: usize>(reason: &str, metadata: [(&str, &str); N]) -> ErrorDetails {
    let metadata = metadata.map(|(key, value)| (key.to_string(), value.to_string()));
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// The status of an error. Faults of the agent are logged with their causes.
pub fn with_details(code: Code, error: &dyn std::error::Error, details: ErrorDetails) -> Status {
    if matches!(code, Code::Internal | Code::Unknown) {
        tracing::error!("{}", text::with_causes(error));
    }
    Status::with_error_details(code, text::cut(&error.to_string(), LONGEST), details)
}
