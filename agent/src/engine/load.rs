//! From what the store holds to the state: the same intent and the same class ids as before the restart.

use std::sync::Arc;

use portcullis_compiler::Compiler;
use portcullis_policy::{Document, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::Ledger;
use serde::de::DeserializeOwned;

use super::worker::class_changes;
use super::{Baseline, Recent, Revisions, State};
use crate::store::{Aside, Key, Kind, Loaded, Store, StoreError, Stored};

struct Reader<'a> {
    store: &'a Store,
}

impl Reader<'_> {
    fn damaged(&self, key: &Key, problem: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged {
            file: self.store.file().to_path_buf(),
            problem: format!("{key}: {problem}"),
        }
    }

    fn body<T: DeserializeOwned>(&self, key: &Key, stored: &Stored) -> Result<T, StoreError> {
        serde_json::from_str(&stored.body).map_err(|error| self.damaged(key, error))
    }

    fn name(&self, key: &Key) -> Result<Name, StoreError> {
        key.name.parse().map_err(|error| self.damaged(key, error))
    }

    fn document(&self, loaded: &Loaded, tenant_label: &str) -> Result<(Document, Revisions), StoreError> {
        let mut revisions = Revisions::default();
        let mut document = Document {
            tenant_label: tenant_label.into(),
            ..Document::default()
        };
        for (key, stored) in &loaded.resources {
            match key.kind {
                Kind::Baseline => {
                    self.body::<Baseline>(key, stored)?.put(&mut document);
                    revisions.baseline = stored.revision;
                }
                Kind::Profile => {
                    let name = self.name(key)?;
                    document
                        .profiles
                        .insert(name.clone(), Arc::new(self.body(key, stored)?));
                    revisions.profiles.insert(name, stored.revision);
                }
                Kind::Endpoint => {
                    let name = self.name(key)?;
                    document
                        .endpoints
                        .insert(name.clone(), Arc::new(self.body(key, stored)?));
                    revisions.endpoints.insert(name, stored.revision);
                }
                Kind::Program => {
                    let name = self.name(key)?;
                    document.programs.insert(name, Arc::new(self.body(key, stored)?));
                }
                Kind::Unlock => return Err(self.damaged(key, "unlocks are no resources")),
            }
        }
        Ok((document, revisions))
    }
}

/// Deadlines as the clock of a machine that was started again has them.
fn resumed(ledger: &Ledger, now: Moment) -> Aside {
    Aside {
        unlocks: ledger.iter().cloned().collect(),
        strikes: ledger
            .all_strikes()
            .map(|(key, s)| (key.clone(), Some(*s)))
            .collect(),
        seen: Some(now),
        ..Aside::default()
    }
}

/// The state and a compiler that knows its classes.
pub(super) fn state(
    store: &mut Store,
    mut loaded: Loaded,
    now: Moment,
    class_limit: u32,
    tenant_label: &str,
) -> Result<(State, Compiler), StoreError> {
    let (mut document, revisions) = Reader { store }.document(&loaded, tenant_label)?;
    let unlocks = std::mem::take(&mut loaded.unlocks);
    let seen = unlocks.seen.unwrap_or(now);
    let ledger = Ledger::restore(unlocks.live, unlocks.strikes, &seen, &now);
    if seen.boot != now.boot {
        store.commit_with(None, &resumed(&ledger, now))?;
    }
    // What ended meanwhile is closed from the beginning, and told by the first look at the clock.
    document.grants = ledger.grants_at(&now);
    let created = loaded
        .resources
        .iter()
        .filter(|(key, _)| key.kind == Kind::Endpoint);
    let created = created.filter_map(|(key, stored)| Some((key.name.parse::<Name>().ok()?, stored.created)));
    let created = created.collect();
    if let Err(error) = document.validate() {
        // It was valid when it was committed: a newer version may have become stricter.
        tracing::warn!(%error, "the stored policy would be refused today; it stays in force until it is changed");
    }
    let mut compiler = Compiler::new(
        loaded.next_class,
        loaded.classes.iter().copied(),
        loaded.released.iter().copied(),
    );
    let before = compiler.clone();
    compiler.limit(class_limit);
    let intent = compiler.resolve(&document, loaded.generation).or_else(|error| {
        tracing::error!(%error, "a target cannot hold the stored policy; the others do, and this one keeps its rows");
        compiler.limit(u32::MAX);
        compiler.resolve(&document, loaded.generation)
    })?;
    let stored = loaded.classes.iter().map(|(fingerprint, id)| (*id, *fingerprint));
    let classes = intent.classes.values().map(|class| (class.id, class.fingerprint));
    let changes = class_changes(stored, classes, &before, &compiler);
    if !changes.is_empty() {
        store.commit_classes(&changes)?;
    }
    let state = State {
        document: Arc::new(document),
        intent,
        generation: loaded.generation,
        compiler: compiler.clone(),
        revisions,
        recent: Recent::default(),
        ledger,
        created,
    };
    Ok((state, compiler))
}
