//! Whole targets: documents compiled to models of any size, and what must hold of every table.

use std::collections::BTreeMap;

use portcullis_compiler::compilation::{Compilation, Compiled, Left, Placed, Site};
use portcullis_compiler::model::{Field, Role, Weight};
use portcullis_compiler::row::{FieldMatch, range_lines};
use portcullis_compiler::{Attribution, ClassId, EndpointIntent, Intent, RowCache, StageModel};
use portcullis_policy::{Decider, Document, Policy};
use serde_json::{Value, json};

use super::pipeline::{Pipeline, UPLINK, ports, unmanaged};
use super::{Random, ShownFields, grid};

pub const NOWHERE: fn(&EndpointIntent) -> bool = |_| false;

pub fn document(value: &Value) -> Document {
    Document::from_yaml(&value.to_string()).unwrap_or_else(|e| panic!("{e}\n{value:#}"))
}

/// A built-in model with other sizes, of every table that writes are predicted for.
pub fn sized(name: &str, size: impl Fn(Role) -> Option<u64>) -> StageModel {
    let mut model = StageModel::named(name).unwrap();
    for table in &mut model.tables {
        table.size = size(table.stage).or(table.size);
    }
    model
}

pub fn policy_size(name: &str, size: u64) -> StageModel {
    sized(name, |role| (role == Role::Policy).then_some(size))
}

pub fn compile(
    intent: &Intent,
    model: StageModel,
    elsewhere: impl Fn(&EndpointIntent) -> bool,
) -> Compilation {
    let mut programs = RowCache::new(model);
    Compilation::new(intent, &mut programs, Attribution::Rule, &unmanaged(), elsewhere)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// What a row costs, from the row alone.
pub fn weight(placed: &Placed, weight: Weight) -> u64 {
    let lines = |(field, wanted): &(Field, FieldMatch)| match (weight, wanted) {
        (Weight::RangeLines, FieldMatch::Range { low, high }) => {
            let kind = matches!(field, Field::IcmpType | Field::IcmpCode);
            range_lines(*low, *high, if kind { 8 } else { 16 })
        }
        _ => 1,
    };
    placed.row.keys.iter().map(lines).product()
}

/// Predicted rows and cost are those of the rows; nothing is too full without being refused, and nothing refused in vain.
pub fn check_tables(compilation: &Compilation) {
    let rows = compilation.rows();
    let mut counted = 0;
    for used in compilation.tables() {
        let table = compilation
            .model
            .tables
            .iter()
            .find(|t| t.name == used.table)
            .unwrap();
        let here = || rows.iter().filter(|p| p.row.table == used.table);
        assert_eq!(
            here().count() as u64,
            used.rows,
            "{} of {}",
            used.table,
            compilation.model.name
        );
        assert_eq!(
            here().map(|p| weight(p, table.weight)).sum::<u64>(),
            used.cost,
            "{}",
            used.table
        );
        assert_eq!(used.size, table.size);
        let refusal = compilation.refusals.iter().find(|r| r.table == used.table);
        assert_eq!(
            refusal.map(|r| (r.needed, r.size)),
            used.size
                .filter(|size| used.cost > *size)
                .map(|size| (used.cost, size)),
            "{} of {}: {:?}",
            used.table,
            compilation.model.name,
            compilation.steps
        );
        counted += used.rows;
    }
    assert_eq!(counted, rows.len() as u64, "rows of tables that nobody predicted");
    // Two rows of one table, priority and keys are one on a target.
    let mut seen = BTreeMap::new();
    for placed in &rows {
        let row = &placed.row;
        let before = seen.insert((&row.table, row.priority, &row.keys), placed);
        assert!(before.is_none(), "twice: {before:?} and {placed:?}");
    }
}

/// The rows mean the document, for every port that has some. Returns how many verdicts were compared.
pub fn check_verdicts(intent: &Intent, compilation: &Compilation, most: usize, random: &mut Random) -> usize {
    let pipeline = Pipeline::from_compilation(compilation);
    let mut compared = 0;
    for case in ports(intent, compilation) {
        for packet in grid(&[&case.policy], most, random) {
            let (wanted, by) = case.policy.judge(&packet, compilation.model.view);
            for shown in ShownFields::new(&packet, &compilation.model) {
                let told = pipeline.judge(case.policy.direction, case.class, &case.port, &shown);
                let Some((action, rule)) = told else {
                    let left = left_of(compilation, case.class, &case.port);
                    assert!(
                        case.open || left.is_some_and(|left| left.held.is_none()),
                        "{} {}: nothing for {packet:?}",
                        compilation.model.name,
                        case.port
                    );
                    continue;
                };
                assert_ne!(case.port, UPLINK, "{rule:?} decides {packet:?}");
                let left = left_of(compilation, case.class, &case.port);
                let is_left = left.is_some_and(|left| is_left(left, &case.policy, by));
                assert!(
                    action == wanted || (is_left && action.passes()),
                    "{} {}: {packet:?} is {action} by {rule:?} and {wanted} by {}; left: {:?}",
                    compilation.model.name,
                    case.port,
                    case.policy.origin(by),
                    compilation.left.get(&case.class)
                );
                let merged = |id| {
                    let mut compiled = compilation.compiled();
                    compiled.any(|(of, c): (&ClassId, &Compiled)| *of == id && c.program.merged)
                };
                let below = compilation
                    .classes
                    .get(&case.class)
                    .and_then(|c| c.class.base.as_ref());
                let merged = merged(case.class) || below.is_some_and(|base| merged(base.id));
                if let (Decider::Entry(_) | Decider::Default, Some(rule), false, false, false) =
                    (by, rule, merged, case.open, is_left)
                {
                    assert!(
                        case.may_name(compilation, &packet, &rule),
                        "{} {}: {packet:?} by {by:?}, {rule}",
                        compilation.model.name,
                        case.port
                    );
                }
                compared += 1;
            }
        }
    }
    compared
}

/// What a class leaves to another target at this port.
fn left_of<'c>(compilation: &'c Compilation, class: ClassId, port: &str) -> Option<&'c Left> {
    let left = compilation.left.get(&class);
    left.filter(|left| left.sites.is_empty() || left.sites.contains(&Site::whole(port)))
}

/// Whether what decides is left: a rule by its name, the verdict on fragments and unreadable headers with any.
fn is_left(left: &Left, policy: &Policy, by: Decider) -> bool {
    match by {
        Decider::Entry(_) | Decider::Default => left.rules.contains(&policy.origin(by)),
        _ => !left.rules.is_empty(),
    }
}

pub fn random_rule(random: &mut Random, name: usize) -> Value {
    let direction = *random.pick(&["egress", "egress", "ingress"]);
    let protocol = *random.pick(&["tcp", "tcp", "udp", "icmp", "any"]);
    let action = *random.pick(&["allow", "deny", "deny"]);
    let mut rule =
        json!({"name": format!("r{name}"), "action": action, "direction": direction, "protocol": protocol});
    if matches!(protocol, "tcp" | "udp") {
        let ports: Vec<String> = (0..random.below(4))
            .map(|_| {
                let (low, span) = (random.below(3000), random.below(3) * random.below(500));
                format!("{low}-{}", low + span)
            })
            .collect();
        if !ports.is_empty() {
            rule["ports"] = json!(ports);
        }
        if random.below(5) == 0 {
            rule["source_ports"] = json!([random.below(100)]);
        }
    }
    if protocol == "icmp" {
        rule["icmp"] = json!({"type": random.below(12)});
    }
    let prefixes = ["10.0.0.0/8", "10.1.0.0/16", "198.51.100.0/24", "10.1.2.3"];
    if random.below(4) == 0 {
        rule["remote"] = json!([random.pick(&prefixes)]);
    }
    if random.below(8) == 0 {
        rule["local"] = json!([random.pick(&["192.0.2.1", "192.0.2.0/25"])]);
    }
    rule
}

/// A document of a few endpoints, some of them with equal policies, some open.
pub fn random_document(random: &mut Random) -> Document {
    let list = |random: &mut Random, most: u64| -> Vec<Value> {
        (0..random.below(most))
            .map(|n| random_rule(random, n as usize))
            .collect()
    };
    let mut endpoints = serde_json::Map::new();
    for n in 0..1 + random.below(5) {
        let attachments: Vec<Value> = (0..1 + random.below(2))
            .map(|a| json!({"interface": format!("e{n}-{a}")}))
            .collect();
        let profiles: Vec<&str> = ["p", "q"].into_iter().filter(|_| random.below(2) == 0).collect();
        let rules = if random.below(3) == 0 {
            list(random, 3)
        } else {
            Vec::new()
        };
        endpoints.insert(
            format!("e{n}"),
            json!({"attachments": attachments, "profiles": profiles, "rules": rules}),
        );
    }
    let closed = if random.below(4) == 0 {
        json!({"ingress": "deny"})
    } else {
        json!({})
    };
    document(&json!({
        "version": "portcullis/v1",
        "unmanaged": random.pick(&["baseline", "baseline", "allow", "deny"]),
        "baseline": list(random, 4),
        "profiles": {"p": {"rules": list(random, 4), "default": closed}, "q": {"rules": list(random, 4)}},
        "endpoints": endpoints,
    }))
}
