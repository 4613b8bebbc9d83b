//! Dispatch rows of our own P4 program (`p4/`): who sends from a port, with which sources, who receives, and where a MAC
//! is. The tables' keys and actions are found by their names, which the program keeps.

pub(crate) mod contract;
mod guard;

use std::collections::{BTreeMap, BTreeSet};

use portcullis_backend::{Lead, Overlays};
use portcullis_compiler::ClassId;
use portcullis_policy::{EndpointRole, MacAddr};

use crate::attachment_points::{At, AttachmentPoint, AttachmentPoints};
use crate::device::{Device, Inexpressible};
use crate::entry::{Does, Match, Row};
use crate::program::fingerprint;
use crate::value::ones;
use crate::wire::group_key;
use contract::{
    ATTACH, Contract, DELIVER, EVERYBODY, HAS_ROLE, L2, Level, OTHER_ROLES, POINT, ROLES, SEVERAL, UNKNOWN,
};

/// A row under construction.
struct Draft<'a> {
    number: u8,
    fields: Vec<(u32, Match)>,
    wrong: Option<Inexpressible>,
    table: &'a crate::device::DeviceTable,
}

impl<'a> Draft<'a> {
    fn new(device: &'a Device, contract: &Contract) -> Result<Self, Inexpressible> {
        let (number, table) = device.table_named(contract.name).ok_or_else(|| Inexpressible {
            table: contract.name.to_string(),
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

    fn row(self, priority: Level, action: &str, values: &[u128]) -> Result<Row, Inexpressible> {
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
        Ok((self.table.key(self.number, priority.number(), self.fields), does))
    }
}

/// Where the overlay begins in the parameter of `set_class` (`class_and_overlay` in `p4/include/tables.p4`).
pub const OVERLAY_SHIFT: u32 = 16;
/// The bits of that parameter that are the class.
pub const OF_CLASS: u32 = (1 << OVERLAY_SHIFT) - 1;

/// The parameter of an action that leads there. Without an overlay it is the class alone, as in programs that have none.
pub fn lead(to: Lead) -> u32 {
    match to.overlay {
        ClassId::OPEN => to.class.0,
        overlay => overlay.0 << OVERLAY_SHIFT | to.class.0,
    }
}

/// The rows of one point, in all tables.
pub fn plug_rows(
    device: &Device,
    point: &AttachmentPoint,
    overlays: &Overlays,
) -> Result<Vec<Row>, Inexpressible> {
    let leads = point.classes.map(|class| u128::from(lead(overlays.lead(class))));
    let mut rows = Vec::new();
    let sends = if point.guarded() {
        "set_guarded_class"
    } else {
        "set_class"
    };
    let attach = Draft::new(device, &ATTACH)?.at(point.at);
    rows.push(attach.row(POINT.at(point.at), sends, &[leads.egress])?);
    roles(device, point, &mut rows)?;
    if point.guarded() {
        guard::rows(device, point, &mut rows)?;
    }
    for mac in &point.macs {
        let l2 = Draft::new(device, &L2)?.exact("dst_mac", u128::from(mac.to_u64()));
        rows.push(l2.row(Level::NONE, "forward", &[point.at.0.into()])?);
    }
    let deliver = Draft::new(device, &DELIVER)?.at(point.at);
    rows.push(deliver.row(POINT.at(point.at), "set_class", &[leads.ingress])?);
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
    let draft = || Ok::<_, Inexpressible>(Draft::new(device, &ROLES)?.at(point.at));
    let others = OTHER_ROLES.at(point.at);
    if point.uplink {
        rows.push(draft()?.row(others, "allow", &[])?);
        return Ok(());
    }
    for role in &point.roles {
        let has = draft()?.whole("role", number(*role));
        rows.push(has.row(HAS_ROLE.at(point.at), "allow", &[])?);
    }
    rows.push(draft()?.row(others, "deny", &[])?);
    Ok(())
}

/// The groups, and the MACs that are at several ports: frames for one go to all of them.
pub fn groups(device: &Device, points: &AttachmentPoints) -> Result<Vec<Row>, Inexpressible> {
    let everybody = points.ports().into_iter().collect();
    let uplinks = points.points.values().filter(|p| p.uplink).map(|p| p.at.0);
    let mut rows = vec![
        (group_key(EVERYBODY.first), Does::Copies(everybody)),
        (group_key(UNKNOWN.first), Does::Copies(uplinks.collect())),
    ];
    let ids = group_ids(&points.several)?;
    for (ports, id) in &ids {
        rows.push((group_key(*id), Does::Copies(ports.iter().copied().collect())));
    }
    for (mac, ports) in &points.several {
        let Some(id) = ids.get(ports) else { continue };
        let l2 = Draft::new(device, &L2)?.exact("dst_mac", u128::from(mac.to_u64()));
        rows.push(l2.row(Level::NONE, "forward_to_group", &[(*id).into()])?);
    }
    Ok(rows)
}

/// A group for each set of ports. Its number comes from the ports, so that an agent that starts anew finds its own groups,
/// and a set that comes or goes changes no other.
fn group_ids(
    several: &BTreeMap<MacAddr, BTreeSet<u32>>,
) -> Result<BTreeMap<&BTreeSet<u32>, u32>, Inexpressible> {
    let sets: BTreeSet<&BTreeSet<u32>> = several.values().collect();
    let span = SEVERAL.last - SEVERAL.first + 1;
    if sets.len() > span as usize {
        return Err(Inexpressible {
            table: L2.name.to_string(),
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
        ids.insert(ports, SEVERAL.first + at);
    }
    Ok(ids)
}
