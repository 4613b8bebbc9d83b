//! The thread that makes changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_backend::TargetHandle;
use portcullis_compiler::{CompileError, Compiler, Intent, OutOfClasses};
use portcullis_policy::{Document, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Unlock, tenant_of};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use super::bypass;
use super::classes::StoredClasses;
use super::closing::{Health, Note};
use super::core::{Desired, PreparedChange, SharedCore};
use super::edit::{self, Edited};
use super::gaps;
use super::queue::{ChangeRequest, Work, Works};
use super::unlocks::{announce, entries_of, note_unlocks};
use super::{Baseline, ChangeError, Clock, Edit, MakeEdit, Outcome, State, Who};
use crate::access::Role;
use crate::config::Limits;
use crate::metrics;
use crate::store::{
    Change, Commit, Entry, Generation, Head, Key, Kind, Room, SideWrites, Store, StoreError, Write,
};

/// How often what is not stored is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long after a failure the audit log is archived again.
const ARCHIVE_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    pub audited: Arc<Mutex<Head>>,
    pub unlock_events: broadcast::Sender<Arc<Unlock>>,
    pub clock: Clock,
    pub store: Store,
    pub core: SharedCore,
    /// Classes as they are stored.
    pub classes: StoredClasses,
    pub targets: Vec<TargetHandle>,
    pub limits: Limits,
    pub journal: Sender<Note>,
    /// Tells which closings are stored.
    pub stored: watch::Sender<u64>,
    pub health: Health,
    pub stopping: Arc<AtomicBool>,
    /// The room that is kept free on the disk.
    pub room: Room,
    /// When entries of the audit log are archived again, after that failed.
    pub archive_again: Option<Instant>,
}

impl Worker {
    /// Makes one change after the other until it is stopped.
    pub(super) fn run(mut self, works: &Works) -> Result<(), StoreError> {
        self.catch_up();
        loop {
            let waits = self.core.lock().waiting() > 0 && self.store.usable().is_ok();
            match works.next(waits.then_some(AGAIN)).unwrap_or(Work::Store) {
                Work::Stop => break,
                // The caller may be gone; the change holds all the same.
                Work::Ping(answer) => drop(answer.send(())),
                Work::Store => self.catch_up(),
                Work::Unlocks(batch) => self.unlocks(batch),
                Work::Change(ChangeRequest { by, edit, answer }) => {
                    drop(answer.send(self.change(by, edit)));
                }
            }
        }
        self.catch_up();
        self.store.close()
    }

    /// Stores what holds already.
    fn catch_up(&mut self) {
        let (pending, intent, compiler) = self.core.lock().backlog();
        if pending.is_empty() {
            return;
        }
        let classes = self.classes.changes(&intent, &compiler);
        let commit = Commit {
            pending: &pending,
            classes: (!classes.is_empty()).then_some(&classes),
            ..Commit::default()
        };
        match self.stored(commit) {
            Ok(()) => {
                self.classes = StoredClasses::Of(intent, compiler);
                self.core.lock().stored(pending.len());
                tracing::debug!(count = pending.len(), "what holds already is stored");
            }
            Err(error) => {
                tracing::debug!(
                    error = portcullis_policy::text::with_causes(&error),
                    waiting = pending.len(),
                    "what holds already cannot be stored yet"
                );
            }
        }
        self.report_waiting();
    }

    fn report_waiting(&self) {
        let waiting = {
            let core = self.core.lock();
            let waiting = core.waiting() as u64;
            self.health.set(|health| health.waiting = waiting);
            waiting
        };
        metrics::store_waits(waiting, !self.health.read().problem.is_empty());
    }

    /// Commits, and reports the state of the store. A commit whose result is unknown is asked for until it is
    /// known.
    fn stored(&mut self, commit: Commit<'_>) -> Result<(), StoreError> {
        let failed_before = !self.health.read().problem.is_empty();
        let mut result = self.store.commit_all(commit);
        if let Err(StoreError::Unknown { .. }) = &result {
            result = self.resolved(result);
        }
        let problem = result
            .as_ref()
            .err()
            .map(|error| portcullis_policy::text::with_causes(error));
        // Once, and not at every try: the log may be on the same disk.
        match &problem {
            Some(problem) if !failed_before => {
                tracing::error!(
                    problem,
                    "the database cannot be written: nothing can be opened or changed"
                );
            }
            None if failed_before => tracing::info!("the database is written again"),
            _ => {}
        }
        self.health
            .set(|health| health.problem = problem.unwrap_or_default());
        if result.is_ok() {
            let (closings, commits) = self.store.closings();
            self.stored.send_replace(closings);
            // Without the thread there is no journal that could be told.
            drop(self.journal.send(Note::Stored(closings, commits)));
            self.archive();
            *self.audited.lock().unwrap_or_else(PoisonError::into_inner) = self.store.audited();
        }
        result
    }

    /// Moves old entries of the audit log to a file, if there are too many. What fails is tried again later.
    fn archive(&mut self) {
        if self.archive_again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        self.archive_again = None;
        let generation = self.core.lock().read(State::generation);
        match self.store.archive((self.clock)().wall_ms, generation) {
            Ok(None) => {}
            Ok(Some(file)) => {
                tracing::info!(file = %file.display(), "old entries of the audit log are in a file")
            }
            Err(error) => {
                tracing::error!(
                    error = portcullis_policy::text::with_causes(&error),
                    "the audit log is not archived"
                );
                self.archive_again = Some(Instant::now() + ARCHIVE_AGAIN);
            }
        }
    }

    fn resolved(&mut self, mut result: Result<(), StoreError>) -> Result<(), StoreError> {
        while let Err(error @ StoreError::Unknown { .. }) = &result {
            self.health
                .set(|health| health.problem = portcullis_policy::text::with_causes(error));
            if self.stopping.load(Ordering::Acquire) {
                return result;
            }
            tracing::error!(
                error = portcullis_policy::text::with_causes(error),
                "asking again"
            );
            std::thread::sleep(AGAIN);
            match self.store.resolve() {
                Ok(true) => result = Ok(()),
                Ok(false) => {
                    result = Err(StoreError::Sqlite {
                        action: "commit a change",
                        source: rusqlite::Error::InvalidQuery,
                    });
                }
                Err(_) => {}
            }
        }
        result
    }

    fn change(&mut self, by: Who, make: MakeEdit) -> Result<Outcome, ChangeError> {
        let started = Instant::now();
        self.store.usable()?;
        let edit = self.core.lock().read(make)?;
        // Operators may change everything, and so close what they want; what goes away is opened for nobody.
        if by.role != Role::Operator.as_str() && !matches!(edit, Edit::Endpoint(_, None)) {
            self.room.check()?;
        }
        loop {
            let base = self.core.lock().base();
            let Edited {
                mut document,
                changes,
                subject,
            } = edit::apply(&base.document, edit.clone(), &self.limits)?;
            if changes.is_empty() {
                return Ok(self.outcome(base.generation, changes, base.document, subject));
            }
            // Copies see what may yet be refused.
            let now = (self.clock)();
            let mut ledger = base.ledger.clone();
            let ended = ledger.follow(&base.document, &document, &now);
            ledger.end_bypasses_with(&base.document, &document);
            document.grants = ledger.grants_at(&now);
            let mut compiler = base.compiler;
            let intent = resolve(&mut compiler, &self.targets, &document, base.generation)?;
            check(&self.targets, &intent)?;
            gaps::refuse_new(&self.targets, &intent, &base.intent)?;
            let generation = Generation {
                number: base.generation + 1,
                at: now.seconds(),
                by: by.name.clone(),
                changes: changes.clone(),
            };
            let writes = changes
                .iter()
                .map(|change| write(&base.document, &document, change));
            let writes = writes.collect::<Result<Vec<Write>, ChangeError>>()?;
            let mut side = SideWrites {
                seen: Some(now),
                audit: vec![entry(&generation, &by, &now)],
                ..SideWrites::default()
            };
            side.audit.extend(entries_of(&ended, &now, generation.number));
            note_unlocks(&mut side, (&base.ledger, &ledger), &ended);
            let over = bypass::note_ended(&mut side, &base.ledger, &ledger, &now, generation.number);
            let prepared = PreparedChange {
                version: base.version,
                ledger,
                side,
                desired: Some(Desired {
                    document,
                    intent,
                    compiler,
                    generation,
                    writes,
                }),
            };
            let Some(generation) = self.commit(prepared)? else {
                continue;
            };
            announce(&ended, &self.unlock_events);
            bypass::log(&over, &Who::agent(), &now);
            let document = self.core.lock().read(|state| Arc::clone(state.document()));
            let outcome = self.outcome(generation, changes, document, subject);
            log_outcome(&outcome, &by.name);
            metrics::change_made(started.elapsed());
            return Ok(outcome);
        }
    }

    fn outcome(
        &self,
        generation: u64,
        changes: Vec<(Change, Key)>,
        document: Arc<Document>,
        subject: Option<Key>,
    ) -> Outcome {
        let etag = subject
            .filter(|key| exists(&document, key))
            .map(|key| self.core.lock().read(|state| state.etag_of(&key)));
        Outcome {
            generation,
            changes,
            etag: etag.unwrap_or_default(),
            document,
        }
    }

    /// Makes a change durable, behind what holds already, and lets it hold; returns the generation in which it does.
    /// Nothing if something was closed since it was prepared: then it is prepared again.
    pub(super) fn commit(&mut self, prepared: PreparedChange) -> Result<Option<u64>, ChangeError> {
        let started = Instant::now();
        let (pending, intent, compiler) = {
            let mut core = self.core.lock();
            let Some(pending) = core.begin(&prepared) else {
                return Ok(None);
            };
            match &prepared.desired {
                Some(desired) => (pending, Arc::clone(&desired.intent), desired.compiler.clone()),
                None => {
                    let (_, intent, compiler) = core.backlog();
                    (pending, intent, compiler)
                }
            }
        };
        let classes = self.classes.changes(&intent, &compiler);
        let desired = prepared.desired.as_ref();
        let commit = Commit {
            pending: &pending,
            generation: desired.map(|desired| (&desired.generation, desired.writes.as_slice())),
            classes: (desired.is_some() || !classes.is_empty()).then_some(&classes),
            side: Some(&prepared.side),
        };
        let result = self.stored(commit);
        let now = (self.clock)();
        let finished = match result {
            Ok(()) => {
                self.classes = StoredClasses::Of(intent, compiler);
                metrics::committed(started.elapsed());
                self.core.lock().finish(prepared, &now)
            }
            Err(error) => {
                self.core.lock().failed(&now);
                Err(match error {
                    StoreError::Unknown { .. } => ChangeError::Unknown,
                    error => error.into(),
                })
            }
        };
        self.report_waiting();
        let (generation, ended) = finished?;
        announce(&ended, &self.unlock_events);
        Ok(Some(generation))
    }
}

/// One line for every generation.
fn log_outcome(outcome: &Outcome, by: &str) {
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
        Kind::Unlock | Kind::Bypass => false,
    }
}

pub(super) fn revise(state: &mut State, (change, key): &(Change, Key), generation: &Generation) {
    let map = match key.kind {
        Kind::Baseline => {
            state.revisions.baseline = generation.number;
            return;
        }
        Kind::Profile => &mut state.revisions.profiles,
        Kind::Endpoint => &mut state.revisions.endpoints,
        // They are read with what made them, and have no etag.
        Kind::Program | Kind::Unlock | Kind::Bypass => return,
    };
    if *change == Change::Deleted {
        map.remove(key.name.as_str());
    } else if let Ok(name) = key.name.parse::<Name>() {
        map.insert(name, generation.number);
    }
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
        evidence: None,
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
) -> Result<Arc<Intent>, OutOfClasses> {
    let held = all_hold(targets, base);
    compiler.resolve_in_place(document, base + 1, &|old, new| {
        held && targets.iter().all(|target| target.edits(old, new))
    })
}

fn write(
    before: &Document,
    document: &Document,
    (change, key): &(Change, Key),
) -> Result<Write, ChangeError> {
    let name = key.name.as_str();
    let body = match key.kind {
        Kind::Baseline => Some(text(key, &Baseline::from_document(document))?),
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
        Kind::Unlock | Kind::Bypass => None,
    };
    let tenant = |document: &Document| {
        let endpoint = document.endpoints.get(name)?;
        Some(tenant_of(document, endpoint).to_string())
    };
    Ok(Write {
        key: key.clone(),
        change: *change,
        body,
        anew: key.kind == Kind::Endpoint && tenant(before) != tenant(document),
    })
}

fn text(key: &Key, value: &impl Serialize) -> Result<String, ChangeError> {
    serde_json::to_string(value).map_err(|error| ChangeError::Encode {
        key: key.clone(),
        problem: error.to_string(),
    })
}
