//! The thread that makes changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use portcullis_backend::TargetHandle;
use portcullis_compiler::{ClassId, CompileError, Compiler, Fingerprint, Intent};
use portcullis_policy::{Document, Name};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::edit::{self, Edited};
use super::{Baseline, ChangeError, MakeEdit, Outcome, Request, State};
use crate::config::Limits;
use crate::metrics;
use crate::store::{Change, ClassChanges, Generation, Key, Kind, Store, StoreError, Write};

pub(super) struct Worker {
    pub compiler: Compiler,
    pub store: Store,
    pub state: watch::Sender<State>,
    pub targets: Vec<TargetHandle>,
    pub limits: Limits,
}

impl Worker {
    /// Makes one change after the other until it is told to stop.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) -> Result<(), StoreError> {
        while let Some(request) = requests.blocking_recv() {
            match request {
                Request::Stop => break,
                // Whoever asked may be gone; the change holds all the same.
                Request::Ping(answer) => drop(answer.send(())),
                Request::Change { by, edit, answer } => match self.change(by, edit) {
                    Err(ChangeError::Store(error @ StoreError::Unknown { .. })) => {
                        drop(answer.send(Err(ChangeError::Unknown)));
                        return Err(error);
                    }
                    result => drop(answer.send(result)),
                },
            }
        }
        self.store.close()
    }

    fn change(&mut self, by: String, make: MakeEdit) -> Result<Outcome, ChangeError> {
        let started = Instant::now();
        let (base, edit) = {
            let state = self.state.borrow();
            (state.base(), make(&state)?)
        };
        let Edited {
            document,
            changes,
            subject,
        } = edit::apply(&base.document, edit, &self.limits)?;
        if changes.is_empty() {
            let state = self.state.borrow();
            let etag = subject
                .filter(|key| exists(&document, key))
                .map(|key| state.etag_of(&key));
            return Ok(Outcome {
                generation: base.generation,
                changes,
                etag: etag.unwrap_or_default(),
                document: base.document,
            });
        }
        let intent = self.compiler.resolve(&document, base.generation + 1);
        let generation = Generation {
            number: base.generation + 1,
            at: now(),
            by,
            changes,
        };
        if let Err(error) = self.make_durable(&document, &intent, &base.intent, &generation) {
            // The compiler has seen a document that never was.
            self.compiler = base.compiler();
            self.compiler.resolve(&base.document, base.generation);
            return Err(error);
        }
        let by = generation.by.clone();
        let outcome = self.publish(document, intent, generation, subject);
        tell(&outcome, &by);
        metrics::change_made(started.elapsed());
        Ok(outcome)
    }

    fn make_durable(
        &mut self,
        document: &Document,
        intent: &Intent,
        before: &Intent,
        generation: &Generation,
    ) -> Result<(), ChangeError> {
        check(&self.targets, intent)?;
        let writes = generation
            .changes
            .iter()
            .map(|c| write(document, c))
            .collect::<Result<Vec<Write>, ChangeError>>()?;
        let before = before.classes.values().map(|class| (class.id, class.fingerprint));
        let classes = class_changes(before, intent, self.compiler.next_id());
        let started = Instant::now();
        self.store.commit(generation, &writes, &classes)?;
        metrics::committed(started.elapsed());
        Ok(())
    }

    fn publish(
        &mut self,
        document: Document,
        intent: Arc<Intent>,
        generation: Generation,
        subject: Option<Key>,
    ) -> Outcome {
        let (number, changes) = (generation.number, generation.changes.clone());
        let document = Arc::new(document);
        let next_class = self.compiler.next_id();
        self.state.send_modify(|state| {
            state.document = Arc::clone(&document);
            state.intent = Arc::clone(&intent);
            state.generation = number;
            state.next_class = next_class;
            generation
                .changes
                .iter()
                .for_each(|change| revise(state, change, number));
            state.recent.push(Arc::new(generation));
        });
        // A burst keeps at most one intent waiting per target: the newest.
        self.targets
            .iter()
            .for_each(|target| target.set_intent(Arc::clone(&intent)));
        let etag = subject
            .filter(|key| exists(&document, key))
            .map(|key| self.state.borrow().etag_of(&key));
        Outcome {
            generation: number,
            changes,
            etag: etag.unwrap_or_default(),
            document,
        }
    }
}

/// One line for every generation.
fn tell(outcome: &Outcome, by: &str) {
    let count = |wanted: Change| {
        outcome
            .changes
            .iter()
            .filter(|(change, _)| *change == wanted)
            .count()
    };
    let first = outcome
        .changes
        .first()
        .map(|(change, key)| format!("{} {key}", change.as_str()));
    tracing::info!(
        generation = outcome.generation,
        by,
        created = count(Change::Created),
        changed = count(Change::Changed),
        deleted = count(Change::Deleted),
        first,
        "committed"
    );
}

fn exists(document: &Document, key: &Key) -> bool {
    match key.kind {
        Kind::Baseline => true,
        Kind::Profile => document.profiles.contains_key(key.name.as_str()),
        Kind::Endpoint => document.endpoints.contains_key(key.name.as_str()),
    }
}

fn revise(state: &mut State, (change, key): &(Change, Key), generation: u64) {
    let map = match key.kind {
        Kind::Baseline => {
            state.revisions.baseline = generation;
            return;
        }
        Kind::Profile => &mut state.revisions.profiles,
        Kind::Endpoint => &mut state.revisions.endpoints,
    };
    if *change == Change::Deleted {
        map.remove(key.name.as_str());
    } else if let Ok(name) = key.name.parse::<Name>() {
        map.insert(name, generation);
    }
}

/// Lets every target compile and prove an intent.
pub(super) fn check(targets: &[TargetHandle], intent: &Intent) -> Result<(), ChangeError> {
    for target in targets {
        target.check(intent).map_err(|error| {
            let target = target.name().to_string();
            match error {
                CompileError::Unsupported(unsupported) => ChangeError::Unsupported {
                    target,
                    unsupported: Box::new(unsupported),
                },
                error @ CompileError::Unproved { .. } => {
                    tracing::error!(target, %error, "a change was refused");
                    ChangeError::Unproved {
                        target,
                        error: Box::new(error),
                    }
                }
            }
        })?;
    }
    Ok(())
}

/// Classes that come into use and go out of use with an intent.
pub(super) fn class_changes(
    before: impl Iterator<Item = (ClassId, Fingerprint)>,
    intent: &Intent,
    next: u32,
) -> ClassChanges {
    let before: BTreeMap<ClassId, Fingerprint> = before.collect();
    let stays = |id: ClassId, fingerprint: Fingerprint| before.get(&id) == Some(&fingerprint);
    ClassChanges {
        added: intent
            .classes
            .values()
            .filter(|class| !stays(class.id, class.fingerprint))
            .map(|class| (class.fingerprint, class.id))
            .collect(),
        removed: before
            .iter()
            .filter(|(id, fingerprint)| {
                intent
                    .classes
                    .get(*id)
                    .is_none_or(|c| c.fingerprint != **fingerprint)
            })
            .map(|(id, _)| *id)
            .collect(),
        next,
    }
}

fn write(document: &Document, (change, key): &(Change, Key)) -> Result<Write, ChangeError> {
    let name = key.name.as_str();
    let body = match key.kind {
        Kind::Baseline => Some(json(key, &Baseline::of(document))?),
        Kind::Profile => document
            .profiles
            .get(name)
            .map(|profile| json(key, profile))
            .transpose()?,
        Kind::Endpoint => document
            .endpoints
            .get(name)
            .map(|endpoint| json(key, endpoint))
            .transpose()?,
    };
    Ok(Write {
        key: key.clone(),
        change: *change,
        body,
    })
}

fn json(key: &Key, value: &impl Serialize) -> Result<String, ChangeError> {
    serde_json::to_string(value).map_err(|error| ChangeError::Encode {
        key: key.clone(),
        problem: error.to_string(),
    })
}

/// Seconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
