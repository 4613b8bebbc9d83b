//! Rows of many bridges and policies keep to the contracts of their tables, and the contracts name nothing that no row has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::{Compiler, RowCache, StageModel};
use portcullis_openflow::{Action, Field, Instruction, Learn, LearnSpec, Match, port};
use portcullis_ovsdb::{Bridge, Interface, LinkState, Port, Switch, VlanMode};
use portcullis_policy::{Direction, Document, Grant, GrantKind};

use super::{Effect, MISSED, Miss};
use crate::config::{Config, FinalAction};
use crate::ports::{Attachments, Ports, resolve};
use crate::tables::{OPAQUE, Pipeline, Table, flood};
use crate::units::Units;
use crate::{Writer, regs};

const FOREIGN: u8 = 40;
const PIPELINE: Pipeline = Pipeline {
    first: 3,
    tag: 0x5043,
    last: FinalAction::Normal,
    opaque: &OPAQUE,
};

/// A row as far as contracts speak of it.
#[derive(Debug, Clone)]
struct Row {
    table: Table,
    priority: u16,
    keys: Vec<Field>,
    effects: Vec<Effect>,
}

/// What a row uses of its table's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Used {
    Key(Field),
    Priority(&'static str),
    Effect(Effect),
}

fn keys(matching: &Match) -> Vec<Field> {
    assert!(matching.opaque().next().is_none(), "{matching}");
    matching.iter().map(|oxm| oxm.field).collect()
}

/// A row, and those that it lets the switch learn.
fn rows(table: Table, priority: u16, matching: &Match, instructions: &[Instruction]) -> Vec<Row> {
    let mut learned = Vec::new();
    let mut effects = Vec::new();
    for instruction in instructions {
        match instruction {
            Instruction::GotoTable(FOREIGN) => effects.push(Effect::Foreign),
            Instruction::GotoTable(number) => effects.push(Effect::Goto(at(*number))),
            Instruction::ApplyActions(actions) => add(actions, &mut effects, &mut learned),
            other => panic!("{other:?}"),
        }
    }
    if instructions.is_empty() {
        effects.push(Effect::Drop);
    }
    learned.push(Row {
        table,
        priority,
        keys: keys(matching),
        effects,
    });
    learned
}

fn at(number: u8) -> Table {
    PIPELINE.table(number).unwrap_or_else(|| panic!("table {number}"))
}

fn add(actions: &[Action], effects: &mut Vec<Effect>, learned: &mut Vec<Row>) {
    for action in actions {
        effects.push(match action {
            Action::Output { port, .. } if *port == port::NORMAL => Effect::Normal,
            Action::Output { .. } => Effect::Output,
            Action::PushVlan(_) => Effect::PushVlan,
            Action::PopVlan => Effect::PopVlan,
            Action::SetField(oxm) => Effect::Set(oxm.field),
            Action::Move { dst, .. } => Effect::Set(dst.field),
            Action::Resubmit { in_port: None, table } => Effect::Resubmit(at(*table)),
            Action::Clone(inner) => {
                add(inner, effects, learned);
                continue;
            }
            Action::Learn(learn) => {
                learned.push(taught(learn));
                Effect::Learn(at(learn.table_id))
            }
            other => panic!("{other:?}"),
        });
    }
}

fn taught(learn: &Learn) -> Row {
    let (mut keys, mut effects) = (Vec::new(), Vec::new());
    for spec in &learn.specs {
        match spec {
            LearnSpec::MatchField { dst, .. } => keys.push(dst.field),
            LearnSpec::LoadField { dst, .. } => effects.push(Effect::Set(dst.field)),
            other => panic!("{other:?}"),
        }
    }
    Row {
        table: at(learn.table_id),
        priority: learn.priority,
        keys,
        effects,
    }
}

/// What a row uses, or what of it the contract does not name.
fn uses(row: &Row) -> Result<BTreeSet<(Table, Used)>, String> {
    let contract = row.table.contract();
    let refuse = |what: String| Err(format!("`{}` does not name {what}: {row:?}", contract.name));
    let missed = (contract.miss == Miss::Drop).then_some(&MISSED);
    let priority = contract
        .priorities
        .iter()
        .chain(missed)
        .find(|p| (p.lowest..=p.highest).contains(&row.priority));
    let Some(priority) = priority else {
        return refuse(format!("priority {}", row.priority));
    };
    let mut used = BTreeSet::from([(row.table, Used::Priority(priority.name))]);
    for key in &row.keys {
        if !contract.keys.contains(key) {
            return refuse(format!("the field {key}"));
        }
        used.insert((row.table, Used::Key(*key)));
    }
    for effect in &row.effects {
        if !contract.effects.contains(effect) {
            return refuse(format!("{effect:?}"));
        }
        used.insert((row.table, Used::Effect(*effect)));
    }
    Ok(used)
}

/// Everything that the contracts name.
fn named() -> BTreeSet<(Table, Used)> {
    let mut named = BTreeSet::new();
    for table in Table::all() {
        let contract = table.contract();
        named.extend(contract.keys.iter().map(|key| (table, Used::Key(*key))));
        let missed = (contract.miss == Miss::Drop).then_some(&MISSED);
        let priorities = contract.priorities.iter().chain(missed);
        named.extend(priorities.map(|p| (table, Used::Priority(p.name))));
        named.extend(contract.effects.iter().map(|e| (table, Used::Effect(*e))));
    }
    named
}

/// How a bridge forwards, and under which document.
#[derive(Debug)]
struct Scene {
    last: FinalAction,
    bond: bool,
    link_control: bool,
    vlan_limit: &'static str,
    document: String,
}

const ENDPOINTS: &str = r#"
reserved:
  macs: ["02:00:00:00:00:fe"]
  addresses: ["fe80::1", "2001:db8:ffff::1"]
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01", "02:00:00:00:00:21"]
    addresses: [192.0.2.1, 192.0.2.64/28, "2001:db8::1", "2001:db8:64::/64"]
    rules: [{name: own, action: deny, direction: egress, protocol: tcp, ports: [26]}]
  strict: {attachments: [{interface: strict}], macs: ["02:00:00:00:00:02"], addresses: ["2001:db8::2"], link_local: strict}
  addressed: {attachments: [{interface: addressed}], addresses: [192.0.2.3, "2001:db8::3"]}
  bare: {attachments: [{interface: bare}], macs: ["02:00:00:00:00:04"]}
  router: {attachments: [{interface: router, vlan: any}], macs: ["02:00:00:00:00:05"], roles: [router], source_guard: false}
  dhcp: {attachments: [{interface: dhcp}], roles: [dhcp-server]}
  tagged: {attachments: [{interface: tagged}], macs: ["02:00:00:00:00:06"], addresses: [192.0.2.6]}
  native: {attachments: [{interface: native}], macs: ["02:00:00:00:00:07"]}
  some: {attachments: [{interface: some, vlan: any}], macs: ["02:00:00:00:00:08"]}
  twice: {attachments: [{iface_id: twice}], macs: ["02:00:00:00:00:09"]}
  down: {attachments: [{interface: down}], macs: ["02:00:00:00:00:0a"]}
  one: {attachments: [{interface: one}], macs: ["02:00:00:00:00:0b"], shared: ["02:00:00:00:00:0b"]}
  other: {attachments: [{interface: other}], macs: ["02:00:00:00:00:0b"], shared: ["02:00:00:00:00:0b"]}
  away: {attachments: [{interface: away}], macs: ["02:00:00:00:00:0c"]}
"#;

/// Nothing is denied by default.
const ALLOWING: &str = r#"
version: portcullis/v1
mandatory:
  - {name: telnet, action: deny, direction: ingress, protocol: tcp, ports: [23], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
baseline:
  - {name: smtp, action: deny, protocol: tcp, direction: egress, ports: [25, 465, "6660-6669"]}
  - {name: reflectors, action: deny, direction: egress, protocol: udp, source_ports: [53, "1900-1901"]}
  - {name: pairs, action: deny, direction: ingress, protocol: udp, ports: ["5000-5099"], source_ports: ["6000-6063"]}
  - {name: smtp-in, action: deny, direction: ingress, protocol: tcp, ports: [25], source_ports: [25]}
  - {name: smtp-pairs, action: deny, direction: egress, protocol: tcp, ports: [24], source_ports: [24]}
  - {name: sctp, action: deny, direction: egress, protocol: sctp, ports: [3868], source_ports: [3868]}
  - {name: sctp-in, action: deny, direction: ingress, protocol: sctp, ports: [3868], source_ports: [3868]}
  - {name: redirects, action: deny, direction: egress, protocol: icmp, icmp: {type: 5, code: 1}}
  - {name: redirects-in, action: deny, direction: ingress, protocol: icmp, icmp: {type: 5, code: 1}}
  - {name: ping6, action: deny, direction: egress, protocol: icmpv6, icmp: {type: 128, code: 0}}
  - {name: ping6-in, action: deny, direction: ingress, protocol: icmpv6, icmp: {type: 128, code: 0}}
  - {name: gre, action: deny, direction: egress, protocol: 47, remote: [203.0.113.0/24, "2001:db8:bad::/48"]}
  - {name: local, action: deny, direction: ingress, protocol: tcp, ports: ["8080-8090"], local: [192.0.2.64/29, "2001:db8:64::/80"]}
  - {name: local-out, action: deny, direction: egress, protocol: tcp, ports: [9000], local: [192.0.2.72/30, "2001:db8:64::/80"]}
"#;

/// Everything that no rule names is denied.
const DENYING: &str = r#"
version: portcullis/v1
defaults: {egress: deny, ingress: deny}
unmanaged: deny
baseline:
  - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443, "8000-8007"]}
  - {name: dns, action: allow, direction: egress, protocol: udp, ports: [53], remote: [198.51.100.53, "2001:db8:53::/64"]}
  - {name: updates, action: allow, direction: egress, protocol: tcp, ports: [443]}
"#;

const OPEN: &str = "version: portcullis/v1\nunmanaged: allow\n";

/// Prefixes of both sides, the longer the shorter those of the other: written rule by rule, without remote ids.
fn stairs() -> String {
    let mut text = "version: portcullis/v1\nbaseline:\n".to_string();
    for direction in Direction::BOTH {
        for step in 0..24 {
            let action = if step % 2 == 0 { "deny" } else { "allow" };
            let (remote, local) = (8 + step, 30 - step);
            text += &format!(
                "  - {{name: {direction}-{step}, action: {action}, direction: {direction}, protocol: 47, \
                 remote: [10.0.0.0/{remote}], local: [128.0.0.0/{local}]}}\n"
            );
        }
    }
    text
}

fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    let exits = [
        (FinalAction::Normal, false, false),
        (FinalAction::Normal, false, true),
        (FinalAction::Normal, true, true),
        (FinalAction::GotoTable(FOREIGN), false, false),
    ];
    for (last, bond, link_control) in exits {
        for vlan_limit in ["1", "2"] {
            for document in [
                ALLOWING.to_string(),
                DENYING.to_string(),
                OPEN.to_string(),
                stairs(),
            ] {
                scenes.push(Scene {
                    last,
                    bond,
                    link_control,
                    vlan_limit,
                    document,
                });
            }
        }
    }
    scenes
}

fn interface(number: u32, name: &str, id: Option<&str>) -> (String, Interface) {
    let ids = id.map(|id| ("iface-id".to_string(), id.to_string()));
    let interface = Interface {
        name: name.to_string(),
        ofport: Some(number),
        external_ids: ids.into_iter().collect(),
        link_state: Some(if name == "down" {
            LinkState::Down
        } else {
            LinkState::Up
        }),
        ..Interface::default()
    };
    (name.to_string(), interface)
}

fn bridge(scene: &Scene) -> Bridge {
    let mut ports = BTreeMap::new();
    let mut port = |number: u32, name: &str, id: Option<&str>, change: fn(&mut Port)| {
        let mut port = Port {
            name: name.to_string(),
            interfaces: BTreeMap::from([interface(number, name, id)]),
            ..Port::default()
        };
        change(&mut port);
        ports.insert(name.to_string(), port);
    };
    let plain = |_: &mut Port| {};
    let names = [
        "web1",
        "strict",
        "addressed",
        "bare",
        "router",
        "dhcp",
        "one",
        "other",
        "down",
        "stray",
        "up0",
    ];
    for (number, name) in (1..).zip(names) {
        port(number, name, None, plain);
    }
    port(20, "tagged", None, |p| p.tag = Some(7));
    port(21, "native", None, |p| {
        (p.vlan_mode, p.tag, p.trunks) = (Some(VlanMode::NativeTagged), Some(7), vec![5]);
    });
    port(22, "some", None, |p| p.trunks = vec![0, 5, 6]);
    port(23, "twice-a", Some("twice"), plain);
    port(24, "twice-b", Some("twice"), plain);
    port(30, "up1", None, |p| {
        (p.vlan_mode, p.tag) = (Some(VlanMode::NativeUntagged), Some(9));
    });
    port(31, "up2", None, |p| {
        (p.vlan_mode, p.trunks) = (Some(VlanMode::Trunk), vec![5, 6])
    });
    port(32, "up3", None, |p| p.tag = Some(7));
    port(33, "up4", None, |p| {
        (p.vlan_mode, p.tag) = (Some(VlanMode::NativeTagged), Some(9));
    });
    if scene.bond {
        let up = ports.get_mut("up0").unwrap();
        up.interfaces.extend([interface(40, "up9", None)]);
    }
    Bridge {
        name: "br0".to_string(),
        ports: ports
            .into_iter()
            .map(|(name, port)| (name, Arc::new(port)))
            .collect(),
        other_config: BTreeMap::from([("forward-bpdu".to_string(), scene.link_control.to_string())]),
        ..Bridge::default()
    }
}

/// The rows of a scene: what is desired, what the switch learns from it, and the nudge.
fn written(scene: &Scene) -> Vec<Row> {
    let now = Duration::from_secs(1_800_000_000);
    let mut document = Document::from_yaml(&format!("{}{ENDPOINTS}", scene.document)).unwrap();
    let opened = Document::from_yaml(
        "version: portcullis/v1\nbaseline: [{name: open, action: allow, direction: egress, protocol: tcp, ports: [25]}, \
         {name: open-in, action: allow, direction: ingress, protocol: tcp, ports: [23]}, \
         {name: open-to, action: allow, direction: egress, protocol: tcp, ports: [26], remote: [2001:db8::/32]}, \
         {name: open-from, action: allow, direction: ingress, protocol: tcp, ports: [26], remote: [2001:db8::/32]}]\n",
    );
    let grant = |hours: u64| Grant {
        unlock: format!("u{hours}").parse().unwrap(),
        program: "mail".parse().unwrap(),
        rules: opened.as_ref().unwrap().baseline.to_vec(),
        kind: GrantKind::Unlock,
        ends: now.as_secs() + hours * 3600,
    };
    let grants = vec![grant(1)];
    document.grants.insert("web1".parse().unwrap(), grants.into());
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    let config = Config {
        uplinks: vec!["up*".to_string()],
        final_action: scene.last,
        ..Config::new("ovs", "unix:/nowhere/db.sock")
    };
    let switch = Switch {
        other_config: BTreeMap::from([("vlan-limit".to_string(), scene.vlan_limit.to_string())]),
        ..Switch::default()
    };
    let index = Attachments::new(&intent, "ovs");
    let before = Ports::default();
    let ports = resolve(&switch, &bridge(scene), &intent, &index, &config, now, &before);
    let pipeline = Pipeline {
        last: scene.last,
        ..PIPELINE
    };
    let mut cache = RowCache::new(StageModel::ovs());
    let desired = Units::new(pipeline).build(&intent, &ports, &mut cache).unwrap();
    let desired = desired.values().flat_map(|unit| unit.iter());
    let mut all: Vec<Row> = desired
        .flat_map(|(key, body)| rows(key.0.table, key.0.priority, &key.0.matching, &body.instructions))
        .collect();
    let nudge = flood::nudge(&pipeline, 1);
    all.extend(rows(
        at(nudge.table_id),
        nudge.priority,
        &nudge.match_,
        &nudge.instructions,
    ));
    all
}

#[test]
fn rows_keep_to_the_contracts_and_use_all_of_them() {
    let mut used = BTreeSet::new();
    for scene in scenes() {
        let rows = written(&scene);
        for row in &rows {
            used.extend(uses(row).unwrap_or_else(|why| panic!("{why}\n{scene:?}")));
        }
        for table in Table::all() {
            let mut all = rows
                .iter()
                .filter(|row| row.table == table && row.keys.is_empty());
            let priority = all.next().map(|row| row.priority);
            let promised = match table.contract().miss {
                Miss::Drop => Some(0),
                Miss::Row(priority) => Some(priority.lowest),
                Miss::Return => None,
            };
            assert_eq!(priority, promised, "a miss in {}", table.name());
        }
    }
    let unused: Vec<_> = named().difference(&used).copied().collect();
    assert!(unused.is_empty(), "no row has what contracts name: {unused:?}");
}

#[test]
fn a_row_outside_its_contract_is_found() {
    let writer = Writer { generation: 1 };
    let (key, body) = writer.drop(Table::L2, super::super::guard::CONTROL, Match::new());
    let forged = |keys: Vec<Field>, priority: u16, effects: Vec<Effect>| {
        let row = Row {
            table: key.0.table,
            priority,
            keys,
            effects,
        };
        uses(&row)
    };
    let whole = rows(key.0.table, key.0.priority, &key.0.matching, &body.instructions);
    assert!(uses(&whole[0]).unwrap_err().contains("priority 60"));
    let fine = || vec![Effect::Set(regs::OUT)];
    assert!(forged(vec![Field::EthDst], 10, fine()).is_ok());
    let refused = [
        (forged(vec![Field::EthSrc], 10, fine()), "eth_src"),
        (forged(vec![Field::EthDst], 11, fine()), "priority 11"),
        (forged(vec![Field::EthDst], 0, fine()), "priority 0"),
        (forged(vec![Field::EthDst], 10, vec![Effect::Drop]), "Drop"),
    ];
    for (result, what) in refused {
        assert!(result.unwrap_err().contains(what), "{what}");
    }
}

#[test]
fn contracts_are_sound() {
    let mut names = BTreeSet::new();
    for table in Table::all() {
        let contract = table.contract();
        assert!(
            names.insert(contract.name),
            "two tables are called {}",
            contract.name
        );
        let mut above = u32::from(u16::MAX) + 1;
        let mut known = BTreeSet::from([MISSED.name]);
        for priority in contract.priorities {
            let what = format!("{} of {}", priority.name, contract.name);
            assert!(known.insert(priority.name), "two priorities are called {what}");
            assert!(
                priority.lowest > MISSED.highest && priority.lowest <= priority.highest,
                "{what}"
            );
            assert!(
                u32::from(priority.highest) < above,
                "{what} is not below the one before it"
            );
            above = priority.lowest.into();
        }
        if let Miss::Row(priority) = contract.miss {
            assert_eq!(contract.priorities.last(), Some(&priority), "{}", contract.name);
        }
        for effect in contract.effects {
            if let Effect::Goto(next) = effect {
                assert!(
                    *next > table,
                    "goto_table leads up: {} to {}",
                    contract.name,
                    next.name()
                );
            }
        }
    }
    let fields: BTreeSet<Field> = regs::ALL.iter().map(|register| register.field).collect();
    assert_eq!(fields.len(), regs::ALL.len());
}

#[test]
fn a_range_of_priorities_keeps_its_ends() {
    let range = super::Priority::range("some", 100, 103, "rows");
    let above = |steps| range.above(steps).number();
    assert_eq!([above(0), above(2), above(3), above(9)], [100, 102, 103, 103]);
    let level = |number| range.level(number).map(super::Level::number);
    assert_eq!(
        [level(99), level(100), level(103), level(104)],
        [None, Some(100), Some(103), None]
    );
    assert_eq!(level(65_536 + 100), None);
}
