use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_policy::{
    Direction, Document, Entry, Families, Family, FlagMatch, IcmpMatch, Matcher, Policy, PortRange, Protocol,
    Ranges, Tier, Verdict,
};

use super::*;

mod history;

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
    assert_eq!(
        before.endpoints["a"].classes.ingress,
        after.endpoints["a"].classes.ingress
    );
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
