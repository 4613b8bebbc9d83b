//! Rows have the priorities that a model gives them, however few, so that rows of others keep their place above and below.

use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::proof::prove;
use portcullis_compiler::{StageModel, Unsupported};
use portcullis_policy::{Direction, Document, Policy, effective};
use serde_json::{Value, json};

/// What an endpoint with these rules may send.
fn policy(rules: &Value) -> Policy {
    let document = json!({"version": "portcullis/v1", "endpoints": {"e": {"rules": rules}}});
    let document = Document::from_yaml(&document.to_string()).unwrap();
    effective(&document, "e", &document.endpoints["e"], Direction::Egress)
}

fn rule(n: usize, action: &str, rest: &Value) -> Value {
    let mut rule =
        json!({"name": format!("r{n}"), "action": action, "direction": "egress", "protocol": "tcp"});
    let rest = rest.as_object().unwrap().clone();
    rule.as_object_mut().unwrap().extend(rest);
    rule
}

/// A document of ports, one of prefixes within each other, and one of many rules that overlap.
fn policies() -> [Policy; 3] {
    let ports = json!([rule(0, "deny", &json!({"ports": ["25", "6000-6063"]}))]);
    let nested: Vec<Value> = [8, 12, 16, 20, 24, 28, 32]
        .iter()
        .enumerate()
        .map(|(n, length)| {
            let action = if n % 2 == 0 { "deny" } else { "allow" };
            rule(
                n,
                action,
                &json!({"ports": ["22"], "remote": [format!("10.0.0.0/{length}")]}),
            )
        })
        .rev()
        .collect();
    let chain: Vec<Value> = (0..40usize)
        .map(|n| {
            let action = if n % 2 == 0 { "deny" } else { "allow" };
            rule(n, action, &json!({"ports": [format!("{}-{}", 100 - n, 100 + n)]}))
        })
        .collect();
    [ports, json!(nested), json!(chain)].map(|rules| policy(&rules))
}

/// The rows' priorities, once they are proved.
fn priorities(policy: &Policy, model: &StageModel) -> Result<Vec<u32>, Unsupported> {
    let rows = lower(policy, model)?;
    let fixed = fixed_rows(model);
    prove(policy, &rows, &fixed, model).unwrap();
    Ok(rows.policy.iter().chain(&fixed).map(|row| row.priority).collect())
}

#[test]
fn rows_stay_within_the_priorities_of_their_model() {
    let bands = [
        (1, 1000),
        (1, 300),
        (1000, 1999),
        (5000, 70_000),
        (1, 100_000),
        (1, 16_777_215),
        (2_000_000_000, 2_147_483_647),
    ];
    for name in ["acl-ternary", "p4-range", "p4-ternary", "ovs"] {
        for (low, high) in bands {
            let mut model = StageModel::named(name).unwrap();
            (model.priority_min, model.priority_max) = (low, high);
            for policy in policies() {
                let priorities =
                    priorities(&policy, &model).unwrap_or_else(|e| panic!("{name}, {low} to {high}: {e}"));
                let (least, most) = (priorities.iter().min().unwrap(), priorities.iter().max().unwrap());
                assert!(
                    low <= *least && *most <= high,
                    "{name}: {least} to {most}, not {low} to {high}"
                );
            }
        }
    }
}

#[test]
fn too_few_priorities_are_what_the_error_is_about() {
    let mut model = StageModel::named("acl-ternary").unwrap();
    (model.priority_min, model.priority_max) = (100, 110);
    let error = priorities(&policies()[0], &model).unwrap_err().to_string();
    assert!(
        error.contains("its rows need 13 priorities, which 100 to 110 have no room for"),
        "{error}"
    );
}

#[test]
fn a_band_that_is_upside_down_is_refused() {
    let text = StageModel::source("acl-ternary").unwrap();
    let text = text.replace(
        "priority_max = 65535",
        "priority_min = 70000\npriority_max = 65535",
    );
    let error = StageModel::from_toml(&text).unwrap_err().to_string();
    assert!(
        error.starts_with("priority_min: is not between 1 and priority_max"),
        "{error}"
    );
}
