//! What a switch keeps, said again from the P4Info and P4Runtime's specification alone: slow and plain.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_proto::p4::config::v1::{MatchField, P4Info, Table, action_ref, match_field};
use portcullis_proto::p4::v1;
use prost::Message;
use tonic::Code;
use v1::entity::Entity;
use v1::field_match::FieldMatchType;
use v1::packet_replication_engine_entry::Type as PreType;
use v1::update::Type;

use crate::rig::wrap;

/// Table, priority, and each field's match.
pub type Key = (u32, i32, Vec<(u32, Vec<u8>)>);

/// An entry as it was written, and what its counter says.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub entry: v1::TableEntry,
    pub count: Option<v1::CounterData>,
}

/// All that was written.
#[derive(Debug, Clone)]
pub struct Model {
    pub info: P4Info,
    pub entries: BTreeMap<Key, Kept>,
    pub groups: BTreeMap<u32, v1::MulticastGroupEntry>,
}

/// Codes of everything that is wrong.
#[derive(Debug, Default)]
struct Wrong(BTreeSet<i32>);

impl Wrong {
    fn when(&mut self, wrong: bool, code: Code) {
        if wrong {
            self.0.insert(code as i32);
        }
    }
}

/// The value of a field, if it is in its shortest form and fits.
fn value(bytes: &[u8], width: i32) -> Option<u128> {
    let shortest = bytes.len() == 1 || bytes.first().is_some_and(|first| *first != 0);
    if !shortest || bytes.len() > 16 {
        return None;
    }
    let mut all = [0; 16];
    all[16 - bytes.len()..].copy_from_slice(bytes);
    let value = u128::from_be_bytes(all);
    (width == 128 || value < 1 << width).then_some(value)
}

fn is_exact(field: &MatchField) -> bool {
    field.r#match
        == Some(match_field::Match::MatchType(
            match_field::MatchType::Exact as i32,
        ))
}

fn is_right(field: &MatchField, given: &FieldMatchType) -> bool {
    let width = field.bitwidth;
    let Some(match_field::Match::MatchType(kind)) = field.r#match else {
        return false;
    };
    match (match_field::MatchType::try_from(kind).unwrap(), given) {
        (match_field::MatchType::Exact, FieldMatchType::Exact(m)) => value(&m.value, width).is_some(),
        (match_field::MatchType::Optional, FieldMatchType::Optional(m)) => value(&m.value, width).is_some(),
        (match_field::MatchType::Ternary, FieldMatchType::Ternary(m)) => {
            match (value(&m.value, width), value(&m.mask, width)) {
                (Some(bits), Some(mask)) => mask != 0 && bits & mask == bits,
                _ => false,
            }
        }
        (match_field::MatchType::Range, FieldMatchType::Range(m)) => {
            match (value(&m.low, width), value(&m.high, width)) {
                (Some(low), Some(high)) => low <= high && high - low != (1 << width) - 1,
                _ => false,
            }
        }
        _ => false,
    }
}

impl Model {
    pub fn new(info: P4Info) -> Model {
        Model {
            info,
            entries: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    fn table(&self, id: u32) -> Option<&Table> {
        let of = |t: &&Table| t.preamble.as_ref().unwrap().id == id;
        self.info.tables.iter().find(of)
    }

    /// The key of an entry, if its match and priority are right.
    fn key(table: &Table, entry: &v1::TableEntry) -> Option<Key> {
        let mut fields = BTreeMap::new();
        for given in &entry.r#match {
            let field = table.match_fields.iter().find(|f| f.id == given.field_id)?;
            let right = is_right(field, given.field_match_type.as_ref()?);
            if !right || fields.insert(field.id, given.encode_to_vec()).is_some() {
                return None;
            }
        }
        let lacks = |f: &MatchField| is_exact(f) && !fields.contains_key(&f.id);
        let all_exact = table.match_fields.iter().all(is_exact);
        let priority = if all_exact {
            entry.priority == 0
        } else {
            entry.priority > 0
        };
        if table.match_fields.iter().any(lacks) || !priority {
            return None;
        }
        Some((entry.table_id, entry.priority, fields.into_iter().collect()))
    }

    /// What is wrong with an action of a row.
    fn action(&self, table: &Table, entry: &v1::TableEntry, wrong: &mut Wrong) {
        let given = match entry.action.as_ref().and_then(|a| a.r#type.as_ref()) {
            Some(v1::table_action::Type::Action(action)) => action,
            _ => return wrong.when(true, Code::InvalidArgument),
        };
        let Some(known) = table.action_refs.iter().find(|r| r.id == given.action_id) else {
            return wrong.when(true, Code::InvalidArgument);
        };
        wrong.when(
            known.scope == action_ref::Scope::DefaultOnly as i32,
            Code::PermissionDenied,
        );
        let of = |a: &&portcullis_proto::p4::config::v1::Action| a.preamble.as_ref().unwrap().id == known.id;
        let params = &self.info.actions.iter().find(of).unwrap().params;
        let ids = |list: Vec<u32>| list.into_iter().collect::<BTreeSet<u32>>();
        let want = ids(params.iter().map(|p| p.id).collect());
        let right = given.params.len() == params.len()
            && want == ids(given.params.iter().map(|p| p.param_id).collect());
        wrong.when(!right, Code::InvalidArgument);
        for param in &given.params {
            let width = params
                .iter()
                .find(|p| p.id == param.param_id)
                .map_or(0, |p| p.bitwidth);
            wrong.when(value(&param.value, width).is_none(), Code::InvalidArgument);
        }
    }

    /// Carries out an update, or says what may be said against it.
    pub fn update(&mut self, update: &v1::Update) -> Result<(), BTreeSet<i32>> {
        let mut wrong = Wrong::default();
        let kind = Type::try_from(update.r#type)
            .ok()
            .filter(|k| *k != Type::Unspecified);
        wrong.when(kind.is_none(), Code::InvalidArgument);
        let kind = kind.unwrap_or_default();
        match update.entity.as_ref().and_then(|e| e.entity.as_ref()) {
            None => wrong.when(true, Code::InvalidArgument),
            Some(Entity::TableEntry(entry)) => self.entry(kind, entry, &mut wrong),
            Some(Entity::DirectCounterEntry(counter)) => self.counter(kind, counter, &mut wrong),
            Some(Entity::PacketReplicationEngineEntry(entry)) => match &entry.r#type {
                Some(PreType::MulticastGroupEntry(group)) => self.group(kind, group, &mut wrong),
                _ => wrong.when(true, Code::Unimplemented),
            },
            Some(_) => wrong.when(true, Code::Unimplemented),
        }
        if wrong.0.is_empty() { Ok(()) } else { Err(wrong.0) }
    }

    fn entry(&mut self, kind: Type, entry: &v1::TableEntry, wrong: &mut Wrong) {
        let Some(table) = self.table(entry.table_id).cloned() else {
            return wrong.when(true, Code::NotFound);
        };
        wrong.when(entry.is_const, Code::InvalidArgument);
        if entry.is_default_action {
            let odd = !entry.r#match.is_empty() || entry.priority != 0 || kind != Type::Modify;
            return wrong.when(
                true,
                if odd {
                    Code::InvalidArgument
                } else {
                    Code::PermissionDenied
                },
            );
        }
        let key = Model::key(&table, entry);
        wrong.when(key.is_none(), Code::InvalidArgument);
        let there = key.as_ref().and_then(|key| self.entries.get(key)).cloned();
        let counted = !table.direct_resource_ids.is_empty();
        if kind != Type::Delete {
            wrong.when(entry.idle_timeout_ns != 0, Code::Unimplemented);
            let meters = entry.meter_config.is_some() || entry.meter_counter_data.is_some();
            wrong.when(meters, Code::InvalidArgument);
            wrong.when(entry.counter_data.is_some() && !counted, Code::InvalidArgument);
            if kind == Type::Insert || entry.action.is_some() {
                self.action(&table, entry, wrong);
            }
        }
        if kind == Type::Insert {
            wrong.when(there.is_some(), Code::AlreadyExists);
            let rows = self
                .entries
                .keys()
                .filter(|(id, ..)| *id == entry.table_id)
                .count();
            wrong.when(
                there.is_none() && rows as i64 >= table.size,
                Code::ResourceExhausted,
            );
        } else {
            wrong.when(there.is_none(), Code::NotFound);
        }
        let (true, Some(key)) = (wrong.0.is_empty(), key) else {
            return;
        };
        if kind == Type::Delete {
            self.entries.remove(&key);
            return;
        }
        let mut new = entry.clone();
        (new.counter_data, new.time_since_last_hit) = (None, None);
        let before = there.as_ref().and_then(|kept| kept.count).unwrap_or_default();
        if let (None, Some(old)) = (&new.action, there) {
            new.action = old.entry.action;
        }
        let count = counted.then(|| entry.counter_data.unwrap_or(before));
        self.entries.insert(key, Kept { entry: new, count });
    }

    fn counter(&mut self, kind: Type, counter: &v1::DirectCounterEntry, wrong: &mut Wrong) {
        let entry = counter.table_entry.clone().unwrap_or_default();
        let Some(table) = self.table(entry.table_id) else {
            return wrong.when(true, Code::NotFound);
        };
        wrong.when(kind != Type::Modify, Code::InvalidArgument);
        wrong.when(table.direct_resource_ids.is_empty(), Code::InvalidArgument);
        let key = Model::key(table, &entry);
        wrong.when(key.is_none(), Code::InvalidArgument);
        let there = key.and_then(|key| self.entries.get_mut(&key));
        wrong.when(there.is_none(), Code::NotFound);
        if let (true, Some(kept), Some(data)) = (wrong.0.is_empty(), there, counter.data) {
            kept.count = Some(data);
        }
    }

    #[allow(deprecated, reason = "controllers of before 1.5 send `egress_port`")]
    fn group(&mut self, kind: Type, group: &v1::MulticastGroupEntry, wrong: &mut Wrong) {
        let id = group.multicast_group_id;
        wrong.when(id == 0, Code::InvalidArgument);
        let there = self.groups.contains_key(&id);
        if kind == Type::Insert {
            wrong.when(there, Code::AlreadyExists);
        } else {
            wrong.when(!there, Code::NotFound);
        }
        if kind == Type::Delete {
            if wrong.0.is_empty() {
                self.groups.remove(&id);
            }
            return;
        }
        let mut ports = BTreeSet::new();
        for replica in &group.replicas {
            wrong.when(!replica.backup_replicas.is_empty(), Code::Unimplemented);
            let port = match &replica.port_kind {
                Some(v1::replica::PortKind::EgressPort(port)) => Some(u128::from(*port)),
                Some(v1::replica::PortKind::Port(bytes)) => value(bytes, 32),
                None => None,
            };
            let fresh = port.filter(|p| *p < 512).is_some_and(|p| ports.insert(p));
            wrong.when(!fresh, Code::InvalidArgument);
        }
        if wrong.0.is_empty() {
            self.groups.insert(id, group.clone());
        }
    }

    /// What a controller reads of everything.
    pub fn readable(&self) -> Vec<v1::Entity> {
        let entries = self.entries.values().map(|kept| {
            let mut entry = kept.entry.clone();
            entry.counter_data = kept.count;
            wrap(Entity::TableEntry(entry))
        });
        let groups = self.groups.values().cloned().map(crate::rig::group_of);
        crate::rig::sorted(entries.chain(groups).collect())
    }
}
