//! Queries over rows: which rows enforce a verdict, and hits per rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_backend::delta::Key;
use portcullis_backend::ports::members;
use portcullis_backend::{Hit, Numbers, Overlays, Trace};
use portcullis_compiler::class_rows::PolicyRow;
use portcullis_compiler::compilation::Site;
use portcullis_compiler::model::{Field, Role};
use portcullis_compiler::proof::{deciding_row, remote_row};
use portcullis_compiler::row::{self, Owner};
use portcullis_compiler::{ClassId, ClassRows, CompileError, Intent, RowCache, StageModel, TableModel};
use portcullis_policy::{Decider, Direction, Fragment, Frame, IdentifiedBy, IpPacket, Packet, Protocol};
use portcullis_proto::p4::v1::CounterData;

use crate::attachment_points::{At, AttachmentPoint, AttachmentPoints};
use crate::device::{Device, DeviceTable};
use crate::entry::{Match, Place, Row, RowKey};
use crate::own::contract::{ATTACH, contract};
use crate::units::{Attributions, Built};

/// The rows of the classes' stages that decide about a packet of an endpoint, as they are desired.
pub(crate) fn deciding(
    device: &Device,
    intent: &Intent,
    trace: &Trace,
    points: &AttachmentPoints,
    built: Option<&Built>,
    programs: &mut RowCache,
) -> Result<Vec<Row>, CompileError> {
    let Some(point) = points.of(&trace.endpoint).next() else {
        return Ok(Vec::new());
    };
    let class = point.classes[trace.direction];
    // Nothing is denied to a class without rows, nor to one that another target enforces.
    let held = |class| match built {
        Some(built) => built.held(class, &trace.endpoint, points),
        None => Some(class),
    };
    let Some(class) = intent.classes.get(&class).and_then(held) else {
        return Ok(Vec::new());
    };
    let own = programs.get(class)?;
    let program = programs.whole(class)?;
    // Rows of an overlay do not ask for the remote id; those of the class below do.
    let below = class.base.as_ref().filter(|_| own.overlay);
    let base = below.map_or(class.id, |base| base.id);
    let port = |name: &str| plug_port(points, trace, name);
    let mut rows = Vec::new();
    if let (Some(remote), Some(table)) = (
        remote_row(&program, trace.packet.remote),
        device.model.table(Role::Remote, trace.direction),
    ) {
        rows.extend(device.lower(&row::remote_row(table, base, remote), &port));
    }
    let packet = Packet {
        frame: Frame::Ip(trace.packet.clone()),
    };
    if is_undecided(&trace.packet, &packet, &program, programs.model()) {
        return Ok(Vec::new());
    }
    let fixed = programs.fixed().to_vec();
    if let (Some((decides, _)), Some(table)) = (
        deciding_row(&program, &fixed, &packet, programs.model()),
        device.model.table(Role::Policy, trace.direction),
    ) {
        let own = match (fixed.contains(decides), own.policy.contains(decides)) {
            (true, _) => None,
            (false, true) => Some(Owner::new(class.id, &own)),
            (false, false) => Some(Owner::Class(base)),
        };
        let with_class = table.key(Field::Class).is_some();
        if with_class {
            let decides = row::policy_row(table, own.unwrap_or(Owner::Every), None, decides);
            rows.extend(device.lower(&decides, &port));
        } else if let Some((site, narrowed)) = narrowed(point, trace, decides, table) {
            let decides = row::policy_row(table, Owner::Every, Some(&site.port), &narrowed);
            rows.extend(device.lower(&decides, &port));
        }
    }
    Ok(rows)
}

/// A row as it stands for the packets of an endpoint at its port; nothing where a packet has none of its addresses.
fn narrowed(
    point: &AttachmentPoint,
    trace: &Trace,
    row: &PolicyRow,
    table: &TableModel,
) -> Option<(Site, PolicyRow)> {
    let at = |address| Site {
        address,
        ..Site::whole(plug_name(point.at))
    };
    let site = match point.by {
        IdentifiedBy::Port => at(None),
        // Of prefixes that lie in each other the outermost has rows.
        IdentifiedBy::Address => point
            .addresses
            .iter()
            .filter(|prefix| prefix.0.contains(&trace.packet.local))
            .map(|prefix| at(Some(prefix.0)))
            .filter(|site| site.cannot_be_named(table).is_none())
            .min_by_key(|site| site.address.map(|address| address.prefix_len()))?,
    };
    let row = site.narrow(row)?;
    Some((site, row))
}

/// Whether a partial point leaves a packet to other targets: no row denies it, or nothing says what its parser shows of it.
fn is_undecided(ip: &IpPacket, packet: &Packet, program: &ClassRows, model: &StageModel) -> bool {
    if model.partial.is_none() {
        return false;
    }
    let hides_ports = ip.protocol == Some(Protocol::SCTP) && !model.view.sctp_ports;
    let hides_headers =
        ip.remote.is_ipv6() && ip.fragment != Fragment::Whole && !model.view.ipv6_extension_headers;
    let denied = deciding_row(program, &[], packet, model).is_some_and(|(_, verdict)| verdict.denies());
    !denied || ip.is_later() || hides_ports || hides_headers
}

fn plug_name(at: At) -> String {
    match at.1 {
        Some(0) => format!("port {}", at.0),
        Some(vlan) => format!("port {}, VLAN {vlan}", at.0),
        None => format!("port {}, any VLAN", at.0),
    }
}

fn plug_port(points: &AttachmentPoints, trace: &Trace, name: &str) -> Option<u32> {
    points
        .of(&trace.endpoint)
        .find(|p| plug_name(p.at) == name)
        .map(|p| p.at.0)
}

/// What is known of the rows that a device has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// What hits on rows tell.
    pub hits: Attributions,
    /// The classes that are written as overlays.
    pub overlays: Overlays,
}

impl Known {
    /// The rule that a row enforces, and for which class.
    pub(crate) fn decided(&self, key: &RowKey) -> Option<Decided> {
        let hit = self.hits.get(key)?;
        Some((
            hit.direction,
            hit.class,
            hit.rule.clone(),
            hit.decider,
            hit.action.clone(),
        ))
    }
}

/// What the agent calls classes, and who is in them.
pub(crate) struct Names<'a> {
    members: BTreeMap<ClassId, Vec<String>>,
    above: BTreeMap<ClassId, Arc<BTreeSet<u32>>>,
    numbers: &'a Numbers,
}

impl<'a> Names<'a> {
    pub(crate) fn new(known: &Known, points: &AttachmentPoints, numbers: &'a Numbers) -> Self {
        let servers = points.all().filter(|point| !point.uplink);
        let mut members = members(servers.map(|point| (&point.policy, format!("({})", plug_name(point.at)))));
        known.overlays.join_members(&mut members);
        let above = known.overlays.above().into_iter().map(|(base, overlays)| {
            let ids = overlays.iter().filter_map(|number| numbers.class(*number));
            (base, Arc::new(ids.map(|class| class.0).collect()))
        });
        Names {
            members,
            above: above.collect(),
            numbers,
        }
    }

    /// A hit of a rule. The agent knows a class by its id.
    pub(crate) fn hit(&self, decided: Decided, packets: u64, bytes: u64) -> Hit {
        let (direction, class, rule, decider, action) = decided;
        Hit {
            direction,
            rule,
            decider,
            class: class
                .and_then(|class| self.numbers.class(class.0))
                .map(|class| class.0),
            endpoints: class
                .and_then(|c| self.members.get(&c).cloned())
                .unwrap_or_default(),
            overlays: class
                .and_then(|c| self.above.get(&c).cloned())
                .unwrap_or_default(),
            action,
            packets,
            bytes,
        }
    }
}

/// A verdict, by the rule and for the class it was about.
pub(crate) type Decided = (Direction, Option<ClassId>, String, Option<Decider>, String);

/// How often each rule decided: counters of rows, summed by rule.
pub(crate) fn hits(
    device: &Device,
    seen: Vec<(Row, CounterData)>,
    known: &Known,
    points: &AttachmentPoints,
    numbers: &Numbers,
) -> Vec<Hit> {
    let mut sums: BTreeMap<Decided, (u64, u64)> = BTreeMap::new();
    let mut guards: BTreeMap<(&str, String), (u64, u64)> = BTreeMap::new();
    for ((key, does), counter) in seen {
        let count = (
            counter.packet_count.max(0) as u64,
            counter.byte_count.max(0) as u64,
        );
        let add = |sum: &mut (u64, u64)| {
            sum.0 += count.0;
            sum.1 += count.1;
        };
        if let Some(decided) = known.decided(&key) {
            add(sums.entry(decided).or_default());
        } else if let Some(denied) = denied(device, &key, &does, points) {
            add(guards.entry(denied).or_default());
        }
    }
    let names = Names::new(known, points, numbers);
    let rules = sums
        .into_iter()
        .map(|(decided, (packets, bytes))| names.hit(decided, packets, bytes));
    let guards = guards.into_iter().map(|((what, name), (packets, bytes))| Hit {
        direction: Direction::Egress,
        rule: format!("{what}/{name}"),
        decider: None,
        class: None,
        endpoints: vec![name],
        overlays: Arc::default(),
        action: "deny".to_string(),
        packets,
        bytes,
    });
    rules.chain(guards).collect()
}

/// What a row outside the policy denies, and the sender that it is about: the source guard, or `roles`.
fn denied(
    device: &Device,
    key: &RowKey,
    does: &crate::entry::Does,
    points: &AttachmentPoints,
) -> Option<(&'static str, String)> {
    let table = device.table(key.table())?;
    let what = contract(&table.name)?.denials?;
    let (id, ..) = does.parts()?;
    if table.action(id)?.name.rsplit('.').next() != Some("deny") {
        return None;
    }
    let point = points.points.get(&place(table, key)?)?;
    Some((what, named(point)))
}

/// The port and VLAN that a row is about.
fn place(table: &DeviceTable, key: &RowKey) -> Option<At> {
    let Place::Table { fields, .. } = &key.0.place else {
        return None;
    };
    let value = |name: &str| {
        let field = table.named(name)?;
        fields
            .iter()
            .find(|(id, _)| *id == field.id)
            .and_then(|(_, value)| match value {
                Match::Exact(v) | Match::Optional(v) => u32::try_from(*v).ok(),
                _ => None,
            })
    };
    let vlan = value("vlan").and_then(|v| u16::try_from(v).ok());
    Some((value("port")?, vlan))
}

/// Ports of our program that take every tag by the rows that are there, and would not any more.
pub(crate) fn lost_tags<'a>(
    device: &Device,
    installed: impl Iterator<Item = &'a RowKey>,
    after: &AttachmentPoints,
) -> Vec<String> {
    let Some((number, table)) = device.table_named(ATTACH.name).filter(|_| device.is_own()) else {
        return Vec::new();
    };
    let takes_all =
        installed
            .filter(|key| key.table() == number)
            .filter_map(|key| match place(table, key)? {
                (port, None) => Some(port),
                _ => None,
            });
    let takes_all: BTreeSet<u32> = takes_all.collect();
    let lost = |port: u32| {
        let points = after.points.range((port, None)..=(port, Some(u16::MAX)));
        let points: Vec<&AttachmentPoint> = points.map(|(_, point)| point).collect();
        let first = points.first().filter(|point| point.at.1.is_some())?;
        let vlans = points
            .iter()
            .filter_map(|point| point.at.1.filter(|vid| *vid != 0));
        let vlans: Vec<String> = vlans.map(|vid| vid.to_string()).collect();
        let but = if vlans.is_empty() {
            String::new()
        } else {
            format!(", other than those of VLAN {}", vlans.join(", "))
        };
        let what_to_do = match &first.endpoint {
            Some(name) => format!("for a trunk write `vlan: any` in the attachment of {name}"),
            None => "for a trunk declare an endpoint with `vlan: any`".to_string(),
        };
        Some(format!(
            "tagged frames of port {port} stop, in both directions{but}: a port without `vlan` has the frames without a tag; \
             {what_to_do}"
        ))
    };
    takes_all.into_iter().filter_map(lost).collect()
}

/// What a sender is called: its endpoint, or its port without one.
fn named(point: &AttachmentPoint) -> String {
    match &point.endpoint {
        Some(name) => name.to_string(),
        None => format!("({})", plug_name(point.at)),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_compiler::Compiler;
    use portcullis_policy::{Document, Fragment, IpPacket, L4, Protocol};

    use super::*;
    use crate::attachment_points::{KnownPorts, PortSpace, resolve};
    use crate::behind::{Inner, Takes};
    use crate::program::OwnProgram;
    use crate::units::Units;

    #[test]
    fn no_row_decides_where_another_target_does() {
        let device = OwnProgram::embedded().unwrap().device;
        let document = "version: portcullis/v1\nendpoints:\n  e: {attachments: [{port: 1, target: tor}, {interface: v, target: host}], rules: [{name: r, \
                        action: deny, direction: egress, protocol: tcp, ports: [25]}]}\n";
        let document = Document::from_yaml(document).unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let host = Inner {
            target: "host".to_string(),
            takes: Takes::Interfaces {
                without_target: false,
            },
            is_whole: true,
        };
        let known = KnownPorts {
            target: "tor".to_string(),
            behind: [(1, vec![host])].into(),
            ..KnownPorts::default()
        };
        let points = resolve(&intent, &known, PortSpace::up_to(511));
        let trace = Trace {
            endpoint: "e".parse().unwrap(),
            direction: Direction::Egress,
            packet: IpPacket {
                local: [192, 0, 2, 1].into(),
                remote: [198, 51, 100, 1].into(),
                protocol: Some(Protocol::TCP),
                fragment: Fragment::Whole,
                l4: L4::Ports {
                    src: 40_000,
                    dst: 25,
                    flags: 2,
                },
            },
        };
        for (size, rows) in [(1_000, 1), (1, 0)] {
            let mut model = device.model.clone();
            let policies = model.tables.iter_mut().filter(|t| t.stage == Role::Policy);
            policies.for_each(|table| table.size = Some(size));
            let mut programs = RowCache::new(model);
            let built = Units::new(true).build(&device, &intent, &points, "tor", &mut programs);
            let built = built.unwrap();
            let decide = deciding(&device, &intent, &trace, &points, Some(&built), &mut programs);
            assert_eq!(decide.unwrap().len(), rows, "{:?}", built.steps);
        }
    }
}
