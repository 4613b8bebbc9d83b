//! Restores the state from the store, with the same intent and class ids as before the restart.

use std::sync::Arc;

use portcullis_compiler::Compiler;
use portcullis_policy::{Document, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Ledger, Unlock};
use serde::de::DeserializeOwned;

use super::classes::StoredClasses;
use super::core::unstored;
use super::unlocks::aside_of;
use super::{Baseline, Recent, Revisions, State, Who};
use crate::store::{Change, Generation, Key, Kind, Loaded, Pending, SideWrites, Store, StoreError, Stored};

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
                Kind::Unlock | Kind::Bypass => return Err(self.damaged(key, "it is no resource")),
            }
        }
        Ok((document, revisions))
    }
}

/// Deadlines as the clock of a machine that was started again has them.
fn resumed(ledger: &Ledger, now: Moment) -> SideWrites {
    SideWrites {
        unlocks: ledger.iter().cloned().collect(),
        strikes: ledger
            .all_strikes()
            .map(|(key, s)| (key.clone(), Some(*s)))
            .collect(),
        bypasses: ledger
            .bypasses()
            .iter()
            .map(|(endpoint, bypass)| (endpoint.clone(), Some(Arc::clone(bypass))))
            .collect(),
        seen: Some(now),
        ..SideWrites::default()
    }
}

/// What an engine begins with.
pub(super) struct Started {
    pub state: State,
    /// A compiler that knows the classes.
    pub compiler: Compiler,
    /// Classes as they are stored.
    pub classes: StoredClasses,
    /// What holds and is not stored: closings of the journal, and deadlines on another clock.
    pub backlog: Vec<Arc<Pending>>,
    /// Number of the newest closing.
    pub closings: u64,
}

/// Generations that are made up at most, so that history has no gap below a closing.
const FILLED: u64 = 64;

/// Makes closings of the journal again: what they ended is ended in what was loaded. Returns what is to be stored, and
/// the newest generation.
fn replay(loaded: &mut Loaded) -> (Vec<Arc<Pending>>, u64) {
    let mut newest = loaded.generation;
    let mut backlog = Vec::new();
    for (number, closing) in std::mem::take(&mut loaded.closings) {
        tracing::info!(
            number,
            unlocks = closing.unlocks.len(),
            by = closing.by,
            "closed again from the journal"
        );
        for unlock in &closing.unlocks {
            loaded.unlocks.live.retain(|other| other.id != unlock.id);
            loaded.unlocks.live.push(unlock.clone());
        }
        for endpoint in &closing.bypasses {
            loaded
                .unlocks
                .bypasses
                .retain(|bypass| bypass.endpoint != *endpoint);
        }
        let side = SideWrites::from(closing.clone());
        for (key, strikes) in side.strikes {
            loaded.unlocks.strikes.retain(|(other, _)| *other != key);
            loaded
                .unlocks
                .strikes
                .extend(strikes.map(|strikes| (key, strikes)));
        }
        let seen = loaded
            .unlocks
            .seen
            .filter(|seen| seen.boot != closing.seen.boot || seen.boot_ms >= closing.seen.boot_ms);
        loaded.unlocks.seen = Some(seen.unwrap_or(closing.seen));
        let named = |number| Generation {
            number,
            at: closing.seen.seconds(),
            by: closing.by.clone(),
            changes: Vec::new(),
        };
        let generation = (closing.generation > 0).then(|| {
            let number = closing.generation.max(newest + 1);
            if number - newest <= FILLED {
                let missing = newest + 1..number;
                backlog.extend(missing.map(|number| {
                    Arc::new(Pending {
                        generation: Some(named(number)),
                        ..Pending::default()
                    })
                }));
            }
            newest = number;
            let key = |unlock: &Unlock| Key {
                kind: Kind::Unlock,
                name: unlock.id.to_string(),
            };
            let changes = closing
                .unlocks
                .iter()
                .map(|unlock| (Change::Changed, key(unlock)));
            Generation {
                changes: changes.collect(),
                ..named(number)
            }
        });
        backlog.push(Arc::new(Pending {
            generation,
            side: closing.into(),
            closing: number,
        }));
    }
    (backlog, newest)
}

/// The state, from what was loaded and what the journal has besides. Nothing is written here: a full disk keeps no agent
/// from enforcing what holds.
pub(super) fn state(
    store: &Store,
    mut loaded: Loaded,
    now: Moment,
    tenant_label: &str,
) -> Result<Started, StoreError> {
    let closings = loaded.closings.iter().map(|(number, _)| *number).max();
    let closings = closings.unwrap_or(0).max(store.closings().0);
    let (mut backlog, generation) = replay(&mut loaded);
    let (mut document, revisions) = Reader { store }.document(&loaded, tenant_label)?;
    let unlocks = std::mem::take(&mut loaded.unlocks);
    let seen = unlocks.seen.unwrap_or(now);
    let endpoints = loaded
        .resources
        .iter()
        .filter(|(key, _)| key.kind == Kind::Endpoint);
    let since = endpoints.filter_map(|(key, stored)| Some((key.name.parse::<Name>().ok()?, stored.created)));
    let mut ledger = Ledger::restore(unlocks.live, unlocks.strikes, since, &seen, &now);
    ledger.restore_bypasses(unlocks.bypasses, &seen, &now);
    // A setting, or a version that did not look at it, may have left what would not be granted now.
    let before = ledger.clone();
    let followed = ledger.follow_all(&document, &now);
    if !followed.is_empty() {
        let mut side = aside_of((&before, &ledger), (&followed, &[]), &Who::agent(), &now);
        side.audit
            .iter_mut()
            .for_each(|entry| entry.generation = generation);
        backlog.push(Arc::new(Pending {
            side,
            ..Pending::default()
        }));
    }
    if seen.boot != now.boot {
        backlog.push(Arc::new(Pending {
            side: resumed(&ledger, now),
            ..Pending::default()
        }));
    }
    // What ended meanwhile is closed from the beginning, and told by the first look at the clock.
    document.grants = ledger.grants_at(&now);
    if let Err(error) = document.validate() {
        // It was valid when it was committed: a newer version may have become stricter.
        tracing::warn!(%error, "the stored policy would be refused today; it stays in force until it is changed");
    }
    let mut compiler = Compiler::new(
        loaded.next_class,
        loaded.classes.iter().copied(),
        loaded.released.iter().copied(),
    );
    let classes = StoredClasses::Listed(std::mem::take(&mut loaded.classes), compiler.clone());
    let intent = compiler.resolve(&document, generation)?;
    if !classes.changes(&intent, &compiler).is_empty() && backlog.is_empty() {
        // A new version of the compiler sees other classes.
        backlog.push(Arc::new(Pending::default()));
    }
    let state = State {
        document: Arc::new(document),
        intent,
        generation,
        compiler: compiler.clone(),
        revisions,
        recent: Recent::from_generations(backlog.iter().filter_map(|pending| pending.generation.as_ref())),
        published: generation,
        ledger,
        unstored: unstored(&backlog),
    };
    Ok(Started {
        state,
        compiler,
        classes,
        backlog,
        closings,
    })
}
