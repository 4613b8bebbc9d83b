//! Reads: entries that match a request (P4Runtime 1.6.0, sections 9 and 13).

use portcullis_fastpath::NO_SLOT;
use portcullis_proto::p4::v1;
use tonic::Code;
use v1::entity::Entity;
use v1::packet_replication_engine_entry::Type as PreType;
use v1::update::Type;

use super::{EntryKey, Store, StoredEntry};
use crate::counters::Sums;
use crate::entry::{Refusal, conds, refuse, table};

fn wrap(entity: Entity) -> v1::Entity {
    v1::Entity { entity: Some(entity) }
}

/// Entities of a kind that the program has none of.
fn none(id: u32) -> Result<Vec<v1::Entity>, Refusal> {
    if id == 0 {
        return Ok(Vec::new());
    }
    refuse(
        Code::NotFound,
        format!("the program has nothing with the id {id:#x}"),
    )
}

fn action_id(entry: &v1::TableEntry) -> Option<u32> {
    match entry.action.as_ref()?.r#type.as_ref()? {
        v1::table_action::Type::Action(action) => Some(action.action_id),
        _ => None,
    }
}

impl Store {
    /// What a counter has counted for its row.
    fn count(&self, slot: u32, sums: &Sums) -> v1::CounterData {
        let (now, base) = (
            sums.row(slot),
            self.slots.base.get(&slot).copied().unwrap_or_default(),
        );
        v1::CounterData {
            packet_count: now.packets.wrapping_sub(base.packets) as i64,
            byte_count: now.bytes.wrapping_sub(base.bytes) as i64,
        }
    }

    /// Entities like the one that is asked for.
    pub fn read(&self, asked: &v1::Entity, sums: &Sums) -> Result<Vec<v1::Entity>, Refusal> {
        match asked.entity.as_ref() {
            Some(Entity::TableEntry(asked)) => {
                if asked.is_default_action {
                    return self.defaults(asked);
                }
                let found = self.like(asked)?;
                let with_counts = asked.counter_data.is_some();
                Ok(found
                    .into_iter()
                    .map(|kept| self.entity(kept, with_counts, sums))
                    .collect())
            }
            Some(Entity::DirectCounterEntry(asked)) => {
                let given = asked.table_entry.clone().unwrap_or_default();
                // What the entry does, and what it is marked with, is not asked for.
                let entry = v1::TableEntry {
                    table_id: given.table_id,
                    r#match: given.r#match,
                    priority: given.priority,
                    ..Default::default()
                };
                let found = self.like(&entry)?;
                if found.is_empty() && !entry.r#match.is_empty() {
                    return refuse(Code::NotFound, "there is no entry with this match and priority");
                }
                let entities = found.into_iter().filter(|kept| kept.slot != NO_SLOT).map(|kept| {
                    let mut entry = kept.entry.clone();
                    entry.action = None;
                    Entity::DirectCounterEntry(v1::DirectCounterEntry {
                        table_entry: Some(entry),
                        data: Some(self.count(kept.slot, sums)),
                    })
                });
                Ok(entities.map(wrap).collect())
            }
            Some(Entity::PacketReplicationEngineEntry(asked)) => {
                let wanted = match &asked.r#type {
                    Some(PreType::MulticastGroupEntry(group)) => group.multicast_group_id,
                    None => 0,
                    // There are none.
                    Some(PreType::CloneSessionEntry(_)) => return Ok(Vec::new()),
                };
                let groups = self
                    .groups
                    .values()
                    .filter(|g| wanted == 0 || g.multicast_group_id == wanted);
                let entities = groups.map(|g| {
                    Entity::PacketReplicationEngineEntry(v1::PacketReplicationEngineEntry {
                        r#type: Some(PreType::MulticastGroupEntry(g.clone())),
                    })
                });
                Ok(entities.map(wrap).collect())
            }
            // Whoever asks for everything is told that there is nothing of these.
            Some(Entity::ActionProfileMember(asked)) => none(asked.action_profile_id),
            Some(Entity::ActionProfileGroup(asked)) => none(asked.action_profile_id),
            Some(Entity::MeterEntry(asked)) => none(asked.meter_id),
            Some(Entity::CounterEntry(asked)) => none(asked.counter_id),
            Some(Entity::RegisterEntry(asked)) => none(asked.register_id),
            Some(Entity::ValueSetEntry(asked)) => none(asked.value_set_id),
            Some(_) => refuse(
                Code::Unimplemented,
                "only table entries, direct counters and multicast groups can be read from this switch",
            ),
            None => refuse(Code::InvalidArgument, "an entity is empty"),
        }
    }

    /// The updates that make all this out of nothing.
    pub fn remake(&self, sums: &Sums) -> Vec<v1::Update> {
        let mut kept: Vec<&StoredEntry> = self.entries.values().collect();
        kept.sort_by_key(|kept| kept.id);
        let entries = kept.into_iter().map(|kept| self.entity(kept, true, sums));
        let groups = self.groups.values().map(|g| {
            wrap(Entity::PacketReplicationEngineEntry(
                v1::PacketReplicationEngineEntry {
                    r#type: Some(PreType::MulticastGroupEntry(g.clone())),
                },
            ))
        });
        let updates = entries.chain(groups).map(|entity| v1::Update {
            r#type: Type::Insert as i32,
            entity: Some(entity),
        });
        updates.collect()
    }

    fn entity(&self, kept: &StoredEntry, with_counts: bool, sums: &Sums) -> v1::Entity {
        let mut entry = kept.entry.clone();
        if with_counts && kept.slot != NO_SLOT {
            entry.counter_data = Some(self.count(kept.slot, sums));
        }
        wrap(Entity::TableEntry(entry))
    }

    /// A field that is not set matches every value (section 9.1.6).
    #[allow(
        deprecated,
        reason = "controllers of P4Runtime before 1.4 send `controller_metadata`"
    )]
    fn like(&self, asked: &v1::TableEntry) -> Result<Vec<&StoredEntry>, Refusal> {
        let narrowed = !asked.r#match.is_empty()
            || asked.priority != 0
            || asked.action.is_some()
            || asked.controller_metadata != 0
            || !asked.metadata.is_empty();
        if asked.table_id == 0 {
            if narrowed {
                return refuse(
                    Code::InvalidArgument,
                    "entries of all tables are asked for: nothing can be asked of them",
                );
            }
            return Ok(self.entries.values().collect());
        }
        let shape = table(&self.program, asked.table_id)?;
        let action = action_id(asked);
        if asked.action.is_some() && action.is_none() {
            return refuse(
                Code::InvalidArgument,
                format!("table `{}` has no action profile", shape.name),
            );
        }
        let meets = |kept: &StoredEntry| {
            let entry = &kept.entry;
            (action.is_none() || action == action_id(entry))
                && (asked.controller_metadata == 0 || asked.controller_metadata == entry.controller_metadata)
                && (asked.metadata.is_empty() || asked.metadata == entry.metadata)
        };
        let conds = (!asked.r#match.is_empty())
            .then(|| conds(shape, asked))
            .transpose()?;
        if let Some(conds) = &conds
            && (asked.priority != 0 || !shape.prioritized)
        {
            let place: EntryKey = (shape.table, asked.priority, conds.clone());
            let found = self.entries.get(&place).filter(|kept| meets(kept));
            return Ok(found.into_iter().collect());
        }
        let found = self.entries.iter().filter(|((table, priority, own), kept)| {
            *table == shape.table
                && (asked.priority == 0 || asked.priority == *priority)
                && conds.as_ref().is_none_or(|conds| conds == own)
                && meets(kept)
        });
        Ok(found.map(|(_, kept)| kept).collect())
    }

    fn defaults(&self, asked: &v1::TableEntry) -> Result<Vec<v1::Entity>, Refusal> {
        let shape = table(&self.program, asked.table_id)?;
        if !asked.r#match.is_empty() || asked.priority != 0 {
            return refuse(
                Code::InvalidArgument,
                format!(
                    "table `{}`: its default action has no match and no priority",
                    shape.name
                ),
            );
        }
        Ok(vec![wrap(Entity::TableEntry(v1::TableEntry {
            table_id: asked.table_id,
            is_default_action: true,
            action: Some(v1::TableAction {
                r#type: Some(v1::table_action::Type::Action(v1::Action {
                    action_id: shape.default_action,
                    params: Vec::new(),
                })),
            }),
            ..Default::default()
        }))])
    }
}
