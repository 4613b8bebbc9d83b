//! Why a change was refused. Nothing was changed then.

use portcullis_compiler::{CompileError, OutOfClasses, Unsupported};
use portcullis_policy::{DocumentError, FieldError};

use crate::store::{Key, StoreError};

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The resource does not exist.
    #[error("there is no {0}")]
    NotFound(Key),
    #[error("{0} exists already: update it instead")]
    Exists(Key),
    /// The resource is not what the caller read.
    #[error("{key} was changed since it was read (etag {given}, now {now}): read it again")]
    Stale {
        key: Key,
        given: String,
        /// The etag now; `none` when it is gone.
        now: String,
    },
    /// The profile is bound to endpoints.
    #[error("{key} is bound to {count} endpoints ({some}): unbind it first")]
    InUse {
        key: Key,
        count: usize,
        /// The first of them.
        some: String,
    },
    /// An empty document over a policy that is not.
    #[error(
        "the document is empty and would remove the whole policy ({profiles} profiles, {endpoints} endpoints, \
         {rules} rules for everybody): give --allow-empty (allow_empty) if that is intended"
    )]
    EmptyOverFull {
        profiles: usize,
        endpoints: usize,
        /// Mandatory and baseline rules there are.
        rules: usize,
    },
    /// Empty rules for everybody over ones that are not.
    #[error(
        "{list} would be empty, and its {rules} rules would go: give --allow-empty (allow_empty) if that is intended"
    )]
    Clears {
        /// Which list: `baseline` or `mandatory`.
        list: &'static str,
        rules: usize,
    },
    /// The document is not one, or fields are wrong.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A field that the caller's role may not set.
    #[error("{path}: only operators set it; leave it empty to keep what an operator set")]
    OperatorsOnly { path: String },
    /// More than the configuration allows.
    #[error("{count} {what} are more than the {limit} that the agent allows (limits.{setting})")]
    TooMany {
        /// Of what, and where.
        what: String,
        setting: &'static str,
        /// How many there would be.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The unlocks of a tenant would take more rows than it may have.
    #[error(
        "the unlocks of tenant `{tenant}` would take {rows} rows on target {target}, and the agent allows {limit} \
         (limits.tenant_rows): release one"
    )]
    TenantRows {
        tenant: String,
        target: String,
        /// How many there would be.
        rows: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many changes at a time.
    #[error("{waiting} changes are waiting already: try again")]
    Busy { waiting: usize },
    /// A target cannot enforce it.
    #[error("target {target} cannot enforce it: {source}", source = .unsupported)]
    Unsupported {
        target: String,
        /// What, where and why.
        unsupported: Box<Unsupported>,
    },
    /// The rows for a target are not the policy.
    #[error("target {target}: {error}")]
    Unproved {
        target: String,
        error: Box<CompileError>,
    },
    /// There are no numbers left for more distinct policies.
    #[error(transparent)]
    OutOfClasses(#[from] OutOfClasses),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database failed in a way that leaves open what became of the change.
    #[error(
        "the database failed; whether the change was made shows when the agent is back: read the resource again"
    )]
    Unknown,
    /// A resource could not be written as JSON.
    #[error("{key} cannot be stored: {problem}")]
    Encode { key: Key, problem: String },
    /// The agent is stopping.
    #[error("the agent is stopping: nothing was changed")]
    Stopping,
}

impl ChangeError {
    pub fn field(path: impl Into<String>, problem: impl Into<String>) -> Self {
        let field = FieldError {
            path: path.into(),
            problem: problem.into(),
        };
        ChangeError::Document(DocumentError::Fields(vec![field]))
    }
}
