//! The way of an intent to rows without a switch: what its database would say is made up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::machine::Desired;
use portcullis_compiler::{CompileError, Intent, RowCache, StageModel};
use portcullis_openflow::{BundleAdd, FlowMod, FlowStats, Message, bundle};
use portcullis_ovs::ports::{Attachments, Ports, resolve};
use portcullis_ovs::tables::Pipeline;
use portcullis_ovs::units::{UnitId, Units};
use portcullis_ovs::{Config, FinalAction, FlowBody, FlowKey, regs};
use portcullis_ovsdb::{Bridge, Interface, Port, Switch};

use crate::documents::PER_VLAN;

/// OFPP_LOCAL as the database has it.
const LOCAL: u32 = 65_534;

/// What a bridge shall hold.
pub type Rows = Desired<UnitId, FlowKey, FlowBody>;

/// The numbers and tags that a configuration without settings gives.
fn pipeline() -> Pipeline {
    Pipeline {
        first: 0,
        tag: Config::DEFAULT_COOKIE,
        last: FinalAction::Normal,
        opaque: &portcullis_ovs::tables::OPAQUE,
    }
}

/// A backend's pure part, at a bridge with ports `dummy1` to `dummyN`.
#[derive(Debug)]
pub struct Paper {
    switch: Switch,
    bridge: Bridge,
    config: Config,
    programs: RowCache,
    units: Units,
}

impl Paper {
    /// With so many ports, [`PER_VLAN`] of them in each VLAN.
    pub fn new(ports: u32) -> Self {
        let mut ports: BTreeMap<String, Arc<Port>> = (1..=ports)
            .map(|n| {
                (
                    format!("dummy{n}"),
                    Arc::new(port(&format!("dummy{n}"), "dummy", n, Some(vlan(n)))),
                )
            })
            .collect();
        // Every bridge has a port of its own.
        ports.insert("br0".to_string(), Arc::new(port("br0", "internal", LOCAL, None)));
        let bridge = Bridge {
            name: "br0".to_string(),
            datapath_type: "netdev".to_string(),
            ports,
            ..Bridge::default()
        };
        Paper {
            switch: Switch::default(),
            bridge,
            config: Config::new("ovs", "unix:/nowhere/db.sock"),
            programs: RowCache::new(StageModel::ovs()),
            units: Units::new(pipeline()),
        }
    }

    /// The rows of an intent; compiled and proved as far as they are not known yet.
    pub fn rows(&mut self, intent: &Intent) -> Result<Rows, CompileError> {
        let index = Attachments::new(intent, "ovs");
        let ports = resolve(
            &self.switch,
            &self.bridge,
            intent,
            &index,
            &self.config,
            Duration::ZERO,
            &Ports::default(),
        );
        self.programs.check(intent)?;
        let rows = self.units.build(intent, &ports, &mut self.programs);
        self.programs.keep(&[intent]);
        rows
    }
}

fn port(name: &str, kind: &str, number: u32, tag: Option<u16>) -> Port {
    let interface = Interface {
        name: name.to_string(),
        kind: kind.to_string(),
        ofport: Some(number),
        ..Interface::default()
    };
    Port {
        name: name.to_string(),
        tag,
        interfaces: BTreeMap::from([(name.to_string(), interface)]),
        ..Port::default()
    }
}

/// The VLAN of port `dummyN`.
pub fn vlan(n: u32) -> u16 {
    // Some thousands of ports at most, so that this is a VLAN.
    u16::try_from(100 + (n - 1) / PER_VLAN).unwrap_or(100)
}

/// How many rows there are.
pub fn count(rows: &Rows) -> usize {
    rows.values().map(|unit| unit.len()).sum()
}

/// Each row as a message that adds it to bundle 1.
pub fn bundle_adds(rows: &Rows) -> Vec<Message> {
    let pipeline = pipeline();
    let flow_mod = |(key, body): &(FlowKey, FlowBody)| FlowMod {
        table_id: pipeline.number(key.0.table),
        priority: key.0.priority,
        match_: key.0.matching.clone(),
        cookie: regs::cookie(pipeline.tag, body.generation),
        instructions: body.instructions.to_vec(),
        ..FlowMod::default()
    };
    let flows = rows.values().flat_map(|unit| unit.iter());
    (1u32..)
        .zip(flows)
        .map(|(xid, row)| {
            Message::BundleAdd(BundleAdd {
                bundle_id: 1,
                flags: bundle::flags::ATOMIC | bundle::flags::ORDERED,
                message: Box::new((xid, Message::FlowMod(flow_mod(row)))),
            })
        })
        .collect()
}

/// Each row as the switch reports it.
pub fn flow_stats(rows: &Rows) -> Vec<FlowStats> {
    let pipeline = pipeline();
    let stats = |(key, body): &(FlowKey, FlowBody)| FlowStats {
        table_id: pipeline.number(key.0.table),
        priority: key.0.priority,
        match_: key.0.matching.clone(),
        cookie: regs::cookie(pipeline.tag, body.generation),
        instructions: body.instructions.to_vec(),
        duration_sec: 1_000,
        packet_count: 1_000_000,
        byte_count: 64_000_000,
        idle_secs: Some(1),
        ..FlowStats::default()
    };
    rows.values().flat_map(|unit| unit.iter()).map(stats).collect()
}
