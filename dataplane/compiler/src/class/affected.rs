//! Differences between two documents, and the endpoints they concern.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use portcullis_policy::{Document, Endpoint, Name};

use super::compiler::Compiler;

/// An endpoint that is not what it was, or whose rules may not be.
pub(super) struct Affected<'a> {
    pub name: &'a Name,
    pub old: Option<&'a Arc<Endpoint>>,
    pub new: Option<&'a Arc<Endpoint>>,
    /// Whether its policy may differ.
    pub rules: bool,
}

/// How two documents differ.
pub(super) struct Difference<'a> {
    /// Profiles that came, went or changed.
    pub profiles: HashSet<&'a Name>,
    /// Endpoints that it concerns, ascending.
    pub endpoints: Vec<Affected<'a>>,
}

impl<'a> Difference<'a> {
    /// Between the document that a compiler resolved last and another one; `everybody`: the rules for everybody differ.
    pub(super) fn new(
        compiler: &Compiler,
        before: &'a Document,
        document: &'a Document,
        everybody: bool,
    ) -> Self {
        let mut found: BTreeMap<&Name, Affected<'a>> = BTreeMap::new();
        let both = |name: &'a Name| Affected {
            name,
            old: before.endpoints.get(name),
            new: document.endpoints.get(name),
            rules: true,
        };
        let profiles: HashSet<&Name> = before.profiles.diff(&document.profiles).map(key).collect();
        if everybody {
            found.extend(document.endpoints.keys().map(|name| (name, both(name))));
        } else {
            let binders = profiles.iter().filter_map(|p| compiler.binders.get(*p)).flatten();
            let names = binders.filter_map(|name| Some(document.endpoints.get_key_value(name)?.0));
            found.extend(names.map(|name| (name, both(name))));
        }
        // Whoever is gone, or comes, is among the endpoints that differ.
        for name in before.grants.diff(&document.grants).map(key) {
            if let Some((name, _)) = document.endpoints.get_key_value(name) {
                found.insert(name, both(name));
            }
        }
        for name in before.endpoints.diff(&document.endpoints).map(key) {
            let one = both(name);
            let rules = match (one.old, one.new) {
                (Some(old), Some(new)) => old.rules != new.rules || old.profiles != new.profiles,
                _ => true,
            };
            found.entry(name).or_insert(Affected { rules, ..one });
        }
        Difference {
            profiles,
            endpoints: found.into_values().collect(),
        }
    }
}

fn key<'a, V>(difference: DiffItem<'a, 'a, Name, V>) -> &'a Name {
    match difference {
        DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name,
        DiffItem::Update { new: (name, _), .. } => name,
    }
}

/// Whether the rules for everybody are the same.
pub(super) fn same_for_everybody(a: &Document, b: &Document) -> bool {
    a.mandatory == b.mandatory
        && a.baseline == b.baseline
        && a.defaults == b.defaults
        && a.unmanaged == b.unmanaged
        && a.reserved.dhcp == b.reserved.dhcp
}
