//! The thread that makes changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use imbl::ordmap::DiffItem;
use portcullis_backend::TargetHandle;
use portcullis_compiler::{ClassId, CompileError, Compiler, Fingerprint, Intent, OutOfClasses};
use portcullis_policy::{Document, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Ledger, Unlock};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{broadcast, mpsc, watch};

use super::edit::{self, Edited};
use super::unlocks::{BATCH, Waiting, entries_of, note_unlocks};
use super::{Base, Baseline, ChangeError, Clock, MakeEdit, Outcome, Request, State, Who};
use crate::config::Limits;
use crate::metrics;
use crate::store::{Aside, Change, ClassChanges, Entry, Generation, Key, Kind, Store, StoreError, Write};

pub(super) struct Worker {
    pub audited: Arc<AtomicU64>,
    pub told: broadcast::Sender<Arc<Unlock>>,
    pub clock: Clock,
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
        let mut next = None;
        while let Some(request) = next.take().or_else(|| requests.blocking_recv()) {
            match request {
                Request::Stop => break,
                // Whoever asked may be gone; the change holds all the same.
                Request::Ping(answer) => drop(answer.send(())),
                Request::Unlocks(first) => {
                    let batch = gathered(first, &mut requests, &mut next);
                    self.unlocks(batch)?;
                }
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

    fn change(&mut self, by: Who, make: MakeEdit) -> Result<Outcome, ChangeError> {
        let started = Instant::now();
        let (base, edit) = {
            let state = self.state.borrow();
            (state.base(), make(&state)?)
        };
        let Edited {
            mut document,
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
        // Copies see what may yet be refused.
        let now = (self.clock)();
        let mut ledger = base.ledger.clone();
        let ended = match changes.iter().any(|(change, _)| *change == Change::Deleted) {
            true => ledger.follow(&document, &now),
            false => Vec::new(),
        };
        document.grants = ledger.grants_at(&now);
        let mut compiler = self.compiler.clone();
        let intent = resolve(&mut compiler, &self.targets, &document, base.generation, false)?;
        let generation = Generation {
            number: base.generation + 1,
            at: now.seconds(),
            by: by.name.clone(),
            changes,
        };
        let classes = changes_of_classes(&base, &intent, &compiler);
        let mut aside = Aside {
            seen: Some(now),
            audit: vec![entry(&generation, &by, &now)],
            ..Aside::default()
        };
        aside.audit.extend(entries_of(&ended, &now, generation.number));
        note_unlocks(&mut aside, &ledger, &ended);
        self.make_durable(&document, &intent, &classes, &generation, &aside)?;
        self.compiler = compiler;
        let by = generation.by.clone();
        let outcome = self.publish(document, ledger, intent, generation, subject);
        for change in ended {
            // Nobody may be watching.
            drop(self.told.send(change.unlock));
        }
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
        aside: &Aside,
    ) -> Result<(), ChangeError> {
        check(&self.targets, intent)?;
        let writes = generation
            .changes
            .iter()
            .map(|c| write(document, c))
            .collect::<Result<Vec<Write>, ChangeError>>()?;
        let started = Instant::now();
        self.store
            .commit_with(Some((generation, &writes, classes)), aside)?;
        self.written();
        metrics::committed(started.elapsed());
        Ok(())
    }

    /// Tells how far the audit log goes.
    pub(super) fn written(&self) {
        self.audited.store(self.store.audited(), Ordering::Release);
    }

    /// Tells the compiler which class ids no target has rows of any more: every one follows a generation without them.
    pub(super) fn confirm_gone(&mut self, newest: u64) {
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

    pub(super) fn publish(
        &mut self,
        document: Document,
        ledger: Ledger,
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
            state.ledger = ledger;
            generation
                .changes
                .iter()
                .for_each(|change| revise(state, change, &generation));
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
        Kind::Program => document.programs.contains_key(key.name.as_str()),
        Kind::Unlock => false,
    }
}

fn revise(state: &mut State, (change, key): &(Change, Key), generation: &Generation) {
    if key.kind == Kind::Endpoint
        && let Ok(name) = key.name.parse::<Name>()
    {
        match change {
            Change::Created => drop(state.created.insert(name, generation.at)),
            Change::Changed => {}
            Change::Deleted => drop(state.created.remove(&name)),
        }
    }
    let map = match key.kind {
        Kind::Baseline => {
            state.revisions.baseline = generation.number;
            return;
        }
        Kind::Profile => &mut state.revisions.profiles,
        Kind::Endpoint => &mut state.revisions.endpoints,
        // They are read with what made them, and have no etag.
        Kind::Program | Kind::Unlock => return,
    };
    if *change == Change::Deleted {
        map.remove(key.name.as_str());
    } else if let Ok(name) = key.name.parse::<Name>() {
        map.insert(name, generation.number);
    }
}

/// What waits behind the first, up to something else.
fn gathered(
    first: Waiting,
    requests: &mut mpsc::Receiver<Request>,
    next: &mut Option<Request>,
) -> Vec<Waiting> {
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match requests.try_recv() {
            Ok(Request::Unlocks(one)) => batch.push(one),
            Ok(other) => {
                *next = Some(other);
                break;
            }
            // Nothing waits; whether anything will come is for who receives.
            Err(_) => break,
        }
    }
    batch
}

/// Resources that an entry of the audit log names at most.
const NAMED: usize = 50;

/// What a change of the policy is to the audit log.
fn entry(generation: &Generation, by: &Who, now: &Moment) -> Entry {
    let changes = &generation.changes;
    let named = changes.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(change, key)| format!("{} {key}", change.as_str()))
        .collect();
    Entry {
        at_ms: now.wall_ms,
        actor: by.name.clone(),
        role: by.role.clone(),
        action: "policy.change".to_string(),
        subject: format!("generations/{}", generation.number),
        detail: json!({"count": changes.len(), "changes": named}).to_string(),
        generation: generation.number,
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

/// Class ids that only changes that close ports may use.
const RESERVED_CLASSES: u32 = 1024;

/// The highest class id that a change may use: what the narrowest target can hold. Changes that open ports leave a reserve
/// to those that close them.
pub(super) fn class_limit(targets: &[TargetHandle], closes: bool) -> u32 {
    let limits = targets.iter().filter_map(TargetHandle::class_limit);
    let limit = limits.min().unwrap_or(u32::MAX);
    let reserve = if closes {
        0
    } else {
        RESERVED_CLASSES.min(limit / 64)
    };
    limit - reserve
}

/// Whether every target holds a generation, down to what its caches do.
fn all_hold(targets: &[TargetHandle], generation: u64) -> bool {
    targets.iter().all(|target| target.status().applied == generation)
}

/// Resolves the document of the generation after `base`. A class is edited in place when every target holds all of the
/// generation before, and says that it can turn the rows of the one class into those of the other.
pub(super) fn resolve(
    compiler: &mut Compiler,
    targets: &[TargetHandle],
    document: &Document,
    base: u64,
    closes: bool,
) -> Result<Arc<Intent>, OutOfClasses> {
    compiler.limit(class_limit(targets, closes));
    let held = all_hold(targets, base);
    compiler.resolve_in_place(document, base + 1, &|old, new| {
        held && targets.iter().all(|target| target.edits(old, new))
    })
}

/// What a change means for what is stored of classes; `compiler` resolved its intent.
pub(super) fn changes_of_classes(base: &Base, intent: &Intent, compiler: &Compiler) -> ClassChanges {
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
        Kind::Baseline => Some(text(key, &Baseline::of(document))?),
        Kind::Profile => document
            .profiles
            .get(name)
            .map(|profile| text(key, profile))
            .transpose()?,
        Kind::Endpoint => document
            .endpoints
            .get(name)
            .map(|endpoint| text(key, endpoint))
            .transpose()?,
        Kind::Program => document
            .programs
            .get(name)
            .map(|program| text(key, program))
            .transpose()?,
        // They are written beside resources.
        Kind::Unlock => None,
    };
    Ok(Write {
        key: key.clone(),
        change: *change,
        body,
    })
}

fn text(key: &Key, value: &impl Serialize) -> Result<String, ChangeError> {
    serde_json::to_string(value).map_err(|error| ChangeError::Encode {
        key: key.clone(),
        problem: error.to_string(),
    })
}
