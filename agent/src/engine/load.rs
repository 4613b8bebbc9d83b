//! From what the store holds to the state: the same intent and the same class ids as before the restart.

use std::sync::Arc;

use portcullis_compiler::Compiler;
use portcullis_policy::{Document, Name};
use serde::de::DeserializeOwned;

use super::worker::class_changes;
use super::{Baseline, Recent, Revisions, State};
use crate::store::{Key, Kind, Loaded, Store, StoreError, Stored};

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

    fn document(&self, loaded: &Loaded) -> Result<(Document, Revisions), StoreError> {
        let (mut document, mut revisions) = (Document::default(), Revisions::default());
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
            }
        }
        Ok((document, revisions))
    }
}

/// The state and a compiler that knows its classes.
pub(super) fn state(store: &mut Store, loaded: Loaded) -> Result<(State, Compiler), StoreError> {
    let (document, revisions) = Reader { store }.document(&loaded)?;
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
    let intent = compiler.resolve(&document, loaded.generation)?;
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
    };
    Ok((state, compiler))
}
