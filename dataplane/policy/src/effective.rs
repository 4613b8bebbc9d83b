//! Resolving tiers: from the document to one ordered list per endpoint and direction.

use std::sync::Arc;

use crate::document::{Document, Endpoint, Rule, Unmanaged};
use crate::matcher::{Families, FlagMatch, Matcher, Ranges};
use crate::types::{Action, Direction, Family, IcmpMatch, PortRange, Protocol};

/// Where an entry stands; highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The operator's, above everything.
    Mandatory,
    /// Neighbour discovery and DHCP of the endpoint itself.
    Essential,
    /// Leases of unlocks.
    Unlock,
    /// The endpoint's own rules, then its profiles.
    Endpoint,
    /// For everybody.
    Baseline,
    /// Replies to what the other direction allows, under default deny.
    Replies,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tier::Mandatory => "mandatory",
            Tier::Essential => "essential",
            Tier::Unlock => "unlock",
            Tier::Endpoint => "endpoint",
            Tier::Baseline => "baseline",
            Tier::Replies => "replies",
        })
    }
}

/// One line of an effective policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its tier.
    pub tier: Tier,
    /// Where it was written: `baseline/smtp`, `profiles/web/http`, `replies/profiles/web/http`.
    pub origin: Arc<str>,
    /// The reason its author gave, or empty.
    pub reason: Arc<str>,
    /// The verdict.
    pub action: Action,
    /// What it matches.
    pub matcher: Matcher,
}

/// What decided a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// The entry with this index.
    Entry(u32),
    /// No entry matched.
    Default,
    /// The fragment rule: a later fragment shows no ports.
    Fragment,
    /// Headers that cannot be judged: too short, unparsable, or a TCP fragment that could rewrite flags.
    Evasion,
    /// ARP always passes.
    Arp,
}

/// The effective policy of one endpoint and direction: first match wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// The direction.
    pub direction: Direction,
    /// The entries, highest first.
    pub entries: Vec<Entry>,
    /// The verdict where none matches.
    pub default: Action,
}

impl Policy {
    /// One that lets everything pass, or nothing.
    pub fn constant(direction: Direction, default: Action) -> Self {
        Policy {
            direction,
            entries: Vec::new(),
            default,
        }
    }

    /// Whether some packet could be denied.
    pub fn may_deny(&self) -> bool {
        self.default == Action::Deny || self.entries.iter().any(|e| e.action == Action::Deny)
    }

    /// The text that names a decider.
    pub fn origin(&self, decider: Decider) -> String {
        match decider {
            Decider::Entry(index) => self
                .entries
                .get(index as usize)
                .map_or_else(|| "?".to_string(), |e| e.origin.to_string()),
            Decider::Default => format!("default/{}", self.direction),
            Decider::Fragment => "evasion/later-fragment".to_string(),
            Decider::Evasion => "evasion/unreadable-header".to_string(),
            Decider::Arp => "essential/arp".to_string(),
        }
    }
}

fn entry(tier: Tier, origin: String, rule: &Rule) -> Option<Entry> {
    Some(Entry {
        tier,
        origin: origin.into(),
        reason: rule.reason.as_str().into(),
        action: rule.action,
        matcher: Matcher::of(rule)?,
    })
}

/// What passes even under default deny: neighbour discovery (RFC 4861), DHCP (RFC 2131), DHCPv6 (RFC 8415).
fn essentials(direction: Direction) -> Vec<Entry> {
    let allow = |name: &str, matcher: Matcher| Entry {
        tier: Tier::Essential,
        origin: format!("essential/{name}").into(),
        reason: "".into(),
        action: Action::Allow,
        matcher,
    };
    let nd = |kind: u8| Matcher {
        families: Families::only(Family::V6),
        protocol: Protocol::Number(Protocol::ICMPV6),
        icmp: Some(IcmpMatch { kind, code: None }),
        ..Matcher::everything()
    };
    let port = |n: u16| Ranges::of(&[PortRange { low: n, high: n }]);
    let dhcp = |family: Family, src: u16, dst: u16| Matcher {
        families: Families::only(family),
        protocol: Protocol::Number(Protocol::UDP),
        src_ports: port(src),
        dst_ports: port(dst),
        ..Matcher::everything()
    };
    // Router advertisements and redirects are a router's to send, not an endpoint's.
    let (kinds, v4, v6): (&[u8], _, _) = match direction {
        Direction::Egress => (&[133, 135, 136], (68, 67), (546, 547)),
        Direction::Ingress => (&[134, 135, 136, 137], (67, 68), (547, 546)),
    };
    let mut list: Vec<Entry> = kinds
        .iter()
        .map(|k| allow("neighbour-discovery", nd(*k)))
        .collect();
    list.push(allow("dhcp", dhcp(Family::V4, v4.0, v4.1)));
    list.push(allow("dhcpv6", dhcp(Family::V6, v6.0, v6.1)));
    list
}

/// The essentials as far as anything would deny them, with the mandatory rules that name them in front.
fn with_essentials(direction: Direction, rules: &[Entry], default: Action) -> Vec<Entry> {
    let mut list = Vec::new();
    for essential in essentials(direction) {
        let endangered = default == Action::Deny
            || rules
                .iter()
                .any(|e| e.action == Action::Deny && e.matcher.intersect(&essential.matcher).is_some());
        if !endangered {
            continue;
        }
        // A rule for any protocol does not name them.
        let named = rules
            .iter()
            .filter(|e| e.tier == Tier::Mandatory && e.matcher.protocol != Protocol::Any);
        for rule in named {
            if let Some(matcher) = rule.matcher.intersect(&essential.matcher) {
                list.push(Entry {
                    matcher,
                    ..rule.clone()
                });
            }
        }
        list.push(essential);
    }
    list
}

/// The match of the replies to what `matcher` matches; `None` when such packets have no replies.
pub fn mirrored(matcher: &Matcher) -> Option<Matcher> {
    let icmp = match matcher.icmp {
        None => None,
        Some(IcmpMatch { kind, .. }) => {
            let v4 = matcher.protocol == Protocol::Number(Protocol::ICMP);
            let reply = match (v4, kind) {
                (true, 8) => 0,
                (true, 13) => 14,
                (false, 128) => 129,
                _ => return None,
            };
            Some(IcmpMatch {
                kind: reply,
                code: None,
            })
        }
    };
    Some(Matcher {
        dst_ports: matcher.src_ports.clone(),
        src_ports: matcher.dst_ports.clone(),
        flags: FlagMatch::NotOpening,
        icmp,
        ..matcher.clone()
    })
}

/// Replies under default deny. An explicit deny of the other direction ends what is a reply, so it is
/// mirrored too, at its place.
fn replies(other_direction: &[Entry]) -> Vec<Entry> {
    let errors = [
        (Protocol::ICMP, Family::V4, &[3u8, 11, 12][..]),
        (Protocol::ICMPV6, Family::V6, &[1, 2, 3, 4]),
    ];
    let mut list = Vec::new();
    for (protocol, family, kinds) in errors {
        for kind in kinds {
            list.push(Entry {
                tier: Tier::Replies,
                origin: "replies/icmp-errors".into(),
                reason: "".into(),
                action: Action::Allow,
                matcher: Matcher {
                    families: Families::only(family),
                    protocol: Protocol::Number(protocol),
                    icmp: Some(IcmpMatch {
                        kind: *kind,
                        code: None,
                    }),
                    ..Matcher::everything()
                },
            });
        }
    }
    let any_allow = other_direction.iter().any(|e| e.action == Action::Allow);
    for rule in other_direction.iter().filter(|_| any_allow) {
        if let Some(matcher) = mirrored(&rule.matcher) {
            list.push(Entry {
                tier: Tier::Replies,
                origin: format!("replies/{}", rule.origin).into(),
                matcher,
                ..rule.clone()
            });
        }
    }
    list
}

/// The explicit rules of one direction, in tier order. `None` is a port without an endpoint.
fn explicit(document: &Document, endpoint: Option<(&str, &Endpoint)>, direction: Direction) -> Vec<Entry> {
    let mut list = Vec::new();
    let mut add = |tier: Tier, prefix: &str, rules: &[Rule]| {
        let matching = rules.iter().filter(|r| r.direction == direction);
        list.extend(matching.filter_map(|r| entry(tier, format!("{prefix}/{}", r.name), r)));
    };
    add(Tier::Mandatory, "mandatory", &document.mandatory);
    if let Some((name, endpoint)) = endpoint {
        add(Tier::Endpoint, &format!("endpoints/{name}"), &endpoint.rules);
        for name in &endpoint.profiles {
            if let Some(profile) = document.profiles.get(name) {
                add(Tier::Endpoint, &format!("profiles/{name}"), &profile.rules);
            }
        }
    }
    add(Tier::Baseline, "baseline", &document.baseline);
    list
}

fn default_of(document: &Document, endpoint: Option<&Endpoint>, direction: Direction) -> Action {
    let by_profile = endpoint.into_iter().flat_map(|e| &e.profiles).any(|name| {
        document.profiles.get(name).is_some_and(|p| {
            let set = match direction {
                Direction::Egress => p.default.egress,
                Direction::Ingress => p.default.ingress,
            };
            set == Some(Action::Deny)
        })
    });
    if by_profile {
        Action::Deny
    } else {
        document.defaults.of(direction)
    }
}

fn resolve(document: &Document, endpoint: Option<(&str, &Endpoint)>, direction: Direction) -> Policy {
    let rules = explicit(document, endpoint, direction);
    let default = default_of(document, endpoint.map(|(_, e)| e), direction);
    let mut entries = with_essentials(direction, &rules, default);
    entries.extend(rules);
    if default == Action::Deny {
        entries.extend(replies(&explicit(document, endpoint, direction.opposite())));
    }
    Policy {
        direction,
        entries,
        default,
    }
}

/// The effective policy of an endpoint.
pub fn effective(document: &Document, name: &str, endpoint: &Endpoint, direction: Direction) -> Policy {
    resolve(document, Some((name, endpoint)), direction)
}

/// The effective policy of a port without an endpoint.
pub fn unmanaged(document: &Document, direction: Direction) -> Policy {
    match document.unmanaged {
        Unmanaged::Baseline => resolve(document, None, direction),
        Unmanaged::Allow => Policy::constant(direction, Action::Allow),
        Unmanaged::Deny => Policy::constant(direction, Action::Deny),
    }
}
