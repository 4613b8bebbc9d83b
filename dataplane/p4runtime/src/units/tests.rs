use portcullis_compiler::Compiler;
use portcullis_policy::Document;

use super::*;
use crate::attachment_points::{KnownPorts, PortSpace, resolve};
use crate::behind::{Inner, Takes};
use crate::program::OwnProgram;

/// `both` has a target behind its port, which rules can be left to, and `here` has none.
const BOTH: &str = "  both: {attachments: [{port: 1, target: tor}, {interface: v, target: host}], profiles: [many], source_guard: false}\n";

fn document(both: &str) -> String {
    format!(
        "version: portcullis/v1\nbaseline: [{{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587]}}]\n\
         profiles:\n  many: {{rules: [{{name: m, action: deny, direction: egress, protocol: udp, ports: [1, 3, 5, 7, 9, 11]}}]}}\n\
         endpoints:\n{both}  here: {{attachments: [{{port: 2, target: tor}}], source_guard: false}}\n"
    )
}

#[test]
fn a_rule_that_others_held_all_along_is_not_held_again() {
    let mut device = OwnProgram::embedded().unwrap().device;
    let host = Inner {
        target: "host".to_string(),
        takes: Takes::Interfaces {
            without_target: false,
        },
        is_whole: true,
    };
    let known = KnownPorts {
        target: "tor".to_string(),
        behind: [(1, vec![host])].into(),
        ..KnownPorts::default()
    };
    let mut compared = 0;
    for size in 1..40 {
        let policies = device.model.tables.iter_mut();
        policies
            .filter(|table| table.name == "egress_policy")
            .for_each(|table| table.size = Some(size));
        // Classes keep their numbers from one document to the next.
        let mut compiler = Compiler::default();
        let mut build = |both: &str, generation| {
            let document = Document::from_yaml(&document(both)).unwrap();
            let intent = compiler.resolve(&document, generation).unwrap();
            let points = resolve(&intent, &known, PortSpace::up_to(511));
            let mut rows = RowCache::new(device.model.clone());
            let built = Units::new(true).build(&device, &intent, &points, "tor", &mut rows);
            built.ok().map(|built| (intent, built))
        };
        let (Some((before, now)), Some((intent, after))) = (build(BOTH, 1), build("", 2)) else {
            continue;
        };
        let leaves = now.leaves_more_than(None, &now, &before);
        if now.left.values().any(|left| left.rules.contains("baseline/smtp")) {
            assert!(after.left.is_empty() && !leaves.is_empty(), "{size}: {leaves:?}");
            assert_eq!(
                now.leaves_more_than(Some(&after), &after, &intent),
                [""; 0],
                "{size}"
            );
            compared += 1;
        }
    }
    assert!(compared > 0);
}
