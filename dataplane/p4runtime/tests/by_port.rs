//! Tables without a class: every row names a port of a server, so that no row meets what enters by an uplink.

use std::collections::BTreeSet;

use portcullis_compiler::model::Field;
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::attachment_points::{KnownPorts, PortSpace, resolve};
use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::units::{Built, Units};
use portcullis_p4runtime::{Mapping, parse};
use portcullis_policy::Document;

/// Port 1 has an endpoint with a policy of its own, which claims an uplink, too, and a port that is not there; port 2 one that
/// is like a port without an endpoint; port 3 none; port 4 one on a VLAN.
fn document(unmanaged: &str) -> String {
    format!(
        "
version: portcullis/v1
unmanaged: {unmanaged}
baseline:
  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}}
endpoints:
  web:
    attachments: [{{port: 1, target: tor}}, {{port: 49, target: tor}}, {{port: 600, target: tor}}]
    source_guard: false
    rules: [{{name: r, action: deny, direction: egress, protocol: udp, ports: [19]}}]
  plain:
    attachments: [{{port: 2, target: tor}}]
    source_guard: false
  tagged:
    attachments: [{{port: 4, vlan: 7, target: tor}}]
    source_guard: false
"
    )
}

/// What a device with one table without classes is given.
fn built(document: &str) -> (Device, Built) {
    built_with(document, None)
}

fn built_with(document: &str, mapping: Option<&Mapping>) -> (Device, Built) {
    let info = parse(include_bytes!("fixtures/acl.txtpb")).unwrap();
    let device = Device::new(&info, "tor", mapping).unwrap();
    let built = rows_of(&device, &Document::from_yaml(document).unwrap());
    (device, built)
}

/// What a device is given, with an uplink, servers at ports 1 to 4, and one at a port that it does not have.
pub(crate) fn rows_of(device: &Device, document: &Document) -> Built {
    let intent = Compiler::default().resolve(document, 1).unwrap();
    let known = KnownPorts {
        target: "tor".to_string(),
        uplinks: [49].into(),
        servers: [1, 2, 3, 4, 700].into(),
        ..KnownPorts::default()
    };
    let points = resolve(&intent, &known, PortSpace::up_to(511));
    let mut rows = RowCache::new(device.model.clone());
    Units::default()
        .build(device, &intent, &points, "tor", &mut rows)
        .unwrap()
}

/// The ports that rows name, as the device writes them, and the number of rows.
fn named(unmanaged: &str) -> (BTreeSet<Vec<u8>>, usize) {
    let (device, built) = built(&document(unmanaged));
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
        assert_eq!(ports, strings(&["1", "2", "3", "4"]), "{unmanaged}");
        assert!(rows > 4 * 3, "{unmanaged}: {rows}");
    }
    assert_eq!(named("allow").0, strings(&["1", "2"]));
}

#[test]
fn what_whole_ports_do_not_tell_apart_is_reported() {
    let why = |document: &str| {
        let (_, built) = built(document);
        let mut why = built.unsupported.iter().map(|u| format!("{}: {}", u.rule, u.why));
        why.find(|text| text.contains("name whole ports"))
            .unwrap_or_default()
    };
    let on_vlan = why(&document("deny"));
    assert!(
        on_vlan.contains("the port has the policy of ports without an endpoint"),
        "{on_vlan}"
    );
    let trunk = "  trunk: {attachments: [{port: 2, vlan: any, target: tor}], source_guard: false}\n";
    let without_vlan = document("deny").replace("port: 4, vlan: 7", "port: 5");
    let shared = why(&format!("{without_vlan}{trunk}"));
    assert!(
        shared.starts_with("every rule of trunk and plain: both are attached to port 2"),
        "{shared}"
    );
}

/// The rules that are not wholly enforced on a device of this mapping, of the parser's making.
fn not_shown(document: &str, mapping: Option<&str>) -> Vec<String> {
    let mapping = mapping.map(|text| Mapping::from_toml(text).unwrap());
    let (_, built) = built_with(document, mapping.as_ref());
    let parser = built.unsupported.into_iter().filter(|u| u.table == "parser");
    parser.map(|u| u.rule).collect()
}

#[test]
fn what_a_parser_may_hide_is_reported_unless_a_mapping_states_it() {
    let headers = "IPv6 packets with extension headers".to_string();
    let options = "IPv4 packets with options".to_string();
    let sctp = "SCTP packets".to_string();
    assert_eq!(
        not_shown(&document("deny"), None),
        [headers.clone(), options.clone()]
    );
    let associations = document("deny").replace("protocol: udp", "protocol: sctp");
    assert_eq!(
        not_shown(&associations, None),
        [headers.clone(), options.clone(), sctp.clone()]
    );
    let stated = |facts: &str| not_shown(&associations, Some(&format!("[parser]\n{facts}")));
    assert_eq!(stated("sctp_ports = true\n"), [headers.clone(), options.clone()]);
    assert_eq!(stated("ipv4_options = true\n"), [headers, sctp.clone()]);
    assert_eq!(stated("ipv6_extension_headers = true\n"), [options, sctp]);
    let all = "sctp_ports = true\nipv6_extension_headers = true\nipv4_options = true\n";
    assert!(stated(all).is_empty());
}
