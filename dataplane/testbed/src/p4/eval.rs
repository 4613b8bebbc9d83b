//! What a packet meets in the server's tables: the highest priority that matches.

use std::collections::BTreeMap;

use portcullis_proto::p4::v1;
use v1::field_match::FieldMatchType;

use super::state::State;

/// Values of match fields by name; those that are absent are 0.
pub type Fields = BTreeMap<&'static str, u128>;

/// The action that a packet meets, by alias, with the values of its parameters.
pub type Met = (String, Vec<u128>);

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |v, b| v << 8 | u128::from(*b))
}

fn hits(kind: &FieldMatchType, value: u128, width: i32) -> bool {
    match kind {
        FieldMatchType::Exact(m) => number(&m.value) == value,
        FieldMatchType::Optional(m) => number(&m.value) == value,
        FieldMatchType::Ternary(m) => value & number(&m.mask) == number(&m.value),
        FieldMatchType::Range(m) => (number(&m.low)..=number(&m.high)).contains(&value),
        FieldMatchType::Lpm(m) => {
            let shift = u32::try_from(width - m.prefix_len).unwrap_or(0);
            value.checked_shr(shift) == number(&m.value).checked_shr(shift)
        }
        FieldMatchType::Other(_) => false,
    }
}

impl State {
    /// What a packet meets in a table (by alias); `None` when nothing matches.
    pub fn meets(&self, table: &str, packet: &Fields) -> Option<Met> {
        let info = self.info()?;
        let table = info
            .tables
            .iter()
            .find(|t| t.preamble.as_ref().is_some_and(|p| p.alias == table))?;
        let id = table.preamble.as_ref()?.id;
        let matches = |entry: &&v1::TableEntry| {
            entry.table_id == id
                && entry.r#match.iter().all(|m| {
                    let field = table.match_fields.iter().find(|f| f.id == m.field_id);
                    field
                        .zip(m.field_match_type.as_ref())
                        .is_some_and(|(field, kind)| {
                            let value = packet.get(field.name.as_str()).copied().unwrap_or(0);
                            hits(kind, value, field.bitwidth)
                        })
                })
        };
        let entry = self.entries.values().filter(matches).max_by_key(|e| e.priority)?;
        let v1::table_action::Type::Action(action) = entry.action.as_ref()?.r#type.as_ref()? else {
            return None;
        };
        let name = info.actions.iter().find_map(|a| {
            let preamble = a.preamble.as_ref().filter(|p| p.id == action.action_id)?;
            Some(preamble.alias.clone())
        })?;
        Some((name, action.params.iter().map(|p| number(&p.value)).collect()))
    }
}
