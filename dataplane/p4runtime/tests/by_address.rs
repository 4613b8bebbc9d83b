//! Several endpoints behind one port of a vendor's switch: distinguished by their addresses where nothing behind the port can send with
//! those of another, and otherwise without rows, with the reason.

use portcullis_compiler::model::{Field, PacketKind};
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::attachment_points::{AttachmentPoints, KnownPorts, PortSpace, resolve};
use portcullis_p4runtime::behind::{Inner, Takes};
use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::units::{Built, Units};
use portcullis_p4runtime::{Mapping, parse, pipelines};
use portcullis_policy::Document;

const VENDOR: &[u8] = include_bytes!("../../../p4/compiled/vendor.p4info.txtpb");

/// Two endpoints of a hypervisor that is cabled to port 1, and one server at port 2.
const DOCUMENT: &str = "
version: portcullis/v1
unmanaged: deny
baseline: [{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}]
endpoints:
  a: {attachments: [{port: 1, target: tor, by: address}, {interface: a, target: host}], addresses: [192.0.2.1]}
  b:
    attachments: [{port: 1, vlan: 7, target: tor, by: address}, {interface: b, target: host}]
    addresses: [192.0.2.2, 198.51.100.0/28]
    rules: [{name: chargen, action: deny, direction: egress, protocol: udp, ports: [19]}]
  lone: {attachments: [{port: 2, target: tor}], source_guard: false}
";

fn known() -> KnownPorts {
    let host = Inner {
        target: "host".to_string(),
        takes: Takes::Interfaces { without_target: true },
        is_whole: true,
    };
    KnownPorts {
        target: "tor".to_string(),
        servers: [1, 2].into(),
        behind: [(1, vec![host])].into(),
        ..KnownPorts::default()
    }
}

const SPACE: PortSpace = PortSpace {
    max: 511,
    by_address: true,
};

fn points(document: &str, space: PortSpace) -> AttachmentPoints {
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(document).unwrap(), 1)
        .unwrap();
    resolve(&intent, &known(), space)
}

fn built(document: &str) -> (Device, Built) {
    let mut mapping = Mapping::from_toml(pipelines::source("vendor").unwrap()).unwrap();
    mapping.accept_also(PacketKind::OBSCURE).unwrap();
    let device = Device::new(&parse(VENDOR).unwrap(), "tor", Some(&mapping)).unwrap();
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(document).unwrap(), 1)
        .unwrap();
    let points = resolve(&intent, &known(), SPACE);
    let mut rows = RowCache::new(device.model.clone());
    let built = Units::default().build(&device, &intent, &points, "tor", &mut rows);
    (device, built.unwrap())
}

/// A row of what servers send: its port, its own address (value and mask), the rule.
type EgressRow = (u128, Option<(u128, u128)>, String);

fn egress_rows((device, built): &(Device, Built)) -> Vec<EgressRow> {
    let mut found = Vec::new();
    for (key, _) in built.desired.values().flat_map(|unit| unit.iter()) {
        let Place::Table { table, fields, .. } = &key.0.place else {
            continue;
        };
        let table = device.table(*table).unwrap();
        if table.name != "acl_ingress" {
            continue;
        }
        let of = |field| {
            let id = table.key_of(field).unwrap();
            fields
                .iter()
                .find(|(other, _)| *other == id)
                .map(|(_, value)| *value)
        };
        let Some(Match::Optional(port)) = of(Field::Port) else {
            panic!("no port: {key:?}")
        };
        let own = of(Field::LocalIpv4).map(|own| match own {
            Match::Ternary { value, mask } => (value, mask),
            other => panic!("{other:?}"),
        });
        found.push((port, own, built.hits.get(key).unwrap().rule.clone()));
    }
    found.sort();
    found
}

#[test]
fn rows_name_the_port_and_each_address() {
    let built = built(DOCUMENT);
    let rows = egress_rows(&built);
    let of_port = |port: u128| rows.iter().filter(|(p, ..)| *p == port).collect::<Vec<_>>();
    let (one, whole) = (0xffff_ffffu128, 0xffff_fff0u128);
    let addresses = [(0xc000_0201, one), (0xc000_0202, one), (0xc633_6400, whole)];
    for address in addresses {
        let own: Vec<&str> = of_port(1)
            .iter()
            .filter(|(_, own, _)| *own == Some(address))
            .map(|(.., rule)| rule.as_str())
            .collect();
        match address.0 {
            0xc000_0201 => assert_eq!(own, ["baseline/smtp"]),
            _ => assert_eq!(own, ["baseline/smtp", "endpoints/b/chargen"]),
        }
    }
    assert_eq!(
        of_port(1).len(),
        5,
        "every row of a shared port names an address: {rows:?}"
    );
    assert!(of_port(2).iter().all(|(_, own, _)| own.is_none()) && !of_port(2).is_empty());
    let said: Vec<String> = built.1.unsupported.iter().map(ToString::to_string).collect();
    let has = |words: &str| said.iter().any(|text| text.contains(words));
    // The egress table of this program has no key for the receiver's address.
    assert!(
        !has("the ingress policy of a"),
        "nothing is denied there: {said:?}"
    );
    assert!(has("link-local addresses"), "{said:?}");
    // The description does not say that the parser looks behind tags.
    assert!(
        has("every rule for tagged frames of b: it is on VLAN 7 of port 1"),
        "{said:?}"
    );
}

#[test]
fn a_table_without_the_key_is_reported_for_its_direction() {
    let closed = DOCUMENT.replace(
        "baseline: [",
        "baseline: [{name: in, action: deny, direction: ingress, protocol: tcp, ports: [22]}, ",
    );
    let (_, built) = built(&closed);
    let said: Vec<String> = built.unsupported.iter().map(ToString::to_string).collect();
    let of_a = said
        .iter()
        .find(|text| text.contains("the ingress policy of a"))
        .unwrap();
    assert!(
        of_a.contains("attached by address, and the table cannot match IPv4 addresses of endpoints"),
        "{of_a}"
    );
}

#[test]
fn endpoints_that_share_a_port_are_found_where_the_sources_behind_it_are_guarded() {
    let found = points(DOCUMENT, SPACE);
    assert_eq!(found.resolution.pending, []);
    assert_eq!(found.resolution.realized, 3);
    let names: Vec<&str> = found.by_address.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let at_port_1 = found.points.keys().filter(|at| at.0 == 1).count();
    assert_eq!(
        (at_port_1, found.tagged_servers.len()),
        (0, 0),
        "the port is no unmanaged one"
    );
}

#[test]
fn without_what_an_address_needs_the_endpoint_waits_with_the_reason() {
    let waits = |document: &str, space: PortSpace| -> Vec<String> {
        let found = points(document, space);
        let others = found.points.keys().any(|at| at.0 == 1);
        assert_eq!(
            others,
            document.contains("whole") || !space.by_address,
            "no other rows hold there"
        );
        let pending = found.resolution.pending.iter();
        pending.map(|p| format!("{}: {}", p.endpoint, p.why)).collect()
    };
    let cases: [(String, usize, &str); 7] = [
        (
            DOCUMENT.replace("unmanaged: deny", "unmanaged: baseline"),
            2,
            "write `unmanaged: deny`",
        ),
        (
            DOCUMENT.replace("unmanaged: deny\n", ""),
            2,
            "write `unmanaged: deny`",
        ),
        (
            DOCUMENT.replace(", {interface: a, target: host}", ""),
            1,
            "a: port 1, by address: no target behind it holds the policy",
        ),
        (
            with("loose: {attachments: [{interface: c}], source_guard: false}"),
            2,
            "loose is behind it, too, and may send with any address",
        ),
        (
            with("bare: {attachments: [{interface: c}], macs: ['02:00:00:00:00:01']}"),
            2,
            "bare is behind it, too",
        ),
        (
            with(
                "twin: {attachments: [{interface: c, target: host}], addresses: [192.0.2.0/28], network: other}",
            ),
            2,
            "twin is behind it, too, and has the same address",
        ),
        (
            with(
                "whole: {attachments: [{port: 1, vlan: 9, target: tor}, {interface: c, target: host}], addresses: [192.0.2.9]}",
            ),
            2,
            "whole is attached to it by port: write `by: address` there, too",
        ),
    ];
    for (document, count, why) in cases {
        let found = waits(&document, SPACE);
        assert_eq!(found.len(), count, "{why}: {found:?}");
        assert!(found.iter().any(|text| text.contains(why)), "{why}: {found:?}");
    }
    // Our own program leads each port and VLAN to one policy.
    let own = waits(DOCUMENT, PortSpace::up_to(511));
    assert!(
        own.iter().all(|text| text.contains("on a VLAN of its own")) && own.len() == 2,
        "{own:?}"
    );
}

/// What waits under a document behind a vendor's switch with these targets behind its ports.
fn pending(document: &str, known: &KnownPorts) -> Vec<String> {
    let intent = Compiler::default()
        .resolve(&Document::from_yaml(document).unwrap(), 1)
        .unwrap();
    let found = resolve(&intent, known, SPACE).resolution.pending;
    found
        .iter()
        .map(|p| format!("{}: {}", p.endpoint, p.why))
        .collect()
}

fn with(endpoint: &str) -> String {
    format!("{DOCUMENT}  {endpoint}\n")
}

#[test]
fn of_two_open_vswitches_either_may_have_an_interface_that_names_none() {
    let mut two = known();
    two.behind.get_mut(&1).unwrap()[0].takes = Takes::Interfaces {
        without_target: false,
    };
    let waiting = pending(
        &with("loose: {attachments: [{interface: c}], source_guard: false}"),
        &two,
    );
    assert_eq!(waiting.len(), 2, "{waiting:?}");
}

#[test]
fn a_target_that_the_endpoint_itself_waits_at_does_not_police_it() {
    let mut leaf = known();
    leaf.behind.get_mut(&1).unwrap()[0].takes = Takes::Ports { uplinks: [9].into() };
    let attached = |a: &str| {
        DOCUMENT
            .replace("{interface: a, target: host}", a)
            .replace("{interface: b, target: host}", "{port: 6, target: host}")
    };
    for (a, is_waiting) in [
        ("{port: 5, target: host}", false),
        ("{port: 5, target: host, by: address}", true),
        (
            "{port: 5, target: host}, {port: 7, target: host, by: address}",
            true,
        ),
    ] {
        let waiting = pending(&attached(a), &leaf);
        let of_a = waiting
            .iter()
            .any(|why| why.starts_with("a: port 1, by address: no target"));
        // What is attached by address there is behind port 1, too.
        assert_eq!(
            (of_a, waiting.is_empty()),
            (is_waiting, !is_waiting),
            "{a}: {waiting:?}"
        );
    }
}

#[test]
fn a_foreign_program_behind_the_port_guards_nothing() {
    let mut beside = known();
    beside.behind.get_mut(&1).unwrap().push(Inner {
        target: "nic".to_string(),
        takes: Takes::Ports { uplinks: [9].into() },
        is_whole: false,
    });
    let spoofs = with("spoofs: {attachments: [{port: 3, target: nic}], addresses: [192.0.2.77]}");
    let waiting = pending(&spoofs, &beside);
    assert!(
        waiting.len() == 2 && waiting[0].contains("spoofs is behind it, too"),
        "{waiting:?}"
    );
}
