use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_policy::{
    Direction, Document, Endpoint, Entry, Families, Family, FlagMatch, Grant, GrantKind, IcmpMatch, Matcher,
    Name, PerDirection, Policy, PortRange, Profile, Protocol, Ranges, Tier, Verdict, canonical, effective,
    unmanaged,
};
use proptest::prelude::*;

use super::*;

fn document(endpoints: &[(&str, &str)]) -> Document {
    let mut text = "version: portcullis/v1\nprofiles: {p: {default: {ingress: deny}}, q: {default: {egress: deny}}}\nendpoints:\n  zz: {}\n".to_string();
    for (name, profile) in endpoints {
        text.push_str(&format!("  {name}: {{profiles: [{profile}]}}\n"));
    }
    Document::from_yaml(&text).unwrap()
}

fn yaml(text: &str) -> Document {
    Document::from_yaml(&format!("version: portcullis/v1\n{text}")).unwrap()
}

fn fingerprint(intent: &Intent, id: ClassId) -> Option<Fingerprint> {
    intent.classes.get(&id).map(|c| c.fingerprint)
}

/// An intent without ids.
fn essence(intent: &Intent) -> Vec<(String, Vec<Option<Fingerprint>>)> {
    let of = |e: &Arc<EndpointIntent>| {
        let transitions = e.transitions.iter().flat_map(|f| f.classes);
        let all = e.classes.into_iter().chain(transitions);
        all.map(|id| fingerprint(intent, id)).collect()
    };
    let endpoints = intent.endpoints.iter().map(|(name, e)| (name.to_string(), of(e)));
    let unmanaged = intent.unmanaged.map(|id| fingerprint(intent, id));
    let unmanaged = unmanaged.into_iter().collect();
    endpoints
        .chain([("(unmanaged)".to_string(), unmanaged)])
        .collect()
}

#[test]
fn what_is_taken_over_is_what_would_be_resolved_anew() {
    let mut compiler = Compiler::default();
    let steps: [&[(&str, &str)]; 7] = [
        &[("b", "p"), ("d", "q")],
        &[("a", "q"), ("b", "p"), ("c", "p"), ("d", "q")],
        &[("a", "q"), ("b", "q"), ("d", "q")],
        &[("d", "q")],
        &[],
        &[("a", "p"), ("zzz", "q")],
        &[("a", "p"), ("zzz", "p")],
    ];
    for (generation, step) in (1..).zip(steps) {
        let document = document(step);
        let intent = compiler.resolve(&document, generation).unwrap();
        let anew = Compiler::default().resolve(&document, generation).unwrap();
        assert_eq!(essence(&intent), essence(&anew), "{step:?}");
        assert_eq!(intent.classes.len(), anew.classes.len(), "{step:?}");
    }
}

#[test]
fn what_did_not_change_is_the_very_same() {
    let mut compiler = Compiler::default();
    let before = compiler.resolve(&document(&[("a", "p"), ("b", "p")]), 1).unwrap();
    let after = compiler.resolve(&document(&[("a", "p"), ("b", "q")]), 2).unwrap();
    assert!(Arc::ptr_eq(&before.endpoints["a"], &after.endpoints["a"]));
    assert_ne!(before.endpoints["b"], after.endpoints["b"]);
    assert_eq!(before.endpoints["a"].ingress, after.endpoints["a"].ingress);
    assert_eq!(after.changed.since, 1);
    assert_eq!(after.changed.endpoints, ["b".parse().unwrap()]);
}

#[test]
fn names_and_order_make_no_class() {
    let text = "
profiles:
  one: {rules: [{name: a, action: deny, direction: egress, protocol: tcp, ports: [25]},
                {name: b, action: deny, direction: egress, protocol: udp, ports: [53], reason: why}]}
  two: {rules: [{name: c, action: deny, direction: egress, protocol: udp, ports: [53]},
                {name: d, action: deny, direction: egress, protocol: tcp, ports: [25]},
                {name: e, action: allow, direction: egress, protocol: tcp, ports: [25]}]}
endpoints:
  x: {profiles: [one]}
  y: {profiles: [two]}
  z: {rules: [{name: f, action: deny, direction: egress, protocol: tcp, ports: [25]},
              {name: g, action: deny, direction: egress, protocol: udp, ports: [53]}]}
";
    let intent = Compiler::default().resolve(&yaml(text), 1).unwrap();
    let ids: BTreeSet<ClassId> = intent.endpoints.values().map(|e| e.classes.egress).collect();
    assert_eq!((ids.len(), intent.classes.len()), (1, 1));
    // The names are those of whose policy came first.
    let class = intent.classes.values().next().unwrap();
    let names: Vec<&str> = class.policy.entries.iter().map(|e| &*e.origin).collect();
    assert_eq!(names, ["profiles/one/a", "profiles/one/b"]);
}

/// Each of these differs from the first in one thing that some packet shows.
#[test]
fn whatever_a_packet_could_tell_makes_another_class() {
    let port = |low, high| Ranges::from_ports(&[PortRange { low, high }]);
    let net = |text: &str| vec![text.parse().unwrap()];
    let kind = |kind, code| Some(IcmpMatch { kind, code });
    let tcp = Matcher {
        families: Families::only(Family::V4),
        protocol: Protocol::Number(Protocol::TCP),
        dst_ports: port(25, 26),
        src_ports: port(7, 8),
        remote: net("192.0.2.0/24"),
        local: net("198.51.100.0/24"),
        ..Matcher::everything()
    };
    let icmp = Matcher {
        protocol: Protocol::Number(Protocol::ICMP),
        icmp: kind(8, Some(0)),
        ..Matcher::everything()
    };
    let other = |change: fn(&mut Matcher)| {
        let mut matcher = tcp.clone();
        change(&mut matcher);
        matcher
    };
    let mut matchers = vec![
        other(|m| m.families = Families { v4: true, v6: true }),
        other(|m| m.protocol = Protocol::Number(Protocol::UDP)),
        other(|m| m.protocol = Protocol::Any),
        other(|m| m.flags = FlagMatch::NotOpening),
        other(|m| m.fragments = false),
        other(|m| m.dst_ports = Ranges::all()),
        other(|m| m.src_ports = Ranges::all()),
        other(|m| m.remote.clear()),
        other(|m| m.local.clear()),
    ];
    matchers.extend([(25, 27), (24, 26)].map(|(low, high)| Matcher {
        dst_ports: port(low, high),
        ..tcp.clone()
    }));
    matchers.extend([(7, 9), (6, 8)].map(|(low, high)| Matcher {
        src_ports: port(low, high),
        ..tcp.clone()
    }));
    for prefix in ["192.0.3.0/24", "192.0.2.0/25", "2001:db8::/32"] {
        matchers.push(Matcher {
            remote: net(prefix),
            ..tcp.clone()
        });
        matchers.push(Matcher {
            local: net(prefix),
            ..tcp.clone()
        });
    }
    matchers.extend(
        [None, kind(8, None), kind(8, Some(1)), kind(0, Some(0))].map(|kind| Matcher {
            icmp: kind,
            ..icmp.clone()
        }),
    );
    matchers.extend([tcp, icmp]);
    let policy = |action, matcher: &Matcher| Policy {
        entries: vec![Entry {
            tier: Tier::Baseline,
            origin: "baseline/r".into(),
            reason: "".into(),
            action,
            matcher: Arc::new(matcher.clone()),
        }],
        ..Policy::constant(Direction::Egress, Verdict::Allow)
    };
    let denies = matchers.iter().map(|matcher| policy(Verdict::Deny, matcher));
    let mut policies: Vec<Policy> = denies.collect();
    policies.push(policy(Verdict::Allow, &matchers[0]));
    let first = policies[0].clone();
    policies.push(Policy {
        default: Verdict::Deny,
        ..first.clone()
    });
    policies.push(Policy {
        direction: Direction::Ingress,
        ..first.clone()
    });
    policies.push(Policy {
        five_tuple: true,
        ..first
    });
    let mut seen: BTreeMap<Fingerprint, &Policy> = BTreeMap::new();
    for policy in &policies {
        if let Some(same) = seen.insert(Fingerprint::of_canonical(policy), policy) {
            panic!("one class for {policy:?} and {same:?}");
        }
    }
}

#[test]
fn addresses_of_dhcp_servers_are_in_everybodys_policy() {
    let with = |dhcp: &str| {
        yaml(&format!(
            "defaults: {{egress: deny}}\nreserved: {{dhcp: [{dhcp}]}}\nendpoints: {{a: {{}}}}"
        ))
    };
    let mut compiler = Compiler::default();
    let before = compiler.resolve(&with("192.0.2.1"), 1).unwrap();
    let document = with("192.0.2.2");
    let after = compiler.resolve(&document, 2).unwrap();
    let anew = Compiler::default().resolve(&document, 2).unwrap();
    assert_eq!(essence(&after), essence(&anew));
    assert_ne!(essence(&after), essence(&before));
}

#[test]
fn a_class_never_bears_names_that_are_gone() {
    let with = |endpoints: &str, rule: &str| {
        yaml(&format!(
            "profiles: {{p: {{rules: [{{name: {rule}, action: deny, direction: egress, protocol: tcp, ports: [25]}}]}}}}\n\
             endpoints: {{{endpoints}}}"
        ))
    };
    let own = "b: {rules: [{name: own, action: deny, direction: egress, protocol: tcp, ports: [25]}]}";
    let mut compiler = Compiler::default();
    let mut names = |document: &Document, generation: u64| {
        let intent = compiler.resolve(document, generation).unwrap();
        let class = intent.classes.values().next().unwrap();
        (
            class.id.0,
            class.policy.entries[0].origin.to_string(),
            intent.changed.classes.len(),
        )
    };
    let both = format!("a: {{profiles: [p]}}, {own}");
    assert_eq!(
        names(&with(&both, "smtp"), 1),
        (1, "profiles/p/smtp".to_string(), 1)
    );
    assert_eq!(
        names(&with(&both, "mail"), 2),
        (1, "profiles/p/mail".to_string(), 1)
    );
    assert_eq!(
        names(&with(own, "mail"), 3),
        (1, "endpoints/b/own".to_string(), 1)
    );
    // Whoever comes later changes no names.
    assert_eq!(
        names(&with(&both, "mail"), 4),
        (1, "endpoints/b/own".to_string(), 0)
    );
}

/// Ids of the egress class of `a` before and after.
fn succession(before: &str, after: &str) -> (ClassId, ClassId) {
    let mut compiler = Compiler::default();
    let first = compiler.resolve(&yaml(before), 1).unwrap();
    // Nothing is edited in place unless that is allowed.
    let anew = compiler.clone().resolve(&yaml(after), 2).unwrap();
    let fingerprints = |i: &Intent, id: ClassId| i.classes.get(&id).map(|c| c.fingerprint);
    let kept = anew.classes.keys().filter(|id| first.classes.contains_key(*id));
    kept.for_each(|id| assert_eq!(fingerprints(&anew, *id), fingerprints(&first, *id)));
    let second = compiler.resolve_in_place(&yaml(after), 2, &|_, _| true).unwrap();
    let pair = (
        first.endpoints["a"].classes.egress,
        second.endpoints["a"].classes.egress,
    );
    let gone = pair.0 != ClassId::OPEN && !second.classes.contains_key(&pair.0);
    assert_eq!(compiler.released().contains_key(&pair.0), gone);
    pair
}

#[test]
fn a_class_is_edited_in_place_when_all_of_it_moves_and_prefixes_stay() {
    let rule = |rest: &str| {
        format!(
            "{{name: r{}, action: deny, direction: egress, {rest}}}",
            rest.len()
        )
    };
    let p = |rules: &[String]| format!("profiles: {{p: {{rules: [{}]}}, q: {{}}}}\n", rules.join(", "));
    let (smtp, more) = (
        rule("protocol: tcp, ports: [25]"),
        rule("protocol: tcp, ports: [25, 465]"),
    );
    let near = rule("protocol: tcp, ports: [80], remote: [192.0.2.0/24]");
    let far = rule("protocol: tcp, ports: [80], remote: [198.51.100.0/24]");
    let here = rule("protocol: udp, local: [192.0.2.9]");
    let a = "endpoints: {a: {profiles: [p]}, b: {profiles: [p]}}";
    let is = |before: String, after: String| {
        let (first, second) = succession(&before, &after);
        first == second
    };
    let with = |rules: &[&String]| p(&rules.iter().map(|r| (*r).clone()).collect::<Vec<_>>());
    assert!(is(with(&[&smtp]) + a, with(&[&more]) + a));
    assert!(is(with(&[&smtp, &near]) + a, with(&[&near, &more]) + a));
    // Another prefix, or one more, is another way to the rows.
    assert!(!is(with(&[&smtp, &near]) + a, with(&[&smtp, &far]) + a));
    assert!(!is(with(&[&smtp]) + a, with(&[&smtp, &here]) + a));
    // One stays, one comes, one goes.
    let own = format!("endpoints: {{a: {{profiles: [p]}}, b: {{rules: [{smtp}]}}}}");
    assert!(!is(with(&[&smtp]) + a, with(&[&more]) + &own));
    let c = "endpoints: {a: {profiles: [p]}, b: {profiles: [p]}, c: {profiles: [p]}}";
    assert!(!is(with(&[&smtp]) + a, with(&[&more]) + c));
    assert!(!is(with(&[&smtp]) + c, with(&[&more]) + a));
    // The policy is another class's already.
    let taken = format!("endpoints: {{a: {{profiles: [p]}}, b: {{profiles: [q], rules: [{more}]}}}}");
    assert!(!is(with(&[&smtp]) + &taken, with(&[&more]) + &taken));
    // What is denied to nobody is the open class, which is never edited.
    assert!(!is(with(&[&smtp]) + a, with(&[]) + a));
    assert!(!is(with(&[]) + a, with(&[&smtp]) + a));
    // Ports without an endpoint count.
    let base = |rule: &str, rest: &str| format!("baseline: [{rule}]\n{rest}");
    assert!(is(
        base(&smtp, "endpoints: {a: {}}"),
        base(&more, "endpoints: {a: {}}")
    ));
    assert!(!is(
        base(&smtp, "endpoints: {a: {}}"),
        base(&more, "unmanaged: allow\nendpoints: {a: {}}")
    ));
    // From rules of its own to a profile of its own it is still all of it.
    let mine = format!(
        "unmanaged: allow\n{}endpoints: {{a: {{rules: [{smtp}]}}}}",
        with(&[&more])
    );
    let profiled = format!(
        "unmanaged: allow\n{}endpoints: {{a: {{profiles: [p]}}}}",
        with(&[&more])
    );
    assert!(is(mine, profiled));
}

#[test]
fn ids_are_used_again_only_when_they_are_confirmed_gone() {
    let with = |ports: &[u16]| {
        let one = |p: &u16| {
            format!(
                "e{p}: {{rules: [{{name: r, action: deny, direction: egress, protocol: tcp, ports: [{p}], remote: [192.0.2.{}]}}]}}",
                p % 200
            )
        };
        yaml(&format!(
            "endpoints: {{{}}}",
            ports.iter().map(one).collect::<Vec<_>>().join(", ")
        ))
    };
    let ids = |intent: &Intent| intent.classes.keys().map(|id| id.0).collect::<Vec<_>>();
    let mut compiler = Compiler::default();
    compiler.limit(3);
    assert_eq!(ids(&compiler.resolve(&with(&[1, 2]), 1).unwrap()), [1, 2]);
    assert_eq!(ids(&compiler.resolve(&with(&[2, 3]), 2).unwrap()), [2, 3]);
    assert_eq!(
        compiler.released().iter().collect::<Vec<_>>(),
        [(&ClassId(1), &2)]
    );
    let error = compiler.resolve(&with(&[2, 3, 4]), 3).unwrap_err();
    assert_eq!((error.limit, error.unconfirmed), (3, 1));
    // Nothing was changed by that, whether the compiler goes on or is made again from what was persisted.
    let known = || [(ClassId(2), 2), (ClassId(3), 3)];
    let intent = compiler.resolve(&with(&[2, 3]), 3).unwrap();
    assert_eq!(ids(&intent), known().map(|(id, _)| id.0));
    let persisted: Vec<(Fingerprint, ClassId)> =
        intent.classes.values().map(|c| (c.fingerprint, c.id)).collect();
    let released: Vec<(ClassId, u64)> = compiler.released().iter().map(|(id, g)| (*id, *g)).collect();
    let mut again = Compiler::new(compiler.next_id(), persisted, released);
    again.limit(3);
    assert_eq!(ids(&again.resolve(&with(&[2, 3]), 3).unwrap()), [2, 3]);
    for mut compiler in [compiler, again] {
        assert!(compiler.resolve(&with(&[2, 3, 4]), 4).is_err());
        compiler.confirm_gone([ClassId(1), ClassId(2)]);
        let intent = compiler.resolve(&with(&[2, 3, 4]), 4).unwrap();
        assert_eq!(ids(&intent), [1, 2, 3]);
        assert_eq!(intent.endpoints["e4"].classes.egress, ClassId(1));
        // What goes is not free in the same moment.
        assert!(compiler.resolve(&with(&[2, 3, 5]), 5).is_err());
    }
}

#[test]
fn a_restart_keeps_ids_and_forgets_nothing() {
    let documents = [document(&[("a", "p"), ("b", "q")]), document(&[("a", "p")])];
    let mut compiler = Compiler::default();
    let before = compiler.resolve(&documents[0], 4).unwrap();
    let persisted = || before.classes.values().map(|c| (c.fingerprint, c.id));
    let mut same = Compiler::new(compiler.next_id(), persisted(), []);
    let after = same.resolve(&documents[0], 4).unwrap();
    assert_eq!(after.endpoints, before.endpoints);
    assert!(same.released().is_empty());
    // A newer version may see other classes in the same policy.
    let mut other = Compiler::new(compiler.next_id(), persisted(), []);
    let fewer = other.resolve(&documents[1], 4).unwrap();
    assert_eq!(fewer.endpoints["a"], before.endpoints["a"]);
    assert_eq!(
        other.released().iter().collect::<Vec<_>>(),
        [(&before.endpoints["b"].classes.egress, &4)]
    );
    assert_eq!(other.next_id(), 3);
}

const RULES: [&str; 10] = [
    r#"{"name": "a", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]}"#,
    r#"{"name": "b", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25, 465]}"#,
    r#"{"name": "c", "action": "allow", "direction": "egress", "protocol": "tcp", "ports": [25], "remote": ["192.0.2.1"]}"#,
    r#"{"name": "d", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [80]}"#,
    r#"{"name": "e", "action": "deny", "direction": "ingress"}"#,
    r#"{"name": "f", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]}"#,
    r#"{"name": "g", "action": "allow", "direction": "egress", "protocol": "udp", "ports": [53]}"#,
    r#"{"name": "h", "action": "deny", "direction": "egress", "protocol": "udp", "ports": ["1-100"]}"#,
    r#"{"name": "i", "action": "deny", "direction": "ingress", "protocol": "tcp", "local": ["192.0.2.9"]}"#,
    r#"{"name": "j", "action": "deny", "direction": "egress", "protocol": "icmpv6"}"#,
];

/// What one change does to a document.
#[derive(Debug, Clone)]
enum Change {
    Endpoint(u8, Vec<u8>, Vec<usize>, bool),
    Remove(u8),
    Profile(u8, Vec<usize>, Option<Verdict>),
    Baseline(Vec<usize>),
    Mandatory(Vec<usize>),
    Unmanaged(u8),
    Default(bool),
    /// What is granted to an endpoint: rules, end, kind.
    Grants(u8, Vec<(usize, u64, GrantKind)>),
}

fn rules(which: &[usize]) -> Vec<portcullis_policy::Rule> {
    which
        .iter()
        .map(|i| serde_json::from_str(RULES[*i]).unwrap())
        .collect()
}

fn name(text: &str, n: u8) -> Name {
    format!("{text}{n}").parse().unwrap()
}

impl Change {
    fn apply(&self, document: &mut Document) {
        match self {
            Change::Endpoint(n, profiles, own, guard) => {
                let bound = profiles
                    .iter()
                    .map(|p| name("p", *p))
                    .filter(|p| document.profiles.contains_key(p));
                let endpoint = Endpoint {
                    profiles: bound.collect(),
                    rules: rules(own),
                    source_guard: *guard,
                    ..Endpoint::default()
                };
                document.endpoints.insert(name("e", *n), Arc::new(endpoint));
            }
            Change::Remove(n) => {
                document.endpoints.remove(&name("e", *n));
            }
            Change::Profile(n, which, ingress) => {
                let mut profile = Profile {
                    rules: rules(which),
                    ..Profile::default()
                };
                profile.default.ingress = *ingress;
                document.profiles.insert(name("p", *n), Arc::new(profile));
            }
            Change::Baseline(which) => document.baseline = Arc::new(rules(which)),
            Change::Mandatory(which) => document.mandatory = Arc::new(rules(which)),
            Change::Unmanaged(n) => {
                use portcullis_policy::Unmanaged::{Allow, Baseline, Deny};
                document.unmanaged = [Baseline, Allow, Deny][usize::from(*n)];
            }
            Change::Grants(n, grants) => {
                let grant = |(index, (rule, ends, kind)): (usize, &(usize, u64, GrantKind))| match kind {
                    GrantKind::Bypass => Grant::bypass(&name("e", *n), "why", *ends),
                    kind => Grant {
                        unlock: name("u", index as u8),
                        program: name("g", *n),
                        rules: rules(&[*rule]),
                        kind: *kind,
                        ends: *ends,
                    },
                };
                let grants: Vec<Grant> = grants.iter().enumerate().map(grant).collect();
                match grants.as_slice() {
                    [] => document.grants.remove(&name("e", *n)),
                    _ => document.grants.insert(name("e", *n), Arc::new(grants)),
                };
            }
            Change::Default(deny) => {
                document.defaults.egress = if *deny { Verdict::Deny } else { Verdict::Allow };
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let some = |most: usize| {
        proptest::sample::subsequence((0..RULES.len()).collect::<Vec<_>>(), 0..=most).prop_shuffle()
    };
    let bound = || proptest::sample::subsequence(vec![0u8, 1, 2], 0..=2).prop_shuffle();
    let own = prop_oneof![2 => Just(Vec::new()), 1 => some(2)];
    prop_oneof![
        8 => (0u8..5, bound(), own, any::<bool>()).prop_map(|(n, p, r, g)| Change::Endpoint(n, p, r, g)),
        2 => (0u8..5).prop_map(Change::Remove),
        6 => (0u8..3, some(3), proptest::option::of(Just(Verdict::Deny))).prop_map(|(n, r, d)| Change::Profile(n, r, d)),
        2 => some(2).prop_map(Change::Baseline),
        1 => some(1).prop_map(Change::Mandatory),
        1 => (0u8..3).prop_map(Change::Unmanaged),
        1 => any::<bool>().prop_map(Change::Default),
        5 => (0u8..5, proptest::collection::vec((0..RULES.len(), 1u64..4, prop_oneof![4 => Just(GrantKind::Unlock), 2 => Just(GrantKind::Quarantine), 1 => Just(GrantKind::Bypass)]), 0..4))
            .prop_map(|(n, grants)| Change::Grants(n, grants)),
    ]
}

/// Who uses which class in which direction; ports without an endpoint have no name.
type Users = BTreeMap<(String, Direction), ClassId>;

fn users(intent: &Intent) -> Users {
    let mut users = Users::new();
    let mut add = |name: String, classes: PerDirection<ClassId>| {
        users.extend(
            classes
                .each()
                .map(|(direction, id)| ((name.clone(), direction), id)),
        );
    };
    for (name, e) in &intent.endpoints {
        add(name.to_string(), e.classes);
        for (number, transition) in e.transitions.iter().enumerate() {
            add(format!("{name} {number}"), transition.classes);
        }
    }
    add(String::new(), intent.unmanaged);
    users
}

fn prefixed(policy: &Policy) -> Vec<(Verdict, Matcher)> {
    let named = policy
        .entries
        .iter()
        .filter(|e| !e.matcher.remote.is_empty() || !e.matcher.local.is_empty());
    let mut list: Vec<_> = named.map(|e| (e.action, Matcher::clone(&e.matcher))).collect();
    list.sort();
    list
}

/// The id a class of `after` has to have because of `before`, if any.
fn bound_to(before: &Intent, after: &Intent, class: &Class) -> Option<ClassId> {
    if let Some(same) = before
        .classes
        .values()
        .find(|c| c.fingerprint == class.fingerprint)
    {
        return Some(same.id);
    }
    let (was, is) = (users(before), users(after));
    let movers: BTreeSet<Option<&ClassId>> = is
        .iter()
        .filter(|(_, id)| **id == class.id)
        .map(|(who, _)| was.get(who))
        .collect();
    let [Some(from)] = movers.into_iter().collect::<Vec<_>>()[..] else {
        return None;
    };
    let all = was
        .iter()
        .filter(|(_, id)| *id == from)
        .all(|(who, _)| is.get(who) == Some(&class.id));
    let old = before.classes.get(from).filter(|_| all)?;
    // Somebody else has the old policy now, and with it the id.
    if after.classes.values().any(|c| c.fingerprint == old.fingerprint) {
        return None;
    }
    (old.policy.direction == class.policy.direction && prefixed(&old.policy) == prefixed(&class.policy))
        .then_some(*from)
}

/// Every policy of a document in canonical form.
fn policies(document: &Document) -> Vec<Policy> {
    let mut all = Vec::new();
    for direction in Direction::BOTH {
        all.push(canonical(&unmanaged(document, direction)));
        for (name, endpoint) in &document.endpoints {
            all.push(canonical(&effective(
                document,
                name.as_str(),
                endpoint,
                direction,
            )));
        }
    }
    for name in document.endpoints.keys() {
        for (_, document) in transitions(document, name) {
            let endpoint = &document.endpoints[name];
            let own = |d| canonical(&effective(&document, name.as_str(), endpoint, d));
            all.extend(PerDirection::from_fn(own));
        }
    }
    all
}

/// The moments at which unlocks of an endpoint end, and the document without those that have.
fn transitions(document: &Document, name: &Name) -> Vec<(u64, Document)> {
    let grants = document.grants.get(name).map_or(Vec::new(), |g| g.to_vec());
    let ends: BTreeSet<u64> = grants.iter().filter(|g| !g.closes()).map(|g| g.ends).collect();
    let without = |end: u64| {
        let left: Vec<Grant> = grants
            .iter()
            .filter(|g| g.closes() || g.ends > end)
            .cloned()
            .collect();
        let mut document = document.clone();
        document.grants.insert(name.clone(), Arc::new(left));
        document
    };
    ends.into_iter().map(|end| (end, without(end))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn any_history_comes_to_what_its_end_says(
        history in proptest::collection::vec((proptest::collection::vec(change(), 1..4), any::<bool>(), any::<bool>()), 1..14)
    ) {
        let mut document = Document::default();
        let mut compiler = Compiler::default();
        let mut before = compiler.resolve(&document, 0).unwrap();
        let mut used: BTreeSet<ClassId> = BTreeSet::new();
        for (generation, (changes, thrown_away, restart)) in (1u64..).zip(history) {
            if restart {
                let known: Vec<_> = before.classes.values().map(|c| (c.fingerprint, c.id)).collect();
                let released: Vec<_> = compiler.released().iter().map(|(id, g)| (*id, *g)).collect();
                compiler = Compiler::new(compiler.next_id(), known, released);
                let again = compiler.resolve(&document, generation - 1).unwrap();
                prop_assert_eq!(users(&again), users(&before));
                before = again;
            }
            if thrown_away {
                let mut other = document.clone();
                Change::Baseline(vec![1, 7]).apply(&mut other);
                compiler.clone().resolve(&other, generation).unwrap();
            }
            changes.iter().for_each(|change| change.apply(&mut document));
            let intent = compiler.resolve_in_place(&document, generation, &|_, _| true).unwrap();
            let anew = Compiler::default().resolve(&document, generation).unwrap();
            prop_assert_eq!(essence(&intent), essence(&anew));
            let fingerprints = |i: &Intent| i.classes.values().map(|c| c.fingerprint).collect::<BTreeSet<_>>();
            prop_assert_eq!(fingerprints(&intent), fingerprints(&anew));

            for (name, endpoint) in &intent.endpoints {
                let expected = transitions(&document, name);
                prop_assert_eq!(endpoint.transitions.len(), expected.len());
                for (transition, (at, document)) in endpoint.transitions.iter().zip(expected) {
                    prop_assert_eq!(transition.at, at);
                    for (direction, id) in transition.classes.each() {
                        let policy = effective(&document, name.as_str(), &document.endpoints[name], direction);
                        let wanted = policy.may_deny().then(|| Fingerprint::from_policy(&canonical(&policy)));
                        prop_assert_eq!(fingerprint(&intent, id), wanted);
                    }
                }
            }

            let members = policies(&document);
            for (id, class) in &intent.classes {
                prop_assert_eq!(*id, class.id);
                prop_assert_eq!(Fingerprint::from_policy(&class.policy), class.fingerprint);
                prop_assert!(members.contains(&class.policy), "a member's own names: {:?}", class.policy);
                match bound_to(&before, &intent, class) {
                    Some(bound) => prop_assert_eq!(*id, bound),
                    None => prop_assert!(!used.contains(id), "{} is another's", id),
                }
                used.insert(*id);
            }
            let gone: BTreeSet<ClassId> = used.iter().filter(|id| !intent.classes.contains_key(*id)).copied().collect();
            prop_assert_eq!(compiler.released().keys().copied().collect::<BTreeSet<_>>(), gone);

            let endpoints: BTreeSet<Name> =
                intent.endpoints.keys().chain(before.endpoints.keys()).filter(|n| intent.endpoints.get(*n) != before.endpoints.get(*n)).cloned().collect();
            let classes: BTreeSet<ClassId> =
                intent.classes.keys().chain(before.classes.keys()).filter(|c| intent.classes.get(*c) != before.classes.get(*c)).copied().collect();
            prop_assert_eq!(intent.changed.since, before.generation);
            prop_assert_eq!(&intent.changed.endpoints, &endpoints.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(&intent.changed.classes, &classes.into_iter().collect::<Vec<_>>());
            before = intent;
        }
    }
}
