//! Edits of a document, and their results.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use portcullis_policy::{
    Defaults, Document, DocumentError, Endpoint, Name, PerDirection, Profile, Reserved, Rule, Unmanaged,
    Verdict,
};
use serde::{Deserialize, Serialize};

use super::ChangeError;
use super::extent::within;
use crate::config::Limits;
use crate::store::{Change, Key, Kind};

/// The rules for everybody, as one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Verdicts where no rule matches.
    #[serde(with = "Defaults")]
    pub defaults: PerDirection<Verdict>,
    /// What holds for ports without an endpoint.
    pub unmanaged: Unmanaged,
    /// What no endpoint may declare.
    #[serde(default, skip_serializing_if = "Reserved::is_empty")]
    pub reserved: Reserved,
    pub mandatory: Vec<Rule>,
    pub rules: Vec<Rule>,
}

impl Baseline {
    /// The one of a document.
    pub fn from_document(document: &Document) -> Self {
        Baseline {
            defaults: document.defaults,
            unmanaged: document.unmanaged,
            reserved: Reserved::clone(&document.reserved),
            mandatory: document.mandatory.to_vec(),
            rules: document.baseline.to_vec(),
        }
    }

    /// Puts it into a document.
    pub fn put(self, document: &mut Document) {
        document.defaults = self.defaults;
        document.unmanaged = self.unmanaged;
        document.reserved = Arc::new(self.reserved);
        document.mandatory = Arc::new(self.mandatory);
        document.baseline = Arc::new(self.rules);
    }

    /// Refuses to put empty rules where there are some: an empty list is often one that was not filled.
    pub fn must_not_clear(
        current: &Document,
        mandatory: &[Rule],
        baseline: &[Rule],
    ) -> Result<(), ChangeError> {
        let lists = [
            ("mandatory", &current.mandatory, mandatory),
            ("baseline", &current.baseline, baseline),
        ];
        let cleared = lists
            .into_iter()
            .find(|(_, now, then)| then.is_empty() && !now.is_empty());
        match cleared {
            Some((list, now, _)) => Err(ChangeError::Clears {
                list,
                rules: now.len(),
            }),
            None => Ok(()),
        }
    }

    fn same(a: &Document, b: &Document) -> bool {
        a.defaults == b.defaults
            && a.unmanaged == b.unmanaged
            && a.reserved == b.reserved
            && a.mandatory == b.mandatory
            && a.baseline == b.baseline
    }
}

/// What shall become of the policy.
#[derive(Debug, Clone)]
pub enum Edit {
    Nothing,
    /// The rules for everybody become these.
    Baseline(Baseline),
    /// A profile becomes this, or goes away.
    Profile(Name, Option<Profile>),
    /// An endpoint becomes this, or goes away.
    Endpoint(Name, Option<Endpoint>),
    Document(Document),
}

/// The key of the baseline.
pub(super) fn baseline_key() -> Key {
    Key {
        kind: Kind::Baseline,
        name: String::new(),
    }
}

fn key(kind: Kind, name: &Name) -> Key {
    Key {
        kind,
        name: name.to_string(),
    }
}

/// A valid document that an edit made, and how it differs from the one before.
#[derive(Debug)]
pub(super) struct Edited {
    pub document: Document,
    pub changes: Vec<(Change, Key)>,
    /// The one resource that was edited.
    pub subject: Option<Key>,
}

/// Applies an edit; the result is valid, as far as the edit can have made it otherwise.
pub(super) fn apply(before: &Document, edit: Edit, limits: &Limits) -> Result<Edited, ChangeError> {
    let edited = match edit {
        Edit::Nothing => Edited {
            document: before.clone(),
            changes: Vec::new(),
            subject: None,
        },
        Edit::Baseline(baseline) => apply_baseline(before, baseline)?,
        Edit::Profile(name, profile) => apply_profile(before, name, profile)?,
        Edit::Endpoint(name, endpoint) => apply_endpoint(before, name, endpoint)?,
        Edit::Document(document) => apply_document(before, document)?,
    };
    within(before, &edited, limits)?;
    Ok(edited)
}

fn apply_baseline(before: &Document, baseline: Baseline) -> Result<Edited, ChangeError> {
    let mut document = before.clone();
    baseline.put(&mut document);
    document.validate_baseline()?;
    let changes = if Baseline::same(before, &document) {
        vec![]
    } else {
        vec![(Change::Changed, baseline_key())]
    };
    Ok(Edited {
        document,
        changes,
        subject: Some(baseline_key()),
    })
}

/// Puts a value into a map or takes it out; tells what that changed.
fn put<T: PartialEq>(map: &mut OrdMap<Name, Arc<T>>, name: &Name, value: Option<T>) -> Option<Change> {
    match (map.get(name), value) {
        (None, None) => None,
        (Some(old), Some(new)) if **old == new => None,
        (Some(_), None) => map.remove(name).map(|_| Change::Deleted),
        (_, Some(new)) => match map.insert(name.clone(), Arc::new(new)) {
            Some(_) => Some(Change::Changed),
            None => Some(Change::Created),
        },
    }
}

fn apply_profile(before: &Document, name: Name, profile: Option<Profile>) -> Result<Edited, ChangeError> {
    let key = key(Kind::Profile, &name);
    if profile.is_none() {
        let users: Vec<&Name> = before
            .endpoints
            .iter()
            .filter(|(_, e)| e.profiles.contains(&name))
            .map(|(n, _)| n)
            .collect();
        if !users.is_empty() {
            let some: Vec<&str> = users.iter().take(3).map(|n| n.as_str()).collect();
            let more = if users.len() > some.len() { ", …" } else { "" };
            let some = format!("{}{more}", some.join(", "));
            return Err(ChangeError::InUse {
                key,
                count: users.len(),
                some,
            });
        }
    }
    let mut document = before.clone();
    let change = put(&mut document.profiles, &name, profile);
    document.validate_profile(&name)?;
    Ok(Edited {
        document,
        changes: change.map(|c| (c, key.clone())).into_iter().collect(),
        subject: Some(key),
    })
}

fn apply_endpoint(before: &Document, name: Name, endpoint: Option<Endpoint>) -> Result<Edited, ChangeError> {
    let key = key(Kind::Endpoint, &name);
    let mut document = before.clone();
    let change = put(&mut document.endpoints, &name, endpoint);
    document.validate_endpoint(&name)?;
    Ok(Edited {
        document,
        changes: change.map(|c| (c, key.clone())).into_iter().collect(),
        subject: Some(key),
    })
}

fn apply_document(before: &Document, mut document: Document) -> Result<Edited, ChangeError> {
    document.tenant_label = Arc::clone(&before.tenant_label);
    document.validate()?;
    let mut changes = Vec::new();
    if Baseline::same(before, &document) {
        document.reserved = Arc::clone(&before.reserved);
        document.mandatory = Arc::clone(&before.mandatory);
        document.baseline = Arc::clone(&before.baseline);
    } else {
        changes.push((Change::Changed, baseline_key()));
    }
    share(
        &before.profiles,
        &mut document.profiles,
        Kind::Profile,
        &mut changes,
    );
    share(
        &before.endpoints,
        &mut document.endpoints,
        Kind::Endpoint,
        &mut changes,
    );
    share(
        &before.programs,
        &mut document.programs,
        Kind::Program,
        &mut changes,
    );
    let problems = portcullis_unlock::check::check_programs(&document);
    if !problems.is_empty() {
        return Err(ChangeError::Document(DocumentError::Fields(problems)));
    }
    document.grants = before.grants.clone();
    Ok(Edited {
        document,
        changes,
        subject: None,
    })
}

/// Lists the differences, and lets what did not change be the very same value: that is how the compiler finds what
/// did.
fn share<T: PartialEq>(
    before: &OrdMap<Name, Arc<T>>,
    after: &mut OrdMap<Name, Arc<T>>,
    kind: Kind,
    changes: &mut Vec<(Change, Key)>,
) {
    let mut shared = before.clone();
    let mut gone = Vec::new();
    for difference in before.diff(after) {
        match difference {
            DiffItem::Add(name, value) => {
                changes.push((Change::Created, key(kind, name)));
                shared.insert(name.clone(), Arc::clone(value));
            }
            DiffItem::Update {
                new: (name, value), ..
            } => {
                changes.push((Change::Changed, key(kind, name)));
                shared.insert(name.clone(), Arc::clone(value));
            }
            DiffItem::Remove(name, _) => {
                gone.push((Change::Deleted, key(kind, name)));
                shared.remove(name);
            }
        }
    }
    changes.append(&mut gone);
    *after = shared;
}

/// What a document that is merged comes to: the top-level fields it has replace those there are, its profiles,
/// endpoints and programs join them, each replacing the one of its name.
pub fn merge(current: &Document, patch: Document, fields: &BTreeSet<String>) -> Document {
    let mut document = current.clone();
    document.version = patch.version;
    if fields.contains("defaults") {
        document.defaults = patch.defaults;
    }
    if fields.contains("unmanaged") {
        document.unmanaged = patch.unmanaged;
    }
    if fields.contains("reserved") {
        document.reserved = patch.reserved;
    }
    if fields.contains("mandatory") {
        document.mandatory = patch.mandatory;
    }
    if fields.contains("baseline") {
        document.baseline = patch.baseline;
    }
    document.profiles.extend(patch.profiles);
    document.endpoints.extend(patch.endpoints);
    document.programs.extend(patch.programs);
    document
}
