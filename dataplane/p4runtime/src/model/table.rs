//! Maps one table of a P4Info to a stage, or lists every reason why it cannot serve as one.

use std::collections::BTreeMap;

use portcullis_compiler::TableModel;
use portcullis_compiler::model::{ActionModel, Field, KeyModel, MatchKind, Role, Weight};
use portcullis_policy::{Direction, Family};
use portcullis_proto::p4::config::v1::action_ref::Scope;
use portcullis_proto::p4::config::v1::match_field::{Match, MatchType};
use portcullis_proto::p4::config::v1::table::IdleTimeoutBehavior;
use portcullis_proto::p4::config::v1::{Action, MatchField, P4Info, Preamble, Table};

use super::names::{self, Meaning};
use super::restrictions;
use super::shown;
use crate::device::OWN;
use crate::mapping::{ActionMapping, ActionsMapping};

/// Width of a port where the device translates ports to strings (`sdn_string`): keys of rows name attachments, so that
/// only a number of bits has to be there.
const STRING_PORT_WIDTH: u16 = 32;

/// A P4Info and its parts by id.
pub(super) struct Pipeline<'a> {
    pub info: &'a P4Info,
    actions: BTreeMap<u32, &'a Action>,
}

/// What a table is to be.
pub(super) struct Part<'a> {
    pub role: Role,
    pub direction: Option<Direction>,
    pub weight: Weight,
    /// By name when absent.
    pub fields: Option<&'a BTreeMap<String, Field>>,
    /// By name when absent.
    pub actions: Option<&'a ActionsMapping>,
}

/// A table that could be drawn.
pub(super) struct MappedTable {
    pub model: TableModel,
    /// Match fields with a meaning that rows will not use, and why.
    pub left_out: Vec<String>,
    /// Which match fields and actions of the device its keys and actions are.
    pub bound: Bound,
}

/// The ids behind a table's keys and actions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bound {
    /// Id of the table in the P4Info.
    pub table: u32,
    /// Match fields: id, what it is, and the IP version it is of where there is one for each.
    pub fields: Vec<(u32, Field, Option<Family>)>,
    /// Actions: what it does, its id, the parameter that takes the value, and the one that takes the verdict otherwise.
    pub actions: Vec<BoundAction>,
}

/// The ids behind an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundAction {
    /// Its part: allow, deny, words or set.
    pub does: ActionModel,
    /// Id of the action in the P4Info.
    pub id: u32,
    /// The parameter that takes what is set: the metadata, the word, or the set of words.
    pub value: Option<u32>,
    /// Of `words`: the parameter that takes the verdict on ports without a word.
    pub otherwise: Option<u32>,
}

/// Its alias, which is unique and short, or else its name.
pub(super) fn alias(preamble: Option<&Preamble>) -> &str {
    preamble.map_or("", |p| if p.alias.is_empty() { &p.name } else { &p.alias })
}

/// Whether it is called this: by alias or full name.
pub(super) fn is_called(preamble: Option<&Preamble>, name: &str) -> bool {
    preamble.is_some_and(|p| p.alias == name || p.name == name)
}

/// How a match field matches; `None` for what P4Runtime leaves to the architecture.
pub(super) fn kind(field: &MatchField) -> Option<MatchKind> {
    let Some(Match::MatchType(number)) = field.r#match else {
        return None;
    };
    match MatchType::try_from(number).ok()? {
        MatchType::Unspecified => None,
        MatchType::Exact => Some(MatchKind::Exact),
        MatchType::Lpm => Some(MatchKind::Lpm),
        MatchType::Ternary => Some(MatchKind::Ternary),
        MatchType::Range => Some(MatchKind::Range),
        MatchType::Optional => Some(MatchKind::Optional),
    }
}

/// `name: kind width`, for lists.
pub(super) fn described(field: &MatchField) -> String {
    let kind = kind(field).map_or_else(|| "another match".to_string(), |k| k.to_string());
    format!("{}: {kind} {}", shown(&field.name), field.bitwidth)
}

/// The key that a match field is, read as `field`; or why it cannot be.
fn key(field: Field, given: &MatchField) -> Result<KeyModel, String> {
    let kind = kind(given).ok_or("its kind of match is the architecture's own")?;
    let string = given.bitwidth == 0 && given.type_name.is_some();
    if string && !matches!(kind, MatchKind::Exact | MatchKind::Optional) {
        return Err(format!(
            "it is translated to a string, which `{kind}` does not match"
        ));
    }
    let width = if string && field == Field::Port {
        STRING_PORT_WIDTH
    } else if string {
        return Err("it is translated to a string".to_string());
    } else {
        u16::try_from(given.bitwidth)
            .ok()
            .filter(|w| (1..=128).contains(w))
            .ok_or_else(|| format!("it has {} bits", given.bitwidth))?
    };
    match field.width() {
        Some(fixed) if !field.can_have(width) => Err(format!("it has {width} bits, not {fixed}")),
        _ => Ok(KeyModel { field, kind, width }),
    }
}

/// What a name means in a table: whose side of the packet is the endpoint's depends on the direction.
fn placed(meaning: Meaning, part: &Part<'_>) -> Result<Field, String> {
    match meaning {
        Meaning::Is(field) | Meaning::Icmp(field, _) => Ok(field),
        Meaning::Part(field) => Err(format!("it is `{field}` of some packets only")),
        Meaning::Mac { source } => match (part.role, source) {
            (Role::Guard, true) | (Role::Deliver, false) => Ok(Field::Mac),
            _ => Err("rows of this stage do not match on it".to_string()),
        },
        Meaning::Address { source, family } => {
            let direction = part
                .direction
                .ok_or("whose address it is depends on the direction, and the table serves both")?;
            Ok(match (source == (direction == Direction::Egress), family) {
                (true, Family::V4) => Field::LocalIpv4,
                (true, Family::V6) => Field::LocalIpv6,
                (false, Family::V4) => Field::RemoteIpv4,
                (false, Family::V6) => Field::RemoteIpv6,
            })
        }
    }
}

/// The keys of a table under construction.
#[derive(Default)]
struct Keys<'a> {
    keys: Vec<(KeyModel, &'a MatchField)>,
    bound: Vec<(u32, Field, Option<Family>)>,
    left_out: Vec<String>,
    wrong: Vec<String>,
}

impl<'a> Keys<'a> {
    /// What is not used must be possible to leave out of a row, which an exact match is not.
    fn leave_out(&mut self, given: &MatchField, why: &str, worth_telling: bool) {
        let name = shown(&given.name);
        match kind(given) {
            None | Some(MatchKind::Exact) => {
                self.wrong
                    .push(format!("every row has to match `{name}`, but {why}"));
            }
            Some(_) if worth_telling => self.left_out.push(format!("{name} ({why})")),
            Some(_) => {}
        }
    }

    /// Takes a key, or leaves it out.
    fn take(&mut self, key: KeyModel, given: &'a MatchField, family: Option<Family>) {
        self.bound.push((given.id, key.field, family));
        match self.keys.iter().find(|(k, _)| k.field == key.field) {
            None => self.keys.push((key, given)),
            // A field for each IP version: rows are of one version, so that the two are one key.
            Some((other, _)) if is_icmp(key.field) && *other == key => {}
            Some((_, other)) => self.wrong.push(format!(
                "both `{}` and `{}` are `{}`",
                shown(&other.name),
                shown(&given.name),
                key.field
            )),
        }
    }
}

/// The IP version of a mapped ICMP field, as its name has it.
fn mapped_family(field: Field, given: &MatchField) -> Option<Family> {
    match names::meaning(&given.name) {
        Some(Meaning::Icmp(_, family)) if is_icmp(field) => Some(family),
        _ => None,
    }
}

fn is_icmp(field: Field) -> bool {
    matches!(field, Field::IcmpType | Field::IcmpCode)
}

/// Why no row of another program names an overlay.
const OVERLAY_OF_OTHERS: &str = "only our own program says which overlay an endpoint has";

/// Keys by what the match fields are called.
fn keys_by_name<'a>(table: &'a Table, part: &Part<'_>, own_program: bool, keys: &mut Keys<'a>) {
    let read: Vec<(&MatchField, Option<Meaning>)> = table
        .match_fields
        .iter()
        .map(|f| (f, names::meaning(&f.name)))
        .collect();
    let has = |meaning| read.iter().any(|(_, m)| *m == Some(meaning));
    // A table with classes is one of our own programs, where one field serves both versions.
    let own = has(Meaning::Is(Field::Class));
    for (given, meaning) in &read {
        let one_version = |field| !own && Family::BOTH.iter().any(|f| !has(Meaning::Icmp(field, *f)));
        let mut family = None;
        let key = match meaning {
            None => {
                keys.leave_out(given, "it has no meaning here", false);
                continue;
            }
            Some(Meaning::Is(Field::Overlay)) if !own_program => Err(OVERLAY_OF_OTHERS.to_string()),
            Some(Meaning::Icmp(field, _)) if one_version(*field) => {
                Err("it is of one IP version".to_string())
            }
            Some(Meaning::Icmp(field, of)) => {
                family = (!own).then_some(*of);
                key(*field, given)
            }
            Some(meaning) => placed(*meaning, part).and_then(|field| key(field, given)),
        };
        match key {
            Ok(key) => keys.take(key, given, family),
            Err(why) => keys.leave_out(given, &why, true),
        }
    }
}

/// Whether a field of one bit is called as another field of one bit is: `is_ip` is not the mark of later fragments.
fn of_one_bit_otherwise(given: &MatchField, field: Field) -> bool {
    let one_bit = |field: Field| field.width() == Some(1);
    matches!(names::meaning(&given.name), Some(Meaning::Is(called)) if one_bit(called) && called != field)
}

/// Keys as a mapping says.
fn keys_by_mapping<'a>(table: &'a Table, fields: &BTreeMap<String, Field>, keys: &mut Keys<'a>) {
    for given in &table.match_fields {
        match fields.get(&given.name).map(|field| (*field, key(*field, given))) {
            None => keys.leave_out(given, "the mapping does not name it", false),
            Some((Field::Overlay, _)) => {
                let name = shown(&given.name);
                keys.wrong.push(format!(
                    "fields: `{name}` cannot be `overlay`: {OVERLAY_OF_OTHERS}"
                ));
            }
            Some((field, Ok(_))) if of_one_bit_otherwise(given, field) => keys.wrong.push(format!(
                "fields: `{}` cannot be `{field}`: its name says that it is something else",
                shown(&given.name)
            )),
            Some((_, Ok(key))) => keys.take(key, given, mapped_family(key.field, given)),
            Some((field, Err(why))) => {
                let name = shown(&given.name);
                keys.wrong
                    .push(format!("fields: `{name}` cannot be `{field}`: {why}"));
            }
        }
    }
    for (_, field, family) in &keys.bound {
        let other = |(_, of, version): &(u32, Field, Option<Family>)| of == field && version != family;
        if family.is_some() && !keys.bound.iter().any(other) {
            keys.wrong.push(format!(
                "fields: what is mapped to `{field}` is of one IP version by its name: map the field of the other, too, or leave both out"
            ));
        }
    }
    for name in fields
        .keys()
        .filter(|name| !table.match_fields.iter().any(|f| f.name == **name))
    {
        let known = list(table.match_fields.iter().map(|f| f.name.as_str()));
        keys.wrong.push(format!(
            "fields: there is no match field `{}`; it has {known}",
            shown(name)
        ));
    }
}

/// Names, in quotes and with commas.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("`{}`", shown(name))).collect();
    if quoted.is_empty() {
        "none".to_string()
    } else {
        quoted.join(", ")
    }
}

/// Actions that rows of a stage can have.
fn of_stage(role: Role) -> &'static [ActionModel] {
    match role {
        Role::Policy => &[ActionModel::Allow, ActionModel::Deny, ActionModel::Words],
        Role::Guard => &[ActionModel::Allow, ActionModel::Deny, ActionModel::Set],
        Role::Other => &[],
        _ => &[ActionModel::Set],
    }
}

/// The parameter of a mapped action that is meant: the named one, or its only one.
fn parameter(given: &ActionMapping, action: &Action) -> Result<(), String> {
    let known = list(action.params.iter().map(|p| p.name.as_str()));
    let has = |name: &String| action.params.iter().any(|p| p.name == *name);
    let named: Vec<&String> = given.parameter.iter().chain(&given.otherwise).collect();
    if let Some(missing) = named.iter().find(|name| !has(name)) {
        return Err(format!("has no parameter `{}`; it has {known}", shown(missing)));
    }
    if given.parameter.is_some() && given.parameter == given.otherwise {
        return Err("`parameter` and `otherwise` are the same".to_string());
    }
    Ok(())
}

/// Whether a mapped action can do what it is to do: every parameter gets a value.
fn fits(kind: ActionModel, given: &ActionMapping, action: &Action) -> Result<(), String> {
    parameter(given, action)?;
    let count = action.params.len();
    let known = list(action.params.iter().map(|p| p.name.as_str()));
    match kind {
        ActionModel::Allow | ActionModel::Deny if count > 0 => {
            Err(format!("takes parameters that nothing fills: {known}"))
        }
        ActionModel::Set if count != 1 => Err(format!(
            "does not take one parameter, the value; it takes {known}"
        )),
        ActionModel::Words if count != 2 || given.parameter.is_none() || given.otherwise.is_none() => {
            Err(format!(
                "needs `parameter` (which takes the set of words) and `otherwise`, and no other; it takes {known}"
            ))
        }
        _ => Ok(()),
    }
}

/// The ids of an action; parameters by name, or the only one there is (for sets of words, the first and the second).
fn bound_action(
    does: ActionModel,
    action: &Action,
    value: Option<&str>,
    otherwise: Option<&str>,
) -> BoundAction {
    let named = |name: Option<&str>, at: usize| match name {
        Some(name) => action.params.iter().find(|p| p.name == name),
        None => action.params.get(at),
    };
    BoundAction {
        does,
        id: action.preamble.as_ref().map_or(0, |p| p.id),
        value: named(value, 0).map(|p| p.id),
        otherwise: named(otherwise, 1)
            .filter(|_| does == ActionModel::Words)
            .map(|p| p.id),
    }
}

impl<'a> Pipeline<'a> {
    pub fn new(info: &'a P4Info) -> Self {
        let id = |a: &'a Action| a.preamble.as_ref().map(|p| (p.id, a));
        Pipeline {
            info,
            actions: info.actions.iter().filter_map(id).collect(),
        }
    }

    /// Whether it is our own program, whose `attach` and `deliver` say which overlay an endpoint has.
    fn is_own(&self) -> bool {
        self.info.pkg_info.as_ref().is_some_and(|p| p.name == OWN)
    }

    /// The actions that rows of a table can have.
    fn row_actions(&self, table: &Table) -> Vec<&'a Action> {
        let rows = table
            .action_refs
            .iter()
            .filter(|r| r.scope != Scope::DefaultOnly as i32);
        rows.filter_map(|r| self.actions.get(&r.id).copied()).collect()
    }

    fn actions_by_name(&self, table: &Table, role: Role) -> Vec<BoundAction> {
        let known = self.row_actions(table).into_iter().filter_map(|a| {
            let parameters: Vec<&str> = a.params.iter().map(|p| p.name.as_str()).collect();
            let does = names::action(alias(a.preamble.as_ref()), &parameters)?;
            Some(bound_action(does, a, None, None))
        });
        known.filter(|a| of_stage(role).contains(&a.does)).collect()
    }

    fn actions_by_mapping(
        &self,
        table: &Table,
        given: &ActionsMapping,
        wrong: &mut Vec<String>,
    ) -> Vec<BoundAction> {
        let known = self.row_actions(table);
        let mut kinds = Vec::new();
        for (kind, action) in given.given() {
            let name = shown(&action.name);
            let found = known
                .iter()
                .find(|a| is_called(a.preamble.as_ref(), &action.name));
            let fault = match found {
                Some(found) => match fits(kind, action, found) {
                    Ok(()) => {
                        let (value, otherwise) = (action.parameter.as_deref(), action.otherwise.as_deref());
                        kinds.push(bound_action(kind, found, value, otherwise));
                        None
                    }
                    Err(why) => Some(why),
                },
                None => {
                    let known = list(known.iter().map(|a| alias(a.preamble.as_ref())));
                    Some(format!("is no action of its rows; those are {known}"))
                }
            };
            if let Some(why) = fault {
                wrong.push(format!("actions: `{name}` {why}"));
            }
        }
        kinds
    }

    /// Whether rows of a table are counted: a direct counter hangs on it.
    fn counts(&self, table: &Table) -> bool {
        let ids = self
            .info
            .direct_counters
            .iter()
            .filter_map(|c| c.preamble.as_ref());
        ids.into_iter().any(|p| table.direct_resource_ids.contains(&p.id))
    }

    /// A table as a stage; every reason if it cannot be.
    pub fn draw(&self, table: &Table, part: &Part<'_>) -> Result<MappedTable, Vec<String>> {
        let mut keys = Keys::default();
        match part.fields {
            _ if part.role == Role::Other => {}
            Some(fields) => keys_by_mapping(table, fields, &mut keys),
            None => keys_by_name(table, part, self.is_own(), &mut keys),
        }
        let bound = match part.actions {
            Some(given) => self.actions_by_mapping(table, given, &mut keys.wrong),
            None => self.actions_by_name(table, part.role),
        };
        let mut actions: Vec<ActionModel> = bound.iter().map(|a| a.does).collect();
        actions.sort_unstable();
        actions.dedup();
        if table.is_const_table {
            keys.wrong.push("its rows are constant".to_string());
        }
        if table.implementation_id != 0 {
            keys.wrong
                .push("its rows name members of an action profile, not actions".to_string());
        }
        if table.size < 0 {
            keys.wrong.push(format!("its size is {}", table.size));
        }
        if !keys.wrong.is_empty() {
            return Err(keys.wrong);
        }
        let model = TableModel {
            name: shown(alias(table.preamble.as_ref())),
            stage: part.role,
            direction: part.direction,
            size: u64::try_from(table.size).ok().filter(|size| *size > 0),
            most: None,
            reserve: 0,
            weight: part.weight,
            keys: keys.keys.into_iter().map(|(key, _)| key).collect(),
            actions,
            counters: self.counts(table),
            expires: expires(table),
            restrictions: match part.role {
                Role::Policy => restrictions::of_table(table, &keys.bound),
                _ => Vec::new(),
            },
        };
        Ok(MappedTable {
            model,
            left_out: keys.left_out,
            bound: Bound {
                table: table.preamble.as_ref().map_or(0, |p| p.id),
                fields: keys.bound,
                actions: bound,
            },
        })
    }
}

/// Whether rows of a table end by themselves. The idle timeouts of P4Runtime 1.6.0 tell the controller and leave the row
/// where it is, and they begin anew with every packet: nothing a lease could end by.
fn expires(table: &Table) -> bool {
    match IdleTimeoutBehavior::try_from(table.idle_timeout_behavior) {
        Ok(IdleTimeoutBehavior::NoTimeout | IdleTimeoutBehavior::NotifyControl) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_compiler::{ModelError, StageModel};

    /// What [`StageModel::check`] says of a table with one key.
    fn refused(field: Field, width: u16) -> bool {
        let text = format!(
            "name = \"m\"\npriority_max = 1\n[parser]\nfragment_offset = false\nshort_header = false\n\
             later_ipv6_protocol = false\nunreadable = false\n[[table]]\nname = \"t\"\nstage = \"policy\"\n\
             keys = [{{ field = \"{field}\", match = \"exact\", width = {width} }}]\n"
        );
        match StageModel::from_toml(&text) {
            Ok(_) => false,
            Err(ModelError::Field { field, .. }) => field.ends_with(".width"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn widths_are_those_of_the_stage_model() {
        use Field::*;
        let all = [
            Port, Vlan, Mac, Class, EtherType, Unreadable, Protocol, Later, TcpFlags, RemoteId, RemoteIpv4,
            RemoteIpv6, LocalIpv4, LocalIpv6, SrcPort, DstPort, IcmpType, IcmpCode, SrcCode, DstCode,
            WordSet, PortBlock,
        ];
        for field in all {
            match field.width() {
                Some(width) => {
                    assert!(!refused(field, width), "{field} in {width} bits");
                    assert!(
                        refused(field, width + 1) || width == 128,
                        "{field} in {} bits",
                        width + 1
                    );
                }
                None => assert!(!refused(field, 9) && !refused(field, 77), "{field}"),
            }
        }
    }
}
