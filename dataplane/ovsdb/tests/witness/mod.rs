//! The switch as `ovs-vsctl --format=json list` tells it: an independent reading of the same database.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_ovsdb::{Bridge, FlowTable, Interface, LinkState, Mirror, Port, Switch, VlanMode};
use serde_json::Value;

use crate::harness::Server;

type Record = BTreeMap<String, Value>;

/// Everything the replica should hold.
pub fn list(server: &Server) -> Switch {
    let records = |table: &str| records(&server.vsctl(&format!("--format=json list {table}")));
    let all = All {
        bridges: records("Bridge"),
        ports: records("Port"),
        interfaces: records("Interface"),
        flow_tables: records("Flow_Table"),
        mirrors: records("Mirror"),
        controllers: records("Controller"),
    };
    let schema_version = Some("8.3.1".to_owned());
    let root = records("Open_vSwitch");
    let Some(root) = root.values().next() else {
        return Switch {
            schema_version,
            ..Switch::default()
        };
    };
    Switch {
        schema_version,
        ovs_version: text(root, "ovs_version"),
        dpdk_initialized: root["dpdk_initialized"].as_bool(),
        dpdk_version: text(root, "dpdk_version"),
        other_config: map(root, "other_config"),
        external_ids: map(root, "external_ids"),
        datapath_types: texts(root, "datapath_types"),
        iface_types: texts(root, "iface_types"),
        cur_cfg: root["cur_cfg"].as_i64(),
        next_cfg: root["next_cfg"].as_i64(),
        bridges: references(root, "bridges")
            .iter()
            .map(|id| all.bridge(&all.bridges[id]))
            .collect(),
    }
}

struct All {
    bridges: BTreeMap<String, Record>,
    ports: BTreeMap<String, Record>,
    interfaces: BTreeMap<String, Record>,
    flow_tables: BTreeMap<String, Record>,
    mirrors: BTreeMap<String, Record>,
    controllers: BTreeMap<String, Record>,
}

impl All {
    fn bridge(&self, record: &Record) -> (String, Bridge) {
        let name = text(record, "name").expect("a name");
        let bridge = Bridge {
            id: record["_uuid"][1]
                .as_str()
                .expect("a UUID")
                .parse()
                .expect("a UUID"),
            name: name.clone(),
            datapath_type: text(record, "datapath_type").expect("a type"),
            datapath_id: text(record, "datapath_id"),
            fail_mode: text(record, "fail_mode"),
            protocols: texts(record, "protocols"),
            controllers: references(record, "controller").len(),
            flow_tables: self.flow_tables(record),
            in_band: self.in_band(record),
            mcast_snooping_enable: record["mcast_snooping_enable"].as_bool().expect("a flag"),
            other_config: map(record, "other_config"),
            mirrors: references(record, "mirrors")
                .iter()
                .map(|id| self.mirror(id))
                .collect(),
            ports: references(record, "ports")
                .iter()
                .map(|id| self.port(&self.ports[id]))
                .collect(),
        };
        (name, bridge)
    }

    fn mirror(&self, id: &str) -> Mirror {
        let record = &self.mirrors[id];
        let to = references(record, "output_port");
        Mirror {
            name: text(record, "name").expect("a name"),
            output_port: to
                .first()
                .map(|id| text(&self.ports[id], "name").expect("a name")),
            output_vlan: record["output_vlan"].as_u64().map(|vid| vid as u16),
        }
    }

    fn in_band(&self, record: &Record) -> Vec<String> {
        let settings = map(record, "other_config");
        if settings.get("disable-in-band").map(String::as_str) == Some("true") {
            return Vec::new();
        }
        let controllers = references(record, "controller")
            .into_iter()
            .map(|id| &self.controllers[&id]);
        let inside = controllers.filter(|c| text(c, "connection_mode").as_deref() != Some("out-of-band"));
        inside
            .map(|c| text(c, "target").expect("a target"))
            .filter(|target| target.starts_with("tcp:"))
            .collect()
    }

    fn flow_tables(&self, record: &Record) -> BTreeMap<u8, FlowTable> {
        let pairs = record["flow_tables"][1].as_array().expect("a map");
        let table = |pair: &Value| {
            let settings = &self.flow_tables[pair[1][1].as_str().expect("a reference")];
            let table = FlowTable {
                name: text(settings, "name"),
                flow_limit: settings["flow_limit"].as_u64(),
                overflow_policy: text(settings, "overflow_policy"),
            };
            (pair[0].as_u64().expect("a number") as u8, table)
        };
        pairs.iter().map(table).collect()
    }

    fn port(&self, record: &Record) -> (String, Arc<Port>) {
        let name = text(record, "name").expect("a name");
        let port = Port {
            name: name.clone(),
            tag: record["tag"].as_u64().map(|tag| tag as u16),
            trunks: set(record, "trunks")
                .iter()
                .map(|vlan| vlan.as_u64().expect("a VLAN") as u16)
                .collect(),
            vlan_mode: text(record, "vlan_mode").as_deref().map(VlanMode::from),
            other_config: map(record, "other_config"),
            interfaces: references(record, "interfaces")
                .iter()
                .map(|id| interface(&self.interfaces[id]))
                .collect(),
        };
        (name, Arc::new(port))
    }
}

fn interface(record: &Record) -> (String, Interface) {
    let name = text(record, "name").expect("a name");
    let interface = Interface {
        name: name.clone(),
        kind: text(record, "type").expect("a type"),
        ofport: record["ofport"].as_u64().map(|number| number as u32),
        error: text(record, "error"),
        external_ids: map(record, "external_ids"),
        mac_in_use: text(record, "mac_in_use"),
        link_state: text(record, "link_state").as_deref().map(LinkState::from),
        options: map(record, "options"),
    };
    (name, interface)
}

/// Records by UUID, columns by name.
fn records(json: &str) -> BTreeMap<String, Record> {
    let table: Value = serde_json::from_str(json).expect("ovs-vsctl writes JSON");
    let headings: Vec<&str> = table["headings"]
        .as_array()
        .expect("headings")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let record = |cells: &Value| {
        let cells = cells.as_array().expect("cells").iter().cloned();
        let record: Record = headings
            .iter()
            .map(|&heading| heading.to_owned())
            .zip(cells)
            .collect();
        (record["_uuid"][1].as_str().expect("a UUID").to_owned(), record)
    };
    table["data"]
        .as_array()
        .expect("data")
        .iter()
        .map(record)
        .collect()
}

fn text(record: &Record, column: &str) -> Option<String> {
    record[column].as_str().map(str::to_owned)
}

fn set(record: &Record, column: &str) -> Vec<Value> {
    match &record[column] {
        Value::Array(tagged) if tagged[0] == "set" => tagged[1].as_array().expect("elements").clone(),
        single => vec![single.clone()],
    }
}

fn texts(record: &Record, column: &str) -> Vec<String> {
    set(record, column)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn references(record: &Record, column: &str) -> Vec<String> {
    set(record, column)
        .iter()
        .map(|tagged| tagged[1].as_str().expect("a reference").to_owned())
        .collect()
}

fn map(record: &Record, column: &str) -> BTreeMap<String, String> {
    let pairs = record[column][1].as_array().expect("a map");
    let owned = |value: &Value| value.as_str().expect("a text").to_owned();
    pairs
        .iter()
        .map(|pair| (owned(&pair[0]), owned(&pair[1])))
        .collect()
}
