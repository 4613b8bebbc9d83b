//! The exact part against brute force: every packet of a grid with one packet of each cell that the small rules
//! tried here, the essentials and replies can tell apart.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::examine::{Budget, Examined, Standing};
use super::{FindingKind, both, findings, survey};
use crate::direction::Direction;
use crate::document::{Document, Profile, Rule};
use crate::effective::{Decider, Entry, Lists, Policy, Tier};
use crate::endpoint::Endpoint;
use crate::matcher::{FlagMatch, Matcher};
use crate::types::{Family, IcmpMatch, Protocol, Verdict};
use crate::verdict::{Fragment, Frame, IpPacket, L4, Packet, TCP_ACK, TCP_SYN, View};

fn ports() -> Vec<(u16, u16)> {
    let starts = [0, 1, 5, 6, 7, 1024];
    let mut pairs: Vec<(u16, u16)> = starts
        .into_iter()
        .flat_map(|s| starts.into_iter().map(move |d| (s, d)))
        .collect();
    pairs.extend([(68, 67), (67, 68), (546, 547), (547, 546)]);
    pairs
}

fn payloads(policy: &Policy, protocol: u8, family: Family) -> Vec<L4> {
    if policy.shows_ports(protocol) {
        let flags = if protocol == Protocol::TCP {
            vec![TCP_SYN, TCP_ACK]
        } else {
            vec![0]
        };
        let all = ports().into_iter();
        return all
            .flat_map(|(src, dst)| {
                flags.iter().map(move |flags| L4::Ports {
                    src,
                    dst,
                    flags: *flags,
                })
            })
            .collect();
    }
    if policy.shows_icmp(protocol, family) {
        let kinds = [
            0, 1, 2, 3, 4, 8, 11, 12, 13, 14, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143, 200,
        ];
        let all = kinds
            .into_iter()
            .flat_map(|kind| [0, 1].map(|code| L4::Icmp { kind, code }));
        return all.collect();
    }
    vec![L4::Nothing]
}

fn grid(policy: &Policy) -> Vec<Packet> {
    let v4 = [
        "10.0.0.1",
        "10.128.0.1",
        "192.0.2.1",
        "203.0.113.1",
        "224.0.0.22",
        "255.255.255.255",
    ];
    let v6 = [
        "2001:db8::2",
        "2001:db8:8000::2",
        "2001:db9::2",
        "ff02::16",
        "ff02::1:2",
    ];
    let pairs = [
        ("198.51.100.0", &v4[..]),
        ("198.51.100.1", &v4),
        ("203.0.113.9", &v4),
        ("2001:db8::1", &v6),
    ];
    let mut packets = Vec::new();
    for (local, remotes) in pairs {
        for remote in remotes {
            let (local, remote): (IpAddr, IpAddr) = (local.parse().unwrap(), remote.parse().unwrap());
            for protocol in [1, 2, 6, 17, 47, 58, 99] {
                for l4 in payloads(policy, protocol, Family::from_address(remote)) {
                    packets.push(Packet {
                        frame: Frame::Ip(IpPacket {
                            local,
                            remote,
                            protocol: Some(protocol),
                            fragment: Fragment::Whole,
                            l4,
                        }),
                    });
                }
            }
        }
    }
    packets
}

fn verdicts(policy: &Policy) -> Vec<(Verdict, Decider)> {
    grid(policy).iter().map(|p| policy.judge(p, View::FULL)).collect()
}

fn actions(verdicts: &[(Verdict, Decider)]) -> Vec<Verdict> {
    verdicts.iter().map(|(action, _)| *action).collect()
}

fn action() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)]
}

fn ranges() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        3 => Just(vec![]),
        2 => proptest::sample::subsequence(vec!["0", "1-4", "5", "6", "7-65535"], 1..5),
    ]
}

fn remotes() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        3 => Just(vec![]),
        2 => proptest::sample::subsequence(
            vec!["10.0.0.0/9", "10.128.0.0/9", "192.0.2.0/24", "2001:db8::/33", "2001:db8::/32", "0.0.0.0/0"],
            1..3,
        ),
    ]
}

/// A rule that validation accepts, except that it may match nothing.
fn rule() -> impl Strategy<Value = Rule> {
    let protocol = prop_oneof![3 => Just("any"), 3 => Just("tcp"), 2 => Just("udp"), 1 => Just("icmp"),
        1 => Just("icmpv6"), 1 => Just("47")];
    let local =
        prop_oneof![4 => Just(vec![]), 1 => Just(vec!["198.51.100.0"]), 1 => Just(vec!["198.51.100.0/31"])];
    let icmp = proptest::option::of((
        proptest::sample::select(vec![0u8, 3, 8, 128, 135]),
        proptest::option::of(0..2u8),
    ));
    let direction = prop_oneof![Just(Direction::Egress), Just(Direction::Ingress)];
    (
        action(),
        direction,
        protocol,
        ranges(),
        ranges(),
        remotes(),
        local,
        icmp,
    )
        .prop_map(
            |(action, direction, protocol, ports, sources, remote, local, icmp)| {
                let (tcp_or_udp, is_icmp) = (matches!(protocol, "tcp" | "udp"), protocol.starts_with("icmp"));
                let (ports, sources) = if tcp_or_udp {
                    (ports, sources)
                } else {
                    (vec![], vec![])
                };
                let icmp = icmp
                    .filter(|_| is_icmp)
                    .map(|(kind, code)| IcmpMatch { kind, code });
                serde_json::from_value(serde_json::json!({
                "name": "r", "action": action, "direction": direction, "protocol": protocol, "ports": ports,
                "source_ports": sources, "remote": remote, "local": local, "icmp": icmp,
            }))
            .unwrap()
            },
        )
}

fn policy() -> impl Strategy<Value = Policy> {
    let tier = prop_oneof![Just(Tier::Mandatory), Just(Tier::Endpoint), Just(Tier::Replies)];
    let entry = (rule(), tier, proptest::bool::weighted(0.2));
    (
        proptest::collection::vec(entry, 1..8),
        action(),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(rules, default, five_tuple)| {
            let mut entries: Vec<Entry> = rules
                .into_iter()
                .filter_map(|(rule, tier, not_opening)| {
                    let mut matcher = Matcher::from_rule(&rule)?;
                    if not_opening {
                        matcher.flags = FlagMatch::NotOpening;
                    }
                    Some((rule.action, tier, matcher))
                })
                .enumerate()
                .map(|(index, (action, tier, matcher))| Entry {
                    tier,
                    origin: format!("rule/{index}").into(),
                    reason: "".into(),
                    action,
                    matcher: matcher.into(),
                })
                .collect();
            entries.sort_by_key(|e| e.tier);
            let mut policy = Policy {
                entries,
                five_tuple,
                ..Policy::constant(Direction::Egress, default)
            };
            // Where nothing is denied, a verdict does not name every decider.
            if !policy.may_deny() {
                policy.default = Verdict::Deny;
            }
            policy
        })
}

fn without(policy: &Policy, index: usize) -> Policy {
    let mut less = policy.clone();
    less.entries.remove(index);
    less
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn standings_are_exact(policy in policy()) {
        let examined = Examined::new(&policy);
        let with = verdicts(&policy);
        for index in 0..policy.entries.len() {
            let less = verdicts(&without(&policy, index));
            let decided: Vec<usize> =
                (0..with.len()).filter(|p| with[*p].1 == Decider::Entry(index as u32)).collect();
            let same = actions(&with) == actions(&less);
            match examined.standing(index, &mut Budget::WHOLE.clone()) {
                Standing::Never(_) => prop_assert!(decided.is_empty(), "entry {index} decides something"),
                Standing::Same(by) => {
                    prop_assert!(!decided.is_empty() && same, "entry {index} is not redundant");
                    if without(&policy, index).may_deny() {
                        let found: BTreeSet<Option<usize>> = decided
                            .iter()
                            .map(|p| match less[*p].1 {
                                Decider::Entry(i) => Some(i as usize + usize::from(i as usize >= index)),
                                _ => None,
                            })
                            .collect();
                        prop_assert_eq!(by.into_iter().collect::<BTreeSet<_>>(), found);
                    }
                }
                Standing::Taken(_) => prop_assert!(same, "entry {index} is not redundant"),
                Standing::Matters => prop_assert!(!same, "entry {index} changes nothing"),
                Standing::Unknown => prop_assert!(false, "the budget does not suffice"),
            }
        }
    }

    #[test]
    fn what_covers_is_enough(policy in policy()) {
        let examined = Examined::new(&policy);
        for index in 0..policy.entries.len() {
            if let Standing::Never(by) = examined.standing(index, &mut Budget::WHOLE.clone()) {
                let mut only = policy.clone();
                only.entries = by.iter().chain([&index]).map(|i| policy.entries[*i].clone()).collect();
                let last = Decider::Entry(by.len() as u32);
                prop_assert!(!only.may_deny() || verdicts(&only).iter().all(|(_, decider)| *decider != last));
            }
        }
    }

    #[test]
    fn overruling_is_exact(policy in policy()) {
        let examined = Examined::new(&policy);
        for (index, entry) in policy.entries.iter().enumerate().filter(|(_, e)| e.tier == Tier::Endpoint) {
            // What the entry would match were it the first.
            let mut first = policy.clone();
            first.entries.insert(0, entry.clone());
            let (own, with) = (verdicts(&first), verdicts(&policy));
            let mut found: BTreeSet<usize> = BTreeSet::new();
            for ((_, first), (action, decider)) in own.iter().zip(&with) {
                if let (Decider::Entry(0), Decider::Entry(other)) = (first, decider) {
                    let mandatory = policy.entries[*other as usize].tier == Tier::Mandatory;
                    found.extend((mandatory && *action != entry.action).then_some(*other as usize));
                }
            }
            let overruling = examined.overruling(index, &mut Budget::WHOLE.clone()).unwrap();
            prop_assert_eq!(overruling.into_iter().map(|(other, _)| other).collect::<BTreeSet<_>>(), found);
        }
    }
}

fn rules(most: usize) -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..=most).prop_map(|rules| {
        let kept = rules.into_iter().filter(|r| Matcher::from_rule(r).is_some());
        let named = kept.enumerate().map(|(index, rule)| Rule {
            name: format!("r{index}").parse().unwrap(),
            ..rule
        });
        named.collect()
    })
}

fn profile() -> impl Strategy<Value = Arc<Profile>> {
    let deny = || proptest::option::weighted(0.4, Just(Verdict::Deny));
    (rules(3), deny(), deny()).prop_map(|(rules, egress, ingress)| {
        let mut profile = Profile {
            rules,
            ..Profile::default()
        };
        (profile.default.egress, profile.default.ingress) = (egress, ingress);
        profile.into()
    })
}

/// Two profiles, bound alone and together, once with rules of the endpoint's own.
fn document() -> impl Strategy<Value = Document> {
    (rules(2), rules(2), profile(), profile(), rules(2), action()).prop_map(
        |(mandatory, baseline, p, q, own, egress)| {
            let mut document = Document {
                mandatory: mandatory.into(),
                baseline: baseline.into(),
                ..Document::default()
            };
            document.defaults.egress = egress;
            document.profiles.insert("p".parse().unwrap(), p);
            document.profiles.insert("q".parse().unwrap(), q);
            for (name, profiles, rules) in [
                ("a", &["p"][..], vec![]),
                ("b", &["p", "q"], own),
                ("c", &["q"], vec![]),
            ] {
                let profiles = profiles.iter().map(|p| p.parse().unwrap()).collect();
                let endpoint = Endpoint {
                    profiles,
                    rules,
                    ..Endpoint::default()
                };
                document.endpoints.insert(name.parse().unwrap(), endpoint.into());
            }
            document
        },
    )
}

fn policies(document: &Document) -> Vec<Policy> {
    let lists = &Lists::from_document(document);
    let mut all: Vec<Policy> = both(document, lists, "", &Endpoint::default())
        .into_iter()
        .collect();
    all.extend(
        document
            .endpoints
            .iter()
            .flat_map(|(name, e)| both(document, lists, name.as_str(), e)),
    );
    all
}

fn all_rules(document: &Document) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut add = |list: &str, rules: &[Rule]| all.extend(rules.iter().map(|r| format!("{list}/{}", r.name)));
    add("mandatory", &document.mandatory);
    add("baseline", &document.baseline);
    for (name, profile) in &document.profiles {
        add(&format!("profiles/{name}"), &profile.rules);
    }
    for (name, endpoint) in &document.endpoints {
        add(&format!("endpoints/{name}"), &endpoint.rules);
    }
    all
}

/// The document without these rules.
fn less(document: &Document, gone: &BTreeSet<String>) -> Document {
    let keep = |list: &str, rules: &[Rule]| -> Vec<Rule> {
        rules
            .iter()
            .filter(|r| !gone.contains(&format!("{list}/{}", r.name)))
            .cloned()
            .collect()
    };
    let mut left = document.clone();
    left.mandatory = keep("mandatory", &document.mandatory).into();
    left.baseline = keep("baseline", &document.baseline).into();
    for (name, profile) in &document.profiles {
        let mut profile = Profile::clone(profile);
        profile.rules = keep(&format!("profiles/{name}"), &profile.rules);
        left.profiles.insert(name.clone(), profile.into());
    }
    for (name, endpoint) in &document.endpoints {
        let mut endpoint = Endpoint::clone(endpoint);
        endpoint.rules = keep(&format!("endpoints/{name}"), &endpoint.rules);
        left.endpoints.insert(name.clone(), endpoint.into());
    }
    left
}

fn all_actions(document: &Document) -> Vec<Vec<Verdict>> {
    policies(document).iter().map(|p| actions(&verdicts(p))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_document_is_judged_exactly(document in document()) {
        let policies = policies(&document);
        let with = all_actions(&document);
        let mut matched = BTreeSet::new();
        for policy in policies.iter().filter(|p| p.may_deny()) {
            let deciders = verdicts(policy).into_iter().map(|(_, decider)| policy.origin(decider));
            matched.extend(deciders);
        }
        let [never, redundant] = survey(&document, &mut BTreeSet::new()).idle();
        // Where nothing is denied, a verdict does not name every decider, but a rule changes nothing anyway.
        let permissive = policies.iter().any(|p| !p.may_deny());
        for rule in all_rules(&document) {
            let same = all_actions(&less(&document, &[rule.clone()].into())) == with;
            prop_assert!(!never.contains(&rule) || !matched.contains(&rule), "{rule} matches");
            prop_assert!(permissive || never.contains(&rule) != matched.contains(&rule), "{rule} never matches");
            if !never.contains(&rule) {
                prop_assert_eq!(redundant.contains(&rule), same, "{}", rule);
            }
        }
    }

    #[test]
    fn what_is_reported_can_go_together(document in document()) {
        let gone = findings(&document).into_iter();
        let gone = gone.filter(|f| matches!(f.kind, FindingKind::NeverMatches | FindingKind::Redundant));
        let gone: BTreeSet<String> = gone.map(|f| f.at).collect();
        prop_assert_eq!(all_actions(&less(&document, &gone)), all_actions(&document));
    }
}

/// A host's document: a baseline, 200 profiles of 20 rules, endpoints that bind three each and have a rule of their own.
fn usual(endpoints: usize) -> Document {
    let rule = |name: String, action: &str, direction: &str, port: usize, remote: Option<String>| -> Rule {
        serde_json::from_value(serde_json::json!({
            "name": name, "action": action, "direction": direction, "protocol": if port.is_multiple_of(5) { "udp" } else { "tcp" },
            "ports": [format!("{port}-{}", port + port % 3)], "remote": remote.into_iter().collect::<Vec<_>>(),
        }))
        .unwrap()
    };
    let mut document = Document::default();
    let mandatory = (0..10).map(|i| rule(format!("m{i}"), "deny", "egress", 25 + i, None));
    let baseline = (0..40).map(|i| rule(format!("b{i}"), "deny", "ingress", 20 + i * 7, None));
    document.mandatory = mandatory.collect::<Vec<_>>().into();
    document.baseline = baseline.collect::<Vec<_>>().into();
    for p in 0..200usize {
        let rules = (0..20).map(|i| {
            let remote = (i % 4 == 0).then(|| format!("10.{p}.{}.0/24", i * 3));
            rule(
                format!("r{i}"),
                if i % 6 == 5 { "deny" } else { "allow" },
                "ingress",
                (p * 13 + i * 97) % 60_000,
                remote,
            )
        });
        let mut profile = Profile {
            rules: rules.collect(),
            ..Profile::default()
        };
        profile.default.ingress = (p % 2 == 0).then_some(Verdict::Deny);
        document
            .profiles
            .insert(format!("p{p}").parse().unwrap(), profile.into());
    }
    for e in 0..endpoints {
        let profiles =
            [e % 200, (e * 7 + 1) % 200, (e * 31 + 2) % 200].map(|p| format!("p{p}").parse().unwrap());
        let own = rule("own".to_string(), "allow", "ingress", 1000 + e % 5000, None);
        let endpoint = Endpoint {
            profiles: profiles.to_vec(),
            rules: vec![own],
            ..Endpoint::default()
        };
        document
            .endpoints
            .insert(format!("e{e}").parse().unwrap(), endpoint.into());
    }
    document
}

#[test]
fn the_budget_is_for_the_unusual() {
    let (left, unknown) = survey(&usual(500), &mut BTreeSet::new()).left();
    assert_eq!(unknown, 0);
    let Budget { scans, steps } = Budget::WHOLE;
    assert!(
        left.steps > steps - steps / 20 && left.scans > scans - scans / 20,
        "{left:?}"
    );
    // A profile of 1,000 rules.
    let mut large = usual(1);
    let rules = large
        .profiles
        .values()
        .flat_map(|p| p.rules.clone())
        .take(1000)
        .enumerate();
    let rules = rules.map(|(i, rule)| Rule {
        name: format!("r{i}").parse().unwrap(),
        ..rule
    });
    let profile = Profile {
        rules: rules.collect(),
        ..Profile::default()
    };
    large.profiles.insert("p0".parse().unwrap(), profile.into());
    let (left, unknown) = survey(&large, &mut BTreeSet::new()).left();
    assert_eq!(unknown, 0);
    assert!(left.steps > steps / 2 && left.scans > scans / 2, "{left:?}");
}

#[test]
fn without_budget_nothing_is_said() {
    let policy = Policy {
        entries: [Matcher::everything(), Matcher::everything()]
            .map(|matcher| Entry {
                tier: Tier::Endpoint,
                origin: "a".into(),
                reason: "".into(),
                action: Verdict::Deny,
                matcher: matcher.into(),
            })
            .to_vec(),
        ..Policy::constant(Direction::Egress, Verdict::Allow)
    };
    for budget in [Budget { scans: 1, steps: 100 }, Budget { scans: 100, steps: 1 }] {
        let examined = Examined::new(&policy);
        assert_eq!(examined.standing(1, &mut budget.clone()), Standing::Unknown);
    }
}
