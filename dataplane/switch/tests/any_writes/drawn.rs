//! Updates drawn by chance: right ones, ones with something wrong, and bytes.

use portcullis_proto::p4::config::v1::{MatchField, match_field};
use portcullis_proto::p4::v1;
use prost::Message;
use v1::entity::Entity;
use v1::field_match::{Exact, FieldMatchType, Lpm, Optional, Range, Ternary};
use v1::update::Type;

use crate::any_writes::model::Model;
use crate::rig::{bytes, group_of, wrap};

/// A generator of numbers (splitmix64), the same for a seed everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// A value of a field, from few, so that rows and frames meet.
fn value(dice: &mut Dice, field: &MatchField) -> u128 {
    let all = if field.bitwidth == 128 {
        u128::MAX
    } else {
        (1 << field.bitwidth) - 1
    };
    let few: &[u128] = match field.name.as_str() {
        "port" => &[0, 1, 2, 3, 511],
        "class" | "overlay" => &[0, 1, 2],
        "ether_type" => &[0x800, 0x86dd],
        "protocol" => &[6, 17],
        "dst_mac" | "mac" => &[0xa, 0xb, 0xc, 0x0200_0000_0077],
        "dst_port" => &[0, 22, 25, 80, 65535],
        _ => &[0, 1, u128::MAX],
    };
    let drawn = if dice.one_in(8) {
        u128::from(dice.next()) << 64 | u128::from(dice.next())
    } else {
        *dice.pick(few)
    };
    drawn & all
}

fn condition(dice: &mut Dice, field: &MatchField) -> Option<FieldMatchType> {
    let all = if field.bitwidth == 128 {
        u128::MAX
    } else {
        (1 << field.bitwidth) - 1
    };
    let given = value(dice, field);
    let Some(match_field::Match::MatchType(kind)) = field.r#match else {
        return None;
    };
    Some(match match_field::MatchType::try_from(kind).unwrap() {
        match_field::MatchType::Exact => FieldMatchType::Exact(Exact { value: bytes(given) }),
        match_field::MatchType::Optional => FieldMatchType::Optional(Optional { value: bytes(given) }),
        match_field::MatchType::Range => {
            let high = given.saturating_add(dice.below(200) as u128).min(all);
            if given == 0 && high == all {
                return None;
            }
            let (low, high) = (bytes(given), bytes(high));
            FieldMatchType::Range(Range { low, high })
        }
        _ => {
            let mask = if dice.one_in(3) {
                u128::from(dice.next()) & all
            } else {
                all
            };
            if mask == 0 {
                return None;
            }
            let (value, mask) = (bytes(given & mask), bytes(mask));
            FieldMatchType::Ternary(Ternary { value, mask })
        }
    })
}

/// An entry that is right.
fn entry(dice: &mut Dice, model: &Model) -> v1::TableEntry {
    let table = dice.pick(&model.info.tables).clone();
    let mut entry = v1::TableEntry {
        table_id: table.preamble.as_ref().unwrap().id,
        ..Default::default()
    };
    let mut exact = true;
    for field in &table.match_fields {
        let kind = match_field::Match::MatchType(match_field::MatchType::Exact as i32);
        let needed = field.r#match == Some(kind);
        exact &= needed;
        let wanted = needed || (field.name == "class" && !dice.one_in(5)) || dice.one_in(6);
        if let Some(condition) = wanted.then(|| condition(dice, field)).flatten() {
            entry.r#match.push(v1::FieldMatch {
                field_id: field.id,
                field_match_type: Some(condition),
            });
        }
    }
    if !exact {
        entry.priority = 1 + (dice.next() % 1_000_000) as i32;
    }
    if dice.one_in(4) {
        entry.r#match.reverse();
        entry.metadata = vec![dice.next() as u8; dice.below(3)];
    }
    if !table.direct_resource_ids.is_empty() && dice.one_in(6) {
        entry.counter_data = Some(v1::CounterData {
            byte_count: dice.next() as i64,
            packet_count: dice.below(9) as i64,
        });
    }
    entry.action = Some(action(dice, model, &table));
    entry
}

fn action(
    dice: &mut Dice,
    model: &Model,
    table: &portcullis_proto::p4::config::v1::Table,
) -> v1::TableAction {
    let mut chosen = dice.pick(&table.action_refs).id;
    if !dice.one_in(12) {
        // The first is for rows; others may be for packets that meet none.
        chosen = table.action_refs[dice.below(2.min(table.action_refs.len() - 1))].id;
    }
    let known = model
        .info
        .actions
        .iter()
        .find(|a| a.preamble.as_ref().unwrap().id == chosen);
    let params = known.unwrap().params.iter().map(|p| v1::action::Param {
        param_id: p.id,
        value: bytes(match p.name.as_str() {
            "class_and_overlay" => (dice.below(3) << 16 | dice.below(4)) as u128,
            _ => dice.below(4) as u128,
        }),
    });
    v1::TableAction {
        r#type: Some(v1::table_action::Type::Action(v1::Action {
            action_id: chosen,
            params: params.collect(),
        })),
    }
}

fn group(dice: &mut Dice) -> v1::MulticastGroupEntry {
    let ports = (0..dice.below(4))
        .map(|_| dice.below(6) as u128)
        .collect::<std::collections::BTreeSet<_>>();
    let replica = |port: u128| v1::Replica {
        port_kind: Some(v1::replica::PortKind::Port(bytes(port))),
        ..Default::default()
    };
    v1::MulticastGroupEntry {
        multicast_group_id: dice.below(4) as u32,
        replicas: ports.into_iter().map(replica).collect(),
        metadata: vec![7; dice.below(2)],
    }
}

/// An update that may well be carried out.
pub fn update(dice: &mut Dice, model: &Model) -> v1::Update {
    let kinds = [
        Type::Insert,
        Type::Insert,
        Type::Insert,
        Type::Modify,
        Type::Delete,
        Type::Delete,
    ];
    let kind = *dice.pick(&kinds);
    if dice.one_in(9) {
        return crate::rig::update(kind, group_of(group(dice)));
    }
    let mut new = entry(dice, model);
    let known: Vec<&v1::TableEntry> = model.entries.values().map(|kept| &kept.entry).collect();
    if !known.is_empty() && (kind != Type::Insert || dice.one_in(8)) && !dice.one_in(8) {
        let old = (*dice.pick(&known)).clone();
        let table = model
            .info
            .tables
            .iter()
            .find(|t| t.preamble.as_ref().unwrap().id == old.table_id);
        new = v1::TableEntry {
            action: (!dice.one_in(4)).then(|| action(dice, model, table.unwrap())),
            counter_data: old.counter_data,
            ..old
        };
        if dice.one_in(4) {
            let data = (!dice.one_in(4)).then(|| v1::CounterData {
                byte_count: dice.next() as i64,
                packet_count: dice.next() as i64,
            });
            let table_entry = Some(new);
            let counter = v1::DirectCounterEntry { table_entry, data };
            let kind = if dice.one_in(6) { kind } else { Type::Modify };
            return crate::rig::update(kind, wrap(Entity::DirectCounterEntry(counter)));
        }
    }
    crate::rig::update(kind, wrap(Entity::TableEntry(new)))
}

/// Bytes of a value, in a way that they may not be written.
fn odd(dice: &mut Dice, value: &mut Vec<u8>) {
    match dice.below(5) {
        0 => value.clear(),
        1 => value.insert(0, 0),
        2 => value.insert(0, 1 + dice.next() as u8 % 255),
        3 => *value = vec![0xff; 1 + dice.below(20)],
        _ => *value = vec![0; 1 + dice.below(2)],
    }
}

fn odd_field(dice: &mut Dice, field: &mut v1::FieldMatch) {
    let value = vec![dice.below(9) as u8];
    match (dice.below(6), field.field_match_type.as_mut()) {
        (0, _) => field.field_id = dice.below(18) as u32,
        (1, _) => {
            field.field_match_type = match dice.below(5) {
                0 => None,
                1 => Some(FieldMatchType::Exact(Exact { value })),
                2 => Some(FieldMatchType::Optional(Optional { value })),
                3 => Some(FieldMatchType::Lpm(Lpm { value, prefix_len: 3 })),
                _ => Some(FieldMatchType::Ternary(Ternary {
                    mask: value.clone(),
                    value,
                })),
            }
        }
        (_, Some(FieldMatchType::Exact(m))) => odd(dice, &mut m.value),
        (_, Some(FieldMatchType::Optional(m))) => odd(dice, &mut m.value),
        (2, Some(FieldMatchType::Range(m))) => std::mem::swap(&mut m.low, &mut m.high),
        (3, Some(FieldMatchType::Range(m))) => (m.low, m.high) = (vec![0], vec![0xff, 0xff]),
        (4, Some(FieldMatchType::Range(m))) => odd(dice, &mut m.low),
        (_, Some(FieldMatchType::Range(m))) => odd(dice, &mut m.high),
        (2 | 3, Some(FieldMatchType::Ternary(m))) => odd(dice, &mut m.value),
        (_, Some(FieldMatchType::Ternary(m))) => odd(dice, &mut m.mask),
        _ => {}
    }
}

/// Makes something of an update wrong, or just other.
pub fn mutate(dice: &mut Dice, update: &mut v1::Update) {
    if dice.one_in(12) {
        update.r#type = dice.below(6) as i32 - 1;
        return;
    }
    let Some(entity) = update.entity.as_mut().and_then(|e| e.entity.as_mut()) else {
        return;
    };
    match entity {
        Entity::TableEntry(entry) => odd_entry(dice, entry),
        Entity::DirectCounterEntry(counter) => match &mut counter.table_entry {
            Some(entry) if !dice.one_in(6) => odd_entry(dice, entry),
            _ => counter.table_entry = None,
        },
        Entity::PacketReplicationEngineEntry(entry) => {
            use v1::packet_replication_engine_entry::Type as PreType;
            let Some(PreType::MulticastGroupEntry(group)) = &mut entry.r#type else {
                return;
            };
            match (dice.below(6), group.replicas.first().cloned()) {
                (0, _) => entry.r#type = None,
                (1, Some(first)) => group.replicas.push(first),
                (2, Some(_)) => group.replicas[0]
                    .backup_replicas
                    .push(v1::BackupReplica::default()),
                (3, Some(_)) => group.replicas[0].port_kind = None,
                (4, Some(mut first)) => {
                    let mut value = vec![3];
                    odd(dice, &mut value);
                    first.port_kind = Some(v1::replica::PortKind::Port(value));
                    group.replicas.push(first);
                }
                _ => {
                    #[allow(deprecated, reason = "controllers of before 1.5 send it")]
                    let port = v1::replica::PortKind::EgressPort(dice.below(600) as u32);
                    group.replicas.push(v1::Replica {
                        port_kind: Some(port),
                        ..Default::default()
                    });
                }
            }
        }
        _ => {}
    }
}

fn odd_entry(dice: &mut Dice, entry: &mut v1::TableEntry) {
    let fields = entry.r#match.len();
    match dice.below(16) {
        0 => entry.table_id = 0x0200_0000 + dice.below(13) as u32,
        1 => entry.priority = dice.below(3) as i32 - 1,
        2 => entry.is_default_action = true,
        3 => entry.is_const = true,
        4 => entry.idle_timeout_ns = 1,
        5 => entry.meter_config = Some(v1::MeterConfig::default()),
        6 => entry.counter_data = Some(v1::CounterData::default()),
        7 => entry.action = None,
        8 if fields > 0 => drop(entry.r#match.remove(dice.below(fields))),
        9 if fields > 0 => {
            let twice = dice.pick(&entry.r#match).clone();
            entry.r#match.push(twice);
        }
        10 | 11 => {
            if let Some(v1::table_action::Type::Action(action)) =
                entry.action.as_mut().and_then(|a| a.r#type.as_mut())
            {
                match (dice.below(4), action.params.first().cloned()) {
                    (0, _) => action.action_id = 0x0100_0001 + dice.below(16) as u32,
                    (1, Some(first)) => action.params.push(first),
                    (2, Some(_)) => odd(dice, &mut action.params[0].value),
                    (3, Some(_)) => action.params[0].param_id = dice.below(3) as u32,
                    _ => action.params.push(v1::action::Param {
                        param_id: 1,
                        value: vec![1],
                    }),
                }
            }
        }
        12 => {
            let member = v1::table_action::Type::ActionProfileMemberId(1);
            entry.action = Some(v1::TableAction { r#type: Some(member) });
        }
        _ if fields > 0 => {
            let at = dice.below(fields);
            odd_field(dice, &mut entry.r#match[at]);
        }
        _ => entry.time_since_last_hit = Some(v1::table_entry::IdleTimeout::default()),
    }
}

/// A request out of bytes like those of another one, or any bytes; most are none.
pub fn from_bytes(dice: &mut Dice, like: &v1::WriteRequest) -> Option<v1::WriteRequest> {
    // What is inside of lengths can be changed more often than lengths.
    (0..20).find_map(|_| decoded(dice, like.encode_to_vec()))
}

fn decoded(dice: &mut Dice, mut bytes: Vec<u8>) -> Option<v1::WriteRequest> {
    if dice.one_in(10) {
        bytes = (0..dice.below(60)).map(|_| dice.next() as u8).collect();
    }
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(4) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes.insert(at, dice.next() as u8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if dice.one_in(2) {
                        dice.next() as u8
                    } else {
                        *byte ^ 1 << dice.below(8)
                    };
                }
            }
        }
    }
    v1::WriteRequest::decode(bytes.as_slice()).ok()
}
