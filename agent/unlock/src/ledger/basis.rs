//! The inputs of a judgement: a grant depends on them, and is judged again when one changes.

use std::collections::BTreeSet;

use ipnet::IpNet;
use portcullis_policy::{Approval, Document, Endpoint, OpenScope, Program, Rule, StrictPrefix};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::unlock::Unlock;
use crate::evidence::{Evidence, Value};

/// What an unlock was judged by. Labels that `require` reads are not here: it is evaluated again whenever an endpoint or a
/// program changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The endpoint's addresses and prefixes.
    pub addresses: Vec<StrictPrefix>,
    /// A digest of the program's checks.
    checks: String,
    /// A digest of the endpoint's MACs and attachments.
    place: String,
    /// A digest of what else of the program and the endpoint decides about the grant: approval, openings, durations.
    terms: String,
    /// Whether it opens for what no check can be about, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) all: bool,
}

/// The addresses of an endpoint that every check of its program is about, where one is about addresses of the endpoint at
/// all: a grant opens for those alone, unless its program's scope is `all`. All that the endpoint has when absent.
pub(super) fn covers(
    program: &Program,
    addresses: &[StrictPrefix],
    evidence: &Evidence,
) -> Option<Vec<StrictPrefix>> {
    if program.scope == OpenScope::All {
        return None;
    }
    let mut covered: Option<BTreeSet<StrictPrefix>> = None;
    for check in &program.checks {
        let checked: BTreeSet<StrictPrefix> = match check.kind.about() {
            None => continue,
            // A prefix has too many addresses to be checked.
            Some(OWN) => addresses.iter().copied().filter(is_host).collect(),
            Some(name) => match evidence.get(name) {
                Some(Value::Address(address)) => {
                    let one = StrictPrefix(IpNet::from(*address));
                    if !addresses.iter().any(|own| own.0.contains(&one.0)) {
                        // Somebody else's, as the other side of a connection.
                        continue;
                    }
                    BTreeSet::from([one])
                }
                _ => continue,
            },
        };
        covered = Some(match covered {
            Some(before) => before.intersection(&checked).copied().collect(),
            None => checked,
        });
    }
    let all = |covered: &BTreeSet<StrictPrefix>| addresses.iter().all(|own| covered.contains(own));
    let covered = covered.filter(|covered| addresses.is_empty() || !all(covered))?;
    Some(covered.into_iter().collect())
}

/// How checks name the addresses of the endpoint.
const OWN: &str = "endpoint";

pub(super) fn is_host(address: &StrictPrefix) -> bool {
    address.0.prefix_len() == address.0.max_prefix_len()
}

/// Compared only: an input that cannot be written as JSON counts as changed.
fn digest(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Basis {
    /// The inputs of an unlock as a document has them; none without its program or its endpoint.
    pub fn new(document: &Document, unlock: &Unlock) -> Option<Self> {
        let program: &Program = document.programs.get(&unlock.program)?;
        let endpoint: &Endpoint = document.endpoints.get(&unlock.endpoint)?;
        let labels = matches!(program.approval, Approval::ManualIf(_))
            .then_some((&endpoint.labels, &endpoint.profiles));
        Some(Basis {
            addresses: endpoint.addresses.clone(),
            checks: digest(&program.checks),
            place: digest(&(&endpoint.macs, &endpoint.attachments)),
            terms: digest(&(&program.approval, &program.opens, &program.lease, labels)),
            all: program.scope == OpenScope::All,
        })
    }

    /// Whether checks that were made for the one say something of the other.
    pub fn same_checks(&self, other: &Self) -> bool {
        self.addresses == other.addresses && self.checks == other.checks
    }

    /// Whether the same machine is at the same place.
    pub fn same_place(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

/// The tenant of an endpoint; empty where none is named.
pub fn tenant_of<'a>(document: &Document, endpoint: &'a Endpoint) -> &'a str {
    endpoint
        .labels
        .get(&*document.tenant_label)
        .map_or("", String::as_str)
}

/// Whether rules open the same, whatever their reasons say.
pub(super) fn open_alike(some: &[Rule], others: &[Rule]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| opens_as(one, other))
}

/// Whether a rule opens the same as another one.
pub(super) fn opens_as(one: &Rule, other: &Rule) -> bool {
    let bare = |rule: &Rule| Rule {
        name: other.name.clone(),
        reason: String::new(),
        ..rule.clone()
    };
    bare(one) == bare(other)
}
