//! Pipelines that the switch accepts: our P4 program with port ranges or port masks.

use std::collections::HashMap;

use portcullis_fastpath::{ActionKind, PORTS, Table};
use portcullis_p4runtime::{OwnProgram, PortMatching, ProgramError};
use portcullis_proto::p4::config::v1::{P4Info, action_ref, match_field};

/// How a key of a table matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// One value; it must be given.
    Exact,
    /// One value, or any when left out.
    Optional,
    /// Value and mask; bits outside the mask do not matter.
    Ternary,
    /// From one value to another, both included.
    Range,
}

/// A key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyShape {
    pub name: String,
    /// Width of the field, in bits.
    pub width: u32,
    pub kind: Match,
}

/// An action of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionShape {
    pub kind: ActionKind,
    /// Width of its one parameter in bits; 0 without a parameter.
    pub width: u32,
}

/// What a program's P4Info says of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    pub table: Table,
    /// Alias in P4Info, the name in errors.
    pub name: String,
    /// Keys by id: key `n` is at index `n - 1`.
    pub keys: Vec<KeyShape>,
    /// Actions that its rows may have, by id.
    pub actions: HashMap<u32, ActionShape>,
    /// Ids of actions that only the default may be.
    pub default_only: Vec<u32>,
    /// Rows that the table holds at most.
    pub size: usize,
    /// Whether rows have a priority.
    pub prioritized: bool,
    /// Id of the default action, which cannot be changed.
    pub default_action: u32,
}

/// A program that the switch can run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Tables in the order of [`Table::ALL`].
    pub tables: Vec<TableShape>,
}

/// Why a program is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not Portcullis's pipeline.
    #[error(
        "this switch runs only the pipeline \"{name}\" version {version}: {what} \
         (use p4/compiled/portcullis-range.p4info.txtpb or portcullis-ternary.p4info.txtpb)"
    )]
    Foreign {
        /// The name of its own pipeline.
        name: String,
        /// The version of its own pipeline.
        version: String,
        /// The first difference, by name.
        what: String,
    },
    /// A table is larger than the switch supports.
    #[error("table `{table}` has size {size}; this switch supports at most {most} rows in a table")]
    Large {
        table: String,
        /// Size of the table in the P4Info.
        size: i64,
        /// Largest size that the switch supports.
        most: usize,
    },
    /// A program in this binary cannot be read: a fault of the build.
    #[error(transparent)]
    Build(#[from] ProgramError),
}

/// Largest size of a table, in rows.
pub const MOST_ROWS: usize = 1 << 20;

impl Program {
    /// Accepts the program of a P4Info if it is Portcullis's own. Sizes of tables may differ.
    pub fn accept(info: &P4Info) -> Result<Program, Refused> {
        let mut first = None;
        for matching in [PortMatching::Range, PortMatching::Ternary] {
            let own = OwnProgram::new(matching)?;
            let own = own.config.p4info.unwrap_or_default();
            match difference(&own, info) {
                None => return read(info),
                Some(what) => first = first.or(Some(what)),
            }
        }
        Err(foreign(first.unwrap_or_default())?)
    }

    /// A table by its P4 id.
    pub fn table(&self, id: u32) -> Option<&TableShape> {
        let table = Table::of_id(id)?;
        self.tables.get(table.index())
    }
}

/// A program is another one, by what differs.
fn foreign(what: String) -> Result<Refused, ProgramError> {
    let (name, version) = OwnProgram::new(PortMatching::Range)?.device.program;
    Ok(Refused::Foreign { name, version, what })
}

/// The first thing in which a program is not ours.
fn difference(own: &P4Info, given: &P4Info) -> Option<String> {
    let package = |info: &P4Info| {
        let package = info.pkg_info.clone().unwrap_or_default();
        (package.name, package.version)
    };
    if package(own) != package(given) {
        let (name, version) = package(given);
        return Some(format!("this one is \"{name}\" version \"{version}\""));
    }
    let name = |t: &portcullis_proto::p4::config::v1::Table| t.preamble.clone().unwrap_or_default().alias;
    for table in &given.tables {
        let mut like = own.tables.iter().find(|t| t.preamble == table.preamble).cloned();
        if let Some(like) = &mut like {
            like.size = table.size;
        }
        if like.as_ref() != Some(table) {
            return Some(format!(
                "its table `{}` is not the one of that program",
                name(table)
            ));
        }
    }
    if given.tables.len() > own.tables.len() {
        return Some("it has a table twice".to_string());
    }
    let missing = own
        .tables
        .iter()
        .find(|t| !given.tables.iter().any(|g| g.preamble == t.preamble));
    if let Some(table) = missing {
        return Some(format!("it lacks the table `{}`", name(table)));
    }
    if given.actions != own.actions {
        return Some("its actions differ".to_string());
    }
    let mut rest = given.clone();
    rest.tables.clone_from(&own.tables);
    // Counters tell the sizes of their tables again.
    for (counter, own) in rest.direct_counters.iter_mut().zip(&own.direct_counters) {
        counter.spec.clone_from(&own.spec);
    }
    (rest != *own).then(|| "it has more than tables and actions, or other counters".to_string())
}

fn read(info: &P4Info) -> Result<Program, Refused> {
    let mut tables = Vec::new();
    for table in Table::ALL {
        let found = info
            .tables
            .iter()
            .find(|t| t.preamble.as_ref().is_some_and(|p| p.id == table.id()));
        let Some(found) = found else {
            return Err(foreign(format!("it lacks the table with id {:#x}", table.id()))?);
        };
        let name = found.preamble.clone().unwrap_or_default().alias;
        let size = usize::try_from(found.size)
            .ok()
            .filter(|s| (1..=MOST_ROWS).contains(s));
        let size = size.ok_or_else(|| Refused::Large {
            table: name.clone(),
            size: found.size,
            most: MOST_ROWS,
        })?;
        let keys: Vec<KeyShape> = found.match_fields.iter().map(key).collect();
        let actions = found
            .action_refs
            .iter()
            .filter_map(|r| action(info, r.id).map(|shape| (r.id, shape)))
            .collect();
        let default_only = found
            .action_refs
            .iter()
            .filter(|r| r.scope() == action_ref::Scope::DefaultOnly);
        tables.push(TableShape {
            table,
            name,
            default_only: default_only.map(|r| r.id).collect(),
            prioritized: keys.iter().any(|k| k.kind != Match::Exact),
            keys,
            actions,
            size,
            default_action: found.const_default_action_id,
        });
    }
    Ok(Program { tables })
}

fn key(field: &portcullis_proto::p4::config::v1::MatchField) -> KeyShape {
    use match_field::MatchType;
    let kind = match field.r#match {
        Some(match_field::Match::MatchType(kind)) => {
            MatchType::try_from(kind).unwrap_or(MatchType::Unspecified)
        }
        _ => MatchType::Unspecified,
    };
    KeyShape {
        name: field.name.clone(),
        width: u32::try_from(field.bitwidth).unwrap_or(0),
        kind: match kind {
            MatchType::Optional => Match::Optional,
            MatchType::Ternary => Match::Ternary,
            MatchType::Range => Match::Range,
            _ => Match::Exact,
        },
    }
}

fn action(info: &P4Info, id: u32) -> Option<ActionShape> {
    let found = info
        .actions
        .iter()
        .find(|a| a.preamble.as_ref().is_some_and(|p| p.id == id))?;
    let kind = ActionKind::from_name(found.preamble.as_ref()?.alias.rsplit('.').next()?)?;
    let width = found
        .params
        .first()
        .map_or(0, |p| u32::try_from(p.bitwidth).unwrap_or(0));
    Some(ActionShape { kind, width })
}

const _: () = assert!(PORTS == 1 << 9, "the P4 program has 9 bits for a port");

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> P4Info {
        OwnProgram::new(PortMatching::Range)
            .unwrap()
            .config
            .p4info
            .unwrap()
    }

    #[test]
    fn the_fast_path_knows_the_tables_as_the_p4info_has_them() {
        for matching in [PortMatching::Range, PortMatching::Ternary] {
            let info = OwnProgram::new(matching).unwrap().config.p4info.unwrap();
            let program = Program::accept(&info).unwrap();
            assert_eq!(info.tables.len(), Table::ALL.len());
            for (at, shape) in program.tables.iter().enumerate() {
                assert_eq!(
                    (shape.table.index(), shape.table.name()),
                    (at, shape.name.as_str())
                );
                let names = |kinds: Vec<ActionKind>| {
                    let mut names: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
                    names.sort();
                    names
                };
                let given = &info
                    .tables
                    .iter()
                    .find(|t| t.preamble.as_ref().unwrap().id == shape.table.id());
                let given = given.unwrap().action_refs.len() - shape.default_only.len();
                assert_eq!(given, shape.table.actions().len(), "{}", shape.name);
                let rows = shape
                    .actions
                    .iter()
                    .filter(|(id, _)| !shape.default_only.contains(id));
                let rows = rows.map(|(_, action)| action.kind).collect();
                assert_eq!(
                    names(shape.table.actions().to_vec()),
                    names(rows),
                    "{}",
                    shape.name
                );
                let keys = shape.table.keys();
                assert_eq!(keys.len(), shape.keys.len(), "{}", shape.name);
                let table = info
                    .tables
                    .iter()
                    .find(|t| t.preamble.as_ref().unwrap().id == shape.table.id());
                for (at, field) in table.unwrap().match_fields.iter().enumerate() {
                    assert_eq!(field.id as usize, at + 1, "{}", shape.name);
                    let key = format!("{:?}", keys[at]).to_lowercase();
                    let name = match (field.name.as_str(), shape.table) {
                        ("mac", _) => "srcmac".to_string(),
                        ("address", _) => "guardaddress".to_string(),
                        (name, _) => name.replace('_', ""),
                    };
                    assert_eq!(key, name, "{}", shape.name);
                }
                assert_eq!(
                    shape.table.is_counted(),
                    !table.unwrap().direct_resource_ids.is_empty()
                );
            }
        }
    }

    #[test]
    fn there_are_counters_for_every_row_that_counts() {
        let embedded = OwnProgram::embedded().unwrap().config.p4info.unwrap();
        let program = Program::accept(&embedded).unwrap();
        let counted = program.tables.iter().filter(|shape| shape.table.is_counted());
        assert_eq!(
            counted.map(|shape| shape.size).sum::<usize>(),
            crate::counters::SLOTS
        );
    }

    #[test]
    fn other_programs_are_refused_by_what_differs() {
        let refused = |change: fn(&mut P4Info)| {
            let mut info = own();
            change(&mut info);
            Program::accept(&info).unwrap_err().to_string()
        };
        assert!(refused(|i| i.pkg_info.as_mut().unwrap().name = "l3".into()).contains("\"l3\""));
        assert!(refused(|i| i.tables[0].match_fields[0].bitwidth = 16).contains("`attach`"));
        assert!(refused(|i| drop(i.tables.remove(7))).contains("lacks the table `l2`"));
        assert!(refused(|i| i.actions[0].params.push(Default::default())).contains("actions differ"));
        assert!(refused(|i| i.tables[5].size = 1 << 40).contains("supports at most"));
        assert!(refused(|i| i.meters.push(Default::default())).contains("more than"));
        let mut larger = own();
        larger.tables[0].size = 70_000;
        assert_eq!(Program::accept(&larger).unwrap().tables[0].size, 70_000);
    }
}
