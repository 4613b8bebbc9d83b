//! What is legal and yet worth a word: rules that never match or change nothing, unlocks and rules that a mandatory
//! rule defeats, defaults that surprise.
//!
//! Exact, over all dimensions of a match and over every policy a rule is part of; where exactness would cost too much
//! nothing is said. What is there on purpose is not reported: a mandatory rule that nothing contradicts yet, a
//! closing "deny everything else", a deny that gives its reason.

mod answers;
mod describe;
mod examine;
mod ledger;
mod order;
pub(crate) mod product;
mod programs;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::direction::PerDirection;
use crate::document::Document;
use crate::effective::{Lists, Policy};
use crate::endpoint::Endpoint;
use crate::program::GrantKind;
use crate::types::Name;
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
    /// What an endpoint sends under a rule, or by default, gets no answer, or only over TCP.
    OneWay,
    /// Replies to what a rule allows also let unrequested packets in: the two cannot be distinguished.
    RepliesOpen,
    /// A deny stops an essential of the endpoint: neighbour discovery, MLD, IGMP or DHCP.
    OverridesEssential,
    /// A program opens for addresses that none of its checks is about.
    OpensUnchecked,
    /// Evidence that says whom a program opens to may be the whole Internet.
    Unbounded,
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
            FindingKind::RepliesOpen => "replies_open",
            FindingKind::OverridesEssential => "overrides_essential",
            FindingKind::OpensUnchecked => "opens_unchecked",
            FindingKind::Unbounded => "unbounded",
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
    /// Path in the document: `baseline/smtp`, `profiles/web/http`.
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
    let document = &without_bypasses(document);
    survey(document, &mut found).close(&mut found);
    programs::report(document, &mut found);
    let mut found: Vec<Finding> = found.into_iter().collect();
    order::by_document(&mut found, document);
    found
}

/// A document as it is again when its bypasses have ended: findings are about what is written.
fn without_bypasses(document: &Document) -> Document {
    let mut plain = document.clone();
    for (name, grants) in &document.grants {
        if grants.iter().any(|grant| grant.kind == GrantKind::Bypass) {
            let left = grants.iter().filter(|grant| grant.kind != GrantKind::Bypass);
            plain
                .grants
                .insert(name.clone(), Arc::new(left.cloned().collect()));
        }
    }
    plain
}

/// Looks at every policy of a document, and at what the defaults make of each.
fn survey(document: &Document, found: &mut BTreeSet<Finding>) -> Ledger {
    let mut ledger = Ledger::new();
    let lists = &Lists::from_document(document);
    let bare = Endpoint::default();
    let policies = both(document, lists, "", &bare);
    for policy in &policies {
        ledger.add(policy, |_| true, true);
    }
    ledger.add_errors(&policies);
    answers::report(&policies, lists.essentials(), found);
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
        ledger.add_errors(&policies);
        answers::report(&policies, lists.essentials(), found);
        answers::one_way(&policies, name.as_str(), endpoint, found);
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

fn both(document: &Document, lists: &Lists, name: &str, endpoint: &Endpoint) -> PerDirection<Policy> {
    PerDirection::from_fn(|direction| lists.effective(document, name, endpoint, direction))
}
