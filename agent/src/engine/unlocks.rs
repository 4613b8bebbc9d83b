//! Changes of unlocks: many are made durable at once, and those that open or close ports make one generation.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use imbl::OrdMap;
use portcullis_policy::{Document, FieldError, Grant, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{AGENT, Change as UnlockChange, Ledger, Refusal, Unlock};
use serde_json::json;
use tokio::sync::oneshot;

use super::worker::{Worker, changes_of_classes, check, resolve};
use super::{Base, ChangeError};
use crate::metrics;
use crate::store::{Aside, Change, Entry, Generation, IdempotencyKey, Key, Kind, Remembered, StoreError};

/// Requests that are made durable together at most.
pub(super) const BATCH: usize = 512;

/// Who does something, as the audit log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// `uid 0`, `cert spiffe://…`, `token tickets`, `agent`.
    pub name: String,
    /// `operator`, `provisioner`, `tenant`, `viewer`, `agent`.
    pub role: String,
}

impl Who {
    /// The agent itself.
    pub fn agent() -> Self {
        Who {
            name: AGENT.to_string(),
            role: AGENT.to_string(),
        }
    }
}

/// What a change of unlocks works with: a copy of the ledger, which is thrown away when it fails.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The ledger.
    pub ledger: &'a mut Ledger,
    /// The policy.
    pub document: &'a Document,
    /// The time.
    pub now: Moment,
}

/// Why a change of unlocks was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The ledger says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Evidence is missing or wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Evidence(Vec<FieldError>),
    /// The key of a request was used for another one.
    #[error("idempotency_key `{0}` was used with other content: take a new key for a new request")]
    KeyReused(String),
    /// The unlock is not what the caller read, or somebody else's.
    #[error("there is no unlock `{0}`")]
    NotFound(String),
    /// What it would open cannot be enforced, or could not be stored.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What a change of unlocks does; it may be tried more than once.
pub type MakeUnlocks = Box<dyn Fn(&mut Draft<'_>) -> Result<Vec<UnlockChange>, UnlockError> + Send>;

/// A change of unlocks that is asked for.
pub struct UnlockRequest {
    /// Who asks.
    pub by: Who,
    /// What is asked, for the audit log when it is refused: `unlock.request`, and about what.
    pub what: (&'static str, String),
    /// What it does.
    pub make: MakeUnlocks,
    /// The key of a request that may be repeated, and a digest of what is asked.
    pub key: Option<(IdempotencyKey, [u8; 32])>,
    /// It only closes: no target may stand against it.
    pub closes: bool,
}

/// What it came to.
#[derive(Debug, Clone)]
pub struct UnlockOutcome {
    /// The unlock it was about, when it was about one.
    pub unlock: Option<Arc<Unlock>>,
    /// The generation in which it holds.
    pub generation: u64,
}

type Answer = oneshot::Sender<Result<UnlockOutcome, UnlockError>>;

/// What waits for the next commit.
pub(super) enum Waiting {
    Unlock(UnlockRequest, Answer),
    /// For the audit log alone.
    Note(Entry),
}

/// What one batch comes to.
struct Batch {
    ledger: Ledger,
    changes: Vec<UnlockChange>,
    aside: Aside,
    closes: bool,
}

impl Batch {
    /// Tries one request; what it changed is the unlock that the answer shows.
    fn attempt(
        &mut self,
        worker: &Worker,
        request: &UnlockRequest,
        base: &Base,
        now: Moment,
    ) -> Result<Option<Arc<Unlock>>, UnlockError> {
        if let Some((key, digest)) = &request.key
            && let Some(before) = self.remembered(worker, key, &now)?
        {
            if before.digest != *digest {
                return Err(UnlockError::KeyReused(key.key.clone()));
            }
            return match self.known(worker, &before.unlock)? {
                Some(unlock) => Ok(Some(unlock)),
                None => Err(UnlockError::NotFound(before.unlock)),
            };
        }
        let mut ledger = self.ledger.clone();
        let mut draft = Draft {
            ledger: &mut ledger,
            document: &base.document,
            now,
        };
        let changes = (request.make)(&mut draft)?;
        self.ledger = ledger;
        let first = changes.first().map(|change| Arc::clone(&change.unlock));
        if let (Some((key, digest)), Some(unlock)) = (&request.key, &first) {
            let remembered = Remembered {
                digest: *digest,
                unlock: unlock.id.to_string(),
                at: now.seconds(),
            };
            self.aside.keys.push((key.clone(), remembered));
        }
        for change in &changes {
            let who = if change.by == AGENT {
                Who::agent()
            } else {
                request.by.clone()
            };
            self.aside.audit.push(entry(change, who, &now, base.generation));
        }
        self.closes &= request.closes;
        self.changes.extend(changes);
        Ok(first)
    }

    fn remembered(
        &self,
        worker: &Worker,
        key: &IdempotencyKey,
        now: &Moment,
    ) -> Result<Option<Remembered>, UnlockError> {
        if let Some((_, remembered)) = self.aside.keys.iter().find(|(other, _)| other == key) {
            return Ok(Some(remembered.clone()));
        }
        let stored = worker.store.remembered(key, now.seconds());
        Ok(stored.map_err(ChangeError::from)?)
    }

    fn known(&self, worker: &Worker, id: &str) -> Result<Option<Arc<Unlock>>, UnlockError> {
        if let Some(unlock) = self.ledger.get(id) {
            return Ok(Some(Arc::clone(unlock)));
        }
        let stored = crate::store::History::open(worker.store.file()).and_then(|history| history.unlock(id));
        Ok(stored.map_err(ChangeError::from)?.map(Arc::new))
    }
}

/// What a change is to the audit log.
fn entry(change: &UnlockChange, who: Who, now: &Moment, generation: u64) -> Entry {
    let unlock = &change.unlock;
    let digest: String = unlock
        .evidence
        .digest()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let detail = json!({
        "endpoint": unlock.endpoint,
        "program": unlock.program,
        "tenant": unlock.tenant,
        "state": unlock.state.name(),
        "reason": unlock.reason,
        "evidence_sha256": digest,
        "expires_at": unlock.ends.map(|end| end.seconds()),
        "checks": unlock.checks.iter().map(|c| (c.name.as_str(), c.result.name())).collect::<BTreeMap<_, _>>(),
        "rules": unlock.opens.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
    });
    Entry {
        at_ms: now.wall_ms,
        actor: who.name,
        role: who.role,
        action: change.action.to_string(),
        subject: format!("unlocks/{}", unlock.id),
        detail: detail.to_string(),
        generation,
    }
}

/// What a refusal is to it.
fn refused(request: &UnlockRequest, error: &UnlockError, now: &Moment, generation: u64) -> Entry {
    let (action, subject) = &request.what;
    Entry {
        at_ms: now.wall_ms,
        actor: request.by.name.clone(),
        role: request.by.role.clone(),
        action: format!("{action}.refused"),
        subject: subject.clone(),
        detail: json!({"why": error.to_string()}).to_string(),
        generation,
    }
}

impl Worker {
    /// Makes what waits durable, in one commit if nothing stands against any of it, else one by one.
    pub(super) fn unlocks(&mut self, waiting: Vec<Waiting>) -> Result<(), StoreError> {
        let base = self.state.borrow().base();
        let now = (self.clock)();
        let mut batch = Batch {
            ledger: base.ledger.clone(),
            changes: Vec::new(),
            aside: Aside {
                seen: Some(now),
                ..Aside::default()
            },
            closes: true,
        };
        let mut answers = Vec::with_capacity(waiting.len());
        let mut notes = Vec::new();
        for one in waiting {
            match one {
                Waiting::Note(entry) => notes.push(entry),
                Waiting::Unlock(request, answer) => {
                    let result = batch.attempt(self, &request, &base, now);
                    if let Err(error) = &result {
                        batch
                            .aside
                            .audit
                            .push(refused(&request, error, &now, base.generation));
                    }
                    answers.push((request, answer, result));
                }
            }
        }
        batch.aside.audit.extend(notes.iter().cloned());
        let made = self.settle(&base, batch);
        match made {
            Ok(generation) => {
                for (_, answer, result) in answers {
                    // Whoever asked may be gone; the change holds all the same.
                    drop(answer.send(result.map(|unlock| UnlockOutcome { unlock, generation })));
                }
                Ok(())
            }
            Err(ChangeError::Store(error @ StoreError::Unknown { .. })) => {
                for (_, answer, _) in answers {
                    drop(answer.send(Err(ChangeError::Unknown.into())));
                }
                Err(error)
            }
            Err(error) if answers.len() <= 1 => {
                let Some((request, answer, _)) = answers.pop() else {
                    // Only notes: they are not worth the agent.
                    tracing::error!(%error, "the audit log could not be written");
                    return Ok(());
                };
                let error = UnlockError::Change(error);
                notes.push(refused(&request, &error, &now, base.generation));
                drop(answer.send(Err(error)));
                self.unlocks(notes.into_iter().map(Waiting::Note).collect())
            }
            Err(error) => {
                tracing::warn!(%error, "changes of unlocks are made one by one");
                if !notes.is_empty() {
                    self.unlocks(notes.into_iter().map(Waiting::Note).collect())?;
                }
                for (request, answer, _) in answers {
                    self.unlocks(vec![Waiting::Unlock(request, answer)])?;
                }
                Ok(())
            }
        }
    }

    /// Commits a batch; returns the generation in which it holds.
    fn settle(&mut self, base: &Base, batch: Batch) -> Result<u64, ChangeError> {
        let Batch {
            ledger,
            changes,
            mut aside,
            closes,
        } = batch;
        note_unlocks(&mut aside, &ledger, &changes);
        let started = Instant::now();
        // A lease that ended a moment ago is not opened once more.
        let grants = ledger.grants_at(&(self.clock)());
        let generation = if grants == base.document.grants {
            self.store.commit_with(None, &aside)?;
            self.state.send_modify(|state| state.ledger = ledger);
            base.generation
        } else {
            self.regrant(base, (ledger, grants), &changes, aside, closes)?
        };
        self.written();
        metrics::committed(started.elapsed());
        for change in &changes {
            let unlock = &change.unlock;
            tracing::info!(
                unlock = %unlock.id,
                endpoint = %unlock.endpoint,
                program = %unlock.program,
                state = %unlock.state,
                by = change.by,
                why = unlock.reason,
                "{}",
                change.action
            );
            // Nobody may be watching.
            drop(self.told.send(Arc::clone(unlock)));
        }
        Ok(generation)
    }

    /// Opens and closes ports: a generation that changes no resource.
    fn regrant(
        &mut self,
        base: &Base,
        (ledger, grants): (Ledger, OrdMap<Name, Arc<Vec<Grant>>>),
        changes: &[UnlockChange],
        mut aside: Aside,
        closes: bool,
    ) -> Result<u64, ChangeError> {
        self.confirm_gone(base.generation);
        let mut document = Document::clone(&base.document);
        document.grants = grants;
        let mut compiler = self.compiler.clone();
        let number = base.generation + 1;
        let intent = resolve(&mut compiler, &self.targets, &document, base.generation, closes)?;
        match check(&self.targets, &intent) {
            // What closes ports closes them, also where a target can do only part of it.
            Err(error) if closes => {
                tracing::error!(%error, "ports are closed although a target cannot do all of it")
            }
            result => result?,
        }
        let by = changes.first().map_or(AGENT, |change| change.by.as_str());
        let key = |change: &UnlockChange| Key {
            kind: Kind::Unlock,
            name: change.unlock.id.to_string(),
        };
        let generation = Generation {
            number,
            at: (self.clock)().seconds(),
            by: by.to_string(),
            changes: changes
                .iter()
                .map(|change| (Change::Changed, key(change)))
                .collect(),
        };
        for entry in &mut aside.audit {
            entry.generation = number;
        }
        let classes = changes_of_classes(base, &intent, &compiler);
        self.store
            .commit_with(Some((&generation, &[], &classes)), &aside)?;
        self.compiler = compiler;
        self.publish(document, ledger, intent, generation, None);
        Ok(number)
    }
}

/// What a commit writes of unlocks: each as it is at last, and how often programs were revoked.
pub(super) fn note_unlocks(aside: &mut Aside, ledger: &Ledger, changes: &[UnlockChange]) {
    let mut newest: HashMap<&Name, &Arc<Unlock>> = HashMap::new();
    for change in changes {
        newest.insert(&change.unlock.id, &change.unlock);
        let key = (change.unlock.endpoint.clone(), change.unlock.program.clone());
        if change.action == "unlock.revoke" {
            let strikes = ledger.strikes(&key.0, &key.1).copied();
            aside.strikes.push((key, strikes));
        }
    }
    aside.unlocks = newest.into_values().cloned().collect();
}

/// The audit entries of changes that a change of the policy brought with it.
pub(super) fn entries_of(changes: &[UnlockChange], now: &Moment, generation: u64) -> Vec<Entry> {
    changes
        .iter()
        .map(|change| entry(change, Who::agent(), now, generation))
        .collect()
}
