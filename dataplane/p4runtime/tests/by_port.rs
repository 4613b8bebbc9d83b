//! Tables without a class: every row names a port of a server, so that no row meets what enters by an uplink.

use std::collections::BTreeSet;

use portcullis_compiler::model::Field;
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::attachment_points::{KnownPorts, resolve};
use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::parse;
use portcullis_p4runtime::units::Units;
use portcullis_policy::Document;

/// Port 1 has an endpoint with a policy of its own, port 2 one that is like a port without an endpoint, port 3 none.
fn document(unmanaged: &str) -> String {
    format!(
        "
version: portcullis/v1
unmanaged: {unmanaged}
baseline:
  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}}
endpoints:
  web:
    attachments: [{{port: 1, target: tor}}]
    source_guard: false
    rules: [{{name: r, action: deny, direction: egress, protocol: udp, ports: [19]}}]
  plain:
    attachments: [{{port: 2, target: tor}}]
    source_guard: false
"
    )
}

/// The ports that rows name, as the device writes them, and the number of rows.
fn named(unmanaged: &str) -> (BTreeSet<Vec<u8>>, usize) {
    let info = parse(include_bytes!("fixtures/acl.txtpb")).unwrap();
    let device = Device::new(&info, "tor", None).unwrap();
    let document = Document::from_yaml(&document(unmanaged)).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    let known = KnownPorts {
        target: "tor".to_string(),
        uplinks: [49].into(),
        servers: [1, 2, 3].into(),
    };
    let points = resolve(&intent, &known, u128::from(u32::MAX));
    let mut rows = RowCache::new(device.model.clone());
    let built = Units::default()
        .build(&device, &intent, &points, "tor", &mut rows)
        .unwrap();
    let (mut ports, mut count) = (BTreeSet::new(), 0);
    for (key, _) in built.desired.values().flat_map(|unit| unit.iter()) {
        let Place::Table { table, fields, .. } = &key.0.place else {
            continue;
        };
        let port = device.table(*table).unwrap().key_of(Field::Port).unwrap();
        let found = fields.iter().find(|(id, _)| *id == port);
        let Some((_, Match::Optional(value))) = found else {
            panic!("a row for every port, uplinks included: {key:?}");
        };
        let bytes = value.to_be_bytes();
        ports.insert(bytes.into_iter().skip_while(|byte| *byte == 0).collect());
        count += 1;
    }
    (ports, count)
}

/// The table of the fixture names ports by strings.
fn strings(ports: &[&str]) -> BTreeSet<Vec<u8>> {
    ports.iter().map(|port| port.as_bytes().to_vec()).collect()
}

#[test]
fn ports_without_an_endpoint_have_rows_of_their_own_and_uplinks_none() {
    for unmanaged in ["baseline", "deny"] {
        let (ports, rows) = named(unmanaged);
        assert_eq!(ports, strings(&["1", "2", "3"]), "{unmanaged}");
        assert!(rows > 3 * 3, "{unmanaged}: {rows}");
    }
    assert_eq!(named("allow").0, strings(&["1", "2"]));
}
