//! Ids and names of the parts of a P4Info (P4Runtime 1.6.0, section 6.3).

use std::collections::BTreeSet;

use portcullis_proto::p4::config::v1::{P4Info, Preamble};

use super::shown;
use super::table::alias;

/// What is wrong with them, when something is.
pub(super) fn check(info: &P4Info) -> Result<(), String> {
    let tables = info.tables.iter().map(|t| t.preamble.as_ref());
    named("table", tables)?;
    let actions = info.actions.iter().map(|a| a.preamble.as_ref());
    named("action", actions)?;
    for table in &info.tables {
        let of = || format!("table `{}`", shown(alias(table.preamble.as_ref())));
        let fields = table.match_fields.iter().map(|f| (f.id, f.name.as_str()));
        unique("match field", of, fields)?;
    }
    for action in &info.actions {
        let of = || format!("action `{}`", shown(alias(action.preamble.as_ref())));
        let params = action.params.iter().map(|p| (p.id, p.name.as_str()));
        unique("parameter", of, params)?;
    }
    Ok(())
}

/// Parts with a preamble: each has an id of its own, and a name of its own.
fn named<'a>(what: &str, parts: impl Iterator<Item = Option<&'a Preamble>>) -> Result<(), String> {
    let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
    for part in parts {
        let name = shown(alias(part));
        let id = part.map_or(0, |p| p.id);
        if id == 0 {
            return Err(format!("{what} `{name}` has no id"));
        }
        if !ids.insert(id) {
            return Err(format!("{what} `{name}` has the id of another {what}, {id:#x}"));
        }
        if !names.insert(alias(part)) {
            return Err(format!("more than one {what} is called `{name}`"));
        }
    }
    Ok(())
}

/// Parts of a part: no id and no name twice.
fn unique<'a>(
    what: &str,
    of: impl Fn() -> String,
    parts: impl Iterator<Item = (u32, &'a str)>,
) -> Result<(), String> {
    let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (id, name) in parts {
        if !ids.insert(id) {
            return Err(format!(
                "{what} `{}` of {} has the id of another one, {id}",
                shown(name),
                of()
            ));
        }
        if !names.insert(name) {
            return Err(format!(
                "more than one {what} of {} is called `{}`",
                of(),
                shown(name)
            ));
        }
    }
    Ok(())
}
