//! What is written: the policy rows of a fleet at the ports of a switch, in the terms of our own P4 program.

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_backend::delta::{Key, Op};
use portcullis_compiler::model::Role;
use portcullis_compiler::{Compiler, Intent, RowCache};
use portcullis_p4runtime::attachment_points::{KnownPorts, PortSpace, resolve};
use portcullis_p4runtime::entry::{Does, Row, RowKey};
use portcullis_p4runtime::units::Units;
use portcullis_p4runtime::wire::{self, Writer};
use portcullis_p4runtime::{OwnProgram, PortMatching};
use portcullis_policy::{Attachment, Document, Endpoint, IdentifiedBy, Vlan};
use portcullis_proto::p4::v1;
use serde_json::{Value, json};
use v1::entity::Entity;
use v1::field_match::FieldMatchType;

use crate::documents::Fleet;
use crate::{BenchError, Result};

pub const TARGET: &str = "tor";
/// Ports of the switch that have endpoints; more endpoints share them by VLAN.
const PORTS: u32 = 500;
/// The highest port that the program has a number for: 9 bits.
const PORT_MAX: u128 = 0x1ff;

pub type Write = Op<RowKey, Does>;

/// Where endpoint `n` is.
fn place(n: u32) -> Attachment {
    Attachment {
        interface: None,
        iface_id: None,
        port: Some(1 + n % PORTS),
        vlan: u16::try_from(100 + n / PORTS).map_or(Vlan::Any, Vlan::Id),
        target: Some(TARGET.to_string()),
        by: IdentifiedBy::Port,
        macs: Vec::new(),
    }
}

/// A fleet with the first `attached` of its endpoints at ports of a switch, the others elsewhere.
pub fn at_ports(document: &Document, attached: u32) -> Document {
    let mut moved = document.clone();
    for (n, (name, endpoint)) in (0..attached).zip(&document.endpoints) {
        let there = Endpoint {
            attachments: vec![place(n)],
            ..Endpoint::clone(endpoint)
        };
        moved.endpoints.insert(name.clone(), Arc::new(there));
    }
    moved
}

/// An intent, and its rows.
pub struct Rows {
    pub own: Arc<OwnProgram>,
    /// What the backend is given.
    pub intent: Arc<Intent>,
    /// Rows of all tables.
    pub all: usize,
    /// Each row of the policy tables, as it is written.
    pub policy: Vec<Write>,
}

/// The rows of so many endpoints, each with a profile of its own.
pub fn compiled(endpoints: u32) -> Result<Rows> {
    let fleet = Fleet {
        endpoints,
        profiles: endpoints,
        attached: endpoints,
        ports: 48,
        prefixes: 4,
    };
    let document = at_ports(&fleet.document()?, endpoints);
    let own = Arc::new(OwnProgram::new(PortMatching::Range)?);
    let intent = Compiler::default().resolve(&document, 1)?;
    let known = KnownPorts {
        target: TARGET.to_string(),
        ..KnownPorts::default()
    };
    let points = resolve(&intent, &known, PortSpace::up_to(PORT_MAX));
    let mut programs = RowCache::new(own.device.model.clone());
    let built = Units::default().build(&own.device, &intent, &points, TARGET, &mut programs)?;
    let rows: Vec<&Row> = built.desired.values().flat_map(|unit| unit.iter()).collect();
    let is_policy = |key: &RowKey| {
        let table = own.device.table(key.table());
        table.is_some_and(|t| t.stage == Role::Policy)
    };
    let policy: Vec<Write> = rows
        .iter()
        .filter(|(key, _)| is_policy(key))
        .map(|(key, does)| Op::Add(key.clone(), does.clone()))
        .collect();
    let keys: BTreeSet<&RowKey> = policy.iter().map(Op::key).collect();
    if keys.len() != policy.len() {
        return Err(BenchError::Untrue("the fleet has a row twice".to_string()));
    }
    let all = rows.len();
    Ok(Rows {
        own,
        intent,
        all,
        policy,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn field(seen: &v1::FieldMatch) -> Option<Value> {
    Some(match seen.field_match_type.as_ref()? {
        FieldMatchType::Exact(m) => json!([seen.field_id, "exact", hex(&m.value), ""]),
        FieldMatchType::Optional(m) => json!([seen.field_id, "optional", hex(&m.value), ""]),
        FieldMatchType::Ternary(m) => json!([seen.field_id, "ternary", hex(&m.value), hex(&m.mask)]),
        FieldMatchType::Range(m) => json!([seen.field_id, "range", hex(&m.low), hex(&m.high)]),
        FieldMatchType::Lpm(m) => json!([seen.field_id, "lpm", hex(&m.value), m.prefix_len]),
        FieldMatchType::Other(_) => return None,
    })
}

/// An entry as the Python client reads it.
#[allow(
    deprecated,
    reason = "rows are told apart by it on older servers, so that it is written, too"
)]
fn entry(update: &v1::Update) -> Option<Value> {
    let Entity::TableEntry(entry) = update.entity.as_ref()?.entity.as_ref()? else {
        return None;
    };
    let v1::table_action::Type::Action(action) = entry.action.as_ref()?.r#type.as_ref()? else {
        return None;
    };
    let matches: Option<Vec<Value>> = entry.r#match.iter().map(field).collect();
    let params = action.params.iter().map(|p| json!([p.param_id, hex(&p.value)]));
    Some(json!({
        "table": entry.table_id,
        "priority": entry.priority,
        "metadata": hex(&entry.metadata),
        "controller_metadata": entry.controller_metadata,
        "match": matches?,
        "action": action.action_id,
        "params": params.collect::<Vec<_>>(),
    }))
}

/// The entries that these writes add, a line each.
pub fn lines(own: &OwnProgram, writes: &[Write], writer: &Writer) -> Result<String> {
    let mut text = String::new();
    for write in writes {
        let update = wire::update(&own.device, write, writer);
        let line = update.as_ref().and_then(entry).ok_or_else(|| {
            BenchError::Untrue(format!(
                "{:?} is nothing that the Python client can write",
                write.key()
            ))
        })?;
        text += &line.to_string();
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_p4runtime::Tag;
    use portcullis_p4runtime::wire::ReplicaPorts;

    #[test]
    fn a_line_says_all_of_an_entry() {
        let rows = compiled(2).unwrap();
        assert!(rows.policy.len() > 100 && rows.all > rows.policy.len());
        let writer = Writer {
            tag: Tag(0x5043),
            generation: 1,
            ports: ReplicaPorts::Bytes,
        };
        let text = lines(&rows.own, &rows.policy, &writer).unwrap();
        assert_eq!(text.lines().count(), rows.policy.len());
        for (line, write) in text.lines().zip(&rows.policy) {
            let line: Value = serde_json::from_str(line).unwrap();
            let update = wire::update(&rows.own.device, write, &writer).unwrap();
            let Some(Entity::TableEntry(entry)) = update.entity.unwrap().entity else {
                panic!("a row of a table")
            };
            assert_eq!(line["priority"], entry.priority);
            assert_eq!(line["match"].as_array().map(Vec::len), Some(entry.r#match.len()));
            assert_eq!(line["metadata"], hex(&entry.metadata));
        }
        assert!(text.contains("\"range\""), "port ranges are written as ranges");
    }

    #[test]
    fn more_endpoints_than_ports_share_them() {
        let document = at_ports(&Fleet::hosting(700, 3, 700).document().unwrap(), 600);
        let at = |n: usize| document.endpoints.values().nth(n).unwrap().attachments[0].clone();
        assert_eq!((at(0).port, at(0).vlan), (Some(1), Vlan::Id(100)));
        assert_eq!((at(500).port, at(500).vlan), (Some(1), Vlan::Id(101)));
        assert_eq!(at(650).port, None);
    }
}
