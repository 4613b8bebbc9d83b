//! What is legal and yet worth a word: rules that never match, defaults that surprise.

use std::collections::BTreeSet;

use crate::document::{Document, Rule};
use crate::effective::{Entry, Policy, Tier, effective};
use crate::matcher::{Matcher, Ranges};
use crate::types::{Action, Direction, Protocol};

/// One thing worth knowing about a document that is valid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where: `baseline/smtp`, `profiles/web`.
    pub at: String,
    /// What was found.
    pub text: String,
}

/// The findings of a document, without repetition, sorted.
pub fn findings(document: &Document) -> Vec<Finding> {
    let mut found = BTreeSet::new();
    within_list("mandatory", &document.mandatory, &mut found);
    within_list("baseline", &document.baseline, &mut found);
    for (name, profile) in &document.profiles {
        within_list(&format!("profiles/{name}"), &profile.rules, &mut found);
    }
    // Endpoints that bind the same profiles and have no rules of their own share their findings.
    let mut seen = BTreeSet::new();
    for (name, endpoint) in &document.endpoints {
        within_list(&format!("endpoints/{name}"), &endpoint.rules, &mut found);
        if endpoint.rules.is_empty() && !seen.insert(&endpoint.profiles) {
            continue;
        }
        for direction in Direction::BOTH {
            let policy = effective(document, name.as_str(), endpoint, direction);
            across_tiers(&policy, &mut found);
            one_way(&policy, document, name.as_str(), &mut found);
        }
    }
    found.into_iter().collect()
}

fn within_list(path: &str, rules: &[Rule], found: &mut BTreeSet<Finding>) {
    let parts: Vec<(&Rule, Option<Matcher>)> = rules.iter().map(|r| (r, Matcher::of(r))).collect();
    for (index, (rule, matcher)) in parts.iter().enumerate() {
        let Some(matcher) = matcher else { continue };
        let earlier = parts
            .iter()
            .take(index)
            .filter(|(r, _)| r.direction == rule.direction)
            .filter_map(|(r, m)| m.as_ref().map(|m| (r.name.to_string(), m)));
        if let Some(covering) = covered(matcher, earlier) {
            found.insert(Finding {
                at: format!("{path}/{}", rule.name),
                text: format!("can never match: {covering} before it takes all it would match"),
            });
        }
    }
}

/// The names of the earlier matches that together take everything of `matcher`, destination port by port.
fn covered<'a>(matcher: &Matcher, earlier: impl Iterator<Item = (String, &'a Matcher)>) -> Option<String> {
    let mut taken: Option<Ranges> = None;
    let mut names = Vec::new();
    for (name, other) in earlier {
        let Some(ports) = other.dst_ports.intersect(&matcher.dst_ports) else {
            continue;
        };
        if !other.covers_but_ports(matcher) {
            continue;
        }
        names.push(name);
        let all = taken.map_or_else(|| ports.clone(), |t| t.union(&ports));
        if all.covers(&matcher.dst_ports) {
            return Some(names.join(", "));
        }
        taken = Some(all);
    }
    None
}

fn across_tiers(policy: &Policy, found: &mut BTreeSet<Finding>) {
    let explicit: Vec<&Entry> = policy
        .entries
        .iter()
        .filter(|e| !matches!(e.tier, Tier::Essential | Tier::Replies))
        .collect();
    for (index, entry) in explicit.iter().enumerate() {
        let higher = explicit
            .iter()
            .take(index)
            .filter(|e| e.tier < entry.tier)
            .map(|e| (e.origin.to_string(), &e.matcher));
        if entry.tier == Tier::Endpoint
            && let Some(covering) = covered(&entry.matcher, higher)
        {
            found.insert(Finding {
                at: entry.origin.to_string(),
                text: format!("can never match: {covering}, a tier above, takes all it would match"),
            });
        }
    }
}

/// Default deny inwards and default allow outwards, with no outward rule: its own connections get no answer.
fn one_way(policy: &Policy, document: &Document, name: &str, found: &mut BTreeSet<Finding>) {
    let Some(endpoint) = document.endpoints.get(name) else {
        return;
    };
    if policy.default != Action::Deny {
        return;
    }
    let other = effective(document, name, endpoint, policy.direction.opposite());
    let explicit = |policy: &Policy| {
        policy.entries.iter().any(|e| {
            e.action == Action::Allow
                && !matches!(e.tier, Tier::Essential | Tier::Replies)
                && !matches!(
                    e.matcher.protocol,
                    Protocol::Number(Protocol::ICMP | Protocol::ICMPV6)
                )
        })
    };
    if other.default == Action::Allow && !explicit(&other) {
        let names: Vec<&str> = endpoint.profiles.iter().map(crate::types::Name::as_str).collect();
        let at = if names.is_empty() {
            format!("endpoints/{name}")
        } else {
            format!("profiles/{}", names.join("+"))
        };
        found.insert(Finding {
            at,
            text: format!(
                "{} is denied by default and no rule allows anything {}: replies to what it sends by default \
                 do not come back; add {} allow rules for the services it uses",
                policy.direction,
                policy.direction.opposite(),
                policy.direction.opposite()
            ),
        });
    }
}
