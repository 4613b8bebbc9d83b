//! Tables of the fast path with the rows that the agent writes for a fleet.

use std::sync::Arc;

use portcullis_backend::delta::Op;
use portcullis_compiler::{Compiler, RowCache};
use portcullis_fastpath::{Action, Lead, RowId, Table, Tables};
use portcullis_p4runtime::OwnProgram;
use portcullis_p4runtime::attachment_points::{KnownPorts, PortSpace, resolve};
use portcullis_p4runtime::units::Units;
use portcullis_p4runtime::wire::{self, ReplicaPorts, Tag, Writer};
use portcullis_policy::Document;
use portcullis_proto::p4::v1;
use portcullis_switch::entry;
use portcullis_switch::program::Program;
use serde_json::{Value, json};

use crate::{BenchError, Result};

const TARGET: &str = "sw";
/// Ports of the switch that have endpoints; more endpoints share them by VLAN.
const PORTS: u32 = 500;
const PORT_MAX: u128 = 0x1ff;
const PROFILES: u32 = 10;
/// Endpoints of a document: what is made of one, and put together.
const CHUNK: u32 = 1000;

/// Tables, and what is told of them.
pub struct Made {
    pub tables: Tables,
    pub rows: usize,
    /// Rows that say the class of a sender, and that class.
    pub attached: Vec<(RowId, Lead)>,
    slots: u32,
}

/// The tables of so many endpoints. Documents of some are enough: they share profiles, so that classes are the same.
pub fn made(endpoints: u32, guarded: bool) -> Result<Made> {
    let own = OwnProgram::embedded()?;
    let info = own.config.p4info.clone().unwrap_or_default();
    let program = Program::accept(&info).map_err(|e| BenchError::Untrue(e.to_string()))?;
    let mut made = Made {
        tables: Tables::default(),
        rows: 0,
        attached: Vec::new(),
        slots: 0,
    };
    let mut first = 0;
    while first < endpoints {
        let numbers = first..endpoints.min(first + CHUNK);
        for entry in entries(&own, &document(numbers, guarded)?)? {
            made.add(&program, &entry, first > 0)?;
        }
        first += CHUNK;
    }
    Ok(made)
}

fn document(numbers: std::ops::Range<u32>, guarded: bool) -> Result<Document> {
    let profile = |n: u32| format!("p{n}");
    let rules = |n: u32| {
        let ports: Vec<String> = (0..17).map(|p| (p * 60 + 7 + n).to_string()).collect();
        json!({"rules": [
            {"name": "out", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ports},
            {"name": "in", "action": "deny", "direction": "ingress", "protocol": "udp", "ports": ports},
        ]})
    };
    let profiles: serde_json::Map<String, Value> = (0..PROFILES).map(|n| (profile(n), rules(n))).collect();
    let endpoint = |n: u32| {
        json!({
            "attachments": [{"port": 1 + n % PORTS, "vlan": 1 + n / PORTS, "target": TARGET}],
            "macs": [format!("02:00:00:{:02x}:{:02x}:{:02x}", n >> 16, (n >> 8) & 255, n & 255)],
            "addresses": [format!("172.{}.{}.{}", 16 + (n >> 16), (n >> 8) & 255, n & 255), format!("2001:db8::{n:x}")],
            "profiles": [profile(n % PROFILES)],
            "source_guard": guarded,
        })
    };
    let endpoints: serde_json::Map<String, Value> = numbers.map(|n| (format!("e{n}"), endpoint(n))).collect();
    let document: Document = serde_json::from_value(json!({
        "version": "portcullis/v1", "profiles": profiles, "endpoints": endpoints,
    }))?;
    document.validate()?;
    Ok(document)
}

/// Table entries of a document, as they are written.
fn entries(own: &OwnProgram, document: &Document) -> Result<Vec<v1::TableEntry>> {
    let intent = Compiler::default().resolve(document, 1)?;
    let known = KnownPorts {
        target: TARGET.to_string(),
        ..KnownPorts::default()
    };
    let points = resolve(&intent, &known, PortSpace::up_to(PORT_MAX));
    let mut programs = RowCache::new(own.device.model.clone());
    let built = Units::default().build(&own.device, &Arc::clone(&intent), &points, TARGET, &mut programs)?;
    let writer = Writer {
        tag: Tag(1),
        generation: 1,
        ports: ReplicaPorts::default(),
    };
    let rows = built.desired.values().flat_map(|unit| unit.iter());
    let updates = rows
        .filter_map(|(key, does)| wire::update(&own.device, &Op::Add(key.clone(), does.clone()), &writer));
    let entries = updates.filter_map(|update| match update.entity?.entity? {
        v1::entity::Entity::TableEntry(entry) => Some(entry),
        _ => None,
    });
    Ok(entries.collect())
}

impl Made {
    /// Keeps an entry. Classes of `another` document are there already.
    fn add(&mut self, program: &Program, entry: &v1::TableEntry, another: bool) -> Result<()> {
        let refused = |refusal: entry::Refusal| BenchError::Untrue(refusal.why);
        let shape = entry::table(program, entry.table_id).map_err(refused)?;
        let of_endpoint = matches!(
            shape.table,
            Table::Attach | Table::Deliver | Table::L2 | Table::Guard | Table::GuardAddress | Table::GuardNd
        );
        if another && !of_endpoint {
            return Ok(());
        }
        let mut row = entry::row(shape, entry).map_err(refused)?;
        if shape.table.is_counted() {
            row.slot = self.slots;
            self.slots += 1;
        }
        let action = row.action;
        let id = self
            .tables
            .insert(shape.table, row)
            .map_err(|error| BenchError::Untrue(error.to_string()))?;
        self.rows += 1;
        if let (Table::Attach, Action::SetClass(class)) = (shape.table, action) {
            self.attached.push((id, class));
        }
        Ok(())
    }
}
