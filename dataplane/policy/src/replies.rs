//! Replies: what passes under default deny because the other direction allows what it answers.

use std::sync::{Arc, LazyLock};

use crate::effective::{Entry, Half, NO_REASON, Tier, allow};
use crate::matcher::{Families, FlagMatch, Matcher, Ranges};
use crate::shadow;
use crate::types::{Family, IcmpMatch, Protocol, Verdict};

/// The lowest port that replies over UDP and SCTP may go to where the rule does not name the sender's ports: those below
/// are where services listen.
pub(crate) const LOWEST: u16 = 1024;

/// The origin of their entries.
const ERRORS: &str = "replies/icmp-errors";

/// The ICMP errors that answer any packet (RFC 792, RFC 4443).
static ICMP_ERRORS: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let errors = [(Family::V4, &[3u8, 11, 12][..]), (Family::V6, &[1, 2, 3, 4])];
    let kinds = errors
        .into_iter()
        .flat_map(|(family, kinds)| kinds.iter().map(move |kind| (family, *kind)));
    kinds
        .map(|(family, kind)| {
            let matcher = Matcher {
                families: Families::only(family),
                protocol: Protocol::Number(match family {
                    Family::V4 => Protocol::ICMP,
                    Family::V6 => Protocol::ICMPV6,
                }),
                icmp: Some(IcmpMatch { kind, code: None }),
                ..Matcher::everything()
            };
            allow(Tier::Replies, ERRORS, matcher)
        })
        .collect()
});

/// TCP segments that do not open a connection: replies to what the other direction allows by default.
static TO_DEFAULT: LazyLock<Entry> = LazyLock::new(|| Entry {
    tier: Tier::Replies,
    origin: "replies/default".into(),
    reason: Arc::clone(&NO_REASON),
    action: Verdict::Allow,
    matcher: Arc::new(Matcher {
        protocol: Protocol::Number(Protocol::TCP),
        flags: FlagMatch::NotOpening,
        ..Matcher::everything()
    }),
});

/// Adds what is a reply to the rules of the other direction, in order, and to its default.
pub(crate) fn push(other: &[&Half], default: Verdict, policy: &mut Vec<Entry>) {
    let allowed = allows(other.iter().flat_map(|half| &half.entries));
    for error in ICMP_ERRORS.iter() {
        let Families { v4, v6 } = error.matcher.families;
        if (v4 && allowed.v4) || (v6 && allowed.v6) {
            policy.push(error.clone());
        }
    }
    if allowed.v4 || allowed.v6 || default.passes() {
        other
            .iter()
            .for_each(|half| policy.extend_from_slice(half.mirrored()));
    }
    if default.passes() {
        policy.push(TO_DEFAULT.clone());
    }
}

/// The IP versions of which rules allow something.
fn allows<'a>(rules: impl Iterator<Item = &'a Entry>) -> Families {
    let mut all = Families { v4: false, v6: false };
    for (_, one) in shadow::allowing(rules) {
        all.v4 |= one.v4;
        all.v6 |= one.v6;
        if all == Families::BOTH {
            break;
        }
    }
    all
}

/// Whether an entry of a policy lets ICMP errors in.
pub(crate) fn is_error(entry: &Entry) -> bool {
    entry.tier == Tier::Replies && *entry.origin == *ERRORS
}

/// The replies to what a rule matches: allowed or denied as the rule says.
pub(crate) fn to(rule: &Entry) -> Vec<Entry> {
    let matchers = match rule.action {
        Verdict::Allow => answers(&rule.matcher),
        Verdict::Deny => denied(&rule.matcher),
    };
    let entry = |matcher| Entry {
        tier: Tier::Replies,
        origin: format!("replies/{}", rule.origin).into(),
        matcher: Arc::new(matcher),
        ..rule.clone()
    };
    matchers.into_iter().map(entry).collect()
}

/// Ports the other way round.
fn swapped(m: &Matcher) -> Matcher {
    Matcher {
        dst_ports: m.src_ports.clone(),
        src_ports: m.dst_ports.clone(),
        ..m.clone()
    }
}

/// What answers packets that a rule allows.
fn answers(m: &Matcher) -> Vec<Matcher> {
    match m.protocol {
        Protocol::Any => vec![Matcher {
            protocol: Protocol::Number(Protocol::TCP),
            flags: FlagMatch::NotOpening,
            ..m.clone()
        }],
        Protocol::Number(Protocol::TCP) => vec![Matcher {
            flags: FlagMatch::NotOpening,
            ..swapped(m)
        }],
        Protocol::Number(n) if Protocol::has_ports(n) => {
            // Of a rule for every port, replies could not be told from any other packet.
            if m.dst_ports.is_all() {
                return Vec::new();
            }
            let mut replies = swapped(m);
            if m.src_ports.is_all() {
                replies.dst_ports = Ranges::interval(LOWEST, u16::MAX);
            }
            vec![replies]
        }
        Protocol::Number(n) if is_icmp(n) => icmp_replies(m, |_| None),
        Protocol::Number(_) => vec![m.clone()],
    }
}

/// What would answer packets that a rule denies, in any case.
fn denied(m: &Matcher) -> Vec<Matcher> {
    match m.protocol {
        Protocol::Number(n) if is_icmp(n) => icmp_replies(m, |asked| asked.code),
        _ => vec![swapped(m)],
    }
}

fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// Types of ICMP requests and their replies (RFC 792), and of ICMPv6 (RFC 4443).
const REQUESTS: [(u8, u8); 2] = [(8, 0), (13, 14)];
const REQUESTS_V6: [(u8, u8); 1] = [(128, 129)];

/// The reply types of the request types that a rule for ICMP is about.
fn icmp_replies(m: &Matcher, code: impl Fn(IcmpMatch) -> Option<u8>) -> Vec<Matcher> {
    let requests: &[(u8, u8)] = match m.protocol {
        Protocol::Number(Protocol::ICMP) => &REQUESTS,
        _ => &REQUESTS_V6,
    };
    let asked = requests
        .iter()
        .filter(|(request, _)| m.icmp.is_none_or(|i| i.kind == *request));
    asked
        .map(|(_, reply)| Matcher {
            icmp: Some(IcmpMatch {
                kind: *reply,
                code: m.icmp.and_then(&code),
            }),
            ..m.clone()
        })
        .collect()
}
