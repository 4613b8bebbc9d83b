//! A table that is too small: rules are left to a target that is nearer to their endpoints, and what they deny passes here.

use portcullis_compiler::compilation::Step;
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::OwnProgram;
use portcullis_p4runtime::attachment_points::{KnownPorts, PortSpace, resolve};
use portcullis_p4runtime::behind::{Inner, Takes};
use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::units::{BuildError, Built, Units};
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
        let points = resolve(&intent, &known(host), PortSpace::up_to(511));
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
    let points = resolve(&intent, &known(Some(true)), PortSpace::up_to(511));
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

/// Where a packet of a port's class is decided: the class and the overlay that `attach` leads it to.
fn lead(device: &Device, built: &Built, at: u128) -> (u128, u128) {
    let (attach, table) = device.table_named("attach").unwrap();
    let port = table.named("port").unwrap().id;
    let rows = built.desired.values().flat_map(|unit| unit.iter());
    let mut leads = rows.filter_map(|(key, does)| match &key.0.place {
        Place::Table { table, fields, .. } if *table == attach => fields
            .contains(&(port, Match::Exact(at)))
            .then(|| does.parts().unwrap().1[0].1),
        _ => None,
    });
    let lead = leads.next().unwrap();
    (lead & 0xffff, lead >> 16)
}

#[test]
fn what_an_endpoint_has_of_its_own_goes_and_what_all_have_stays() {
    let document = r#"
version: portcullis/v1
mandatory: [{name: smb, action: deny, direction: egress, protocol: tcp, ports: [445]}]
baseline: [{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}]
endpoints:
  web1:
    attachments: [{port: 1, target: tor}, {interface: v1, target: host}]
    source_guard: false
    rules: [{name: own, action: deny, direction: egress, protocol: udp, ports: [1, 3, 5, 7, 9, 11, 13, 15]}]
  mail1:
    attachments: [{port: 1, vlan: 7, target: tor}, {interface: v2, target: host}]
    source_guard: false
"#;
    let mut device = OwnProgram::embedded().unwrap().device;
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(document).unwrap(), 1)
        .unwrap();
    let points = resolve(&intent, &known(Some(true)), PortSpace::up_to(511));
    let mut sizes = Vec::new();
    for size in (1..40).rev() {
        for table in device
            .model
            .tables
            .iter_mut()
            .filter(|t| t.name == "egress_policy")
        {
            table.size = Some(size);
        }
        let mut rows = RowCache::new(device.model.clone());
        let built = Units::new(true)
            .build(&device, &intent, &points, "tor", &mut rows)
            .unwrap();
        let (class, _) = lead(&device, &built, 1);
        let left: Vec<String> = built.left.values().flat_map(|left| left.rules.clone()).collect();
        let has = |rule: &str| left.iter().any(|left| left == rule);
        if !left.is_empty() {
            sizes.push(size);
        }
        // What is not left is enforced; what is left is listed.
        assert_eq!(class == 0, has("mandatory/smb"), "{size}: {left:?}");
        assert!(!has("mandatory/smb") || has("baseline/smtp"), "{size}: {left:?}");
        assert!(
            !has("baseline/smtp") || has("endpoints/web1/own"),
            "{size}: {left:?}"
        );
        let listed: String = built.unsupported.iter().map(|u| u.rule.as_str()).collect();
        assert!(
            left.iter().all(|rule| listed.contains(rule.as_str())),
            "{size}: {listed}"
        );
        // Hits are looked up in the whole policy of a class.
        for (key, _) in built.desired.values().flat_map(|unit| unit.iter()) {
            if let Some(hit) = built.hits.get(key)
                && let (Some(class), Some(decider)) = (hit.class, hit.decider)
            {
                assert_eq!(intent.classes[&class].policy.origin(decider), hit.rule, "{size}");
            }
        }
    }
    assert!(sizes.len() > 8, "{sizes:?}");
}
