//! Dispatch rows of our own P4 program (`p4/`): who sends from a port, with which sources, who receives, and where a MAC
//! is. The tables' keys and actions are found by their names, which the program keeps.

mod guard;

use std::collections::{BTreeMap, BTreeSet};

use portcullis_compiler::ClassId;
use portcullis_policy::{EndpointRole, MacAddr};

use crate::attachment_points::{At, AttachmentPoint, AttachmentPoints};
use crate::device::{Device, Inexpressible};
use crate::entry::{Does, Match, Row};
use crate::program::fingerprint;
use crate::value::ones;
use crate::wire::group_key;

/// The program's group of every port (`group = 1` in `p4/include/tables.p4`).
const EVERYBODY: u32 = 1;
/// Its group of the uplinks: frames for a MAC that no row names.
const UNKNOWN: u32 = 2;
/// The groups of MACs that are at several ports.
const FIRST: u32 = 256;
const LAST: u32 = u16::MAX as u32;
/// The table that says which roles the server behind a port has.
pub const ROLES: &str = "roles";

/// A row under construction.
struct Draft<'a> {
    number: u8,
    fields: Vec<(u32, Match)>,
    wrong: Option<Inexpressible>,
    table: &'a crate::device::DeviceTable,
}

impl<'a> Draft<'a> {
    fn new(device: &'a Device, table: &str) -> Result<Self, Inexpressible> {
        let (number, table) = device.table_named(table).ok_or_else(|| Inexpressible {
            table: table.to_string(),
            what: "place in the program".to_string(),
        })?;
        Ok(Draft {
            number,
            fields: Vec::new(),
            wrong: None,
            table,
        })
    }

    fn put(mut self, name: &str, value: impl FnOnce(u128) -> Match) -> Self {
        match self.table.named(name) {
            Some(field) => self.fields.push((field.id, value(ones(field.width)))),
            None => {
                self.wrong.get_or_insert_with(|| Inexpressible {
                    table: self.table.name.clone(),
                    what: format!("match field {name}"),
                });
            }
        }
        self
    }

    fn exact(self, name: &str, value: u128) -> Self {
        self.put(name, |_| Match::Exact(value))
    }

    /// A whole value, as the key matches it.
    fn whole(self, name: &str, value: u128) -> Self {
        self.put(name, |mask| Match::Ternary { value, mask })
    }

    fn masked(self, name: &str, value: u128, mask: u128) -> Self {
        if mask == 0 {
            return self;
        }
        self.put(name, |_| Match::Ternary {
            value: value & mask,
            mask,
        })
    }

    /// The port, and the VLAN when one is meant; how much more that says goes into the priority.
    fn at(self, at: At) -> Self {
        let draft = self.exact("port", at.0.into());
        match at.1 {
            Some(vlan) => draft.put("vlan", |_| Match::Optional(vlan.into())),
            None => draft,
        }
    }

    fn row(self, priority: i32, action: &str, values: &[u128]) -> Result<Row, Inexpressible> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let lacks = || Inexpressible {
            table: self.table.name.clone(),
            what: format!("action {action} with {} parameters", values.len()),
        };
        let action = self
            .table
            .action_named(action)
            .filter(|a| a.params.len() == values.len())
            .ok_or_else(lacks)?;
        let mut params: Vec<(u32, u128)> = action
            .params
            .iter()
            .zip(values)
            .map(|((id, ..), value)| (*id, *value))
            .collect();
        params.sort_unstable();
        let does = Does::Action {
            id: action.id,
            params,
        };
        Ok((self.table.key(self.number, priority, self.fields), does))
    }
}

/// A row that names a VLAN wins over the one of the whole port.
fn rank(at: At) -> i32 {
    if at.1.is_some() { 2 } else { 1 }
}

fn class(class: ClassId) -> u128 {
    u128::from(class.0)
}

/// The rows of one point, in all tables.
pub fn plug_rows(device: &Device, point: &AttachmentPoint) -> Result<Vec<Row>, Inexpressible> {
    let mut rows = Vec::new();
    let sends = if point.guarded() {
        "set_guarded_class"
    } else {
        "set_class"
    };
    let attach = Draft::new(device, "attach")?.at(point.at);
    rows.push(attach.row(rank(point.at), sends, &[class(point.classes.egress)])?);
    roles(device, point, &mut rows)?;
    if point.guarded() {
        guard::rows(device, point, &mut rows)?;
    }
    for mac in &point.macs {
        let l2 = Draft::new(device, "l2")?.exact("dst_mac", u128::from(mac.to_u64()));
        rows.push(l2.row(0, "forward", &[point.at.0.into()])?);
    }
    let deliver = Draft::new(device, "deliver")?.at(point.at);
    rows.push(deliver.row(rank(point.at), "set_class", &[class(point.classes.ingress)])?);
    Ok(rows)
}

// `ROLE_…` in `p4/include/headers.p4`.
fn number(role: EndpointRole) -> u128 {
    match role {
        EndpointRole::Router => 1,
        EndpointRole::DhcpServer => 2,
    }
}

/// The roles of a sender: an uplink has every role, and a server those of its endpoint. The rest is denied by a row, so that
/// it is counted.
fn roles(device: &Device, point: &AttachmentPoint, rows: &mut Vec<Row>) -> Result<(), Inexpressible> {
    // Rows of a VLAN lie above those of the whole port.
    let lift = rank(point.at) * 2;
    let draft = || Ok::<_, Inexpressible>(Draft::new(device, ROLES)?.at(point.at));
    if point.uplink {
        rows.push(draft()?.row(lift, "allow", &[])?);
        return Ok(());
    }
    for role in &point.roles {
        let has = draft()?.whole("role", number(*role));
        rows.push(has.row(lift + 1, "allow", &[])?);
    }
    rows.push(draft()?.row(lift, "deny", &[])?);
    Ok(())
}

/// The groups, and the MACs that are at several ports: frames for one go to all of them.
pub fn groups(device: &Device, points: &AttachmentPoints) -> Result<Vec<Row>, Inexpressible> {
    let everybody = points.ports().into_iter().collect();
    let uplinks = points.points.values().filter(|p| p.uplink).map(|p| p.at.0);
    let mut rows = vec![
        (group_key(EVERYBODY), Does::Copies(everybody)),
        (group_key(UNKNOWN), Does::Copies(uplinks.collect())),
    ];
    let ids = group_ids(&points.several)?;
    for (ports, id) in &ids {
        rows.push((group_key(*id), Does::Copies(ports.iter().copied().collect())));
    }
    for (mac, ports) in &points.several {
        let Some(id) = ids.get(ports) else { continue };
        let l2 = Draft::new(device, "l2")?.exact("dst_mac", u128::from(mac.to_u64()));
        rows.push(l2.row(0, "forward_to_group", &[(*id).into()])?);
    }
    Ok(rows)
}

/// A group for each set of ports. Its number comes from the ports, so that an agent that starts anew finds its own groups,
/// and a set that comes or goes changes no other.
fn group_ids(
    several: &BTreeMap<MacAddr, BTreeSet<u32>>,
) -> Result<BTreeMap<&BTreeSet<u32>, u32>, Inexpressible> {
    let sets: BTreeSet<&BTreeSet<u32>> = several.values().collect();
    let span = LAST - FIRST + 1;
    if sets.len() > span as usize {
        return Err(Inexpressible {
            table: "l2".to_string(),
            what: format!(
                "more than {span} groups, and MACs are at {} sets of ports",
                sets.len()
            ),
        });
    }
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeMap::new());
    for ports in sets {
        let bytes: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        let mut at = (fingerprint(&[&bytes]) % u64::from(span)) as u32;
        while !taken.insert(at) {
            at = (at + 1) % span;
        }
        ids.insert(ports, FIRST + at);
    }
    Ok(ids)
}

/// The tables of the source guard.
pub fn is_guard(table: &str) -> bool {
    matches!(table, "guard" | "guard_address" | "guard_nd")
}

/// The tables whose rows must be there before a row of `attach` leads to them.
pub fn leads_on(table: &str) -> bool {
    table == ROLES || is_guard(table)
}
