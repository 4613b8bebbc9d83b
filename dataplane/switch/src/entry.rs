//! Table entries of P4Runtime to rows, with everything checked that its specification says (1.6.0, section 9.1).

use portcullis_fastpath::{Action, Cond, NO_SLOT, Row};
use portcullis_proto::p4::v1;
use tonic::Code;
use v1::field_match::FieldMatchType;

use portcullis_p4runtime::entry::End;

use crate::program::{KeyShape, Match, Program, TableShape};

/// Why an update is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// What is wrong, where, and what would be right.
    pub why: String,
}

/// Shorthand for an error with a [`Refusal`].
pub fn refuse<T>(code: Code, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        code,
        why: why.into(),
    })
}

/// What makes two entries of a table the same.
pub type Conds = Box<[(u8, Cond)]>;

/// A number in its shortest form, and no larger than its field (section 8.3).
pub fn number(bytes: &[u8], width: u32, table: &str, what: &str) -> Result<u128, Refusal> {
    let shortest = match bytes {
        [] => false,
        [0] => true,
        [first, ..] => *first != 0,
    };
    if !shortest {
        return refuse(
            Code::InvalidArgument,
            format!(
                "table `{table}`: the value of `{what}` is {} bytes and not in its shortest form (P4Runtime, section 8.3)",
                bytes.len()
            ),
        );
    }
    let bits = bytes.len() * 8 - bytes.first().map_or(0, |b| b.leading_zeros() as usize);
    if bits > width as usize {
        return refuse(
            Code::InvalidArgument,
            format!("table `{table}`: the value of `{what}` has {bits} bits, and the field has {width}"),
        );
    }
    Ok(bytes.iter().fold(0, |v, b| v << 8 | u128::from(*b)))
}

/// The table of an entry.
pub fn table(program: &Program, id: u32) -> Result<&TableShape, Refusal> {
    program.table(id).ok_or_else(|| Refusal {
        code: Code::NotFound,
        why: format!("there is no table with id {id:#x}"),
    })
}

/// The conditions of an entry, in the order of its keys.
pub fn conds(shape: &TableShape, entry: &v1::TableEntry) -> Result<Conds, Refusal> {
    let mut found: Vec<(u8, Cond)> = Vec::with_capacity(entry.r#match.len());
    for given in &entry.r#match {
        let at = (given.field_id as usize).wrapping_sub(1);
        let Some(key) = shape.keys.get(at) else {
            return refuse(
                Code::InvalidArgument,
                format!(
                    "table `{}` has no match field with id {}",
                    shape.name, given.field_id
                ),
            );
        };
        // There are no more than sixteen keys.
        found.push((at as u8, cond(shape, key, given.field_match_type.as_ref())?));
    }
    found.sort_unstable_by_key(|(at, _)| *at);
    if let Some([(at, _), _]) = found.windows(2).find(|w| matches!(w, [(a, _), (b, _)] if a == b)) {
        let name = shape.keys.get(usize::from(*at)).map_or("", |k| k.name.as_str());
        return refuse(
            Code::InvalidArgument,
            format!("table `{}`: `{name}` is given twice", shape.name),
        );
    }
    let lacking = shape
        .keys
        .iter()
        .enumerate()
        .find(|(at, key)| key.kind == Match::Exact && !found.iter().any(|(f, _)| usize::from(*f) == *at));
    if let Some((_, key)) = lacking {
        return refuse(
            Code::InvalidArgument,
            format!(
                "table `{}`: `{}` matches exactly and cannot be left out",
                shape.name, key.name
            ),
        );
    }
    Ok(found.into())
}

fn cond(shape: &TableShape, key: &KeyShape, given: Option<&FieldMatchType>) -> Result<Cond, Refusal> {
    let value = |bytes: &[u8]| number(bytes, key.width, &shape.name, &key.name);
    let wrong = |why: String| {
        refuse(
            Code::InvalidArgument,
            format!("table `{}`: `{}` {why}", shape.name, key.name),
        )
    };
    match (key.kind, given) {
        (Match::Exact, Some(FieldMatchType::Exact(m))) => Ok(Cond::exact(value(&m.value)?)),
        (Match::Optional, Some(FieldMatchType::Optional(m))) => Ok(Cond::exact(value(&m.value)?)),
        (Match::Ternary, Some(FieldMatchType::Ternary(m))) => {
            let (bits, mask) = (value(&m.value)?, value(&m.mask)?);
            if mask == 0 {
                return wrong("has an empty mask: leave the field out".to_string());
            }
            if bits & !mask != 0 {
                return wrong("has bits outside its mask".to_string());
            }
            Ok(Cond::Mask { value: bits, mask })
        }
        (Match::Range, Some(FieldMatchType::Range(m))) => {
            let (low, high) = (value(&m.low)?, value(&m.high)?);
            if low > high {
                return wrong(format!("has a range from {low} to {high}"));
            }
            if low == 0 && high == (1 << key.width) - 1 {
                return wrong("has the whole range: leave the field out".to_string());
            }
            Ok(Cond::Range { low, high })
        }
        (kind, _) => wrong(format!("matches as {kind:?}, and the entry has something else")),
    }
}

/// The row of an entry, uncounted as yet.
pub fn row(shape: &TableShape, entry: &v1::TableEntry) -> Result<Row, Refusal> {
    let conds = conds(shape, entry)?;
    priority(shape, entry)?;
    ends(shape, entry)?;
    if entry.idle_timeout_ns != 0 {
        return refuse(
            Code::Unimplemented,
            format!(
                "table `{}`: rows do not expire for want of packets on this switch",
                shape.name
            ),
        );
    }
    if entry.meter_config.is_some() || entry.meter_counter_data.is_some() {
        return refuse(
            Code::InvalidArgument,
            format!("table `{}` has no meters", shape.name),
        );
    }
    if entry.counter_data.is_some() && !shape.table.is_counted() {
        return refuse(
            Code::InvalidArgument,
            format!("table `{}` has no counters", shape.name),
        );
    }
    Ok(Row {
        conds,
        priority: entry.priority,
        action: action(shape, entry)?,
        slot: NO_SLOT,
    })
}

/// What the first parameter of an entry's action becomes, and when ([`portcullis_p4runtime::ends`]); none of most entries.
pub fn ends(shape: &TableShape, entry: &v1::TableEntry) -> Result<Vec<End>, Refusal> {
    let wrong = |why: &str| refuse(Code::InvalidArgument, format!("table `{}`: {why}", shape.name));
    let Some(ends) = portcullis_p4runtime::ends::read(&entry.metadata) else {
        return wrong("the ends in its metadata are cut off or do not rise");
    };
    if ends.is_empty() {
        return Ok(ends);
    }
    let id = match entry.action.as_ref().and_then(|a| a.r#type.as_ref()) {
        Some(v1::table_action::Type::Action(action)) => action.action_id,
        _ => return wrong("an entry with ends has an action"),
    };
    let width = shape.actions.get(&id).map_or(0, |known| known.width);
    match ends.iter().find(|end| u64::from(end.value) >> width != 0) {
        _ if width == 0 => wrong("ends change a parameter, and its action has none"),
        Some(end) => wrong(&format!(
            "it is to become {}, and its parameter has {width} bits",
            end.value
        )),
        None => Ok(ends),
    }
}

/// Rows have a priority exactly where something other than exact matches is asked for (section 9.1.1).
pub fn priority(shape: &TableShape, entry: &v1::TableEntry) -> Result<(), Refusal> {
    match (shape.prioritized, entry.priority) {
        (true, 1..) | (false, 0) => Ok(()),
        (true, given) => refuse(
            Code::InvalidArgument,
            format!(
                "table `{}`: the priority is {given}, and has to be larger than 0",
                shape.name
            ),
        ),
        (false, given) => refuse(
            Code::InvalidArgument,
            format!(
                "table `{}` matches exactly: the priority is {given}, and has to be 0",
                shape.name
            ),
        ),
    }
}

/// What an entry does.
pub fn action(shape: &TableShape, entry: &v1::TableEntry) -> Result<Action, Refusal> {
    let wrong = |why: String| refuse(Code::InvalidArgument, format!("table `{}`: {why}", shape.name));
    let Some(v1::table_action::Type::Action(given)) = entry.action.as_ref().and_then(|a| a.r#type.as_ref())
    else {
        return wrong("an entry has one action, and no action profile".to_string());
    };
    if shape.default_only.contains(&given.action_id) {
        return refuse(
            Code::PermissionDenied,
            format!(
                "table `{}`: action {:#x} is for packets that meet no row",
                shape.name, given.action_id
            ),
        );
    }
    let Some(known) = shape.actions.get(&given.action_id) else {
        return wrong(format!("its rows have no action with id {:#x}", given.action_id));
    };
    let value = match (known.width, given.params.as_slice()) {
        (0, []) => 0,
        (width, [param]) if width > 0 && param.param_id == 1 => {
            number(&param.value, width, &shape.name, "the parameter")?
        }
        (width, params) => {
            return wrong(format!(
                "action {:#x} has {} parameters, and the entry gives {}",
                given.action_id,
                usize::from(width > 0),
                params.len()
            ));
        }
    };
    // No parameter has more than 32 bits.
    Ok(known.kind.with(value as u32))
}
