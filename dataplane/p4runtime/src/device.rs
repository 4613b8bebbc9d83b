//! A device as its P4Info describes it: ids and widths of stages, and rows in its terms.

use std::sync::Arc;

use portcullis_backend::delta::Layer;
use portcullis_compiler::StageModel;
use portcullis_compiler::model::{ActionModel, Field, MatchKind, Role};
use portcullis_compiler::row::{FieldMatch, Row as LogicalRow, RowAction};
use portcullis_policy::{Direction, Family, Verdict};
use portcullis_proto::p4::config::v1::action_ref::Scope;
use portcullis_proto::p4::config::v1::match_field::MatchType;
use portcullis_proto::p4::config::v1::{MatchField, P4Info, Preamble, Table, match_field};

use crate::entry::{Does, GROUPS, Keyed, Match, Place, Row, RowKey};
use crate::mapping::Mapping;
use crate::model::{Bound, MappingError, bound};
use crate::own::contract::contract;
use crate::value::ones;

/// The name of our own P4 program, in its `pkg_info`.
pub const OWN: &str = "portcullis";

/// A match field of a table, as the P4Info describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceField {
    /// Id in the P4Info, unique in its table.
    pub id: u32,
    /// Name in the P4Info.
    pub name: String,
    /// Which matches it takes: exact, prefix, mask, range or optional.
    pub kind: MatchKind,
    /// Its width in bits; 0 where the device translates it to a string.
    pub width: u16,
    /// What it is to us, and the IP version it is of where there is one for each.
    pub field: Option<(Field, Option<Family>)>,
}

/// An action that rows of a table can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceAction {
    /// Id in the P4Info, unique in the program.
    pub id: u32,
    /// Alias in the P4Info.
    pub name: String,
    /// Its parameters: id, name, width.
    pub params: Vec<(u32, String, u16)>,
}

/// A table, as the P4Info and the mapping describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTable {
    /// Alias in the P4Info, or the full name without one.
    pub name: String,
    /// Id in the P4Info, unique in the program.
    pub id: u32,
    /// Match fields in the P4Info's order.
    pub fields: Vec<DeviceField>,
    /// Actions that its rows can have.
    pub actions: Vec<DeviceAction>,
    /// Rows it holds, where it says so.
    pub size: Option<u64>,
    /// Whether its rows are counted.
    pub counted: bool,
    /// The stage it plays, and the direction it serves.
    pub stage: Role,
    /// The direction; both when absent.
    pub direction: Option<Direction>,
    /// Its actions by what they do to us.
    bound: Bound,
}

impl DeviceTable {
    /// Whether rows need a priority (P4Runtime 9.1).
    pub fn has_priority(&self) -> bool {
        let decides = |f: &DeviceField| {
            matches!(
                f.kind,
                MatchKind::Ternary | MatchKind::Range | MatchKind::Optional
            )
        };
        self.fields.iter().any(decides)
    }

    /// A match field by name.
    pub fn named(&self, name: &str) -> Option<&DeviceField> {
        self.fields.iter().find(|f| f.name == name)
    }

    /// A match field by id.
    pub fn field(&self, id: u32) -> Option<&DeviceField> {
        self.fields.iter().find(|f| f.id == id)
    }

    /// An action by id.
    pub fn action(&self, id: u32) -> Option<&DeviceAction> {
        self.actions.iter().find(|a| a.id == id)
    }

    /// An action by the last part of its name.
    pub fn action_named(&self, name: &str) -> Option<&DeviceAction> {
        self.actions
            .iter()
            .find(|a| a.name == name || a.name.rsplit('.').next() == Some(name))
    }

    /// Its layer: stages that rows of classes are in hold policy rows; all others dispatch rows, or what these lead to.
    pub fn layer(&self) -> Layer {
        match self.stage {
            Role::Policy | Role::Remote | Role::Words | Role::SrcCode | Role::DstCode => Layer::Policy,
            _ if contract(&self.name).is_some_and(|contract| contract.leads_on) => Layer::Support,
            Role::Attach | Role::Guard | Role::Deliver | Role::Other => Layer::Dispatch,
        }
    }

    /// The id of a key.
    pub fn key_of(&self, field: Field) -> Option<u32> {
        let is = |f: &&DeviceField| f.field.is_some_and(|(is, _)| is == field);
        self.fields.iter().find(is).map(|f| f.id)
    }

    /// The class that a row is about, which is in its key `class` or `overlay`, and the id of that key.
    pub fn class_of(&self, fields: &[(u32, Match)]) -> Option<(u32, u32)> {
        let keys = [Field::Class, Field::Overlay].map(|field| self.key_of(field));
        let (id, value) = fields.iter().find(|(id, _)| keys.contains(&Some(*id)))?;
        match value {
            Match::Exact(v) | Match::Optional(v) | Match::Ternary { value: v, .. } => {
                Some((u32::try_from(*v).ok()?, *id))
            }
            Match::Lpm { .. } | Match::Range { .. } => None,
        }
    }
}

/// A device's program: the model the compiler works with, and the ids behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What the compiler knows of it.
    pub model: StageModel,
    /// Its tables, in the P4Info's order.
    pub tables: Vec<DeviceTable>,
    /// Name and version of its program.
    pub program: (String, String),
}

impl Device {
    /// The highest class id that every key and action parameter for classes can hold. A class id is a number of 32 bits.
    pub fn class_limit(&self) -> u32 {
        let keys = self.tables.iter().flat_map(|t| &t.fields);
        let keys = keys
            .filter(|f| matches!(f.field, Some((Field::Class | Field::Overlay, _))))
            .map(|f| f.width);
        let params = self
            .tables
            .iter()
            .flat_map(|t| &t.actions)
            .flat_map(|a| &a.params);
        let params = params
            .filter(|(_, name, _)| name == "class")
            .map(|(.., width)| *width);
        let narrowest = keys.chain(params).filter(|width| *width > 0).min();
        narrowest
            .filter(|width| *width < 32)
            .map_or(u32::MAX, |width| (1 << width) - 1)
    }
}

/// A row that the device's program cannot hold: a fault of the compiler or the mapping, reported instead of
/// written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("table {table} has no {what}")]
pub struct Inexpressible {
    /// Alias of the table, as the compiler names it.
    pub table: String,
    /// What it lacks, with the name: for example `match field class`.
    pub what: String,
}

fn alias(preamble: Option<&Preamble>) -> String {
    preamble.map_or_else(String::new, |p| {
        if p.alias.is_empty() {
            p.name.clone()
        } else {
            p.alias.clone()
        }
    })
}

fn kind(field: &MatchField) -> MatchKind {
    let number = match field.r#match {
        Some(match_field::Match::MatchType(number)) => number,
        _ => 0,
    };
    match MatchType::try_from(number) {
        Ok(MatchType::Lpm) => MatchKind::Lpm,
        Ok(MatchType::Ternary) => MatchKind::Ternary,
        Ok(MatchType::Range) => MatchKind::Range,
        Ok(MatchType::Optional) => MatchKind::Optional,
        Ok(MatchType::Exact | MatchType::Unspecified) | Err(_) => MatchKind::Exact,
    }
}

impl Device {
    /// From a P4Info. Tables that play no stage are there only in our own program, where they have rows, too.
    pub fn new(info: &P4Info, name: &str, mapping: Option<&Mapping>) -> Result<Self, MappingError> {
        let (model, stages) = bound(info, name, mapping)?;
        let none = (Role::Other, None, Bound::default());
        let program = info.pkg_info.as_ref();
        let program = program.map_or_else(Default::default, |p| (p.name.clone(), p.version.clone()));
        let own = program.0 == OWN;
        let tables: Vec<DeviceTable> = info
            .tables
            .iter()
            .map(|table| {
                let id = table.preamble.as_ref().map_or(0, |p| p.id);
                let at = stages.iter().position(|b| b.table == id);
                let stage = at.and_then(|at| {
                    let t = model.tables.get(at)?;
                    Some((t.stage, t.direction, stages.get(at)?.clone()))
                });
                device_table(info, table, id, stage.unwrap_or_else(|| none.clone()))
            })
            .filter(|table| own || table.stage != Role::Other)
            .collect();
        // Tables are numbered in 8 bits, and the last number is that of the multicast groups.
        if tables.len() >= usize::from(GROUPS) {
            return Err(MappingError::Ambiguous(format!(
                "{} of its tables would be used, and {} can be told from each other: use fewer by a mapping",
                tables.len(),
                GROUPS - 1
            )));
        }
        Ok(Device {
            model,
            tables,
            program,
        })
    }

    /// Whether it runs our own program, whose guard and forwarding we know.
    pub fn is_own(&self) -> bool {
        self.program.0 == OWN
    }

    /// Whether rows that lead to a class name the overlay above it, too.
    pub fn has_overlays(&self) -> bool {
        let policies = self.model.tables.iter().filter(|t| t.stage == Role::Policy);
        self.is_own()
            && policies.clone().next().is_some()
            && policies.clone().all(|t| t.key(Field::Overlay).is_some())
    }

    /// A table by alias, with its number.
    pub fn table_named(&self, name: &str) -> Option<(u8, &DeviceTable)> {
        (0u8..).zip(&self.tables).find(|(_, t)| t.name == name)
    }

    /// A table by id, with its number.
    pub fn table_of(&self, id: u32) -> Option<(u8, &DeviceTable)> {
        (0u8..).zip(&self.tables).find(|(_, t)| t.id == id)
    }

    /// A table by number.
    pub fn table(&self, number: u8) -> Option<&DeviceTable> {
        self.tables.get(usize::from(number))
    }

    /// The table of a stage, with its number.
    pub fn stage(&self, role: Role, direction: Direction) -> Option<(u8, &DeviceTable)> {
        (0u8..)
            .zip(&self.tables)
            .find(|(_, t)| t.stage == role && t.direction.is_none_or(|d| d == direction))
    }

    /// A row of the compiler in the device's terms. `port` tells the number of an attachment.
    pub fn lower(&self, row: &LogicalRow, port: &dyn Fn(&str) -> Option<u32>) -> Result<Row, Inexpressible> {
        let (number, table) = self.table_named(&row.table).ok_or_else(|| Inexpressible {
            table: row.table.clone(),
            what: "place in this program".to_string(),
        })?;
        let lacks = |what: String| Inexpressible {
            table: table.name.clone(),
            what,
        };
        let family = row.family();
        let mut fields = Vec::with_capacity(row.keys.len());
        for (field, value) in &row.keys {
            let of = |f: &&DeviceField| {
                f.field
                    .is_some_and(|(is, version)| is == *field && (version.is_none() || version == family))
            };
            let key = table
                .fields
                .iter()
                .find(of)
                .ok_or_else(|| lacks(format!("match field for `{field}`")))?;
            let value = as_match(key, value, port)
                .ok_or_else(|| lacks(format!("way to match `{field}` as {value:?}")))?;
            fields.extend(value.map(|value| (key.id, value)));
        }
        let does = table
            .does(row.action)
            .ok_or_else(|| lacks(format!("action that can say `{}`", row.action)))?;
        // A prefix of no bits has priority 0 to the compiler, which P4Runtime does not allow.
        let lift = u32::from(table.stage == Role::Remote);
        let priority = if table.has_priority() {
            row.priority + lift
        } else {
            0
        };
        Ok((
            table.key(number, i32::try_from(priority).unwrap_or(i32::MAX), fields),
            does,
        ))
    }
}

fn device_table(
    info: &P4Info,
    table: &Table,
    id: u32,
    (stage, direction, bound): (Role, Option<Direction>, Bound),
) -> DeviceTable {
    let field = |f: &MatchField| DeviceField {
        id: f.id,
        name: f.name.clone(),
        kind: kind(f),
        width: u16::try_from(f.bitwidth).unwrap_or(0),
        field: bound
            .fields
            .iter()
            .find(|(id, ..)| *id == f.id)
            .map(|(_, field, family)| (*field, *family)),
    };
    let refs = table.action_refs.iter();
    let actions = refs
        .filter(|r| r.scope != Scope::DefaultOnly as i32)
        .filter_map(|r| {
            let action = info
                .actions
                .iter()
                .find(|a| a.preamble.as_ref().is_some_and(|p| p.id == r.id))?;
            let params = action.params.iter();
            Some(DeviceAction {
                id: r.id,
                name: alias(action.preamble.as_ref()),
                params: params
                    .map(|p| (p.id, p.name.clone(), u16::try_from(p.bitwidth).unwrap_or(0)))
                    .collect(),
            })
        })
        .collect();
    let counters = info.direct_counters.iter().filter_map(|c| c.preamble.as_ref());
    DeviceTable {
        name: alias(table.preamble.as_ref()),
        id,
        fields: table.match_fields.iter().map(field).collect(),
        actions,
        size: u64::try_from(table.size).ok().filter(|size| *size > 0),
        counted: counters
            .map(|p| p.id)
            .any(|c| table.direct_resource_ids.contains(&c)),
        stage,
        direction,
        bound,
    }
}

impl DeviceTable {
    /// The key of a row of this table.
    pub fn key(&self, number: u8, priority: i32, mut fields: Vec<(u32, Match)>) -> RowKey {
        fields.sort_unstable();
        let class = match self.layer() {
            Layer::Policy => self.class_of(&fields).map(|(class, _)| class),
            Layer::Dispatch | Layer::Support => None,
        };
        RowKey(Arc::new(Keyed {
            place: Place::Table {
                table: number,
                priority,
                fields,
            },
            layer: self.layer(),
            class,
        }))
    }

    fn does(&self, action: RowAction) -> Option<Does> {
        let of = |does: ActionModel| self.bound.actions.iter().find(|a| a.does == does);
        let (bound, values) = match action {
            RowAction::Verdict(Verdict::Allow) => (of(ActionModel::Allow)?, Vec::new()),
            RowAction::Verdict(Verdict::Deny) => (of(ActionModel::Deny)?, Vec::new()),
            RowAction::Words { set, otherwise } => {
                let bound = of(ActionModel::Words)?;
                let otherwise = u128::from(otherwise.passes());
                (
                    bound,
                    vec![(bound.value?, u128::from(set)), (bound.otherwise?, otherwise)],
                )
            }
            RowAction::Set { value, .. } => {
                let bound = of(ActionModel::Set)?;
                (bound, vec![(bound.value?, u128::from(value))])
            }
            RowAction::Word(word) => {
                let bound = of(ActionModel::Set)?;
                (bound, vec![(bound.value?, u128::from(word))])
            }
        };
        let mut params = values;
        params.sort_unstable();
        let fits = |(id, value): &(u32, u128)| {
            let param = self
                .action(bound.id)?
                .params
                .iter()
                .find(|(known, ..)| known == id)?;
            // A parameter that the device translates has no width.
            (param.2 == 0 || *value <= ones(param.2)).then_some(())
        };
        params.iter().all(|param| fits(param).is_some()).then_some(())?;
        Some(Does::Action { id: bound.id, params })
    }
}

/// What a row says of a match field: `Some(None)` when it may hold anything, `None` when it cannot be said.
fn as_match(
    key: &DeviceField,
    value: &FieldMatch,
    port: &dyn Fn(&str) -> Option<u32>,
) -> Option<Option<Match>> {
    let all = ones(key.width);
    let (value, mask) = match value {
        FieldMatch::Range { low, high } => {
            if *high > all {
                return None;
            }
            return match key.kind {
                MatchKind::Range if *low == 0 && *high == all => Some(None),
                MatchKind::Range => Some(Some(Match::Range {
                    low: *low,
                    high: *high,
                })),
                MatchKind::Ternary if low == high => Some(Some(Match::Ternary {
                    value: *low,
                    mask: all,
                })),
                _ if low == high => whole(key.kind, *low).map(Some),
                _ => None,
            };
        }
        FieldMatch::Masked { value, mask } => {
            // A key of 64 bits has the first ones of an IPv6 address.
            let cut = key
                .field
                .map_or(0, |(field, _)| field.low_bits_missing(key.width));
            if mask.trailing_zeros() < cut {
                return None;
            }
            (value.unbounded_shr(cut), mask.unbounded_shr(cut))
        }
        FieldMatch::Attachment(name) if key.width == 0 => {
            return whole(key.kind, string_of(port(name)?)).map(Some);
        }
        FieldMatch::Attachment(name) => (u128::from(port(name)?), all),
    };
    if value > all || mask > all {
        return None;
    }
    match key.kind {
        _ if mask == 0 => (key.kind != MatchKind::Exact).then_some(None),
        MatchKind::Ternary => Some(Some(Match::Ternary { value, mask })),
        MatchKind::Lpm => {
            let length = mask.count_ones();
            let prefix = mask == all & !(all.checked_shr(length).unwrap_or(0));
            let length = u16::try_from(length).ok()?;
            prefix.then_some(Some(Match::Lpm { value, length }))
        }
        kind if mask == all => whole(kind, value).map(Some),
        _ => None,
    }
}

/// The number of a port where the device translates ports to strings (`sdn_string` of `@p4runtime_translation`): its
/// decimal digits in ASCII. At most ten, so that they are a number of 80 bits here.
fn string_of(port: u32) -> u128 {
    let digits = port.to_string();
    digits
        .bytes()
        .fold(0, |value, digit| (value << 8) | u128::from(digit))
}

fn whole(kind: MatchKind, value: u128) -> Option<Match> {
    match kind {
        MatchKind::Exact => Some(Match::Exact(value)),
        MatchKind::Optional => Some(Match::Optional(value)),
        MatchKind::Range => Some(Match::Range {
            low: value,
            high: value,
        }),
        MatchKind::Ternary | MatchKind::Lpm => None,
    }
}
