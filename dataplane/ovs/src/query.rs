//! Queries over rows: which rows enforce a verdict, and hits per rule.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use portcullis_backend::machine::Desired;
use portcullis_backend::ports::members;
use portcullis_backend::{EnforcingRow, Hit, Overlays, Plan, Trace};
use portcullis_compiler::proof::{deciding_row, remote_row};
use portcullis_compiler::row::Owner;
use portcullis_compiler::{ClassId, CompileError, Intent, RowCache};
use portcullis_openflow::instruction::canonical;
use portcullis_openflow::{Field, FlowStats, FlowStatsRequest, Match};
use portcullis_policy::{Decider, Direction, Frame, Packet, Verdict};

use crate::flow::{FlowBody, FlowIdentity, FlowKey, SharedIdentity, Writer, text};
use crate::ports::{Ports, SwitchPort};
use crate::regs;
use crate::session::OvsMachine;
use crate::tables::attach::TAGGED;
use crate::tables::{Pipeline, Table, control, policy, remote};
use crate::units::{UnitId, Units};

/// The rows that decide about a packet of one port, as they are desired.
pub(crate) fn trace(
    trace: &Trace,
    port: &SwitchPort,
    intent: &Intent,
    programs: &mut RowCache,
    machine: &OvsMachine,
    pipeline: &Pipeline,
) -> Result<Vec<FlowKey>, CompileError> {
    let writer = Writer {
        generation: intent.generation,
    };
    let table = match trace.direction {
        Direction::Egress => Table::Attach,
        Direction::Ingress => Table::Deliver,
    };
    let unit = machine.units().get(&UnitId::Port(port.number));
    let mut keys: Vec<FlowKey> = unit
        .into_iter()
        .flat_map(|rows| rows.iter())
        .filter(|(key, body)| key.0.table == table && !body.instructions.is_empty())
        .map(|(key, _)| key.clone())
        .collect();
    keys = tops(keys, machine);
    let Some(class) = port.policed().map(|p| p.classes[trace.direction]) else {
        return Ok(keys);
    };
    let Some(class) = intent.classes.get(&class) else {
        // Nothing is denied to it: the row that skips the policy.
        let open = Match::new().exact(crate::regs::CLASS, 0u128);
        let frame = machine
            .units()
            .get(&UnitId::Frame)
            .into_iter()
            .flat_map(|u| u.iter());
        keys.extend(
            frame
                .filter(|(k, _)| k.0.table == Table::remote(trace.direction) && k.0.matching == open)
                .map(|(k, _)| k.clone()),
        );
        return Ok(keys);
    };
    let own = programs.get(class)?;
    let program = programs.whole(class)?;
    // Rows of an overlay do not ask for the remote id; those of the class below do.
    let below = class.base.as_ref().filter(|_| own.overlay);
    let base = below.map_or(class.id, |base| base.id);
    if let Some(row) = remote_row(&program, trace.packet.remote) {
        keys.push(remote::row(base, trace.direction, row, pipeline, &writer).0);
    }
    let packet = Packet {
        frame: Frame::Ip(trace.packet.clone()),
    };
    let fixed = programs.fixed().to_vec();
    if let Some((row, _)) = deciding_row(&program, &fixed, &packet, programs.model()) {
        let owner = match (fixed.contains(row), own.policy.contains(row)) {
            (true, _) => Owner::Every,
            (false, true) => Owner::new(class.id, &own),
            (false, false) => Owner::Class(base),
        };
        keys.push(policy::row(owner, trace.direction, row, pipeline, &writer)?.0);
    }
    Ok(keys)
}

/// Of each stack the row that decides now: the highest that has not ended.
fn tops(mut keys: Vec<FlowKey>, machine: &OvsMachine) -> Vec<FlowKey> {
    keys.retain(|key| machine.desired().contains_key(key));
    keys.sort_by_key(|key| std::cmp::Reverse(key.0.priority));
    let mut seen = HashSet::new();
    keys.retain(|key| seen.insert(key.0.matching.clone()));
    keys
}

/// How long the switch keeps a row, where that is not for ever.
fn lasting(row: &FlowStats) -> String {
    let left = u32::from(row.hard_timeout).saturating_sub(row.duration_sec);
    match row.hard_timeout {
        0 => String::new(),
        seconds => format!(" hard_timeout={seconds} ({left} s left)"),
    }
}

/// What to ask the switch to see those rows.
pub(crate) fn requests(keys: &[FlowKey], pipeline: &Pipeline) -> Vec<FlowStatsRequest> {
    keys.iter()
        .map(|key| FlowStatsRequest {
            table_id: pipeline.number(key.0.table),
            match_: key.0.matching.clone(),
            ..FlowStatsRequest::default()
        })
        .collect()
}

/// The rows of an answer, by key.
pub(crate) fn by_key(rows: Vec<FlowStats>, pipeline: &Pipeline) -> HashMap<FlowKey, FlowStats> {
    rows.into_iter()
        .filter_map(|row| {
            let table = pipeline.table(row.table_id)?;
            let place = FlowIdentity {
                table,
                priority: row.priority,
                matching: row.match_.clone(),
            };
            Some((SharedIdentity(Arc::new(place)), row))
        })
        .collect()
}

/// The rows as the switch reported them. A row is present when it has our tag and does what is desired.
pub(crate) fn enforcing(
    keys: &[FlowKey],
    seen: &HashMap<FlowKey, FlowStats>,
    machine: &OvsMachine,
    pipeline: &Pipeline,
) -> Vec<EnforcingRow> {
    keys.iter()
        .map(|key| {
            let row = seen.get(key);
            let present = row.is_some_and(|row| {
                let does = canonical(row.instructions.clone());
                let desired = machine.desired().get(key);
                regs::tag(row.cookie) == pipeline.tag
                    && desired.is_some_and(|body| *body.instructions == *does)
            });
            EnforcingRow {
                table: key.0.table.name().to_string(),
                row: text(&key.0, row.map_or(&[], |r| r.instructions.as_slice()))
                    + &row.map(lasting).unwrap_or_default(),
                present,
                packets: Some(row.map_or(0, |r| r.packet_count)),
                bytes: Some(row.map_or(0, |r| r.byte_count)),
            }
        })
        .collect()
}

/// What to ask the switch to count hits.
pub(crate) fn hit_requests(pipeline: &Pipeline) -> Vec<FlowStatsRequest> {
    let counted: Vec<Table> = Table::all().filter(|table| table.contract().is_counted).collect();
    table_requests(&counted, pipeline)
}

/// What to ask the switch to see every row of these tables.
pub(crate) fn table_requests(tables: &[Table], pipeline: &Pipeline) -> Vec<FlowStatsRequest> {
    let request = |table: &Table| FlowStatsRequest {
        table_id: pipeline.number(*table),
        ..FlowStatsRequest::default()
    };
    tables.iter().map(request).collect()
}

/// A verdict, by the rule and for the class it was about. Two rules of a class can have one name here and two among
/// other members of the class, so that what decided counts too.
type Decided = (Direction, Option<ClassId>, String, Option<Decider>, Verdict);

/// What was counted at a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted<const N: usize> {
    /// Whether the row drops.
    pub(crate) drops: bool,
    pub(crate) counts: [u64; N],
}

/// How often each rule decided.
pub(crate) fn hits(
    seen: &HashMap<FlowKey, FlowStats>,
    intent: &Intent,
    ports: &Ports,
    programs: &mut RowCache,
    pipeline: &Pipeline,
) -> Result<Vec<Hit>, CompileError> {
    let counted = seen.iter().map(|(key, row)| {
        let counted = Counted {
            drops: row.instructions.is_empty(),
            counts: [row.packet_count, row.byte_count],
        };
        (key.clone(), counted)
    });
    let rules = by_rule(&counted.collect(), intent, ports, programs, pipeline)?;
    let hit = |(hit, [packets, bytes]): (Hit, [u64; 2])| Hit {
        packets,
        bytes,
        ..hit
    };
    Ok(rules.into_iter().map(hit).collect())
}

/// What was counted at the rows of each rule. The hits themselves have no packets and bytes.
pub(crate) fn by_rule<const N: usize>(
    seen: &HashMap<FlowKey, Counted<N>>,
    intent: &Intent,
    ports: &Ports,
    programs: &mut RowCache,
    pipeline: &Pipeline,
) -> Result<Vec<(Hit, [u64; N])>, CompileError> {
    let writer = Writer {
        generation: intent.generation,
    };
    let mut sums: BTreeMap<Decided, [u64; N]> = BTreeMap::new();
    let mut add = |place: Decided, row: Option<&Counted<N>>| {
        let sum = sums.entry(place).or_insert([0; N]);
        for (sum, count) in sum.iter_mut().zip(row.map_or([0; N], |row| row.counts)) {
            *sum += count;
        }
    };
    let ports_of_servers = ports.ports.values();
    let ports_of_servers =
        ports_of_servers.filter_map(|port| Some((&port.policed()?.policy, format!("({})", port.name))));
    let mut members = members(ports_of_servers);
    let overlays = Overlays::among(members.keys().copied(), intent, programs)?;
    overlays.join_members(&mut members);
    let above = overlays.above();
    for id in members.keys() {
        let Some(class) = intent.classes.get(id) else {
            continue;
        };
        let direction = class.policy.direction;
        let program = programs.get(class)?;
        for row in &program.policy {
            let key = policy::row(Owner::new(class.id, &program), direction, row, pipeline, &writer)?.0;
            add(
                (
                    direction,
                    Some(*id),
                    class.policy.origin(row.by),
                    Some(row.by),
                    row.action,
                ),
                seen.get(&key),
            );
        }
    }
    for direction in Direction::BOTH {
        for row in programs.fixed() {
            let key = policy::row(Owner::Every, direction, row, pipeline, &writer)?.0;
            let rule = if row.action.passes() {
                "essential/arp"
            } else {
                "evasion/unreadable-header"
            };
            add(
                (direction, None, rule.to_string(), None, row.action),
                seen.get(&key),
            );
        }
    }
    for (matching, name) in control::names(ports.forwarding) {
        let mut drops = seen
            .iter()
            .filter(|(k, _)| k.0.table == Table::Guard && k.0.matching == matching);
        let rule = format!("control/{name}");
        add(
            (Direction::Egress, None, rule, None, Verdict::Deny),
            drops.next().map(|(_, row)| row),
        );
    }
    for (key, row) in seen.iter().filter(|(k, r)| k.0.table == Table::Guard && r.drops) {
        let number = key.0.matching.get(Field::InPort).map(|oxm| oxm.value as u32);
        let endpoint = number
            .and_then(|n| ports.ports.get(&n))
            .and_then(SwitchPort::policed);
        if let Some(name) = endpoint.and_then(|p| p.endpoint.as_ref()) {
            add(
                (
                    Direction::Egress,
                    None,
                    format!("guard/{name}"),
                    None,
                    Verdict::Deny,
                ),
                Some(row),
            );
        }
    }
    let mut list = Vec::with_capacity(sums.len());
    for ((direction, class, rule, decider, action), counts) in sums {
        let endpoints = class.and_then(|c| members.get(&c)).cloned().unwrap_or_default();
        let overlays = class.and_then(|c| above.get(&c)).cloned().unwrap_or_default();
        let (class, action) = (class.map(|c| c.0), action.to_string());
        let hit = Hit {
            direction,
            rule,
            decider,
            class,
            endpoints,
            overlays,
            action,
            packets: 0,
            bytes: 0,
        };
        list.push((hit, counts));
    }
    Ok(list)
}

/// What an intent would change.
pub(crate) fn plan(
    intent: &Intent,
    ports: &Ports,
    machine: &OvsMachine,
    mut units: Units,
    limits: &BTreeMap<Table, u64>,
    programs: &mut RowCache,
) -> Result<Plan, CompileError> {
    let desired: Desired<UnitId, FlowKey, FlowBody> = units.build(intent, ports, programs)?;
    let tables = Table::all().map(|table| {
        let size = limits.get(&table).copied();
        (table as u8, table.name().to_string(), size)
    });
    let plan = portcullis_backend::plan(machine, &desired, tables, |key, body| {
        let row = text(&key.0, body.map_or(&[], |b| b.instructions.as_ref()));
        let until = body.and_then(|b| b.until).map(|t| format!(" until={t}"));
        row + &until.unwrap_or_default()
    });
    let after: HashMap<&FlowKey, &FlowBody> = desired
        .values()
        .flat_map(|unit| unit.iter().map(|(key, body)| (key, body)))
        .collect();
    Ok(Plan {
        warnings: lost_tags(ports, machine, &after),
        ..plan
    })
}

/// Whether a row takes tagged frames of a port.
fn takes_tags<'a>(port: u32, mut rows: impl Iterator<Item = (&'a FlowKey, &'a FlowBody)>) -> bool {
    rows.any(|(key, body)| {
        let matching = &key.0.matching;
        let from = matching.get(Field::InPort);
        let tagged = matching.get(Field::VlanVid).is_some_and(|oxm| match oxm.mask {
            Some(mask) => mask == TAGGED && oxm.value == TAGGED,
            None => oxm.value > TAGGED,
        });
        key.0.table == Table::Attach
            && from.is_some_and(|oxm| oxm.value == u128::from(port))
            && tagged
            && !body.instructions.is_empty()
    })
}

/// Ports whose tagged frames pass by the rows that are there, and would not by those that an intent wants.
fn lost_tags(ports: &Ports, machine: &OvsMachine, after: &HashMap<&FlowKey, &FlowBody>) -> Vec<String> {
    let servers = ports.ports.values().filter(|port| port.policed().is_some());
    servers
        .filter(|port| {
            let then = after.iter().map(|(key, body)| (*key, *body));
            takes_tags(port.number, machine.installed().iter()) && !takes_tags(port.number, then)
        })
        .map(|port| {
            let who = port.policed().and_then(|policed| policed.endpoint.as_ref());
            let what_to_do = match who {
                Some(name) => format!("for a trunk write `vlan: any` in the attachment of {name}"),
                None => "for a trunk declare an endpoint with `vlan: any`, or list the port in `uplinks`".to_string(),
            };
            format!(
                "tagged frames of port {} stop, in both directions: a server's port has the frames of its `tag`, or those \
                 without a tag; {what_to_do}",
                port.name
            )
        })
        .collect()
}
