//! What replies open, what gets no answer, and denies that stop essentials.

use std::collections::{BTreeMap, BTreeSet};

use super::describe::ports;
use super::{Finding, FindingKind};
use crate::direction::{Direction, PerDirection};
use crate::effective::{Entry, Policy, Tier};
use crate::endpoint::Endpoint;
use crate::essentials::{Essentials, stops};
use crate::matcher::Matcher;
use crate::replies::LOWEST;
use crate::types::{Name, Protocol, Verdict};

/// Reports what both policies of an endpoint say about answers to each other's rules, and about essentials.
pub(super) fn report(
    policies: &PerDirection<Policy>,
    essentials: &Essentials,
    found: &mut BTreeSet<Finding>,
) {
    for policy in policies {
        let other = &policies[policy.direction.opposite()];
        stopped(policy, essentials, found);
        if policy.default.passes() {
            continue;
        }
        let answered = answers_udp(policy);
        for (at, rule) in other.entries.iter().enumerate().filter(|(_, e)| is_rule(e)) {
            let before = other.entries.get(..at).unwrap_or(&[]);
            if rule.action.passes() && !taken(before, &rule.matcher, Verdict::Deny) {
                found.extend(of_rule(rule, policy.direction, answered));
            }
        }
    }
}

/// Default deny one way, default allow the other, and no rule whose UDP comes back.
pub(super) fn one_way(
    policies: &PerDirection<Policy>,
    name: &str,
    endpoint: &Endpoint,
    found: &mut BTreeSet<Finding>,
) {
    for policy in policies {
        let other = &policies[policy.direction.opposite()];
        if policy.default.denies() && other.default.passes() && !answers_udp(policy) {
            found.insert(of_default(policy, other, name, endpoint));
        }
    }
}

/// Whether an entry is a rule of the document.
fn is_rule(entry: &Entry) -> bool {
    matches!(entry.tier, Tier::Mandatory | Tier::Endpoint | Tier::Baseline)
}

/// Whether one of these entries takes all that a match is about.
fn taken(entries: &[Entry], matcher: &Matcher, action: Verdict) -> bool {
    entries
        .iter()
        .any(|e| e.action == action && e.matcher.fragments && e.matcher.covers(matcher))
}

/// Whether some reply over UDP passes.
fn answers_udp(policy: &Policy) -> bool {
    policy.entries.iter().any(|e| {
        e.tier == Tier::Replies && e.action.passes() && e.matcher.protocol == Protocol::Number(Protocol::UDP)
    })
}

/// What a rule of the other direction opens to replies, or gets no answer to.
fn of_rule(rule: &Entry, direction: Direction, answered: bool) -> Option<Finding> {
    let m = &rule.matcher;
    let anywhere = m.remote.is_empty();
    let finding = |kind, text| {
        Some(Finding {
            at: rule.origin.to_string(),
            kind,
            by: vec![format!("default/{direction}")],
            text,
        })
    };
    match m.protocol {
        Protocol::Any if answered => None,
        Protocol::Any => finding(
            FindingKind::OneWay,
            format!(
                "gets an answer over TCP alone: {direction} is denied by default, and a rule for any protocol has no \
                 other replies; add rules that name UDP with its ports, and ICMP"
            ),
        ),
        Protocol::Number(n) if n != Protocol::TCP && Protocol::has_ports(n) => {
            if m.dst_ports.is_all() {
                return finding(
                    FindingKind::OneWay,
                    format!(
                        "gets no answer: {direction} is denied by default, and replies over {} come back only to a \
                         rule that names its destination ports; name `ports`",
                        m.protocol
                    ),
                );
            }
            let from = ports("port", &m.dst_ports);
            let (to, rest) = match m.src_ports.is_all() {
                true => (
                    format!("ports {LOWEST} to 65535"),
                    format!(
                        "; what was sent from a port below {LOWEST} gets no answer unless the rule names `source_ports`"
                    ),
                ),
                false => (ports("port", &m.src_ports), String::new()),
            };
            let text = format!(
                "replies open {direction} {} from {from} of any address to {to}, whoever asked first: narrow `remote`\
                 {rest}",
                m.protocol
            );
            anywhere
                .then(|| finding(FindingKind::RepliesOpen, text))
                .flatten()
        }
        Protocol::Number(Protocol::TCP | Protocol::ICMP | Protocol::ICMPV6) => None,
        Protocol::Number(_) => {
            let text = format!(
                "replies open {direction} {} from any address, whoever asked first: narrow `remote`",
                protocol(m.protocol)
            );
            anywhere
                .then(|| finding(FindingKind::RepliesOpen, text))
                .flatten()
        }
    }
}

fn protocol(protocol: Protocol) -> String {
    let text = protocol.to_string();
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => format!("protocol {text}"),
        false => text,
    }
}

fn of_default(policy: &Policy, other: &Policy, name: &str, endpoint: &Endpoint) -> Finding {
    let names: Vec<&str> = endpoint.profiles.iter().map(Name::as_str).collect();
    let at = if names.is_empty() {
        format!("endpoints/{name}")
    } else {
        format!("profiles/{}", names.join("+"))
    };
    Finding {
        at,
        kind: FindingKind::OneWay,
        by: vec![format!("default/{}", policy.direction)],
        text: format!(
            "{} is denied by default: of what it sends by default, TCP alone gets an answer; UDP (DNS, NTP) and ping get \
             none: add {} allow rules that name them, with their ports",
            policy.direction, other.direction
        ),
    }
}

/// Denies that stop what the endpoint itself needs, each with what it stops.
fn stopped(policy: &Policy, essentials: &Essentials, found: &mut BTreeSet<Finding>) {
    let mut by_rule: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (at, rule) in policy.entries.iter().enumerate().filter(|(_, e)| is_rule(e)) {
        let before = policy.entries.get(..at).unwrap_or(&[]);
        for essential in essentials
            .of_direction(policy.direction)
            .iter()
            .filter(|e| stops(rule, e))
        {
            let shared = rule.matcher.intersect(&essential.matcher);
            if shared.is_some_and(|m| !before.iter().any(|e| takes(e, &m))) {
                by_rule.entry(&rule.origin).or_default().insert(&essential.origin);
            }
        }
    }
    for (at, essentials) in by_rule {
        let by: Vec<String> = essentials.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = essentials
            .iter()
            .map(|origin| origin.strip_prefix("essential/").unwrap_or(origin))
            .collect();
        found.insert(Finding {
            at: at.to_string(),
            kind: FindingKind::OverridesEssential,
            text: format!(
                "stops {} what the endpoint itself needs, or part of it: {}",
                policy.direction,
                names.join(", ")
            ),
            by,
        });
    }
}

/// Whether an entry allows all that a deny and an essential have in common.
fn takes(entry: &Entry, shared: &Matcher) -> bool {
    entry.action.passes() && entry.matcher.covers(shared)
}
