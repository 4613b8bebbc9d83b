//! A table that is too small: classes are left to the other target of their endpoints, and their ports are open here.

use portcullis_compiler::compilation::Step;
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::OwnProgram;
use portcullis_p4runtime::attachment_points::{KnownPorts, resolve};
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::units::Units;
use portcullis_policy::Document;

/// `both` is at a host's switch, too; `here` is nowhere else.
const POLICY: &str = r#"
version: portcullis/v1
endpoints:
  both:
    attachments: [{port: 1, target: tor}, {interface: v1, target: host}]
    source_guard: false
    rules: [{name: r, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587, 2525, 6667]}]
  here:
    attachments: [{port: 2, target: tor}]
    source_guard: false
    rules: [{name: r, action: deny, direction: egress, protocol: udp, ports: [19]}]
"#;

#[test]
fn a_class_that_its_other_target_enforces_is_open_and_not_closed() {
    let mut device = OwnProgram::embedded().unwrap().device;
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(POLICY).unwrap(), 1)
        .unwrap();
    let known = KnownPorts {
        target: "tor".to_string(),
        ..KnownPorts::default()
    };
    let points = resolve(&intent, &known, 511);
    for (size, moved) in [(1000, 0), (8, 1)] {
        let tables = device.model.tables.iter_mut();
        tables
            .filter(|t| t.name == "egress_policy")
            .for_each(|t| t.size = Some(size));
        let mut rows = RowCache::new(device.model.clone());
        let built = Units::new(true)
            .build(&device, &intent, &points, "tor", &mut rows)
            .unwrap();
        let left = built
            .steps
            .iter()
            .filter(|step| matches!(step, Step::Moved { .. }));
        assert_eq!(left.count(), moved, "{:?}", built.steps);
        let (attach, table) = device.table_named("attach").unwrap();
        let port = table.named("port").unwrap().id;
        let led_to = |at: u128| {
            let rows = built.desired.values().flat_map(|unit| unit.iter());
            let mut rows = rows.filter_map(|(key, does)| match &key.0.place {
                Place::Table { table, fields, .. } if *table == attach => fields
                    .contains(&(port, Match::Exact(at)))
                    .then(|| does.parts().unwrap().1[0].1),
                _ => None,
            });
            rows.next().unwrap()
        };
        assert_eq!(
            led_to(1) == 0,
            moved == 1,
            "nothing is denied where another target decides"
        );
        assert_ne!(led_to(2), 0);
    }
}
