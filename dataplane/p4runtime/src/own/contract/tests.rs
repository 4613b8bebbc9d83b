//! Rows of many documents keep to the P4Info and to the contracts, which name nothing that no row has.

use std::collections::BTreeSet;

use portcullis_compiler::{Compiler, RowCache};
use portcullis_policy::Document;
use portcullis_proto::p4::config::v1::Preamble;

use super::{Priority, TABLES, contract};
use crate::attachment_points::{KnownPorts, PortSpace, resolve};
use crate::config::PortMatching;
use crate::device::DeviceTable;
use crate::entry::{Place, Row};
use crate::program::OwnProgram;
use crate::units::Units;

const TARGET: &str = "switch";

/// What a row uses: of the P4Info a key or an action, of the contract a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Used<'a> {
    Key(u32),
    Action(u32),
    Priority(&'a str),
}

/// What a row of a table uses, or what of it is not named.
fn uses<'a>(table: &'a DeviceTable, row: &Row) -> Result<Vec<(&'a str, Used<'a>)>, String> {
    let name = table.name.as_str();
    let refuse = |what: String| Err(format!("`{name}` does not name {what}: {row:?}"));
    let contract = contract(name).ok_or_else(|| format!("there is no contract of {name}"))?;
    let (Place::Table { priority, fields, .. }, Some((action, ..))) = (&row.0.0.place, row.1.parts()) else {
        return refuse("a row of another kind".to_string());
    };
    let mut used = Vec::new();
    let vlan = table.named("vlan").map(|field| field.id);
    let of_vlan = vlan.is_some_and(|vlan| fields.iter().any(|(id, _)| *id == vlan));
    let is = |p: &&Priority| {
        let lift = if of_vlan { p.lift } else { 0 };
        (p.lowest + lift..=p.highest + lift).contains(priority)
    };
    match contract.priorities.iter().find(is) {
        Some(priority) => used.push((name, Used::Priority(priority.name))),
        None if contract.priorities.is_empty() && *priority == 0 => {}
        None => return refuse(format!("priority {priority}")),
    }
    for (id, _) in fields {
        if table.field(*id).is_none() {
            return refuse(format!("the key {id}"));
        }
        used.push((name, Used::Key(*id)));
    }
    if table.action(action).is_none() {
        return refuse(format!("the action {action:#x}"));
    }
    used.push((name, Used::Action(action)));
    Ok(used)
}

const ENDPOINTS: &str = r#"
reserved: {addresses: ["fe80::1"]}
endpoints:
  web1:
    attachments: [{port: 1, target: switch}]
    macs: ["02:00:00:00:00:01", "02:00:00:00:00:21"]
    addresses: [192.0.2.1, 192.0.2.64/28, "2001:db8::1", "2001:db8:64::/64"]
    rules:
      - {name: own, action: deny, direction: egress, protocol: tcp, ports: [26]}
      - {name: own-in, action: deny, direction: ingress, protocol: tcp, ports: [26]}
  tagged: {attachments: [{port: 2, vlan: 7, target: switch}], macs: ["02:00:00:00:00:02"], addresses: [192.0.2.2, "2001:db8::2"]}
  trunk: {attachments: [{port: 3, vlan: any, target: switch}], macs: ["02:00:00:00:00:03"], addresses: ["2001:db8::3"]}
  strict: {attachments: [{port: 4, target: switch}], macs: ["02:00:00:00:00:04"], addresses: ["2001:db8::4"], link_local: strict}
  addressed: {attachments: [{port: 5, vlan: any, target: switch}], macs: ["02:00:00:00:00:05"], addresses: [192.0.2.5]}
  bare: {attachments: [{port: 6, target: switch}], macs: ["02:00:00:00:00:06"]}
  router: {attachments: [{port: 7, vlan: any, target: switch}], macs: ["02:00:00:00:00:07"], roles: [router], source_guard: false}
  dhcp: {attachments: [{port: 8, target: switch}], macs: ["02:00:00:00:00:08"], roles: [dhcp-server], source_guard: false}
  one: {attachments: [{port: 9, target: switch}], macs: ["02:00:00:00:00:0b"], shared: ["02:00:00:00:00:0b"]}
  other: {attachments: [{port: 10, target: switch}], macs: ["02:00:00:00:00:0b"], shared: ["02:00:00:00:00:0b"]}
"#;

const ALLOWING: &str = r#"
version: portcullis/v1
mandatory:
  - {name: telnet, action: deny, direction: ingress, protocol: tcp, ports: [23], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
baseline:
  - {name: smtp, action: deny, protocol: tcp, direction: egress, ports: [25, 465, "6660-6669"]}
  - {name: pairs, action: deny, direction: ingress, protocol: udp, ports: ["5000-5099"], source_ports: ["6000-6063"]}
  - {name: reflectors, action: deny, direction: egress, protocol: udp, source_ports: [53, "1900-1901"]}
  - {name: redirects, action: deny, direction: egress, protocol: icmp, icmp: {type: 5, code: 1}}
  - {name: ping6-in, action: deny, direction: ingress, protocol: icmpv6, icmp: {type: 128, code: 0}}
  - {name: gre, action: deny, direction: egress, protocol: 47, remote: [203.0.113.0/24, "2001:db8:bad::/48"]}
  - {name: local, action: deny, direction: ingress, protocol: tcp, ports: ["8080-8090"], local: [192.0.2.64/29, "2001:db8:64::/80"]}
  - {name: local-out, action: deny, direction: egress, protocol: tcp, ports: [9000], local: [192.0.2.72/30, "2001:db8:64::/80"]}
"#;

const DENYING: &str = r#"
version: portcullis/v1
defaults: {egress: deny, ingress: deny}
unmanaged: deny
baseline:
  - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443, "8000-8007"]}
  - {name: dns, action: allow, direction: egress, protocol: udp, ports: [53], remote: [198.51.100.53, "2001:db8:53::/64"]}
  - {name: updates, action: allow, direction: egress, protocol: tcp, ports: [443]}
"#;

/// Prefixes of the other side within each other, with different ports: they have remote ids.
const NESTED: &str = r#"
version: portcullis/v1
baseline:
  - {name: office, action: allow, direction: egress, protocol: tcp, ports: [22, 3389], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
  - {name: guests, action: deny, direction: egress, protocol: tcp, ports: [22], remote: [198.51.100.128/25, "2001:db8:1:8000::/49"]}
  - {name: admin, action: deny, direction: egress, protocol: tcp, ports: [22, 3389]}
  - {name: bogons, action: deny, direction: egress, remote: [10.0.0.0/8, 192.168.0.0/16, "fc00::/7", "2001:db8:bad::/48"]}
  - {name: office-in, action: allow, direction: ingress, protocol: tcp, ports: [22, 3389], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
  - {name: guests-in, action: deny, direction: ingress, protocol: tcp, ports: [22], remote: [198.51.100.128/25, "2001:db8:1:8000::/49"]}
  - {name: admin-in, action: deny, direction: ingress, protocol: tcp, ports: [22, 3389]}
  - {name: bogons-in, action: deny, direction: ingress, remote: [10.0.0.0/8, 192.168.0.0/16, "fc00::/7", "2001:db8:bad::/48"]}
"#;

/// The rows of a document, without the groups, each with its table.
fn rows(program: &OwnProgram, document: &str) -> Vec<(u8, Row)> {
    let document = Document::from_yaml(&format!("{document}{ENDPOINTS}")).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    let known = KnownPorts {
        target: TARGET.to_string(),
        uplinks: BTreeSet::from([20]),
        servers: BTreeSet::from([21]),
        ..KnownPorts::default()
    };
    let points = resolve(&intent, &known, PortSpace::up_to(511));
    assert_eq!(points.resolution.pending, [], "every endpoint is here");
    let mut cache = RowCache::new(program.device.model.clone());
    let built = Units::new(false).build(&program.device, &intent, &points, TARGET, &mut cache);
    let built = built.unwrap();
    let all = built.desired.values().flat_map(|unit| unit.iter().cloned());
    all.filter_map(|row| match row.0.0.place {
        Place::Table { table, .. } => Some((table, row)),
        Place::Group(_) => None,
    })
    .collect()
}

#[test]
fn rows_keep_to_the_p4info_and_the_contracts_and_use_all_of_them() {
    for matching in [PortMatching::Range, PortMatching::Ternary] {
        let program = OwnProgram::new(matching).unwrap();
        let mut used = BTreeSet::new();
        for document in [ALLOWING, DENYING, NESTED] {
            for (number, row) in rows(&program, document) {
                let table = program.device.table(number).unwrap();
                used.extend(uses(table, &row).unwrap_or_else(|why| panic!("{why}")));
            }
        }
        let mut named = BTreeSet::new();
        for table in &program.device.tables {
            let name = table.name.as_str();
            named.extend(table.fields.iter().map(|field| (name, Used::Key(field.id))));
            named.extend(table.actions.iter().map(|action| (name, Used::Action(action.id))));
            let priorities = contract(name).unwrap().priorities;
            named.extend(priorities.iter().map(|p| (name, Used::Priority(p.name))));
        }
        let unused: Vec<_> = named.difference(&used).collect();
        assert!(unused.is_empty(), "{matching:?}: no row has {unused:?}");
    }
}

#[test]
fn a_row_outside_its_contract_is_found() {
    let program = OwnProgram::new(PortMatching::Range).unwrap();
    let (number, table) = program.device.table_named("attach").unwrap();
    let action = table.action_named("set_class").unwrap().id;
    let row = |priority: i32, field: u32, action: u32| {
        let key = table.key(number, priority, vec![(field, crate::entry::Match::Exact(1))]);
        uses(
            table,
            &(key, crate::entry::Does::action(action, vec![(1, 1)], Vec::new())),
        )
    };
    assert!(row(1, 1, action).is_ok());
    assert!(row(2, 2, action).is_ok(), "of a VLAN");
    for (result, what) in [
        (row(2, 1, action), "priority 2"),
        (row(0, 1, action), "priority 0"),
        (row(1, 9, action), "the key 9"),
        (row(1, 1, 0x0100_0063), "the action 0x1000063"),
    ] {
        assert!(result.unwrap_err().contains(what), "{what}");
    }
}

#[test]
fn the_list_is_that_of_the_p4info() {
    let program = OwnProgram::new(PortMatching::Range).unwrap();
    let tables: Vec<&str> = program.device.tables.iter().map(|t| t.name.as_str()).collect();
    let ours: Vec<&str> = TABLES.iter().map(|contract| contract.name).collect();
    assert_eq!(ours, tables);
    for table in &program.device.tables {
        let contract = contract(&table.name).unwrap();
        assert_eq!(
            table.has_priority(),
            !contract.priorities.is_empty(),
            "{}",
            table.name
        );
        assert!(contract.denials.is_none() || table.counted, "{}", table.name);
        // Every row of a VLAN is above every row of the whole port, and otherwise the list falls.
        let mut above = i32::MAX;
        for priority in contract.priorities {
            assert!(
                priority.lowest > 0 && priority.lowest <= priority.highest,
                "{}",
                table.name
            );
            assert!(priority.highest < above, "{} of {}", priority.name, table.name);
            above = priority.lowest;
        }
        let lifted = contract.priorities.iter().filter(|p| p.lift > 0);
        let (lowest, highest) = (
            lifted.clone().map(|p| p.lowest + p.lift).min(),
            lifted.map(|p| p.highest).max(),
        );
        assert!(lowest >= highest.map(|highest| highest + 1), "{}", table.name);
    }
}

/// `p4/include/tables.p4` says which ids were used, so that none is used again.
#[test]
fn the_program_says_which_ids_were_used() {
    let source = include_str!("../../../../../p4/include/tables.p4");
    let info = OwnProgram::new(PortMatching::Range)
        .unwrap()
        .config
        .p4info
        .unwrap();
    let highest =
        |ids: &mut dyn Iterator<Item = u32>| ids.map(|id| id & 0x00ff_ffff).filter(|id| *id < 1 << 16).max();
    let id = |preamble: &Option<Preamble>| preamble.as_ref().unwrap().id;
    let tables = highest(&mut info.tables.iter().map(|t| id(&t.preamble))).unwrap();
    let actions = highest(&mut info.actions.iter().map(|a| id(&a.preamble))).unwrap();
    let counters = highest(&mut info.direct_counters.iter().map(|c| id(&c.preamble))).unwrap();
    let text: String = source
        .lines()
        .map(|line| line.trim_start_matches("// ").to_string() + " ")
        .collect();
    let said = format!("tables 1 to {tables}, actions 1 to {actions}, counters 1 to {counters}.");
    assert!(text.contains(&said), "tables.p4 does not say: {said}");
}
