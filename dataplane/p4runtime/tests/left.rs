//! A table that is too small: rules are left to a target that is nearer to their endpoints, and what they deny passes here.

use portcullis_compiler::compilation::Step;
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::OwnProgram;
use portcullis_p4runtime::attachment_points::{KnownPorts, resolve};
use portcullis_p4runtime::behind::{Inner, Takes};
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::units::{BuildError, Units};
use portcullis_policy::Document;

/// `both` is at a host's switch, too, which is cabled to port 1; `here` is nowhere else.
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

/// A switch with a host's switch at port 1, which holds every policy whole or maybe a part; or with nothing that is known there.
fn known(host: Option<bool>) -> KnownPorts {
    let inner = host.map(|is_whole| Inner {
        target: "host".to_string(),
        takes: Takes::Interfaces {
            without_target: false,
        },
        is_whole,
    });
    KnownPorts {
        target: "tor".to_string(),
        behind: [(1, inner.into_iter().collect())].into(),
        ..KnownPorts::default()
    }
}

/// Two switches that an endpoint is attached to side by side would each leave to the other what neither has room for.
#[test]
fn nothing_is_left_to_a_target_that_is_not_behind_the_port_or_may_hold_a_part() {
    let mut device = OwnProgram::embedded().unwrap().device;
    for table in device
        .model
        .tables
        .iter_mut()
        .filter(|t| t.name == "egress_policy")
    {
        table.size = Some(8);
    }
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(POLICY).unwrap(), 1)
        .unwrap();
    for host in [None, Some(false)] {
        let points = resolve(&intent, &known(host), 511);
        let mut rows = RowCache::new(device.model.clone());
        let built = Units::new(true).build(&device, &intent, &points, "tor", &mut rows);
        assert!(matches!(built, Err(BuildError::Full { .. })), "{host:?}");
    }
}

#[test]
fn a_class_that_its_other_target_enforces_is_open_and_not_closed() {
    let mut device = OwnProgram::embedded().unwrap().device;
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(POLICY).unwrap(), 1)
        .unwrap();
    let points = resolve(&intent, &known(Some(true)), 511);
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
            .filter(|step| matches!(step, Step::Left { .. }));
        assert_eq!(left.count(), moved, "{:?}", built.steps);
        let told: Vec<&str> = built.unsupported.iter().map(|u| u.rule.as_str()).collect();
        assert_eq!(told.contains(&"endpoints/both/r"), moved == 1, "{told:?}");
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
