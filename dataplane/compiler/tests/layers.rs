//! Rows of ports that both sides of a connection name are added, not multiplied.

use portcullis_compiler::{Compiler, RowCache, StageModel};
use portcullis_policy::{Direction, Document};
use serde_json::json;

/// Rows of what an endpoint is sent under default deny, with this many ports open to it and this many closed from it: by rules
/// of its own, or of its profile.
fn rows(model: &str, own: bool, open: u16, closed: u16) -> usize {
    // Odd ports, far apart: no two share a prefix.
    let ports = |first: u16, count: u16| -> Vec<String> {
        (0..count).map(|n| (first + 1009 * n).to_string()).collect()
    };
    let rules = json!([
        {"name": "open", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": ports(81, open)},
        {"name": "closed", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ports(1025, closed)},
    ]);
    let (of_profile, of_endpoint) = if own {
        (json!([]), rules)
    } else {
        (rules, json!([]))
    };
    let document = json!({
        "version": "portcullis/v1",
        "defaults": {"ingress": "deny"},
        "profiles": {"p": {"rules": of_profile}},
        "endpoints": {"e": {"profiles": ["p"], "rules": of_endpoint}},
    });
    let document = Document::from_yaml(&document.to_string()).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    let class = intent.endpoints["e"].classes[Direction::Ingress];
    let mut cache = RowCache::new(StageModel::named(model).unwrap());
    let rows = cache.get(&intent.classes[&class]).unwrap();
    assert_eq!(rows.overlay, own);
    rows.rows()
}

#[test]
fn replies_to_closed_ports_are_rows_beside_those_of_open_ports() {
    for (model, own) in ["ovs", "p4-ternary", "p4-range"]
        .map(|m| [(m, false), (m, true)])
        .concat()
    {
        let none = rows(model, own, 1, 1);
        // Both IP versions, and an open port once more for segments that open a connection.
        let more = |open: u16, closed: u16| usize::from((2 * open + closed) * 2);
        for (open, closed) in [(1, 8), (8, 1), (8, 8), (20, 30)] {
            let most = none + more(open - 1, closed - 1);
            let got = rows(model, own, open, closed);
            assert!(
                got <= most,
                "{model}, own {own}: {open} open, {closed} closed: {got} rows, not {most}"
            );
        }
    }
}
