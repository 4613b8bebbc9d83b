//! What tables will hold, and the ladder when that is too much: merged by verdict, left to another target, refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::witness;

use portcullis_compiler::compilation::{Compilation, Step};
use portcullis_compiler::model::{MatchKind, Role, Weight};
use portcullis_compiler::{Attribution, EndpointIntent, RowCache, StageModel};
use portcullis_policy::{Direction, Verdict};
use serde_json::{Value, json};
use witness::pipeline::{Pipeline, ports, unmanaged};
use witness::target::{
    NOWHERE, check_tables, check_verdicts, compile, document, policy_size, random_document,
};
use witness::{Random, ShownFields, intent};

#[test]
fn predicted_rows_are_the_rows_and_mean_the_document() {
    let mut random = Random(0xdead_beef_cafe);
    let mut compared = 0;
    for _ in 0..60 {
        let intent = intent(&random_document(&mut random));
        for name in StageModel::names() {
            let compilation = compile(&intent, StageModel::named(name).unwrap(), NOWHERE);
            check_tables(&compilation);
            compared += check_verdicts(&intent, &compilation, 300, &mut random);
        }
    }
    assert!(compared > 100_000, "{compared}");
}

#[test]
fn whatever_the_sizes_nothing_is_too_full_unless_refused() {
    let mut random = Random(0x00c0_ffee);
    let (mut merged, mut left, mut weakened, mut refused) = (0, 0, 0, 0);
    for _ in 0..150 {
        let intent = intent(&random_document(&mut random));
        for name in StageModel::names() {
            let plenty = compile(&intent, StageModel::named(name).unwrap(), NOWHERE);
            let mut model = plenty.model.clone();
            for used in plenty.tables() {
                // From a little too small to roomy.
                let size = (used.cost * (60 + random.below(60)) / 100).max(1);
                let table = model.tables.iter_mut().find(|t| t.name == used.table).unwrap();
                table.size = Some(size);
                table.reserve = size / 10;
            }
            let lucky = random.below(5);
            let elsewhere =
                |e: &EndpointIntent| e.name.as_str().len() as u64 + u64::from(e.classes.egress.0) > lucky;
            let compilation = compile(&intent, model, elsewhere);
            check_tables(&compilation);
            for step in &compilation.steps {
                match step {
                    Step::Merged { .. } => merged += 1,
                    Step::Left { .. } => left += 1,
                }
            }
            weakened += compilation
                .left
                .values()
                .filter(|left| left.held.is_some())
                .count();
            refused += compilation.refusals.len();
            check_verdicts(&intent, &compilation, 60, &mut random);
        }
    }
    println!("{merged} merged, {left} left, {weakened} held in part, {refused} refused");
    assert!(
        merged > 20 && left > 20 && weakened > 20 && refused > 20,
        "{merged} merged, {left} left, {weakened} held in part, {refused} refused"
    );
}

/// Ports at this distance, each denied by a rule of its own: where they are neighbours many rows by rule, few by verdict.
fn denied(count: u64, distance: u64) -> Vec<Value> {
    let rule = |n: u64| json!({"name": format!("r{n}"), "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [1024 + n * distance]});
    (0..count).map(rule).collect()
}

/// Two endpoints with ports at this distance denied to each, more to `large`, and nothing to anybody else.
fn two_endpoints(distance: u64) -> Value {
    json!({
        "version": "portcullis/v1",
        "unmanaged": "allow",
        "endpoints": {
            "large": {"attachments": [{"interface": "l1"}], "rules": denied(64, distance)},
            "small": {"attachments": [{"interface": "s1"}], "rules": denied(16, distance)},
        },
    })
}

/// What the egress policy stage costs, and what it would hold.
fn policy_cost(compilation: &Compilation) -> u64 {
    let table = compilation.model.table(Role::Policy, Direction::Egress).unwrap();
    compilation.table_use(table).cost
}

#[test]
fn first_step_merges_where_that_saves_most() {
    let intent = intent(&document(&two_endpoints(1)));
    let mut random = Random(3);
    for name in ["ovs", "p4-range", "p4-ternary", "acl-ternary"] {
        let plenty = compile(&intent, policy_size(name, 100_000), NOWHERE);
        let needed = policy_cost(&plenty);
        assert!(plenty.steps.is_empty() && plenty.refusals.is_empty());
        let large = intent
            .endpoints
            .iter()
            .find(|(n, _)| n.as_str() == "large")
            .unwrap()
            .1
            .classes
            .egress;
        // One row short: the larger class is merged, and it alone.
        let compilation = compile(&intent, policy_size(name, needed - 1), NOWHERE);
        check_tables(&compilation);
        assert!(compilation.refusals.is_empty(), "{name}");
        let [Step::Merged { class, from, to, .. }] = compilation.steps.as_slice() else {
            panic!("{name}: {:?}", compilation.steps);
        };
        assert_eq!(*class, large, "{name}");
        assert_eq!(needed - policy_cost(&compilation), from - to, "{name}");
        for (id, compiled) in &compilation.classes {
            assert_eq!(compiled.program.merged, *id == large, "{name}");
        }
        assert!(compilation.steps[0].to_string().contains("merged"));
        assert!(
            check_verdicts(&intent, &compilation, 600, &mut random) > 500,
            "{name}"
        );
        // Hits of the merged class tell its verdict: a rule that denies.
        let pipeline = Pipeline::from_compilation(&compilation);
        for case in ports(&intent, &compilation) {
            for port in [1024, 1050, 1087, 1100] {
                let packet = witness::ip(
                    "192.0.2.1",
                    "198.51.100.1",
                    6,
                    portcullis_policy::L4::Ports {
                        src: 999,
                        dst: port,
                        flags: 2,
                    },
                );
                let shown = ShownFields::new(&packet, &compilation.model)[0];
                if let Some((Verdict::Deny, rule)) =
                    pipeline.judge(Direction::Egress, case.class, &case.port, &shown)
                {
                    assert!(rule.unwrap().starts_with("endpoints/"), "{name}");
                }
            }
        }
    }
}

#[test]
fn second_step_leaves_rules_to_another_target() {
    let intent = intent(&document(&two_endpoints(2)));
    let mut random = Random(5);
    let mut models = 0;
    for name in ["ovs", "p4-range", "p4-ternary", "acl-ternary", "exact-bitmap"] {
        let merged = {
            let mut programs = RowCache::new(policy_size(name, 100_000));
            Compilation::new(&intent, &mut programs, Attribution::Class, &unmanaged(), NOWHERE).unwrap()
        };
        let size = policy_cost(&merged) - 1;
        let class = |who: &str| {
            intent
                .endpoints
                .iter()
                .find(|(n, _)| n.as_str() == who)
                .unwrap()
                .1
                .classes
                .egress
        };
        // Nobody is attached elsewhere: refused.
        let alone = compile(&intent, policy_size(name, size), NOWHERE);
        check_tables(&alone);
        assert_eq!(alone.refusals.len(), 1, "{name}");
        // The large one is: some of its rules go, and nobody else's.
        let compilation = compile(&intent, policy_size(name, size), |e| e.name.as_str() == "large");
        check_tables(&compilation);
        assert!(compilation.refusals.is_empty(), "{name}");
        let left: Vec<_> = compilation.left.keys().copied().collect();
        assert_eq!(left, [class("large")], "{name}: {:?}", compilation.steps);
        let left = &compilation.left[&class("large")];
        // Rows of words are led to by others: of such a class all is held, or nothing.
        let is_whole = name == "exact-bitmap";
        assert_eq!(left.held.is_none(), is_whole, "{name}");
        assert_eq!(left.rules.len() == 64, is_whole, "{name}: {:?}", left.rules);
        assert!(compilation.classes.contains_key(&class("small")));
        let denied = |port: u16| {
            let rule = format!("endpoints/large/r{}", (port - 1024) / 2);
            let l4 = portcullis_policy::L4::Ports {
                src: 999,
                dst: port,
                flags: 2,
            };
            let packet = witness::ip("192.0.2.1", "198.51.100.1", 6, l4);
            let shown = ShownFields::new(&packet, &compilation.model)[0];
            let told = Pipeline::from_compilation(&compilation).judge(
                Direction::Egress,
                class("large"),
                "interface l1",
                &shown,
            );
            (
                left.rules.contains(&rule),
                matches!(told, Some((Verdict::Deny, _))),
            )
        };
        for port in (1024..1152).step_by(2) {
            let (is_left, is_denied) = denied(port);
            assert_eq!(is_denied, !is_left, "{name}: port {port}");
        }
        assert!(
            check_verdicts(&intent, &compilation, 600, &mut random) > 200,
            "{name}"
        );
        models += 1;
    }
    assert_eq!(models, 5);
}

#[test]
fn a_class_of_endpoints_that_are_not_all_elsewhere_stays() {
    let mut value = two_endpoints(1);
    value["endpoints"]["twin"] = value["endpoints"]["large"].clone();
    value["endpoints"]["twin"]["attachments"] = json!([{"interface": "t1"}]);
    let intent = intent(&document(&value));
    let compilation = compile(&intent, policy_size("p4-ternary", 5), |e| {
        e.name.as_str() == "large"
    });
    assert!(
        compilation.steps.iter().all(|s| matches!(s, Step::Merged { .. })),
        "{:?}",
        compilation.steps
    );
    assert_eq!(compilation.refusals.len(), 1);
}

/// Where tables have no classes, rows of all other ports must not meet the ports of a class that was left to another
/// target: there everything passes here, as the other target enforces.
#[test]
fn what_a_rule_that_is_left_denies_passes_here() {
    let intent = intent(&document(&json!({
        "version": "portcullis/v1",
        "baseline": [{"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]}],
        "endpoints": {
            "mail": {
                "attachments": [{"interface": "m1"}],
                "rules": [{"name": "smtp", "action": "allow", "direction": "egress", "protocol": "tcp", "ports": [25]},
                    {"name": "odd", "action": "deny", "direction": "egress", "protocol": "udp",
                     "ports": [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]}],
            },
        },
    })));
    let plenty = compile(&intent, policy_size("acl-ternary", 1000), NOWHERE);
    let compilation = compile(
        &intent,
        policy_size("acl-ternary", policy_cost(&plenty) - 10),
        |_| true,
    );
    check_tables(&compilation);
    assert!(
        matches!(compilation.steps.as_slice(), [Step::Left { .. }, ..]),
        "{:?}",
        compilation.steps
    );
    let l4 = portcullis_policy::L4::Ports {
        src: 999,
        dst: 25,
        flags: 2,
    };
    let packet = witness::ip("192.0.2.1", "198.51.100.1", 6, l4);
    let shown = ShownFields::new(&packet, &compilation.model)[0];
    let pipeline = Pipeline::from_compilation(&compilation);
    let class = intent.endpoints.iter().next().unwrap().1.classes.egress;
    let told = pipeline.judge(Direction::Egress, class, "interface m1", &shown);
    assert!(
        !matches!(told, Some((Verdict::Deny, _))),
        "what `mail` may do is denied by the rows of other ports: {told:?}"
    );
}

/// A target cannot leave out a key that it matches exactly, nor a port of a table without classes.
#[test]
fn rows_name_every_exact_key() {
    let mut random = Random(77);
    let mut rows = 0;
    for _ in 0..20 {
        let intent = intent(&random_document(&mut random));
        for name in StageModel::names() {
            let compilation = compile(&intent, StageModel::named(name).unwrap(), NOWHERE);
            for placed in compilation.rows() {
                let table = compilation
                    .model
                    .tables
                    .iter()
                    .find(|t| t.name == placed.row.table)
                    .unwrap();
                for key in table.keys.iter().filter(|k| k.kind == MatchKind::Exact) {
                    let named = placed.row.keys.iter().any(|(field, _)| *field == key.field);
                    assert!(named, "{name}: {} is exact and not in {placed:?}", key.field);
                }
                rows += 1;
            }
        }
    }
    assert!(rows > 1000, "{rows}");
}

/// `0.0.0.0/0` is every address of IPv4 and none of IPv6, also where it has no bits to match.
#[test]
fn the_prefix_of_everything_is_of_one_version() {
    let intent = intent(&document(&json!({
        "version": "portcullis/v1",
        "baseline": [
            {"name": "some", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25],
             "remote": ["0.0.0.0/0", "2001:db8::/32"]},
            {"name": "other", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [26],
             "remote": ["10.0.0.0/8", "2001:db8:1::/48"]},
        ],
    })));
    for name in StageModel::names() {
        let compilation = compile(&intent, StageModel::named(name).unwrap(), NOWHERE);
        check_tables(&compilation);
        check_verdicts(&intent, &compilation, 2000, &mut Random(13));
    }
}

/// Where nothing is denied in one direction, something may be in the other.
#[test]
fn ports_are_open_by_direction() {
    let intent = intent(&document(&json!({
        "version": "portcullis/v1",
        "unmanaged": "deny",
        "profiles": {"safe": {"rules": [
            {"name": "ssh", "action": "deny", "direction": "ingress", "protocol": "tcp", "ports": [22]},
        ]}},
        "endpoints": {"e": {"attachments": [{"interface": "e1"}], "profiles": ["safe"]}},
    })));
    let mut model = StageModel::named("acl-ternary").unwrap();
    let mut second = model.tables[0].clone();
    second.name = "acl_out".to_string();
    second.direction = Some(Direction::Ingress);
    model.tables.push(second);
    model.check().unwrap();
    let endpoint = intent.endpoints.iter().next().unwrap().1;
    assert_eq!(endpoint.classes.egress, portcullis_compiler::ClassId::OPEN);
    let compilation = compile(&intent, model, NOWHERE);
    check_tables(&compilation);
    assert!(check_verdicts(&intent, &compilation, 400, &mut Random(21)) > 500);
}

/// Takes the rule with this origin out of a document.
fn without(value: &Value, origin: &str) -> Value {
    let mut value = value.clone();
    let parts: Vec<&str> = origin.split('/').collect();
    let (list, name) = match parts.as_slice() {
        ["baseline", name] => (&mut value["baseline"], *name),
        ["endpoints", endpoint, name] => (&mut value["endpoints"][endpoint]["rules"], *name),
        ["profiles", profile, name] => (&mut value["profiles"][profile]["rules"], *name),
        _ => panic!("{origin} is no rule of a document"),
    };
    list.as_array_mut().unwrap().retain(|rule| rule["name"] != name);
    value
}

/// A baseline of a few large rules and small ones.
fn large_rules() -> Value {
    let scattered = |n: u64, step: u64| -> Vec<u64> { (0..n).map(|i| 100 + i * step).collect() };
    let rule = |name: &str, protocol: &str, ports: Vec<u64>| json!({"name": name, "action": "deny", "direction": "egress", "protocol": protocol, "ports": ports});
    json!({
        "version": "portcullis/v1",
        "baseline": [
            rule("many", "tcp", scattered(40, 7)),
            rule("some", "udp", scattered(20, 9)),
            rule("few", "sctp", scattered(5, 11)),
            rule("one", "tcp", vec![25]),
        ],
    })
}

#[test]
fn a_refusal_tells_numbers_that_are_true() {
    let value = large_rules();
    let intent_of = |value: &Value| intent(&document(value));
    for name in ["ovs", "p4-range", "p4-ternary", "acl-ternary"] {
        let size = 30;
        let refused = compile(&intent_of(&value), policy_size(name, size), NOWHERE);
        check_tables(&refused);
        let [refusal] = refused.refusals.as_slice() else {
            panic!("{name}: {:?}", refused.refusals);
        };
        assert_eq!(refusal.size, size);
        let (mut rest, mut needed) = (value.clone(), refusal.needed);
        assert_eq!(
            refusal.savings.first().map(|s| s.rule.as_str()),
            Some("baseline/many"),
            "{name}"
        );
        for saving in &refusal.savings {
            rest = without(&rest, &saving.rule);
            let again = compile(&intent_of(&rest), policy_size(name, size), NOWHERE);
            let now = policy_cost(&again);
            assert_eq!(needed - now, saving.saves, "{name}: {refusal}");
            assert_eq!(saving.fits, now <= size, "{name}: {refusal}");
            needed = now;
        }
        assert!(refusal.savings.last().unwrap().fits, "{name}: {refusal}");
        let text = refusal.to_string();
        assert!(
            text.contains(&format!("needs {} and holds {size}", refusal.needed)),
            "{text}"
        );
        assert!(
            text.contains("baseline/many") && text.contains("and fits"),
            "{text}"
        );
    }
}

/// Only rules that somebody wrote can be done without.
#[test]
fn a_refusal_names_rules_of_the_document() {
    let value = json!({
        "version": "portcullis/v1",
        "profiles": {"web": {
            "default": {"ingress": "deny"},
            "rules": [
                {"name": "http", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [80, 443]},
                {"name": "out", "action": "allow", "direction": "egress", "protocol": "tcp", "ports": [25, 53, 123, 587, 853, 993]},
            ],
        }},
        "endpoints": {"web": {"attachments": [{"interface": "w1"}], "profiles": ["web"]}},
    });
    for name in ["ovs", "p4-range", "p4-ternary", "exact-bitmap"] {
        let refused = compile(&intent(&document(&value)), policy_size(name, 4), NOWHERE);
        let refusal = refused.refusals.first().expect("four rows are not enough");
        assert!(!refusal.savings.is_empty(), "{name}: {refusal}");
        let (mut rest, mut needed) = (value.clone(), refusal.needed);
        for saving in &refusal.savings {
            assert!(saving.rule.starts_with("profiles/web/"), "{name}: {refusal}");
            // Replies go with the rule that they are replies to.
            rest = without(&rest, &saving.rule);
            let again = compile(&intent(&document(&rest)), policy_size(name, 4), NOWHERE);
            let now = again
                .tables()
                .iter()
                .find(|t| t.table == refusal.table)
                .unwrap()
                .cost;
            assert_eq!(needed - now, saving.saves, "{name}: {refusal}");
            needed = now;
        }
    }
}

#[test]
fn a_refusal_leaves_nothing_half_done() {
    let intent = intent(&document(&two_endpoints(1)));
    let model = policy_size("p4-ternary", 5);
    let mut programs = RowCache::new(model.clone());
    let first = Compilation::new(&intent, &mut programs, Attribution::Rule, &unmanaged(), NOWHERE).unwrap();
    assert!(!first.refusals.is_empty());
    // What is remembered is what it was before: each class by rule, the same answer again.
    for class in intent.classes.values() {
        let program = programs.get(class).unwrap();
        assert!(!program.merged);
        assert_eq!(program, RowCache::new(model.clone()).get(class).unwrap());
    }
    let second = Compilation::new(&intent, &mut programs, Attribution::Rule, &unmanaged(), NOWHERE).unwrap();
    assert_eq!((&first.steps, &first.refusals), (&second.steps, &second.refusals));
    assert_eq!(first.rows(), second.rows());
}

#[test]
fn ranges_weigh_what_they_take() {
    let value = json!({
        "version": "portcullis/v1",
        "baseline": [{"name": "ends", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ["1-65534"]}],
    });
    let intent = intent(&document(&value));
    // Of each IP version one row of seven lines; the default; two rows of every class.
    let compilation = compile(&intent, policy_size("p4-range", 17), NOWHERE);
    check_tables(&compilation);
    assert!(compilation.refusals.is_empty() && compilation.steps.is_empty());
    let table = compilation.model.table(Role::Policy, Direction::Egress).unwrap();
    let used = compilation.table_use(table);
    assert_eq!((used.rows, used.cost), (5, 17));
    let refused = compile(&intent, policy_size("p4-range", 16), NOWHERE);
    let refusal = &refused.refusals[0];
    assert_eq!((refusal.needed, refusal.size), (17, 16));
    // Where rows are counted, five are five.
    let mut rows = policy_size("p4-range", 5);
    rows.tables.iter_mut().for_each(|t| t.weight = Weight::Row);
    assert!(compile(&intent, rows, NOWHERE).refusals.is_empty());
}

/// `count` endpoints of one class, each on a port of its own.
fn many_ports(count: u64) -> Value {
    let endpoint = |n: u64| {
        (
            format!("e{n}"),
            json!({"attachments": [{"interface": format!("p{n}")}], "profiles": ["shop"]}),
        )
    };
    let endpoints: serde_json::Map<String, Value> = (0..count).map(endpoint).collect();
    json!({
        "version": "portcullis/v1",
        "baseline": [{"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]}],
        "profiles": {"shop": {"rules": [
            {"name": "mail", "action": "allow", "direction": "egress", "protocol": "tcp", "ports": [587]},
            {"name": "games", "action": "deny", "direction": "egress", "protocol": "udp", "ports": [27015, 27017]},
        ]}},
        "endpoints": endpoints,
    })
}

#[test]
fn an_acl_of_255_rows_holds_so_many_ports_and_no_more() {
    let of = |count| {
        compile(
            &intent(&document(&many_ports(count))),
            StageModel::named("acl-ternary").unwrap(),
            NOWHERE,
        )
    };
    let (one, two) = (of(1), of(2));
    let (base, each) = (
        2 * policy_cost(&one) - policy_cost(&two),
        policy_cost(&two) - policy_cost(&one),
    );
    assert!(each >= 7, "{each} rows a port");
    let most = (255 - base) / each;
    let full = of(most);
    check_tables(&full);
    assert!(full.steps.is_empty() && full.refusals.is_empty());
    assert_eq!(policy_cost(&full), base + most * each);
    let mut random = Random(9);
    check_verdicts(&intent(&document(&many_ports(most))), &full, 300, &mut random);
    // One port more: merged by verdict while that is enough, then refused with what it needs.
    let next = of(most + 1);
    check_tables(&next);
    assert!(
        matches!(next.steps.as_slice(), [Step::Merged { .. }, ..]),
        "{:?}",
        next.steps
    );
    let beyond = of(most * 3);
    check_tables(&beyond);
    let refusal = &beyond.refusals[0];
    assert!(refusal.needed > 255 && refusal.size == 255);
    println!("{base} rows and {each} a port: {most} ports by rule; {refusal}");
}
