//! What is legal and yet worth a word: rules that never match or change nothing, unlocks and rules that a mandatory
//! rule defeats, defaults that surprise.
//!
//! Exact, over all dimensions of a match and over every policy a rule is part of; where exactness would cost too much
//! nothing is said. What is there on purpose is not reported: a mandatory rule that nothing contradicts yet, a
//! closing "deny everything else", a deny that gives its reason.

mod describe;
mod examine;
mod ledger;
mod order;
mod product;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::document::Document;
use crate::effective::{Lists, Policy, Tier};
use crate::endpoint::Endpoint;
use crate::types::{Action, Direction, Name, Protocol};
use ledger::Ledger;

/// What sort of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A rule decides no packet: rules before it take all it would match.
    NeverMatches,
    /// A rule decides packets, and without it every one of them would be decided the same way.
    Redundant,
    /// An unlock has no effect: mandatory rules of the other action take all it would match.
    Defeated,
    /// An unlock has part of its effect: mandatory rules of the other action take the rest.
    PartlyDefeated,
    /// A rule of an endpoint or profile is decided otherwise in part by mandatory rules.
    Overridden,
    /// Replies to what an endpoint sends by default do not come back.
    OneWay,
}

impl FindingKind {
    /// Its name in the API: `never_matches`.
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::NeverMatches => "never_matches",
            FindingKind::Redundant => "redundant",
            FindingKind::Defeated => "defeated",
            FindingKind::PartlyDefeated => "partly_defeated",
            FindingKind::Overridden => "overridden",
            FindingKind::OneWay => "one_way",
        }
    }
}

impl std::fmt::Display for FindingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing worth knowing about a document or policy that is valid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where: `baseline/smtp`, `profiles/web/http`.
    pub at: String,
    /// What sort of thing.
    pub kind: FindingKind,
    /// The rules that make it so, written as in `at`, in the order in which they match; `default/egress` and
    /// `default/ingress` are the defaults.
    pub by: Vec<String>,
    /// What was found, in words that stand alone.
    pub text: String,
}

/// The findings of a document, without repetition, in the document's order.
///
/// A rule never matches, or is redundant, when that holds in every policy it is part of: a rule for everybody also in
/// that of an endpoint with nothing else, a profile's rule in those of all endpoints that bind it, of both directions,
/// since the replies it lets pass are of the other one. A profile that nobody binds is judged alone, and not as to
/// redundancy, which depends on what it will be bound with.
pub fn findings(document: &Document) -> Vec<Finding> {
    let mut found = BTreeSet::new();
    survey(document, &mut found).close(&mut found);
    let mut found: Vec<Finding> = found.into_iter().collect();
    order::by_document(&mut found, document);
    found
}

/// Looks at every policy of a document, and at what the defaults make of each.
fn survey(document: &Document, found: &mut BTreeSet<Finding>) -> Ledger {
    let mut ledger = Ledger::new();
    let lists = &Lists::of(document);
    for policy in both(document, lists, "", &Endpoint::default()) {
        ledger.add(&policy, |_| true, true);
    }
    let mut bound: BTreeSet<&Name> = BTreeSet::new();
    // Endpoints that bind the same profiles and have no rules of their own share their findings.
    let mut seen = BTreeSet::new();
    for (name, endpoint) in &document.endpoints {
        bound.extend(&endpoint.profiles);
        if endpoint.rules.is_empty() && !seen.insert(&endpoint.profiles) {
            continue;
        }
        let policies = both(document, lists, name.as_str(), endpoint);
        for policy in &policies {
            ledger.add(policy, |_| true, true);
        }
        one_way(&policies, name.as_str(), endpoint, found);
    }
    for (name, _) in document.profiles.iter().filter(|(name, _)| !bound.contains(name)) {
        let alone = Endpoint {
            profiles: vec![name.clone()],
            ..Endpoint::default()
        };
        let own = format!("profiles/{name}/");
        for policy in both(document, lists, "", &alone) {
            ledger.add(&policy, |rule| rule.starts_with(&own), false);
        }
    }
    ledger
}

/// The findings of one effective policy, in its order: also of the unlocks in it, which no document holds.
///
/// Rules are told apart by the origin of their entries. Only this policy is looked at: that a rule is redundant says
/// nothing about replies of the other direction, and that it never matches nothing about other endpoints. Unlocks come
/// and go, so each is judged without the others, and what is not an unlock without any.
pub fn findings_of(policy: &Policy) -> Vec<Finding> {
    let mut found = BTreeSet::new();
    let mut ledger = Ledger::new();
    ledger.add(policy, |_| true, true);
    ledger.close(&mut found);
    let mut found: Vec<Finding> = found.into_iter().collect();
    order::by_policy(&mut found, policy);
    found
}

fn both(document: &Document, lists: &Lists, name: &str, endpoint: &Endpoint) -> [Policy; 2] {
    Direction::BOTH.map(|direction| lists.effective(document, name, endpoint, direction))
}

/// Default deny one way, default allow the other, and no rule that says what replies are to come back.
fn one_way(policies: &[Policy; 2], name: &str, endpoint: &Endpoint, found: &mut BTreeSet<Finding>) {
    let [egress, ingress] = policies;
    for (policy, other) in [(egress, ingress), (ingress, egress)] {
        if policy.default != Action::Deny || other.default != Action::Allow || says_what_returns(other) {
            continue;
        }
        let names: Vec<&str> = endpoint.profiles.iter().map(Name::as_str).collect();
        let at = if names.is_empty() {
            format!("endpoints/{name}")
        } else {
            format!("profiles/{}", names.join("+"))
        };
        found.insert(Finding {
            at,
            kind: FindingKind::OneWay,
            by: vec![format!("default/{}", policy.direction)],
            text: format!(
                "{} is denied by default and no rule allows anything {}: replies to what it sends by default \
                 do not come back; add {} allow rules for the services it uses",
                policy.direction, other.direction, other.direction
            ),
        });
    }
}

/// Whether a rule that is not about ICMP allows something.
fn says_what_returns(policy: &Policy) -> bool {
    let about_icmp = |protocol| matches!(protocol, Protocol::Number(Protocol::ICMP | Protocol::ICMPV6));
    policy.entries.iter().any(|e| {
        e.action == Action::Allow
            && !matches!(e.tier, Tier::Essential | Tier::Replies)
            && !about_icmp(e.matcher.protocol)
    })
}
