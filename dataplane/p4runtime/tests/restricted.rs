//! Foreign tables that restrict their rows, or whose fields are narrower than ours: rows are as the P4 program wants them, or the
//! rule that needs others is refused.

use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::entry::{Match, Place};
use portcullis_p4runtime::units::Built;
use portcullis_p4runtime::{Mapping, parse};
use portcullis_policy::Document;
use portcullis_proto::p4::config::v1::P4Info;

use crate::by_port::rows_of;

const ACL: &[u8] = include_bytes!("fixtures/acl.txtpb");

/// Restrictions as switches with SAI have them.
const USUAL: &str = "
    ether_type != 0x0800 && ether_type != 0x86dd;
    (is_ip::mask != 0 || is_ipv4::mask != 0 || is_ipv6::mask != 0) -> ether_type::mask == 0;
    src_ip::mask != 0 -> is_ipv4 == 1;
    dst_ip::mask != 0 -> is_ipv4 == 1;
    src_ipv6::mask != 0 -> is_ipv6 == 1;
    dst_ipv6::mask != 0 -> is_ipv6 == 1;
    ip_protocol::mask != 0 -> (is_ip == 1 || is_ipv4 == 1 || is_ipv6 == 1);
    l4_src_port::mask != 0 -> (ip_protocol == 6 || ip_protocol == 17);
    l4_dst_port::mask != 0 -> (ip_protocol == 6 || ip_protocol == 17);
    // Versions exclude each other.
    is_ipv4::mask != 0 -> (is_ip::mask == 0 && is_ipv6::mask == 0);
    is_ipv6::mask != 0 -> (is_ip::mask == 0 && is_ipv4::mask == 0);
    ::priority <= 65535;
";

/// The ACL table with these restrictions; `change` may do more to it.
fn acl(restrictions: &str, change: impl FnOnce(&mut P4Info)) -> P4Info {
    let mut info = parse(ACL).unwrap();
    let table = info
        .tables
        .iter_mut()
        .find(|t| t.match_fields.iter().any(|f| f.name == "is_ipv4"));
    let preamble = table.unwrap().preamble.as_mut().unwrap();
    preamble
        .annotations
        .push(format!("@entry_restriction(\"{restrictions}\")"));
    change(&mut info);
    info
}

fn document(rules: &str) -> Document {
    Document::from_yaml(&format!(
        "
version: portcullis/v1
baseline:
  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}}
endpoints:
  web:
    attachments: [{{port: 1, target: tor}}]
    source_guard: false
    rules: [{rules}]
  zeta:
    attachments: [{{port: 1, target: another}}]
    source_guard: false
    rules: [{rules}]
"
    ))
    .unwrap()
}

/// A device of this P4Info, and what it is given.
fn build(info: &P4Info, rules: &str) -> (Device, Built) {
    let device = Device::new(info, "tor", None).unwrap();
    let built = rows_of(&device, &document(rules));
    (device, built)
}

/// What is reported as not enforced, of a policy that the tables cannot hold.
fn refused(info: &P4Info, rules: &str) -> Option<String> {
    let (_, built) = build(info, rules);
    let mut policies = built
        .unsupported
        .iter()
        .filter(|u| u.rule.starts_with("the egress policy"));
    policies.next().map(ToString::to_string)
}

/// What each row of the ACL table names: field, value, mask.
fn named(device: &Device, built: &Built) -> Vec<Vec<(String, u128, u128)>> {
    let mut list = Vec::new();
    for (key, _) in built.desired.values().flat_map(|unit| unit.iter()) {
        let Place::Table { table, fields, .. } = &key.0.place else {
            continue;
        };
        let table = &device.tables[usize::from(*table)];
        let name = |id: u32| table.fields.iter().find(|f| f.id == id).unwrap().name.clone();
        list.push(
            fields
                .iter()
                .filter_map(|(id, value)| match value {
                    Match::Exact(v) | Match::Optional(v) => Some((name(*id), *v, u128::MAX)),
                    Match::Ternary { value, mask } => Some((name(*id), *value, *mask)),
                    Match::Lpm { .. } | Match::Range { .. } => None,
                })
                .collect(),
        );
    }
    list
}

#[test]
fn rows_keep_the_restrictions_of_their_table() {
    let rules = "{name: a, action: deny, direction: egress, protocol: udp, ports: [19], remote: [192.0.2.0/24, '2001:db8::/32']}, \
                 {name: b, action: deny, direction: egress, protocol: gre}";
    let (device, built) = build(&acl(USUAL, |_| {}), rules);
    let rows = named(&device, &built);
    assert!(rows.len() > 20, "{rows:#?}");
    for row in &rows {
        let value = |field: &str| {
            row.iter()
                .find(|(name, ..)| name == field)
                .map(|(_, value, _)| *value)
        };
        let ip = value("is_ipv4").is_some() || value("is_ipv6").is_some();
        assert!(
            value("is_ipv4").is_none() || value("is_ipv6").is_none(),
            "{row:?}"
        );
        assert!(!matches!(value("ether_type"), Some(0x0800 | 0x86dd)), "{row:?}");
        assert!(value("ether_type").is_none() || !ip, "{row:?}");
        assert!(value("ip_protocol").is_none() || ip, "{row:?}");
        if value("l4_dst_port").or(value("l4_src_port")).is_some() {
            assert!(matches!(value("ip_protocol"), Some(6 | 17)), "{row:?}");
        }
    }
    assert!(!built.unsupported.iter().any(|u| u.why.contains("cannot be read")));
}

#[test]
fn a_rule_whose_rows_would_break_a_restriction_is_refused_by_name() {
    let gre = "{name: tunnels, action: deny, direction: egress, protocol: gre}";
    let info = acl("true; ip_protocol != 47; true", |_| {});
    let report = refused(&info, gre).expect("it is reported");
    for part in [
        "cannot enforce the egress policy of web: endpoints/web/tunnels: ",
        "would break `ip_protocol != 47`",
        "no rule of this policy is enforced here",
    ] {
        assert!(report.contains(part), "{report}");
    }
    assert_eq!(refused(&info, ""), None);
}

#[test]
fn a_table_that_takes_no_row_of_ours_is_refused_when_it_is_found() {
    let info = acl("is_ipv6::mask == 0", |_| {});
    let error = Device::new(&info, "tor", None).unwrap_err().to_string();
    assert!(
        error.contains("rows of every policy would break its restriction `is_ipv6::mask == 0`"),
        "{error}"
    );
}

#[test]
fn a_restriction_that_cannot_be_read_is_reported() {
    let (_, built) = build(&acl("vrf == 1", |_| {}), "");
    let report = built
        .unsupported
        .iter()
        .find(|u| u.rule == "rows that break `vrf == 1`");
    assert!(
        report.unwrap().why.contains("there is no match field `vrf`"),
        "{report:?}"
    );
}

#[test]
fn a_flag_is_not_mapped_to_another_one() {
    let mapping = "[[table]]\ntable = \"acl_ingress_table\"\nstage = \"policy\"\ndirection = \"egress\"\n[table.fields]\nis_ip = \"later\"\n";
    let mapping = Mapping::from_toml(mapping).unwrap();
    let error = Device::new(&parse(ACL).unwrap(), "tor", Some(&mapping))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`is_ip` cannot be `later`: its name says that it is something else"),
        "{error}"
    );
}

/// Makes a match field of the ACL table as wide as this.
fn width(name: &'static str, bits: i32) -> impl Fn(&mut P4Info) {
    move |info| {
        let fields = info.tables.iter_mut().flat_map(|t| &mut t.match_fields);
        fields.filter(|f| f.name == name).for_each(|f| f.bitwidth = bits);
    }
}

#[test]
fn addresses_of_64_bits_are_the_first_ones() {
    let half = |info: &mut P4Info| {
        width("src_ipv6", 64)(info);
        width("dst_ipv6", 64)(info);
    };
    let info = acl("true", half);
    let rule = |remote: &str| {
        format!(
            "{{name: a, action: deny, direction: egress, protocol: tcp, ports: [22], remote: ['{remote}']}}"
        )
    };
    let (device, built) = build(&info, &rule("2001:db8:0:1::/64"));
    let mut prefixes = named(&device, &built)
        .into_iter()
        .flatten()
        .filter(|(name, ..)| name == "dst_ipv6");
    assert_eq!(
        prefixes.next(),
        Some(("dst_ipv6".to_string(), 0x2001_0db8_0000_0001, u64::MAX.into()))
    );
    let report = refused(&info, &rule("2001:db8::/65")).expect("it is reported");
    assert!(report.contains("IPv6 prefixes longer than its key"), "{report}");
}

#[test]
fn eight_tcp_flags_are_enough() {
    let info = acl("true", width("tcp_flags", 8));
    let replies = "{name: a, action: allow, direction: ingress, protocol: tcp, ports: [80]}";
    let (device, built) = build(&info, replies);
    let rows = named(&device, &built);
    let masks: Vec<u128> = rows
        .iter()
        .flatten()
        .filter(|(name, ..)| name == "tcp_flags")
        .map(|(.., mask)| *mask)
        .collect();
    assert!(
        !masks.is_empty() && masks.iter().all(|mask| *mask <= 0xff),
        "{masks:?}"
    );
}
