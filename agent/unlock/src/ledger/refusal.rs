//! Reasons for which the ledger refuses.

use portcullis_policy::{Name, Span};

use super::unlock::State;

/// Why nothing was changed.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such unlock, or it has ended long ago.
    #[error("there is no unlock `{0}` that is under way: `portcullis unlock list` shows what there is")]
    NoUnlock(Name),
    /// There is no such program.
    #[error("there is no program `{0}`: ask for the programs that there are")]
    NoProgram(Name),
    /// There is no such endpoint.
    #[error("there is no endpoint `{0}`")]
    NoEndpoint(Name),
    /// An id is in use.
    #[error("the id `{0}` is in use")]
    IdInUse(Name),
    /// The endpoint has as many as the program allows.
    #[error(
        "endpoint `{endpoint}` has {have} unlocks under `{program}`, and the program allows {limit} (limits.per_endpoint): release one, or renew it"
    )]
    PerEndpoint {
        endpoint: Name,
        program: Name,
        have: u32,
        limit: u32,
    },
    /// The tenant has as many as the program allows.
    #[error(
        "tenant `{tenant}` has {have} unlocks under `{program}`, and the program allows {limit} (limits.per_tenant): release one"
    )]
    PerTenant {
        tenant: String,
        program: Name,
        have: u32,
        limit: u32,
    },
    /// The tenant has as many as the agent allows.
    #[error(
        "tenant `{tenant}` has {have} unlocks under way, and the agent allows {limit} (limits.tenant_unlocks): release one"
    )]
    Tenant { tenant: String, have: u32, limit: u32 },
    /// An unlock was revoked not long ago.
    #[error("`{program}` was revoked on {on}, {times} time(s) so far: a new request is taken in {left}")]
    CoolingDown {
        /// The endpoint, or one of the tenant, in words.
        on: String,
        program: Name,
        times: u32,
        left: Span,
    },
    /// A program that is needed is not active.
    #[error("`{program}` needs `{needed}` to be active on `{endpoint}`: request that first")]
    Needs {
        endpoint: Name,
        program: Name,
        needed: Name,
    },
    /// That cannot be done in its state.
    #[error("unlock `{id}` is {state}: only one that is {wanted} can be {action}")]
    WrongState {
        id: Name,
        state: State,
        /// Where it would have to stand.
        wanted: &'static str,
        /// What was to be done: `approved`.
        action: &'static str,
    },
    /// Its program does not let it be renewed.
    #[error("unlocks under `{0}` cannot be renewed: request a new one when it has ended")]
    NotRenewable(Name),
    /// A lease that is too long.
    #[error("a lease of {asked} is longer than `{program}` allows: at most {most}")]
    TooLong { program: Name, asked: Span, most: Span },
    /// It would not be granted now.
    #[error("unlock `{id}` would not be granted now: {why}")]
    Unmet { id: Name, program: Name, why: String },
    /// It ended too long ago to be revoked.
    #[error("unlock `{id}` is {state}: only one that is active, or ended within {lately}, can be revoked")]
    LongOver {
        id: Name,
        state: State,
        /// How long after its end it can be revoked.
        lately: Span,
    },
    /// A reason is missing.
    #[error("a reason is needed: it is shown to the customer")]
    NoReason,
}
