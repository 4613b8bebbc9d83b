use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::canonical;
use crate::direction::Direction;
use crate::document::Rule;
use crate::effective::{Entry, Policy, Tier};
use crate::matcher::{FlagMatch, Matcher};
use crate::types::Verdict;
use crate::verdict::{Fragment, Frame, IpPacket, L4, Packet, TCP_ACK, TCP_SYN, View};

/// What is left of a policy without names.
fn essence(policy: &Policy) -> (Verdict, bool, Vec<(Verdict, Arc<Matcher>)>) {
    let entry = |e: &Entry| (e.action, Arc::clone(&e.matcher));
    (
        policy.default,
        policy.five_tuple,
        policy.entries.iter().map(entry).collect(),
    )
}

fn entry(origin: &str, action: Verdict, matcher: Matcher) -> Entry {
    Entry {
        tier: Tier::Endpoint,
        origin: origin.into(),
        reason: "".into(),
        action,
        matcher: matcher.into(),
    }
}

fn policy(default: Verdict, entries: Vec<Entry>) -> Policy {
    Policy {
        entries,
        ..Policy::constant(Direction::Egress, default)
    }
}

/// From lines like `deny tcp 20-30 from 192.0.2.0/24`.
fn written(default: Verdict, lines: &[&str]) -> Policy {
    let entries = lines.iter().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let list = |after: &str| -> Vec<&str> {
            let at = words.iter().position(|w| *w == after).map(|i| i + 1);
            at.and_then(|i| words.get(i)).copied().into_iter().collect()
        };
        let ports: Vec<&str> = words
            .get(2)
            .filter(|w| **w != "all")
            .copied()
            .into_iter()
            .collect();
        let rule: Rule = serde_json::from_value(serde_json::json!({
            "name": "r", "action": words[0], "direction": "egress", "protocol": words[1], "ports": ports,
            "remote": list("to"), "local": list("from"),
        }))
        .unwrap();
        entry(line, rule.action, Matcher::from_rule(&rule).unwrap())
    });
    policy(default, entries.collect())
}

fn order(policy: &Policy) -> Vec<&str> {
    policy.entries.iter().map(|e| &*e.origin).collect()
}

#[test]
fn order_that_means_nothing_is_forgotten() {
    let one = written(
        Verdict::Allow,
        &["deny tcp 25", "deny udp 25", "allow tcp 80", "deny tcp 80-90"],
    );
    let other = written(
        Verdict::Allow,
        &["allow tcp 80", "deny tcp 80-90", "deny udp 25", "deny tcp 25"],
    );
    assert_eq!(order(&canonical(&one)), order(&canonical(&other)));
    let swapped = written(Verdict::Allow, &["deny tcp 80-90", "allow tcp 80"]);
    assert_ne!(
        essence(&canonical(&swapped)).2.len(),
        2,
        "the allow can never match"
    );
}

#[test]
fn what_can_never_match_goes_and_what_decides_stays() {
    let can = |lines: &[&str]| {
        let canonical = canonical(&written(Verdict::Allow, lines));
        order(&canonical)
            .into_iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    // Covered by the other action.
    assert_eq!(can(&["deny tcp 20-30", "allow tcp 25"]), ["deny tcp 20-30"]);
    // Covered by its own action, whichever is written first: both name what they decide.
    let both = ["deny tcp 25", "deny tcp 20-30"];
    assert_eq!(can(&both), both);
    assert_eq!(can(&[both[1], both[0]]), both);
    // The order of the two means something through what is between them.
    assert_eq!(
        can(&["deny tcp 20-30", "allow tcp 20-40", "deny tcp 25"]),
        ["deny tcp 20-30", "allow tcp 20-40"]
    );
    // A default's own action is kept: it names the rule.
    assert_eq!(
        can(&["deny tcp 25", "allow tcp 80"]),
        ["allow tcp 80", "deny tcp 25"]
    );
    // Equal entries are one, the first.
    assert_eq!(
        can(&["deny tcp 25", "deny tcp 25 ", "deny tcp 25"]),
        ["deny tcp 25"]
    );
}

#[test]
fn denies_that_are_wholly_shadowed_deny_nothing() {
    let hidden = written(Verdict::Allow, &["allow any", "deny tcp 26", "deny tcp 25"]);
    assert_eq!(order(&canonical(&hidden)), ["allow any"]);
    let opaque = Packet { frame: Frame::Opaque };
    for policy in [&hidden, &canonical(&hidden)] {
        assert!(!policy.may_deny());
        assert_eq!(policy.judge(&opaque, View::FULL).0, Verdict::Allow);
    }
    let shown = written(Verdict::Allow, &["allow tcp 26", "deny tcp 26", "deny tcp 25"]);
    for policy in [&shown, &canonical(&shown)] {
        assert_eq!(policy.judge(&opaque, View::FULL).0, Verdict::Deny);
    }
}

const PORTS: [&str; 8] = [
    "0",
    "22",
    "20-30",
    "25-25",
    "80",
    "80-443",
    "0-65535",
    "1024-65535",
];
const PREFIXES: [&str; 7] = [
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.7",
    "198.51.100.0/24",
    "2001:db8::/32",
    "2001:db8::7",
    "0.0.0.0/0",
];
const ADDRESSES: [&str; 7] = [
    "192.0.2.7",
    "192.0.2.8",
    "192.0.2.130",
    "198.51.100.1",
    "203.0.113.1",
    "2001:db8::7",
    "2001:db9::1",
];
const EDGES: [u16; 14] = [0, 1, 19, 20, 22, 25, 26, 30, 31, 79, 80, 443, 1024, 65535];

fn some(from: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::sample::subsequence(from, 1..=most),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let protocols = prop_oneof![
        Just("tcp"),
        Just("tcp"),
        Just("udp"),
        Just("any"),
        Just("icmp"),
        Just("icmpv6"),
        Just("47")
    ];
    let lists = (
        some(&PORTS, 2),
        some(&PORTS, 1),
        some(&PREFIXES, 2),
        some(&PREFIXES, 1),
    );
    (protocols, lists, any::<bool>(), any::<bool>(), 0u8..12).prop_filter_map(
        "matches nothing",
        |(protocol, (dst, src, remote, local), allow, replies, kind)| {
            let ports = matches!(protocol, "tcp" | "udp");
            let icmp = match kind {
                8 if protocol == "icmp" => serde_json::json!({"type": 8}),
                9 if protocol == "icmp" => serde_json::json!({"type": 8, "code": 1}),
                _ => serde_json::Value::Null,
            };
            let rule: Rule = serde_json::from_value(serde_json::json!({
                "name": "r", "action": if allow { "allow" } else { "deny" }, "direction": "egress",
                "protocol": protocol, "ports": if ports { dst } else { vec![] },
                "source_ports": if ports { src } else { vec![] }, "remote": remote, "local": local, "icmp": icmp,
            }))
            .unwrap();
            let mut matcher = Matcher::from_rule(&rule)?;
            if replies {
                matcher.flags = FlagMatch::NotOpening;
            }
            matcher.fragments = kind > 1;
            Some(entry("r", rule.action, matcher))
        },
    )
}

fn any_policy(most: usize) -> impl Strategy<Value = Policy> {
    let default = prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)];
    (default, proptest::collection::vec(any_entry(), 0..most)).prop_map(|(default, mut entries)| {
        for (n, entry) in entries.iter_mut().enumerate() {
            entry.origin = format!("r{n}").into();
        }
        policy(default, entries)
    })
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let address = || proptest::sample::select(&ADDRESSES[..]).prop_map(|a| a.parse::<IpAddr>().unwrap());
    let protocol = proptest::sample::select(&[6u8, 6, 17, 132, 1, 58, 47, 9][..]);
    let port = || proptest::sample::select(&EDGES[..]);
    let flags = proptest::sample::select(&[TCP_SYN, TCP_ACK, 0][..]);
    let l4 = (
        port(),
        port(),
        flags,
        proptest::sample::select(&[0u8, 8][..]),
        0u8..2,
        0u8..12,
    );
    let fragment = prop_oneof![
        6 => Just(Fragment::Whole),
        1 => Just(Fragment::First),
        1 => (1u16..3).prop_map(|offset| Fragment::Later { offset }),
    ];
    (address(), address(), protocol, l4, fragment).prop_map(|(local, remote, protocol, l4, fragment)| {
        let (src, dst, flags, kind, code, odd) = l4;
        let l4 = match (odd, protocol) {
            (0, _) => L4::Short,
            (4, 6 | 17 | 132) if fragment == Fragment::First => L4::Begun {
                src,
                dst,
                flags: if protocol == 6 { flags } else { 0 },
            },
            (_, 6 | 17 | 132) => L4::Ports {
                src,
                dst,
                flags: if protocol == 6 { flags } else { 0 },
            },
            (_, 1 | 58) => L4::Icmp { kind, code },
            _ => L4::Nothing,
        };
        let frame = match odd {
            1 => Frame::Opaque,
            2 => Frame::Other,
            5 => Frame::Rarp,
            _ => Frame::Ip(IpPacket {
                local,
                remote,
                protocol: (odd != 3).then_some(protocol),
                fragment,
                l4,
            }),
        };
        Packet { frame }
    })
}

/// Two neighbours change places where that cannot matter: same action, or no packet matches both, as a search over
/// packets rather than the code under test would find.
fn commute(a: &Entry, b: &Entry) -> bool {
    a.action == b.action || a.matcher.intersect(&b.matcher).is_none()
}

fn views() -> [View; 2] {
    let blind = View {
        fragment_offset: false,
        short_header: false,
        begun_header: false,
        later_v6_protocol: false,
        ipv6_extension_headers: false,
        sctp_ports: false,
        tcp_flags: 0xff,
    };
    [View::FULL, blind]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_verdict_stays(policy in any_policy(14), packets in proptest::collection::vec(any_packet(), 40)) {
        for five_tuple in [false, true] {
            let policy = Policy { five_tuple, ..policy.clone() };
            let canonical = canonical(&policy);
            prop_assert!(canonical.entries.len() <= policy.entries.len());
            for packet in &packets {
                for view in views() {
                    let (was, by) = policy.judge(packet, view);
                    let (is, now) = canonical.judge(packet, view);
                    prop_assert_eq!(was, is, "{:?}: {:?}, {:?} of {:?}", packet, by, now, order(&canonical));
                }
            }
            prop_assert_eq!(essence(&super::canonical(&canonical)), essence(&canonical), "it is its own form");
        }
    }

    #[test]
    fn names_copies_and_order_that_means_nothing_do_not_count(
        policy in any_policy(14), swaps in proptest::collection::vec(0usize..20, 0..60), copy in 0usize..14, lower in 0usize..14
    ) {
        let mut written = policy.clone();
        for at in swaps {
            if let Some([a, b]) = written.entries.get(at..at + 2) && commute(a, b) {
                written.entries.swap(at, at + 1);
            }
        }
        if let Some(copied) = written.entries.get(copy).cloned() {
            let to = copy + 1 + lower % (written.entries.len() - copy);
            written.entries.insert(to, copied);
        }
        for entry in &mut written.entries {
            (entry.origin, entry.reason, entry.tier) = ("else".into(), "other".into(), Tier::Baseline);
        }
        prop_assert_eq!(essence(&canonical(&written)), essence(&canonical(&policy)));
    }

    #[test]
    fn another_verdict_is_another_form(
        policy in any_policy(8), at in 0usize..8, replace in any_entry(), packets in proptest::collection::vec(any_packet(), 40)
    ) {
        let mut other = policy.clone();
        match other.entries.get_mut(at) {
            Some(entry) => *entry = replace,
            None => other.default = if other.default == Verdict::Allow { Verdict::Deny } else { Verdict::Allow },
        }
        let differ = packets.iter().any(|p| policy.judge(p, View::FULL).0 != other.judge(p, View::FULL).0);
        if differ {
            prop_assert_ne!(essence(&canonical(&policy)), essence(&canonical(&other)));
        }
    }

    /// Enough entries that blocks and the choice of a dimension matter.
    #[test]
    fn many_entries_are_treated_as_few(policy in any_policy(120)) {
        let canonical = canonical(&policy);
        let slow = naive(&policy);
        prop_assert_eq!(essence(&canonical).2, slow);
    }
}

/// The definition, word by word.
fn naive(policy: &Policy) -> Vec<(Verdict, Arc<Matcher>)> {
    let entries = &policy.entries;
    let contend = |a: &Entry, b: &Entry| a.action != b.action && a.matcher.intersect(&b.matcher).is_some();
    let mut levels: Vec<Option<u32>> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let above = || (0..at).filter(|i| levels[*i].is_some());
        let gone = above().any(|i| {
            entries[i].matcher.covers(&entry.matcher)
                && (entries[i].action != entry.action
                    || above().any(|k| k > i && contend(&entries[k], entry)))
        });
        let level = above()
            .filter(|i| contend(&entries[*i], entry))
            .filter_map(|i| levels[i])
            .max();
        levels.push((!gone).then(|| level.map_or(0, |l| l + 1)));
    }
    let mut kept: Vec<(u32, Verdict, u64, Arc<Matcher>)> = entries
        .iter()
        .zip(&levels)
        .filter_map(|(e, level)| {
            Some((
                (*level)?,
                e.action,
                super::breadth(&e.matcher),
                Arc::clone(&e.matcher),
            ))
        })
        .collect();
    kept.sort();
    kept.dedup();
    kept.into_iter().map(|(_, action, _, m)| (action, m)).collect()
}
