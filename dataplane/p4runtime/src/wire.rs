//! Rows to and from P4Runtime messages (1.6.0, sections 9.1 and 9.5). The one place that knows them.

use std::sync::Arc;

use portcullis_backend::delta::{Layer, Op};
use portcullis_compiler::model::MatchKind;
use portcullis_proto::p4::v1;
use v1::entity::Entity;
use v1::field_match::{self, FieldMatchType};
use v1::update::Type;

use crate::device::{Device, DeviceTable};
use crate::ends;
use crate::entry::{Does, Keyed, Match, Place, Row, RowKey};
use crate::failure::shown;
use crate::value::{decode, encode, ones};

/// What marks a row as ours: the first bytes of its metadata, and the upper half of what older servers echo instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u16);

impl Tag {
    /// The metadata of a row: the tag and the generation that wrote it.
    pub fn metadata(self, generation: u64) -> Vec<u8> {
        [&self.0.to_be_bytes()[..], &generation.to_be_bytes()].concat()
    }

    /// What stands in for it where only `controller_metadata` is echoed.
    pub fn controller_metadata(self, generation: u64) -> u64 {
        u64::from(self.0) << 48 | generation & 0xffff_ffff_ffff
    }

    /// Whether a row is ours.
    #[allow(deprecated, reason = "servers of P4Runtime before 1.4 echo nothing else")]
    pub fn is_on(self, entry: &v1::TableEntry) -> bool {
        if entry.metadata.is_empty() {
            entry.controller_metadata >> 48 == u64::from(self.0)
        } else {
            let whole = entry.metadata.len() == ends::TAG || ends::has(&entry.metadata);
            whole && entry.metadata.starts_with(&self.0.to_be_bytes())
        }
    }
}

/// What a device was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A row of ours.
    Ours(Row),
    /// The key of a row without our tag.
    Foreign(RowKey),
    /// A row that says nothing to us: a default action, a table we do not use, something unreadable.
    Nothing,
}

fn field_match(id: u32, value: Match) -> v1::FieldMatch {
    let kind = match value {
        Match::Exact(v) => FieldMatchType::Exact(field_match::Exact { value: encode(v) }),
        Match::Lpm { value, length } => FieldMatchType::Lpm(field_match::Lpm {
            value: encode(value),
            prefix_len: i32::from(length),
        }),
        Match::Ternary { value, mask } => FieldMatchType::Ternary(field_match::Ternary {
            value: encode(value),
            mask: encode(mask),
        }),
        Match::Range { low, high } => FieldMatchType::Range(field_match::Range {
            low: encode(low),
            high: encode(high),
        }),
        Match::Optional(v) => FieldMatchType::Optional(field_match::Optional { value: encode(v) }),
    };
    v1::FieldMatch {
        field_id: id,
        field_match_type: Some(kind),
    }
}

/// A match as we would have written it; `Some(None)` when it may hold anything, `None` when it cannot be read.
fn match_of(table: &DeviceTable, seen: &v1::FieldMatch) -> Option<Option<Match>> {
    let field = table.field(seen.field_id)?;
    let all = ones(field.width);
    Some(match seen.field_match_type.as_ref()? {
        FieldMatchType::Exact(v) => Some(Match::Exact(decode(&v.value)?)),
        FieldMatchType::Optional(v) if field.kind == MatchKind::Optional => {
            Some(Match::Optional(decode(&v.value)?))
        }
        FieldMatchType::Ternary(v) => {
            let (value, mask) = (decode(&v.value)?, decode(&v.mask)?);
            match field.kind {
                _ if mask == 0 => None,
                // Some servers read optional keys back as what they are made of.
                MatchKind::Optional if mask == all => Some(Match::Optional(value)),
                _ => Some(Match::Ternary {
                    value: value & mask,
                    mask,
                }),
            }
        }
        FieldMatchType::Lpm(v) => {
            let length = u16::try_from(v.prefix_len).ok()?;
            (length > 0).then_some(Match::Lpm {
                value: decode(&v.value)?,
                length,
            })
        }
        FieldMatchType::Range(v) => {
            let (low, high) = (decode(&v.low)?, decode(&v.high)?);
            (low != 0 || high != all).then_some(Match::Range { low, high })
        }
        FieldMatchType::Optional(_) | FieldMatchType::Other(_) => return None,
    })
}

/// A row's place as a message, without what it does.
pub fn table_entry(device: &Device, key: &RowKey) -> Option<v1::TableEntry> {
    let Place::Table {
        table,
        priority,
        fields,
    } = &key.0.place
    else {
        return None;
    };
    Some(v1::TableEntry {
        table_id: device.table(*table)?.id,
        r#match: fields
            .iter()
            .map(|(id, value)| field_match(*id, *value))
            .collect(),
        priority: *priority,
        ..Default::default()
    })
}

/// How replicas name ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicaPorts {
    /// By number, as before P4Runtime 1.4.
    #[default]
    Number,
    /// By bytes, as since P4Runtime 1.4.
    Bytes,
}

/// What writing needs to know beside the row.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    /// The mark of our rows.
    pub tag: Tag,
    /// The generation that writes.
    pub generation: u64,
    /// How replicas name ports.
    pub ports: ReplicaPorts,
}

#[allow(deprecated, reason = "servers of P4Runtime before 1.4 know nothing else")]
fn replica(port: u32, ports: ReplicaPorts) -> v1::Replica {
    let port_kind = match ports {
        ReplicaPorts::Number => v1::replica::PortKind::EgressPort(port),
        ReplicaPorts::Bytes => v1::replica::PortKind::Port(encode(port.into())),
    };
    v1::Replica {
        // Every port has one copy of a frame, so that one instance is enough.
        instance: 1,
        port_kind: Some(port_kind),
        ..Default::default()
    }
}

/// The multicast group of a row, as a packet replication entry.
pub fn group_entity(id: u32, copies: Vec<v1::Replica>) -> v1::Entity {
    let group = v1::MulticastGroupEntry {
        multicast_group_id: id,
        replicas: copies,
        ..Default::default()
    };
    let entry = v1::PacketReplicationEngineEntry {
        r#type: Some(v1::packet_replication_engine_entry::Type::MulticastGroupEntry(
            group,
        )),
    };
    v1::Entity {
        entity: Some(Entity::PacketReplicationEngineEntry(entry)),
    }
}

#[allow(deprecated, reason = "see Tag::controller_metadata")]
fn entity(device: &Device, key: &RowKey, does: Option<&Does>, writer: &Writer) -> Option<v1::Entity> {
    if let Place::Group(id) = key.0.place {
        let copies = match does {
            Some(Does::Copies(ports)) => ports.iter().map(|p| replica(*p, writer.ports)).collect(),
            _ => Vec::new(),
        };
        return Some(group_entity(id, copies));
    }
    let mut entry = table_entry(device, key)?;
    if let Some((id, params, ends)) = does.and_then(Does::parts) {
        let params = params.iter().map(|(id, value)| v1::action::Param {
            param_id: *id,
            value: encode(*value),
        });
        let action = v1::Action {
            action_id: id,
            params: params.collect(),
        };
        entry.action = Some(v1::TableAction {
            r#type: Some(v1::table_action::Type::Action(action)),
        });
        entry.metadata = ends::append(writer.tag.metadata(writer.generation), ends);
        entry.controller_metadata = writer.tag.controller_metadata(writer.generation);
    }
    Some(v1::Entity {
        entity: Some(Entity::TableEntry(entry)),
    })
}

/// A write as an update; `None` for a row of a table that is not there.
pub fn update(device: &Device, op: &Op<RowKey, Does>, writer: &Writer) -> Option<v1::Update> {
    let (kind, does) = match op {
        Op::Add(_, does) => (Type::Insert, Some(does)),
        Op::Change(_, does) => (Type::Modify, Some(does)),
        Op::Delete(_) => (Type::Delete, None),
    };
    Some(v1::Update {
        r#type: kind as i32,
        entity: Some(entity(device, op.key(), does, writer)?),
    })
}

/// A table entry as a row.
pub fn seen_entry(device: &Device, entry: &v1::TableEntry, tag: Tag) -> Seen {
    let Some((number, table)) = device.table_of(entry.table_id) else {
        return Seen::Nothing;
    };
    if entry.is_default_action || entry.is_const {
        return Seen::Nothing;
    }
    let fields: Option<Vec<Option<(u32, Match)>>> = entry
        .r#match
        .iter()
        .map(|m| Some(match_of(table, m)?.map(|value| (m.field_id, value))))
        .collect();
    let Some(fields) = fields else {
        return Seen::Nothing;
    };
    let key = table.key(number, entry.priority, fields.into_iter().flatten().collect());
    if !tag.is_on(entry) {
        return Seen::Foreign(key);
    }
    let action = entry.action.as_ref().and_then(|a| match a.r#type.as_ref()? {
        v1::table_action::Type::Action(action) => Some(action),
        _ => None,
    });
    let does = action.and_then(|action| {
        let params: Option<Vec<(u32, u128)>> = action
            .params
            .iter()
            .map(|p| Some((p.param_id, decode(&p.value)?)))
            .collect();
        let mut params = params?;
        params.sort_unstable();
        Some(Does::action(
            action.action_id,
            params,
            ends::read(&entry.metadata)?,
        ))
    });
    // A row of ours that does what we never write is put right.
    let nothing = Does::Action {
        id: 0,
        params: Vec::new(),
    };
    Seen::Ours((key, does.unwrap_or(nothing)))
}

/// The key of a multicast group.
pub fn group_key(id: u32) -> RowKey {
    RowKey(Arc::new(Keyed {
        place: Place::Group(id),
        layer: Layer::Support,
        class: None,
    }))
}

/// A multicast group as a row.
#[allow(deprecated, reason = "servers of P4Runtime before 1.4 know nothing else")]
pub fn seen_group(group: &v1::MulticastGroupEntry) -> Row {
    let port = |r: &v1::Replica| match r.port_kind.as_ref()? {
        v1::replica::PortKind::EgressPort(port) => Some(*port),
        v1::replica::PortKind::Port(bytes) => u32::try_from(decode(bytes)?).ok(),
    };
    let mut ports: Vec<u32> = group.replicas.iter().filter_map(port).collect();
    ports.sort_unstable();
    (group_key(group.multicast_group_id), Does::Copies(ports))
}

/// Whether an arbitration update says that this controller is the primary (P4Runtime 1.6.0, section 5.3: OK for the
/// primary, ALREADY_EXISTS or NOT_FOUND for the others). An update that is about somebody else is named.
pub fn arbitrated(update: &v1::MasterArbitrationUpdate, device_id: u64, role: &str) -> Result<bool, String> {
    // Servers may leave out what has only one value there.
    if update.device_id != 0 && update.device_id != device_id {
        return Err(format!(
            "the server spoke of the primary of device {}, and this target is device {device_id}",
            update.device_id
        ));
    }
    if let Some(named) = &update.role
        && named.name != role
    {
        return Err(format!(
            "the server spoke of the primary of the role `{}`, and this target has the role `{role}`",
            shown(&named.name)
        ));
    }
    Ok(update.status.as_ref().is_none_or(|s| s.code == 0))
}

/// What an update is about, for messages: `egress_policy class=1 … -> deny`.
pub fn text(device: &Device, key: &RowKey, does: Option<&Does>) -> String {
    let Place::Table {
        table,
        priority,
        fields,
    } = &key.0.place
    else {
        let Place::Group(id) = key.0.place else {
            return String::new();
        };
        let to = match does {
            Some(Does::Copies(ports)) => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                format!(" -> ports {}", ports.join(","))
            }
            _ => String::new(),
        };
        return format!("multicast_group {id}{to}");
    };
    let Some(table) = device.table(*table) else {
        return format!("a table that is not there: {fields:?}");
    };
    let mut text = table.name.clone();
    if *priority != 0 {
        text += &format!(" priority={priority}");
    }
    for (id, value) in fields {
        match table.field(*id) {
            Some(field) => text += &format!(" {}={value}", field.name),
            None => text += &format!(" {id}={value}"),
        }
    }
    if let Some((id, params, ends)) = does.and_then(Does::parts) {
        let action = table.action(id);
        text += &format!(" -> {}", action.map_or("an unknown action", |a| a.name.as_str()));
        let values: Vec<String> = params.iter().map(|(_, value)| value.to_string()).collect();
        if !values.is_empty() {
            text += &format!("({})", values.join(", "));
        }
        for end in ends {
            text += &format!(", at {} {}", end.at, end.value);
        }
    }
    text
}
