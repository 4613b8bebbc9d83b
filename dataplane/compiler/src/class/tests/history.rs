//! Documents that change in any way: a history resolves to what its last document resolves to from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_policy::{
    Direction, Document, Endpoint, Grant, GrantKind, Matcher, Name, PerDirection, Policy, Profile, Verdict,
    canonical, effective, unmanaged,
};
use proptest::prelude::*;

use super::*;

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

fn users(intent: &Intent, document: &Document) -> Users {
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
    // Profiles are users, too, where endpoints have rules or unlocks of their own beside them.
    for (name, endpoint) in &document.endpoints {
        if !endpoint.rules.is_empty() || document.grants.contains_key(name) {
            let class = |direction| {
                let policy = below(document, name, direction);
                let wanted = policy.may_deny().then(|| Fingerprint::from_policy(&policy));
                let same = intent
                    .classes
                    .values()
                    .find(|class| Some(class.fingerprint) == wanted);
                same.map_or(ClassId::OPEN, |class| class.id)
            };
            add(format!("{:?}", endpoint.profiles), PerDirection::from_fn(class));
        }
    }
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
fn bound_to(
    (before, was): (&Intent, &Users),
    (after, is): (&Intent, &Users),
    class: &Class,
) -> Option<ClassId> {
    if let Some(same) = before
        .classes
        .values()
        .find(|c| c.fingerprint == class.fingerprint)
    {
        return Some(same.id);
    }
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

/// What an endpoint would be without rules and unlocks of its own.
fn below(document: &Document, name: &Name, direction: Direction) -> Policy {
    let plain = Endpoint {
        profiles: document.endpoints[name].profiles.clone(),
        ..Endpoint::default()
    };
    canonical(&effective(document, "", &plain, direction))
}

/// The fingerprint of the class that an endpoint has to have, by what it is with and without its own rules.
fn wanted(document: &Document, now: &Document, name: &Name, direction: Direction) -> Option<Fingerprint> {
    let policy = effective(now, name.as_str(), &now.endpoints[name], direction);
    let own = policy
        .may_deny()
        .then(|| Fingerprint::from_policy(&canonical(&policy)))?;
    let below = below(document, name, direction);
    let base = below.may_deny().then(|| Fingerprint::from_policy(&below));
    Some(match base.filter(|base| *base != own) {
        Some(base) => own.over(base),
        None => own,
    })
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
            all.push(below(document, name, direction));
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
    #![proptest_config(ProptestConfig::with_cases(500))]

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
                prop_assert_eq!(users(&again, &document), users(&before, &document));
                before = again;
            }
            if thrown_away {
                let mut other = document.clone();
                Change::Baseline(vec![1, 7]).apply(&mut other);
                compiler.clone().resolve(&other, generation).unwrap();
            }
            let was = users(&before, &document);
            changes.iter().for_each(|change| change.apply(&mut document));
            let intent = compiler.resolve_in_place(&document, generation, &|_, _| true).unwrap();
            let anew = Compiler::default().resolve(&document, generation).unwrap();
            prop_assert_eq!(essence(&intent), essence(&anew));
            let is = users(&intent, &document);
            let had = is.iter().filter(|((who, _), _)| !who.starts_with('['));
            let had: BTreeSet<ClassId> = had.map(|(_, id)| *id).collect();
            for id in intent.classes.keys() {
                prop_assert_eq!(intent.bases_only.contains(id), !had.contains(id));
            }
            prop_assert!(intent.bases_only.iter().all(|id| intent.classes.contains_key(id)));
            let fingerprints = |i: &Intent| i.classes.values().map(|c| c.fingerprint).collect::<BTreeSet<_>>();
            prop_assert_eq!(fingerprints(&intent), fingerprints(&anew));

            for (name, endpoint) in &intent.endpoints {
                let expected = transitions(&document, name);
                prop_assert_eq!(endpoint.transitions.len(), expected.len());
                let whole = document.clone();
                for (direction, id) in endpoint.classes.each() {
                    prop_assert_eq!(fingerprint(&intent, id), wanted(&whole, &whole, name, direction));
                }
                for (transition, (at, document)) in endpoint.transitions.iter().zip(expected) {
                    prop_assert_eq!(transition.at, at);
                    for (direction, id) in transition.classes.each() {
                        prop_assert_eq!(fingerprint(&intent, id), wanted(&whole, &document, name, direction));
                    }
                }
            }

            let members = policies(&document);
            for (id, class) in &intent.classes {
                prop_assert_eq!(*id, class.id);
                let own = Fingerprint::from_policy(&class.policy);
                let base = class.base.as_ref().map(|base| base.fingerprint);
                prop_assert_eq!(base.map_or(own, |base| own.over(base)), class.fingerprint);
                if let Some(base) = &class.base {
                    prop_assert_eq!(fingerprint(&intent, base.id), Some(base.fingerprint));
                    prop_assert!(base.base.is_none());
                }
                prop_assert!(members.contains(&class.policy), "a member's own names: {:?}", class.policy);
                match bound_to((&before, &was), (&intent, &is), class) {
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
