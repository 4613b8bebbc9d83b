//! The thread that makes changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use imbl::ordmap::DiffItem;
use portcullis_backend::TargetHandle;
use portcullis_compiler::{ClassId, CompileError, Compiler, Fingerprint, Intent};
use portcullis_policy::{Document, Name};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::edit::{self, Edited};
use super::{Base, Baseline, ChangeError, MakeEdit, Outcome, Request, State};
use crate::config::Limits;
use crate::metrics;
use crate::store::{Change, ClassChanges, Generation, Key, Kind, Store, StoreError, Write};

pub(super) struct Worker {
    pub compiler: Compiler,
    pub store: Store,
    pub state: watch::Sender<State>,
    pub targets: Vec<TargetHandle>,
    pub limits: Limits,
    /// Newest generation that every target was seen to follow.
    pub followed: u64,
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
        self.confirm_gone(base.generation);
        // A copy sees what may yet be refused.
        let mut compiler = self.compiler.clone();
        compiler.edit_in_place(all_hold(&self.targets, base.generation));
        let intent = compiler.resolve(&document, base.generation + 1)?;
        let generation = Generation {
            number: base.generation + 1,
            at: now(),
            by,
            changes,
        };
        let classes = changes_of_classes(&base, &intent, &compiler);
        self.make_durable(&document, &intent, &classes, &generation)?;
        self.compiler = compiler;
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
        classes: &ClassChanges,
        generation: &Generation,
    ) -> Result<(), ChangeError> {
        check(&self.targets, intent)?;
        let writes = generation
            .changes
            .iter()
            .map(|c| write(document, c))
            .collect::<Result<Vec<Write>, ChangeError>>()?;
        let started = Instant::now();
        self.store.commit(generation, &writes, classes)?;
        metrics::committed(started.elapsed());
        Ok(())
    }

    /// Tells the compiler which class ids no target has rows of any more: every one follows a generation without them.
    fn confirm_gone(&mut self, newest: u64) {
        let followed = self.targets.iter().map(|target| target.status().applied);
        let followed = followed.min().unwrap_or(newest);
        if followed <= self.followed {
            return;
        }
        self.followed = followed;
        let released = self.compiler.released().clone();
        let gone = released.iter().filter(|(_, since)| **since <= followed);
        self.compiler.confirm_gone(gone.map(|(id, _)| *id));
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
        let compiler = self.compiler.clone();
        self.state.send_modify(|state| {
            state.document = Arc::clone(&document);
            state.intent = Arc::clone(&intent);
            state.generation = number;
            state.compiler = compiler;
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

/// Whether every target holds a generation, down to what its caches do.
pub(super) fn all_hold(targets: &[TargetHandle], generation: u64) -> bool {
    targets.iter().all(|target| target.status().applied == generation)
}

/// What a change means for what is stored of classes; `compiler` resolved its intent.
fn changes_of_classes(base: &Base, intent: &Intent, compiler: &Compiler) -> ClassChanges {
    let of = |i: &Intent| -> Vec<(ClassId, Fingerprint)> {
        let changed = intent.changed.classes.iter();
        let classes = changed.filter_map(|id| i.classes.get(id));
        classes.map(|class| (class.id, class.fingerprint)).collect()
    };
    class_changes(of(&base.intent), of(intent), &base.compiler, compiler)
}

/// Classes that come into use and go out of use, and what else a compiler has to remember.
pub(super) fn class_changes(
    before: impl IntoIterator<Item = (ClassId, Fingerprint)>,
    after: impl IntoIterator<Item = (ClassId, Fingerprint)>,
    was: &Compiler,
    is: &Compiler,
) -> ClassChanges {
    let before: BTreeMap<ClassId, Fingerprint> = before.into_iter().collect();
    let after: BTreeMap<ClassId, Fingerprint> = after.into_iter().collect();
    let mut changes = ClassChanges {
        next: is.next_id(),
        ..ClassChanges::default()
    };
    for (id, fingerprint) in &before {
        if after.get(id) != Some(fingerprint) {
            changes.removed.push(*id);
        }
    }
    for (id, fingerprint) in &after {
        if before.get(id) != Some(fingerprint) {
            changes.added.push((*fingerprint, *id));
        }
    }
    for difference in was.released().diff(is.released()) {
        match difference {
            DiffItem::Add(id, since) | DiffItem::Update { new: (id, since), .. } => {
                changes.released.push((*id, *since));
            }
            DiffItem::Remove(id, _) => changes.gone.push(*id),
        }
    }
    changes
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
