//! Partial points: a vendor's tables hold a part of a policy, and status says which.

use portcullis_compiler::model::PacketKind;
use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::units::Built;
use portcullis_p4runtime::{Mapping, parse, pipelines};
use portcullis_policy::Document;

use crate::by_port::rows_of;

const VENDOR: &[u8] = include_bytes!("../../../p4/compiled/vendor.p4info.txtpb");

fn vendor(accept: &[PacketKind]) -> Mapping {
    let mut mapping = Mapping::from_toml(pipelines::source("vendor").unwrap()).unwrap();
    mapping.accept_also(accept.iter().copied()).unwrap();
    mapping
}

fn built(accept: &[PacketKind]) -> Built {
    let document = Document::from_yaml(
        "
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
  - {name: gre, action: deny, direction: egress, protocol: gre}
  - {name: bogons, action: deny, direction: egress, remote: [203.0.113.0/24]}
endpoints:
  web:
    attachments: [{port: 1, target: tor}]
    source_guard: false
",
    )
    .unwrap();
    let device = Device::new(&parse(VENDOR).unwrap(), "tor", Some(&vendor(accept))).unwrap();
    rows_of(&device, &document)
}

/// What status says of a rule.
fn said(built: &Built, rule: &str) -> String {
    let of_rule = built.unsupported.iter().filter(|u| u.rule.contains(rule));
    of_rule.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn rows(built: &Built) -> usize {
    built.desired.values().map(|unit| unit.len()).sum()
}

#[test]
fn status_says_what_a_partial_point_enforces() {
    let none = built(&[]);
    // Three rows for each of four server ports: one for both versions of IP, one for IPv4, and port 25 of IPv6.
    assert_eq!(rows(&none), 12);
    let smtp = said(&none, "baseline/smtp");
    for part in [
        // What goes to bogons is denied by another row.
        "enforced in part: plain packets, packets with IPv4 options, packets with IPv6 extension headers pass",
        "for example IPv4 tcp to port 25",
        r#"accept = ["later-fragments", "ip-options"]"#,
    ] {
        assert!(smtp.contains(part), "{smtp}");
    }
    let gre = said(&none, "baseline/gre");
    assert!(
        gre.contains("enforced in part: later fragments, packets with IPv6 extension headers pass"),
        "{gre}"
    );
    assert_eq!(said(&none, "bogons"), "", "a rule that is held is not listed");
    assert!(said(&none, "packets that hide what they are").contains("TCP fragments at offset 1"));
    assert_eq!(said(&none, "passing"), "", "nothing is accepted");

    let all = built(&PacketKind::OBSCURE);
    assert_eq!(rows(&all), 12);
    let smtp = said(&all, "baseline/smtp");
    assert!(
        smtp.contains("enforced in part: packets with IPv4 options"),
        "{smtp}"
    );
    assert!(said(&all, "passing").contains("later fragments, packets with IPv4 options"));
}

#[test]
fn tagged_frames_of_trunks_are_reported() {
    let document = "
version: portcullis/v1
baseline: [{name: bogons, action: deny, direction: egress, remote: [203.0.113.0/24]}]
endpoints:
  trunk: {attachments: [{port: 1, vlan: any, target: tor}], source_guard: false}
  plain: {attachments: [{port: 2, target: tor}], source_guard: false}
";
    let said_by = |mapping: Mapping| {
        let device = Device::new(&parse(VENDOR).unwrap(), "tor", Some(&mapping)).unwrap();
        let built = rows_of(&device, &Document::from_yaml(document).unwrap());
        said(&built, "tagged frames")
    };
    let blind = said_by(vendor(&[]));
    assert!(
        blind.contains("every rule for tagged frames of trunk: port 1 is a trunk")
            && blind.contains("they pass here"),
        "{blind}"
    );
    assert!(!blind.contains("plain"), "{blind}");
    let sees = pipelines::source("vendor")
        .unwrap()
        .replace("[parser]", "[parser]\nopaque_ethertypes = [0x88a8]");
    assert_eq!(said_by(Mapping::from_toml(&sees).unwrap()), "");
}

#[test]
fn every_description_is_a_mapping_of_a_partial_point() {
    let names: Vec<&str> = pipelines::names().collect();
    assert_eq!(names, ["pins-tor", "pins-fabric-border-router", "vendor"]);
    for name in names {
        let source = pipelines::source(name).unwrap();
        let mapping = Mapping::from_toml(source).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(mapping.partial && mapping.accept.is_empty(), "{name}");
        assert!(
            mapping.priority_min.is_some() && mapping.priority_max.is_some(),
            "{name}"
        );
    }
    assert_eq!(pipelines::source("pins"), None);
}

#[test]
fn what_is_accepted_goes_with_a_partial_point_and_is_named() {
    let refused = |text: &str| Mapping::from_toml(text).unwrap_err().to_string();
    let whole = refused("accept = [\"ip-options\"]\n");
    assert!(whole.starts_with("accept: goes with partial = true"), "{whole}");
    let unknown = refused("partial = true\naccept = [\"plain\"]\n");
    assert!(
        unknown
            .contains("`plain` is not one of `later-fragments`, `ip-options`, `extension-headers`, `sctp`"),
        "{unknown}"
    );
    // A field of ICMP of one IP version would be missing for the other.
    let one = pipelines::source("vendor")
        .unwrap()
        .replace("message_type", "icmp_type");
    let info = String::from_utf8_lossy(VENDOR).replace("message_type", "icmp_type");
    let mapping = Mapping::from_toml(&one).unwrap();
    let error = Device::new(&parse(info.as_bytes()).unwrap(), "tor", Some(&mapping)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`icmp_type` is of one IP version by its name"),
        "{error}"
    );
}
