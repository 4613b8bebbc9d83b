//! Derives the [`Switch`] from raw rows. References to rows that are not there are left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::catalog::{bridge, controller, flow_table, interface, mirror, open_vswitch, port};
use crate::datum::Atom;
use crate::layout::Layout;
use crate::switch::{Bridge, FlowTable, Interface, LinkState, Mirror, Port, Switch, VlanMode};
use crate::tables::{Row, Tables};
use crate::uuid::Uuid;

/// What was derived before, so that a change to one port costs little on a switch of many.
#[derive(Debug, Default)]
pub(crate) struct View {
    ports: HashMap<Uuid, Derived>,
}

/// A port as derived from the rows with these stamps: its own, then its interfaces'.
#[derive(Debug)]
struct Derived {
    stamps: Vec<u64>,
    port: Arc<Port>,
}

impl View {
    /// The switch that the one row of `Open_vSwitch` describes; an empty one while there is no row.
    pub(crate) fn derive(&mut self, layout: &Layout, tables: &Tables) -> Switch {
        let schema_version = layout.version.clone();
        let Some((_, row)) = tables.rows(open_vswitch::TABLE).next() else {
            return Switch {
                schema_version,
                ..Switch::default()
            };
        };
        let bridges = row.referred(tables, open_vswitch::BRIDGES, bridge::TABLE);
        let bridges = bridges.filter_map(|(id, row)| self.bridge(tables, id, row));
        let bridges = bridges.map(|bridge| (bridge.name.clone(), bridge)).collect();
        self.ports.retain(|id, _| tables.row(port::TABLE, *id).is_some());
        Switch {
            schema_version,
            ovs_version: row.text(open_vswitch::OVS_VERSION).map(str::to_owned),
            dpdk_initialized: row.boolean(open_vswitch::DPDK_INITIALIZED),
            dpdk_version: row.text(open_vswitch::DPDK_VERSION).map(str::to_owned),
            other_config: row.text_map(open_vswitch::OTHER_CONFIG),
            external_ids: row.text_map(open_vswitch::EXTERNAL_IDS),
            datapath_types: row.texts(open_vswitch::DATAPATH_TYPES),
            iface_types: row.texts(open_vswitch::IFACE_TYPES),
            cur_cfg: row.integer(open_vswitch::CUR_CFG),
            next_cfg: row.integer(open_vswitch::NEXT_CFG),
            bridges,
        }
    }

    fn bridge(&mut self, tables: &Tables, id: Uuid, row: &Row) -> Option<Bridge> {
        let ports = row.referred(tables, bridge::PORTS, port::TABLE);
        let ports = ports.filter_map(|(id, row)| self.port(tables, id, row));
        Some(Bridge {
            id,
            name: row.text(bridge::NAME)?.to_owned(),
            datapath_type: row.text(bridge::DATAPATH_TYPE).unwrap_or_default().to_owned(),
            datapath_id: row.text(bridge::DATAPATH_ID).map(str::to_owned),
            fail_mode: row.text(bridge::FAIL_MODE).map(str::to_owned),
            protocols: row.texts(bridge::PROTOCOLS),
            controllers: row.elements(bridge::CONTROLLER).len(),
            flow_tables: derive_flow_tables(tables, row),
            in_band: in_band(tables, row),
            mcast_snooping_enable: row.boolean(bridge::MCAST_SNOOPING_ENABLE).unwrap_or_default(),
            other_config: row.text_map(bridge::OTHER_CONFIG),
            mirrors: mirrors(tables, row),
            ports: ports.map(|port| (port.name.clone(), port)).collect(),
        })
    }

    fn port(&mut self, tables: &Tables, id: Uuid, row: &Row) -> Option<Arc<Port>> {
        let interfaces = row.referred(tables, port::INTERFACES, interface::TABLE);
        let stamps = std::iter::once(row.stamp()).chain(interfaces.map(|(_, row)| row.stamp()));
        if let Some(known) = self.ports.get(&id)
            && stamps.clone().eq(known.stamps.iter().copied())
        {
            return Some(Arc::clone(&known.port));
        }
        let stamps = stamps.collect();
        let port = Arc::new(derive_port(tables, row)?);
        self.ports.insert(
            id,
            Derived {
                stamps,
                port: Arc::clone(&port),
            },
        );
        Some(port)
    }
}

/// Controllers over TCP that are reached in-band, which is the default.
fn in_band(tables: &Tables, row: &Row) -> Vec<String> {
    let disabled = row.text_map(bridge::OTHER_CONFIG);
    if disabled.get("disable-in-band").is_some_and(|v| v == "true") {
        return Vec::new();
    }
    let controllers = row.referred(tables, bridge::CONTROLLER, controller::TABLE);
    let inside = controllers.filter(|(_, row)| row.text(controller::CONNECTION_MODE) != Some("out-of-band"));
    let targets = inside.filter_map(|(_, row)| row.text(controller::TARGET));
    let remote = targets.filter(|target| target.starts_with("tcp:") || target.starts_with("ssl:"));
    remote.map(str::to_owned).collect()
}

fn mirrors(tables: &Tables, row: &Row) -> Vec<Mirror> {
    let of = |row: &Row| {
        let mut ports = row.referred(tables, mirror::OUTPUT_PORT, port::TABLE);
        Mirror {
            name: row.text(mirror::NAME).unwrap_or_default().to_owned(),
            output_port: ports.find_map(|(_, row)| row.text(port::NAME).map(str::to_owned)),
            output_vlan: row
                .integer(mirror::OUTPUT_VLAN)
                .and_then(|vid| u16::try_from(vid).ok()),
        }
    };
    let rows = row.referred(tables, bridge::MIRRORS, mirror::TABLE);
    rows.map(|(_, row)| of(row)).collect()
}

fn derive_flow_tables(tables: &Tables, row: &Row) -> BTreeMap<u8, FlowTable> {
    let table = |(number, reference): &(Atom, Atom)| match (number, reference) {
        (Atom::Integer(number), Atom::Reference(id)) => {
            let row = tables.row(flow_table::TABLE, *id)?;
            let settings = FlowTable {
                name: row.text(flow_table::NAME).map(str::to_owned),
                flow_limit: row
                    .integer(flow_table::FLOW_LIMIT)
                    .and_then(|limit| u64::try_from(limit).ok()),
                overflow_policy: row.text(flow_table::OVERFLOW_POLICY).map(str::to_owned),
            };
            Some((u8::try_from(*number).ok()?, settings))
        }
        _ => None,
    };
    row.pairs(bridge::FLOW_TABLES).iter().filter_map(table).collect()
}

fn derive_port(tables: &Tables, row: &Row) -> Option<Port> {
    let vlan = |number: i64| u16::try_from(number).ok();
    let interfaces = row.referred(tables, port::INTERFACES, interface::TABLE);
    let interfaces = interfaces.filter_map(|(_, row)| derive_interface(row));
    Some(Port {
        name: row.text(port::NAME)?.to_owned(),
        tag: row.integer(port::TAG).and_then(vlan),
        trunks: row.integers(port::TRUNKS).filter_map(vlan).collect(),
        vlan_mode: row.text(port::VLAN_MODE).map(VlanMode::from),
        other_config: row.text_map(port::OTHER_CONFIG),
        interfaces: interfaces
            .map(|interface| (interface.name.clone(), interface))
            .collect(),
    })
}

fn derive_interface(row: &Row) -> Option<Interface> {
    let ofport = row
        .integer(interface::OFPORT)
        .and_then(|number| u32::try_from(number).ok());
    Some(Interface {
        name: row.text(interface::NAME)?.to_owned(),
        kind: row.text(interface::TYPE).unwrap_or_default().to_owned(),
        ofport: ofport.filter(|&number| number > 0),
        error: row.text(interface::ERROR).map(str::to_owned),
        external_ids: row.text_map(interface::EXTERNAL_IDS),
        mac_in_use: row.text(interface::MAC_IN_USE).map(str::to_owned),
        link_state: row.text(interface::LINK_STATE).map(LinkState::from),
        options: row.text_map(interface::OPTIONS),
    })
}

/// Typed reading of columns; a value of another type cannot be in a row, as the layout was checked.
impl Row {
    fn text(&self, column: usize) -> Option<&str> {
        self.elements(column).first().and_then(as_text)
    }

    fn texts(&self, column: usize) -> Vec<String> {
        self.elements(column)
            .iter()
            .filter_map(as_text)
            .map(str::to_owned)
            .collect()
    }

    fn integer(&self, column: usize) -> Option<i64> {
        self.integers(column).next()
    }

    fn integers(&self, column: usize) -> impl Iterator<Item = i64> {
        self.elements(column).iter().filter_map(|atom| match atom {
            Atom::Integer(number) => Some(*number),
            _ => None,
        })
    }

    fn boolean(&self, column: usize) -> Option<bool> {
        match self.elements(column).first() {
            Some(Atom::Boolean(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn text_map(&self, column: usize) -> BTreeMap<String, String> {
        let pair = |(key, value): &(Atom, Atom)| Some((as_text(key)?.to_owned(), as_text(value)?.to_owned()));
        self.pairs(column).iter().filter_map(pair).collect()
    }

    /// The rows a reference column points to, as far as they are there.
    fn referred<'a>(
        &'a self,
        tables: &'a Tables,
        column: usize,
        table: usize,
    ) -> impl Iterator<Item = (Uuid, &'a Row)> + Clone {
        self.elements(column).iter().filter_map(move |atom| match atom {
            Atom::Reference(id) => tables.row(table, *id).map(|row| (*id, row)),
            _ => None,
        })
    }
}

fn as_text(atom: &Atom) -> Option<&str> {
    match atom {
        Atom::Text(text) => Some(text),
        _ => None,
    }
}
