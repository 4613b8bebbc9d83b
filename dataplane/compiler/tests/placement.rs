//! What is left to nearer targets when a table is too small, in which order, and when it comes back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_compiler::compilation::{Compilation, Demand, Found, Part};
use portcullis_compiler::model::Role;
use portcullis_compiler::{Attribution, Compiler, Intent, RowCache, StageModel};
use portcullis_policy::Direction;
use serde_json::{Value, json};

use crate::witness;
use witness::target::{check_tables, check_verdicts, document, policy_size};
use witness::{Random, intent};

/// A rule that denies some odd ports.
fn rule(name: &str, ports: std::ops::Range<u16>) -> Value {
    let ports: Vec<u16> = ports.map(|port| 2 * port + 1).collect();
    json!({"name": name, "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ports})
}

/// Servers with these numbers of own denied ports, under a mandatory rule, two of the baseline and the default of a profile, which
/// merging rows by verdict would let go.
fn servers(own: &[u16], default: &str) -> Arc<Intent> {
    let endpoints: serde_json::Map<String, Value> = (0u16..)
        .zip(own)
        .map(|(at, ports)| {
            let from = 1000 + 100 * at;
            let server = json!({
                "attachments": [{"interface": format!("v{at}")}],
                "profiles": ["strict"],
                "rules": [rule("own", from..from + ports)],
            });
            (format!("server{at}"), server)
        })
        .collect();
    let strict = json!({"default": {"egress": default}, "rules":
        [{"name": "web", "action": "allow", "direction": "egress", "protocol": "tcp", "ports": [81, 85, 89]}]});
    intent(&document(&json!({
        "version": "portcullis/v1",
        "unmanaged": "allow",
        "mandatory": [rule("zombies", 0..4)],
        "baseline": [rule("mail", 10..14), rule("games", 20..24)],
        "profiles": {"strict": strict},
        "endpoints": endpoints,
    })))
}

/// Rows by verdict: none can be merged.
fn placed(intent: &Intent, model: &StageModel, left: &BTreeSet<Part>) -> Compilation {
    let found = Found {
        left,
        ..Found::default()
    };
    let mut rows = RowCache::new(model.clone());
    let compilation = Compilation::beside(intent, &mut rows, Attribution::Class, found, |_| true).unwrap();
    check_tables(&compilation);
    check_verdicts(intent, &compilation, 400, &mut Random(7));
    compilation
}

fn model(name: &str, size: u64, reserve: u64) -> StageModel {
    let mut model = policy_size(name, size);
    for table in model.tables.iter_mut().filter(|t| t.stage == Role::Policy) {
        table.reserve = reserve;
    }
    model
}

fn used(compilation: &Compilation) -> u64 {
    let table = compilation.model.table(Role::Policy, Direction::Egress).unwrap();
    compilation.table_use(table).cost
}

fn names(compilation: &Compilation) -> Vec<String> {
    compilation.parts_left().iter().map(ToString::to_string).collect()
}

const MODELS: [&str; 3] = ["p4-range", "p4-ternary", "acl-ternary"];

#[test]
fn defaults_go_first_then_the_rules_of_few_and_mandatory_ones_last() {
    for name in MODELS {
        let intent = servers(&[4, 4], "deny");
        let all = placed(&intent, &model(name, 10_000, 0), &BTreeSet::new());
        assert_eq!(names(&all), Vec::<String>::new());
        let mut gone: Vec<String> = Vec::new();
        let mut size = used(&all);
        while size > 4 {
            size -= 1;
            let compilation = placed(&intent, &model(name, size, 0), &BTreeSet::new());
            if !compilation.refusals.is_empty() {
                break;
            }
            let now = names(&compilation);
            gone.extend(
                now.into_iter()
                    .filter(|part| !gone.contains(part))
                    .collect::<Vec<_>>(),
            );
        }
        let place = |part: &str| {
            let found = gone.iter().position(|gone| gone.ends_with(part));
            found.unwrap_or_else(|| panic!("{name}: {part} was never left: {gone:?}"))
        };
        let rank = ["endpoints/server1/own", "baseline/mail", "mandatory/zombies"].map(place);
        assert!(rank.is_sorted(), "{name}: {gone:?}");
        assert!(gone[0].starts_with("the default of"), "{name}: {gone:?}");
    }
}

#[test]
fn a_plan_is_what_it_was_until_a_table_overflows_or_has_room_beside_the_reserve() {
    for name in MODELS {
        let few = used(&placed(
            &servers(&[1; 4], "allow"),
            &model(name, 10_000, 0),
            &BTreeSet::new(),
        ));
        let many = servers(&[1; 12], "allow");
        let all = used(&placed(&many, &model(name, 10_000, 0), &BTreeSet::new()));
        let reserve = 6;
        let model = model(name, all - 1, reserve);
        // One row too many: parts go until the reserve is free, and the next look changes nothing.
        let first = placed(&many, &model, &BTreeSet::new());
        assert!(!first.left.is_empty(), "{name}");
        assert!(
            used(&first) <= all - 1 - reserve,
            "{name}: {} of {all}",
            used(&first)
        );
        let again = placed(&many, &model, &first.parts_left());
        assert_eq!(again.rows(), first.rows(), "{name}");
        assert_eq!(again.steps, first.steps, "{name}");
        if name == "acl-ternary" {
            // Every rule has rows for each port: one server takes more than the reserve.
            continue;
        }
        // A server more takes rows of the reserve, and nothing goes.
        let more = placed(&servers(&[1; 14], "allow"), &model, &first.parts_left());
        assert!(
            used(&more) > all - 1 - reserve,
            "{name}: {} of {all}",
            used(&more)
        );
        let newly: Vec<_> = more
            .parts_left()
            .difference(&first.parts_left())
            .cloned()
            .collect();
        assert_eq!(newly, [], "{name}");
        // With room for everything, but not beside the reserve, what was left stays.
        let tight = self::model(name, all + 1, reserve);
        let tight = placed(&many, &tight, &first.parts_left());
        assert!(!tight.left.is_empty(), "{name}");
        // Beside the reserve, too: all comes back.
        assert!(few + reserve < all, "{name}");
        let fewer = placed(&servers(&[1; 4], "allow"), &model, &first.parts_left());
        assert_eq!(names(&fewer), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn rows_of_others_take_room_of_the_table_and_not_of_what_is_ours() {
    let intent = servers(&[4, 4], "allow");
    let all = used(&placed(
        &intent,
        &model("acl-ternary", 10_000, 0),
        &BTreeSet::new(),
    ));
    let compile = |size: u64, most: Option<u64>, others: u64| {
        let mut model = model("acl-ternary", size, 3 * size);
        for table in model.tables.iter_mut().filter(|t| t.stage == Role::Policy) {
            table.most = most;
        }
        let table = model.table(Role::Policy, Direction::Egress).unwrap().name.clone();
        let taken = [(table, others)].into();
        let found = Found {
            taken: &taken,
            ..Found::default()
        };
        let mut rows = RowCache::new(model);
        Compilation::beside(&intent, &mut rows, Attribution::Class, found, |_| true).unwrap()
    };
    assert_eq!(names(&compile(all, None, 0)), Vec::<String>::new());
    assert_eq!(names(&compile(all + 500, Some(all), 500)), Vec::<String>::new());
    for beside in [compile(all, None, 10), compile(2 * all, Some(all - 10), 0)] {
        assert!(!beside.left.is_empty() && used(&beside) <= all - 10);
        // However large the reserve, half of the room is for rows.
        assert!(used(&beside) > 0, "{:?}", beside.steps);
    }
}

#[test]
fn what_denies_many_packets_is_held_in_the_place_of_what_denies_few() {
    for name in MODELS {
        let intent = servers(&[1; 12], "allow");
        let all = used(&placed(&intent, &model(name, 10_000, 0), &BTreeSet::new()));
        let model = model(name, all - 4, 0);
        let first = placed(&intent, &model, &BTreeSet::new());
        let left = first.parts_left();
        let Some(Part::Rule(direction, busy)) = left.iter().next() else {
            panic!("{name}: {:?}", first.steps);
        };
        let rule = |rule: &str, count: u64| ((*direction, rule.to_string()), count);
        let counted = |rules: Vec<((Direction, String), u64)>| Demand {
            rules: rules.into_iter().collect(),
            ..Demand::default()
        };
        let parts = |demand: &Demand, left: &BTreeSet<Part>| {
            let found = Found {
                left,
                demand,
                ..Found::default()
            };
            let mut rows = RowCache::new(model.clone());
            let compilation =
                Compilation::beside(&intent, &mut rows, Attribution::Class, found, |_| true).unwrap();
            check_tables(&compilation);
            check_verdicts(&intent, &compilation, 100, &mut Random(9));
            compilation.parts_left()
        };
        // Few packets move nothing, and many of every rule neither.
        assert_eq!(parts(&counted(vec![rule(busy, 50)]), &left), left, "{name}");
        let everywhere: Vec<_> = (0..12)
            .map(|n| rule(&format!("endpoints/server{n}/own"), 6_000))
            .collect();
        let mut equal = everywhere.clone();
        equal.extend(["baseline/mail", "baseline/games", "mandatory/zombies"].map(|name| rule(name, 6_000)));
        equal.push(rule(busy, 6_000));
        assert_eq!(parts(&counted(equal), &left), left, "{name}");
        // Many of one that is left take it back, for others that nothing meets; that is stable, also when they are over.
        let flood = counted(vec![rule(busy, 6_000)]);
        let moved = parts(&flood, &left);
        assert!(
            !moved.contains(&Part::Rule(*direction, Arc::clone(busy))),
            "{name}: {moved:?}"
        );
        assert!(!moved.is_empty(), "{name}");
        assert_eq!(parts(&flood, &moved), moved, "{name}");
        assert_eq!(parts(&Demand::default(), &moved), moved, "{name}");
        // Mandatory rules never go for it.
        assert!(
            moved.iter().all(|part| !part.to_string().contains("mandatory")),
            "{name}: {moved:?}"
        );
    }
}

/// Rows that were encoded for one class are used for another of the same meaning, under that one's id.
#[test]
fn a_class_that_comes_again_under_another_id_has_that_id() {
    let mut compiler = Compiler::default();
    let document = |own: &str| {
        document_of(&json!({
            "version": "portcullis/v1",
            "unmanaged": "allow",
            "baseline": [rule("mail", 10..14)],
            "endpoints": {"a": {"attachments": [{"interface": "v"}], "rules": [rule(own, 30..34), rule("more", 40..44)]}},
        }))
    };
    let mut model = model("p4-range", 10_000, 0);
    let all = compiler.resolve(&document("own"), 1).unwrap();
    let needed = used(&placed(&all, &model, &BTreeSet::new()));
    for table in model.tables.iter_mut().filter(|t| t.stage == Role::Policy) {
        table.size = Some(needed - 1);
    }
    let mut rows = RowCache::new(model);
    let mut ids = BTreeSet::new();
    for start in 0..3 {
        // A compiler that has seen other classes before gives other ids.
        let mut compiler = Compiler::default();
        for n in 0..start {
            compiler.resolve(&document(&format!("other{n}")), n + 1).unwrap();
        }
        for n in 0..start {
            let none = json!({"version": "portcullis/v1", "endpoints": {"b": {"rules": [rule("b", 50 + n as u16..60)]}}});
            compiler.resolve(&document_of(&none), 10 + n).unwrap();
        }
        let intent = compiler.resolve(&document("own"), 20).unwrap();
        let found = Found::default();
        let placed = Compilation::beside(&intent, &mut rows, Attribution::Class, found, |_| true).unwrap();
        assert!(!placed.left.is_empty(), "{:?}", placed.steps);
        for (id, compiled) in placed.compiled() {
            assert_eq!(*id, compiled.class.id);
            ids.insert(*id);
            let whole = &intent.classes[id];
            assert_eq!(
                compiled.class.base.as_ref().map(|b| b.id),
                whole.base.as_ref().map(|b| b.id)
            );
        }
    }
    assert!(ids.len() > 2, "the ids are always the same: {ids:?}");
}

fn document_of(value: &Value) -> portcullis_policy::Document {
    document(value)
}
