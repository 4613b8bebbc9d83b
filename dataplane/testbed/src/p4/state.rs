//! What the server keeps: a pipeline, tables, groups; and the rules that P4Runtime has for changing them.

use std::collections::BTreeMap;

use portcullis_proto::p4::config::v1::{P4Info, Table, match_field};
use portcullis_proto::p4::v1;
use tonic::Code;
use v1::field_match::FieldMatchType;
use v1::update::Type;

use super::entries::{Entries, EntryKey};

/// What the P4Runtime server has been given, and how often.
#[derive(Debug, Default, Clone)]
pub struct State {
    /// The pipeline, when one was set.
    pub config: Option<v1::ForwardingPipelineConfig>,
    /// The entries of all tables.
    pub entries: Entries,
    pub groups: BTreeMap<u32, v1::MulticastGroupEntry>,
    /// Rows that a table takes at most, where it is not what the P4Info says.
    pub sizes: BTreeMap<u32, usize>,
    /// How often a pipeline was set.
    pub pushes: u64,
    /// How often that was with every row kept.
    pub reconciled: u64,
    /// Updates carried out, of every role.
    pub updates: u64,
    /// The same by the role that wrote them.
    pub written: BTreeMap<String, u64>,
}

/// Why an update was refused.
pub type Refusal = (Code, String);

fn refuse<T>(code: Code, why: impl Into<String>) -> Result<T, Refusal> {
    Err((code, why.into()))
}

fn canonical(bytes: &[u8], width: i32) -> Result<u128, Refusal> {
    let shortest = match bytes {
        [] => return refuse(Code::InvalidArgument, "an empty value"),
        [0] => true,
        [first, ..] => *first != 0,
    };
    if !shortest {
        return refuse(Code::InvalidArgument, "a value with leading zeros");
    }
    if bytes.len() > 16 {
        return refuse(Code::OutOfRange, "a value of more than 128 bits");
    }
    let value = bytes.iter().fold(0u128, |v, b| v << 8 | u128::from(*b));
    match u32::try_from(width) {
        Ok(width) if width < 128 && value >> width != 0 => {
            refuse(Code::OutOfRange, format!("{value:#x} has more than {width} bits"))
        }
        _ => Ok(value),
    }
}

/// Adds what a field matches to the place of its entry: values with their lengths, so that no two are the same.
fn place_of(given: &FieldMatchType, place: &mut Vec<u8>) {
    let mut value = |bytes: &[u8]| {
        // Values have 16 bytes at most: they were looked at before.
        place.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        place.extend_from_slice(bytes);
    };
    match given {
        FieldMatchType::Exact(m) => value(&m.value),
        FieldMatchType::Optional(m) => value(&m.value),
        FieldMatchType::Ternary(m) => {
            value(&m.value);
            value(&m.mask);
        }
        FieldMatchType::Range(m) => {
            value(&m.low);
            value(&m.high);
        }
        FieldMatchType::Lpm(m) => {
            value(&m.value);
            value(&m.prefix_len.to_be_bytes());
        }
        FieldMatchType::Other(_) => {}
    }
}

impl State {
    /// The P4Info in force.
    pub fn info(&self) -> Option<&P4Info> {
        self.config.as_ref()?.p4info.as_ref()
    }

    /// A table of the P4Info by id.
    pub fn table(&self, id: u32) -> Option<&Table> {
        self.info()?
            .tables
            .iter()
            .find(|t| t.preamble.as_ref().is_some_and(|p| p.id == id))
    }

    /// Sets a pipeline and keeps every row, or does nothing when the pipeline has no place for one of them.
    pub fn reconcile(&mut self, config: Option<v1::ForwardingPipelineConfig>) -> Result<(), Refusal> {
        if config.is_none() {
            return refuse(Code::InvalidArgument, "no pipeline is given");
        }
        let mut next = State {
            config,
            ..State::default()
        };
        for entry in self.entries.values() {
            next.entry(Type::Insert, entry.clone()).map_err(|(_, why)| {
                let why = format!("a row of table {:#x} cannot be kept: {why}", entry.table_id);
                (Code::InvalidArgument, why)
            })?;
        }
        self.config = next.config;
        self.entries = next.entries;
        self.pushes += 1;
        self.reconciled += 1;
        Ok(())
    }

    /// Carries out one update.
    pub fn update(&mut self, update: v1::Update) -> Result<(), Refusal> {
        if self.config.is_none() {
            return refuse(Code::FailedPrecondition, "no pipeline");
        }
        let kind = Type::try_from(update.r#type).unwrap_or(Type::Unspecified);
        let entity = update.entity.and_then(|e| e.entity);
        match entity {
            Some(v1::entity::Entity::TableEntry(entry)) => self.entry(kind, entry)?,
            Some(v1::entity::Entity::PacketReplicationEngineEntry(entry)) => match entry.r#type {
                Some(v1::packet_replication_engine_entry::Type::MulticastGroupEntry(group)) => {
                    self.group(kind, group)?;
                }
                _ => return refuse(Code::Unimplemented, "clone sessions"),
            },
            _ => return refuse(Code::Unimplemented, "only tables and groups"),
        }
        self.updates += 1;
        Ok(())
    }

    fn group(&mut self, kind: Type, group: v1::MulticastGroupEntry) -> Result<(), Refusal> {
        let id = group.multicast_group_id;
        if id == 0 {
            return refuse(Code::InvalidArgument, "group 0");
        }
        let there = self.groups.contains_key(&id);
        match (kind, there) {
            (Type::Insert, true) => refuse(Code::AlreadyExists, format!("group {id}")),
            (Type::Modify | Type::Delete, false) => refuse(Code::NotFound, format!("group {id}")),
            (Type::Delete, true) => {
                self.groups.remove(&id);
                Ok(())
            }
            (Type::Insert | Type::Modify, _) => {
                self.groups.insert(id, group);
                Ok(())
            }
            (Type::Unspecified, _) => refuse(Code::InvalidArgument, "no type of update"),
        }
    }

    fn entry(&mut self, kind: Type, entry: v1::TableEntry) -> Result<(), Refusal> {
        let place = self.check_match(&entry)?;
        let there = self.entries.contains_key(&place);
        match (kind, there) {
            (Type::Insert, true) => refuse(Code::AlreadyExists, "the entry is there already"),
            (Type::Modify | Type::Delete, false) => refuse(Code::NotFound, "the entry is not there"),
            (Type::Delete, true) => {
                self.entries.remove(&place);
                Ok(())
            }
            (Type::Insert, false) if self.is_full(entry.table_id) => {
                refuse(Code::ResourceExhausted, "the table is full")
            }
            (Type::Insert | Type::Modify, _) => {
                self.check_action(&entry)?;
                self.entries.insert(place, entry);
                Ok(())
            }
            (Type::Unspecified, _) => refuse(Code::InvalidArgument, "no type of update"),
        }
    }

    fn is_full(&self, table: u32) -> bool {
        let stated = self
            .table(table)
            .and_then(|t| usize::try_from(t.size).ok())
            .filter(|s| *s > 0);
        let size = self.sizes.get(&table).copied().or(stated);
        size.is_some_and(|size| self.entries.in_table(table) >= size)
    }

    /// P4Runtime 1.6.0, section 9.1.1: what a match may look like.
    pub fn check_match(&self, entry: &v1::TableEntry) -> Result<EntryKey, Refusal> {
        let Some(table) = self.table(entry.table_id) else {
            return refuse(Code::NotFound, format!("no table {:#x}", entry.table_id));
        };
        let (mut fields, mut found) = (Vec::with_capacity(64), 0);
        let mut prioritized = false;
        for field in &table.match_fields {
            let kind = match field.r#match {
                Some(match_field::Match::MatchType(kind)) => kind,
                _ => 0,
            };
            use match_field::MatchType as Kind;
            prioritized |= [Kind::Ternary as i32, Kind::Range as i32, Kind::Optional as i32].contains(&kind);
            let given = entry.r#match.iter().find(|m| m.field_id == field.id);
            let Some(given) = given.and_then(|m| m.field_match_type.as_ref()) else {
                if kind == Kind::Exact as i32 {
                    return refuse(Code::InvalidArgument, format!("`{}` is missing", field.name));
                }
                continue;
            };
            let value = |bytes: &[u8]| canonical(bytes, field.bitwidth);
            let right = match given {
                FieldMatchType::Exact(m) if kind == Kind::Exact as i32 => value(&m.value).map(|_| true)?,
                FieldMatchType::Optional(m) if kind == Kind::Optional as i32 => {
                    value(&m.value).map(|_| true)?
                }
                FieldMatchType::Ternary(m) if kind == Kind::Ternary as i32 => {
                    let (v, mask) = (value(&m.value)?, value(&m.mask)?);
                    mask != 0 && v & !mask == 0
                }
                FieldMatchType::Range(m) if kind == Kind::Range as i32 => {
                    let (low, high) = (value(&m.low)?, value(&m.high)?);
                    let bits = u32::try_from(field.bitwidth).unwrap_or(0).min(127);
                    low <= high && (low != 0 || high != (1 << bits) - 1)
                }
                FieldMatchType::Lpm(m) if kind == Kind::Lpm as i32 => {
                    value(&m.value).map(|_| m.prefix_len > 0)?
                }
                _ => false,
            };
            if !right {
                return refuse(
                    Code::InvalidArgument,
                    format!("`{}` cannot match that: {given:?}", field.name),
                );
            }
            found += 1;
            fields.extend(field.id.to_be_bytes());
            place_of(given, &mut fields);
        }
        if found != entry.r#match.len() {
            return refuse(
                Code::InvalidArgument,
                "a match field that the table lacks, or one twice",
            );
        }
        if prioritized != (entry.priority > 0) {
            return refuse(Code::InvalidArgument, format!("priority {}", entry.priority));
        }
        Ok((entry.table_id, entry.priority, fields))
    }

    fn check_action(&self, entry: &v1::TableEntry) -> Result<(), Refusal> {
        let action = entry.action.as_ref().and_then(|a| match a.r#type.as_ref()? {
            v1::table_action::Type::Action(action) => Some(action),
            _ => None,
        });
        let Some(action) = action else {
            return refuse(Code::InvalidArgument, "no action");
        };
        let table = self.table(entry.table_id);
        let allowed = table.is_some_and(|t| t.action_refs.iter().any(|r| r.id == action.action_id));
        let known = self
            .info()
            .and_then(|i| {
                i.actions
                    .iter()
                    .find(|a| a.preamble.as_ref().is_some_and(|p| p.id == action.action_id))
            })
            .filter(|_| allowed);
        let Some(known) = known else {
            return refuse(
                Code::InvalidArgument,
                format!("no action {:#x} in this table", action.action_id),
            );
        };
        if known.params.len() != action.params.len() {
            return refuse(Code::InvalidArgument, "not its parameters");
        }
        for param in &known.params {
            let Some(given) = action.params.iter().find(|p| p.param_id == param.id) else {
                return refuse(Code::InvalidArgument, format!("`{}` is missing", param.name));
            };
            canonical(&given.value, param.bitwidth)?;
        }
        Ok(())
    }
}
