//! Overlays: what an endpoint's own rules and unlocks add to the rows of its profiles.

use crate::support;

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_compiler::model::{Field, KeyModel, MatchKind, Role};
use portcullis_compiler::proof::deciding_row;
use portcullis_compiler::{Class, ClassId, ClassRows, Compiler, Fingerprint, RowCache, StageModel};
use portcullis_policy::{Direction, Document, Endpoint, Policy, canonical, effective};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::json;
use support::{document, packet};

/// Every built-in model, with a key for overlays in its policy tables.
fn models() -> Vec<StageModel> {
    let with_key = |name| {
        let mut model = StageModel::named(name).unwrap();
        for table in model.tables.iter_mut().filter(|t| t.stage == Role::Policy) {
            if table.key(Field::Class).is_some() && table.key(Field::Overlay).is_none() {
                table.keys.push(KeyModel {
                    field: Field::Overlay,
                    kind: MatchKind::Ternary,
                    width: 32,
                });
            }
        }
        model
    };
    StageModel::names().into_iter().map(with_key).collect()
}

/// The class of endpoint `e`, over what it is without rules of its own.
fn class(document: &Document, direction: Direction) -> Option<Class> {
    let endpoint = &document.endpoints["e"];
    let plain = Endpoint {
        rules: Vec::new(),
        ..Endpoint::clone(endpoint)
    };
    let of = |endpoint: &Endpoint| canonical(&effective(document, "e", endpoint, direction));
    let (below, policy) = (of(&plain), of(endpoint));
    let [base, own] = [&below, &policy].map(Fingerprint::from_policy);
    let base = Class {
        id: ClassId(1),
        policy: below,
        fingerprint: base,
        base: None,
    };
    let class = Class {
        id: ClassId(2),
        policy,
        fingerprint: own.over(base.fingerprint),
        base: Some(Arc::new(base)),
    };
    let over = class.base.as_ref()?;
    (class.policy.may_deny() && over.policy.may_deny() && own != over.fingerprint).then_some(class)
}

fn says(policy: &Policy, rows: &ClassRows, cache: &RowCache, packet: &portcullis_policy::Packet) -> bool {
    let model = cache.model();
    let got = deciding_row(rows, cache.fixed(), packet, model).map(|(_, action)| action);
    got == Some(policy.judge(packet, model.view).0)
}

proptest! {
    #![proptest_config(Config { cases: 500, ..Config::default() })]

    #[test]
    fn an_overlay_makes_its_base_the_class(document in document(), packets in prop::collection::vec(packet(), 40)) {
        for model in models() {
            let name = model.name.clone();
            let mut cache = RowCache::new(model);
            for direction in Direction::BOTH {
                let Some(class) = class(&document, direction) else { continue };
                // Proved before it is handed out.
                let rows = match cache.whole(&class) {
                    Ok(rows) => rows,
                    Err(portcullis_compiler::CompileError::Unsupported(_)) if name == "acl-ternary" => continue,
                    Err(error) => return Err(TestCaseError::fail(format!("{name}: {error}\n{class:#?}"))),
                };
                for packet in &packets {
                    prop_assert!(says(&class.policy, &rows, &cache, packet), "{name}: {packet:?}\n{class:#?}\n{rows:#?}");
                }
            }
        }
    }
}

/// What an own rule of an endpoint with the profile `web` adds in both directions.
fn added(model: &str, defaults: [&str; 2], rule: serde_json::Value) -> BTreeMap<Direction, ClassRows> {
    let document = json!({
        "version": "portcullis/v1",
        "defaults": {"egress": defaults[0], "ingress": defaults[1]},
        "baseline": [
            {"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25, 465, 587]},
            {"name": "smb", "action": "deny", "direction": "ingress", "protocol": "tcp", "ports": [445]},
        ],
        "profiles": {"web": {"rules": [
            {"name": "http", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [80, 443]},
            {"name": "dns", "action": "allow", "direction": "egress", "protocol": "udp", "ports": [53]},
            {"name": "admin", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [22], "remote": ["192.0.2.0/24"]},
        ]}},
        "endpoints": {"e": {"profiles": ["web"], "rules": [rule]}},
    });
    let document = Document::from_yaml(&document.to_string()).unwrap();
    let mut cache = RowCache::new(StageModel::named(model).unwrap());
    let rows = Direction::BOTH.into_iter().filter_map(|direction| {
        let class = class(&document, direction)?;
        let rows = cache.get(&class).unwrap();
        assert!(rows.overlay, "{direction}: {rows:#?}");
        Some((direction, ClassRows::clone(&rows)))
    });
    rows.collect()
}

/// Rows that a rule adds to what the endpoint sends and receives, for both IP versions.
fn counts(model: &str, defaults: [&str; 2], rule: serde_json::Value) -> [usize; 2] {
    let added = added(model, defaults, rule);
    Direction::BOTH.map(|direction| added.get(&direction).map_or(0, ClassRows::rows))
}

const OPEN: [&str; 2] = ["allow", "allow"];
const CLOSED: [&str; 2] = ["deny", "deny"];
const INBOUND: [&str; 2] = ["allow", "deny"];

fn allow(direction: &str, protocol: &str, ports: &[&str], remote: &[&str]) -> serde_json::Value {
    let mut rule = json!({"name": "own", "action": "allow", "direction": direction, "protocol": protocol, "ports": ports});
    if !remote.is_empty() {
        rule["remote"] = json!(remote);
    }
    rule
}

/// One row for each IP version and direction; replies take two for TCP, for the segments that open nothing are those
/// without SYN and those with ACK, and one more for each port that the direction denies.
#[test]
fn an_own_rule_takes_a_handful_of_rows() {
    let inbound = |protocol, port| allow("ingress", protocol, &[port], &[]);
    let outbound = |protocol, port| allow("egress", protocol, &[port], &[]);
    let two = ["198.51.100.0/24", "203.0.113.0/24"];
    let cases = [
        // Nothing is denied that the rule allows.
        (OPEN, inbound("tcp", "8443"), [0, 0]),
        (OPEN, outbound("tcp", "25"), [2, 0]),
        (INBOUND, inbound("tcp", "22"), [0, 2]),
        (INBOUND, inbound("udp", "5060"), [0, 2]),
        (INBOUND, outbound("tcp", "25"), [2, 6]),
        (INBOUND, outbound("udp", "123"), [0, 4]),
        (CLOSED, inbound("tcp", "8443"), [10, 2]),
        (CLOSED, inbound("udp", "5060"), [6, 2]),
        (CLOSED, outbound("tcp", "25"), [2, 7]),
        (CLOSED, outbound("udp", "123"), [2, 4]),
        // Prefixes are of one IP version.
        (INBOUND, allow("ingress", "tcp", &["5432"], &two), [0, 2]),
        (CLOSED, allow("ingress", "tcp", &["5432"], &two), [10, 2]),
        (INBOUND, allow("ingress", "tcp", &["8000-8999"], &[]), [0, 12]),
    ];
    for (defaults, rule, wanted) in cases {
        assert_eq!(
            counts("ovs", defaults, rule.clone()),
            wanted,
            "{defaults:?} {rule}"
        );
        let [egress, ingress] = counts("p4-ternary", defaults, rule.clone());
        assert!(
            egress <= wanted[0] && ingress <= wanted[1],
            "{defaults:?} {rule}: {egress} and {ingress}"
        );
    }
}

/// Where rows of an overlay stand on those of a class, both change at once: the class gets another id.
#[test]
fn a_class_below_an_overlay_is_edited_in_place_only_without_overlays() {
    let document = |ports: &str| {
        Document::from_yaml(&format!(
            "version: portcullis/v1\nprofiles:\n  p: {{rules: [{{name: r, action: deny, direction: egress, protocol: tcp, \
             ports: [{ports}]}}]}}\nendpoints:\n  plain: {{profiles: [p]}}\n  own: {{profiles: [p], rules: [{{name: o, \
             action: allow, direction: egress, protocol: tcp, ports: [25]}}]}}\n"
        ))
        .unwrap()
    };
    for (name, in_place) in [("ovs", false), ("p4-ternary", false), ("exact-bitmap", true)] {
        let mut compiler = Compiler::default();
        let mut cache = RowCache::new(StageModel::named(name).unwrap());
        let before = compiler.resolve(&document("25, 465"), 1).unwrap();
        cache.check(&before).unwrap();
        let cache = std::cell::RefCell::new(cache);
        let edits = |old: &Class, new: &Class| cache.borrow_mut().edits(old, new);
        let after = compiler
            .resolve_in_place(&document("25, 465, 587"), 2, &edits)
            .unwrap();
        let ids = |name: &str| [&before, &after].map(|intent| intent.endpoints[name].classes.egress);
        for name in ["plain", "own"] {
            let [old, new] = ids(name);
            assert_eq!(old == new, in_place, "{name}");
        }
        let own = &after.classes[&ids("own")[1]];
        assert_eq!(own.base.as_ref().map(|base| base.id), Some(ids("plain")[1]));
        assert_eq!(cache.borrow_mut().get(own).unwrap().overlay, !in_place);
    }
}
