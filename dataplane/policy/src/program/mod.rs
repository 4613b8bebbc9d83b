//! Unlock programs: which ports a customer may have opened, what must be submitted, what is checked, for how long.

mod check;
mod evidence;
mod span;
mod validate;

use serde::{Deserialize, Serialize};

use crate::direction::Direction;
use crate::document::Rule;
use crate::types::{Family, Name, PortRange, Protocol, StrictPrefix, Verdict};

pub use check::{Check, CheckKind, CheckResult, DmarcPolicy};
pub use evidence::{EvidenceField, EvidenceType};
pub use span::Span;
pub use validate::MAX_EVIDENCE;

/// A way to open ports: what is opened, for what evidence, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// What a person reads: `Outbound mail (TCP 25)`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// What it opens; at least one.
    pub opens: Vec<Opening>,
    /// What must be submitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceField>,
    /// What is checked of it. One that fails rejects the request, unless it is `advisory`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Which addresses of the endpoint a grant opens for, where checks are about its addresses.
    #[serde(default, skip_serializing_if = "OpenScope::is_checked")]
    pub scope: OpenScope,
    /// What tenants can read of the program besides the evidence that it asks for.
    #[serde(default, skip_serializing_if = "Disclose::is_default")]
    pub disclose: Disclose,
    /// Programs that must be active on the endpoint; when one of them ends, this one ends too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Name>,
    /// A CEL expression that must be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<String>,
    /// Whether an operator approves requests whose checks passed.
    #[serde(default)]
    pub approval: Approval,
    /// How long it lasts.
    pub lease: Lease,
    /// How many, and how often.
    #[serde(default)]
    pub limits: Limits,
    /// For how long its openings are denied above everything when the operator revokes it and says `quarantine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Span>,
    /// Programs that are requested for the same endpoint when this one becomes active, with the evidence of equal name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow_up: Vec<Name>,
}

/// What a program opens: a rule without a name, perhaps narrowed by evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The direction it is about.
    pub direction: Direction,
    /// The protocol; any when absent.
    #[serde(default)]
    pub protocol: Protocol,
    /// Destination ports; every port when absent, which is empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// The evidence that says which one of `ports` is opened: an integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports_from: Option<String>,
    /// The other side; everywhere when absent, which is empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote: Vec<StrictPrefix>,
    /// The evidence that says which part of `remote` is opened: an address or a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_from: Option<String>,
    /// Only this IP version; both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Family>,
}

impl Opening {
    /// The rule that it opens, not yet narrowed by evidence.
    pub fn rule(&self, name: Name, action: Verdict, reason: &str) -> Rule {
        Rule {
            name,
            action,
            direction: self.direction,
            protocol: self.protocol,
            ports: self.ports.clone(),
            source_ports: Vec::new(),
            remote: self.remote.clone(),
            local: Vec::new(),
            icmp: None,
            ip: self.ip,
            reason: reason.to_string(),
        }
    }
}

/// Which addresses of its endpoint a grant opens for, where checks are about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenScope {
    /// Those that every check was about. A prefix has too many addresses to be checked: it stays closed.
    #[default]
    Checked,
    /// All that the endpoint has, also those that no check can be about.
    All,
}

impl OpenScope {
    /// As documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            OpenScope::Checked => "checked",
            OpenScope::All => "all",
        }
    }

    fn is_checked(&self) -> bool {
        *self == OpenScope::Checked
    }
}

/// What tenants can read of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disclose {
    /// What to submit, what it opens, and for how long.
    Evidence,
    /// What is checked, too.
    #[default]
    Checks,
    /// The expressions `require` and `manual_if`, too.
    Full,
}

impl Disclose {
    fn is_default(&self) -> bool {
        *self == Disclose::default()
    }
}

/// Who approves a request whose checks passed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// No approval: the unlock opens at once.
    #[default]
    Automatic,
    /// An operator, for every request.
    Manual,
    /// An operator, when this CEL expression is true.
    ManualIf(String),
}

/// How long an unlock lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// When the request says nothing.
    pub default: Span,
    /// At most, renewals not counted; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
    /// Whether it can be renewed.
    #[serde(default)]
    pub renewable: bool,
    /// Time before its end in which it counts as expiring; a tenth of the lease, and at most 72 h, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Span>,
    /// How often the checks are made again, or what is required is evaluated where there are no checks, while it is active;
    /// never when absent, except that a `require` which reads the time is evaluated every minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck_every: Option<Span>,
    /// How long checks may fail before the unlock is revoked; three of them in a row have to in any case.
    #[serde(default, skip_serializing_if = "Span::is_zero")]
    pub grace: Span,
}

impl Lease {
    /// The longest there is.
    pub fn longest(&self) -> Span {
        self.max.unwrap_or(self.default)
    }
}

/// How many unlocks there may be, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requested or active at a time on one endpoint; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_endpoint: Option<u32>,
    /// Requested or active at a time over all endpoints of a tenant; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_tenant: Option<u32>,
    /// Time after the first, second, … revocation in which no new request is taken; the last one holds for all further.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cooldown_after_revoke: Vec<Span>,
}

/// What a grant does to its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantKind {
    /// Opens what its rules allow, in the unlock tier.
    Unlock,
    /// Denies what its rules deny, above everything else.
    Quarantine,
    /// Lets everything pass that no quarantine denies: rules of all other tiers and the defaults do not hold.
    Bypass,
}

/// What an unlock does to the endpoint that has it, as long as it holds; or an operator's bypass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The unlock; of a bypass the endpoint.
    pub unlock: Name,
    /// Its program; of a bypass the endpoint.
    pub program: Name,
    /// Rules that hold for the endpoint meanwhile.
    pub rules: Vec<Rule>,
    /// Whether it opens, quarantines or bypasses.
    pub kind: GrantKind,
    /// When it ends, in seconds since the Unix epoch.
    pub ends: u64,
}

impl Grant {
    /// The bypass of an endpoint: an allow for every packet of both directions, with the operator's reason.
    pub fn bypass(endpoint: &Name, reason: &str, ends: u64) -> Self {
        let rule = |direction| Rule {
            name: endpoint.clone(),
            action: Verdict::Allow,
            direction,
            protocol: Protocol::Any,
            ports: Vec::new(),
            source_ports: Vec::new(),
            remote: Vec::new(),
            local: Vec::new(),
            icmp: None,
            ip: None,
            reason: reason.to_string(),
        };
        Grant {
            unlock: endpoint.clone(),
            program: endpoint.clone(),
            rules: Direction::BOTH.map(rule).into(),
            kind: GrantKind::Bypass,
            ends,
        }
    }

    /// Whether it closes instead of opening.
    pub fn closes(&self) -> bool {
        self.kind == GrantKind::Quarantine
    }
}
