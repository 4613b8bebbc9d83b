//! Changes of unlocks: committed in batches, with one generation for those that open or close ports.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use portcullis_policy::{Document, FieldError, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{
    AGENT, BypassChange, Change as UnlockChange, Ledger, Refusal as LedgerRefusal, TooManyBypasses, Unlock,
};
use serde_json::json;
use tokio::sync::{broadcast, oneshot};

use super::bypass;
use super::core::{Desired, Grants, PreparedChange};
use super::worker::{Worker, check, resolve};
use super::{Base, ChangeError, ClosingState, gaps, quota};
use crate::store::{Change, Entry, Generation, IdempotencyKey, IdempotencyRecord, Key, Kind, SideWrites};

/// Requests that are made durable together at most.
pub(super) const BATCH: usize = 512;

/// Who does something, as the audit log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// `uid 0`, `cert spiffe://…`, `token tickets`, `agent`.
    pub name: String,
    /// `operator`, `provisioner`, `tenant`, `viewer`, `agent`.
    pub role: String,
    /// The tenant it acts for; empty for others.
    pub tenant: String,
}

impl Who {
    pub fn agent() -> Self {
        Who {
            name: AGENT.to_string(),
            role: AGENT.to_string(),
            tenant: String::new(),
        }
    }

    /// Whose turn it is that a request of theirs takes: the tokens and certificates of a tenant share one.
    pub(super) fn lane(&self) -> String {
        match self.tenant.as_str() {
            "" => self.name.clone(),
            tenant => format!("tenant {tenant}"),
        }
    }
}

/// What a change of unlocks works with: a copy of the ledger, which is thrown away when it fails.
#[derive(Debug)]
pub struct Draft<'a> {
    pub ledger: &'a mut Ledger,
    pub document: &'a Document,
    pub now: Moment,
}

/// Why a change of unlocks was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The ledger says no.
    #[error(transparent)]
    Refused(#[from] LedgerRefusal),
    /// Evidence is missing or wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Evidence(Vec<FieldError>),
    /// The key of a request was used for another one.
    #[error("idempotency_key `{0}` was used with other content: take a new key for a new request")]
    KeyReused(String),
    /// There are as many bypasses as there may be.
    #[error(transparent)]
    Bypasses(#[from] TooManyBypasses),
    /// The unlock is not what the caller read, or somebody else's.
    #[error("there is no unlock `{0}`")]
    NotFound(String),
    /// What it would open cannot be enforced, or could not be stored.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What a change of unlocks does; it may be tried more than once.
pub type MakeUnlocks = Box<dyn Fn(&mut Draft<'_>) -> Result<Vec<UnlockChange>, UnlockError> + Send>;

/// A change of unlocks, or of bypasses, that is asked for.
pub struct UnlockRequest {
    pub by: Who,
    /// What is asked, for the audit log when it is refused: `unlock.request`, and about what.
    pub what: (&'static str, String),
    pub make: MakeUnlocks,
    /// The key of a request that may be repeated, and a digest of what is asked.
    pub key: Option<(IdempotencyKey, [u8; 32])>,
    /// It only closes: it waits for no check, no commit and no target. One that opens something after all does.
    pub closes: bool,
}

/// What it came to.
#[derive(Debug, Clone)]
pub struct UnlockOutcome {
    /// The unlock it was about, when it was about one.
    pub unlock: Option<Arc<Unlock>>,
    /// The generation in which it holds.
    pub generation: u64,
    /// How far a closing got.
    pub closing: Option<ClosingState>,
}

pub(super) type UnlockReply = oneshot::Sender<Result<UnlockOutcome, UnlockError>>;

/// What waits for the next commit.
pub(super) enum Waiting {
    Unlock(UnlockRequest, UnlockReply),
    /// For the audit log alone.
    Note(Entry),
}

/// The outcome of one request of a batch: the unlock that the answer shows.
type Attempt = Result<Option<Arc<Unlock>>, UnlockError>;

/// The outcome of one batch.
struct Batch {
    base: Base,
    now: Moment,
    ledger: Ledger,
    changes: Vec<UnlockChange>,
    side: SideWrites,
}

impl Batch {
    /// Tries one request; what it changed is the unlock that the answer shows.
    fn attempt(&mut self, worker: &Worker, request: &UnlockRequest) -> Attempt {
        let now = self.now;
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
            document: &self.base.document,
            now,
        };
        let mut changes = (request.make)(&mut draft)?;
        ledger.orphans(&self.base.document, &mut changes, &now);
        let bypasses = ledger.bypasses_since(&self.ledger);
        let entries = bypasses
            .iter()
            .map(|change| bypass::entry(change, &request.by, &now, self.base.generation));
        self.side.audit.extend(entries);
        self.ledger = ledger;
        let first = changes.first().map(|change| Arc::clone(&change.unlock));
        if let (Some((key, digest)), Some(unlock)) = (&request.key, &first) {
            let remembered = IdempotencyRecord {
                digest: *digest,
                unlock: unlock.id.to_string(),
                at: now.seconds(),
            };
            self.side.keys.push((key.clone(), remembered));
        }
        for change in &changes {
            let entry = entry(change, who(change, &request.by), &now, self.base.generation);
            self.side.audit.push(entry);
        }
        self.changes.extend(changes);
        Ok(first)
    }

    fn remembered(
        &self,
        worker: &Worker,
        key: &IdempotencyKey,
        now: &Moment,
    ) -> Result<Option<IdempotencyRecord>, UnlockError> {
        if let Some((_, remembered)) = self.side.keys.iter().find(|(other, _)| other == key) {
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
    let detail = json!({
        "endpoint": unlock.endpoint,
        "program": unlock.program,
        "tenant": unlock.tenant,
        "state": unlock.state.name(),
        "reason": unlock.reason,
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
        evidence: Some(unlock.evidence.digest()),
    }
}

/// What a refusal is to it.
pub(super) fn refused(request: &UnlockRequest, error: &UnlockError, now: &Moment, generation: u64) -> Entry {
    let (action, subject) = &request.what;
    Entry {
        at_ms: now.wall_ms,
        actor: request.by.name.clone(),
        role: request.by.role.clone(),
        action: format!("{action}.refused"),
        subject: subject.clone(),
        detail: json!({"why": error.to_string()}).to_string(),
        generation,
        evidence: None,
    }
}

impl Worker {
    /// Makes what waits durable, in one commit if nothing stands against any of it, else one by one.
    pub(super) fn unlocks(&mut self, mut waiting: Vec<Waiting>) {
        // What was closed since the last look is looked at again: nothing of that is undone.
        loop {
            let (batch, answers) = self.attempted(&waiting);
            let now = batch.now;
            let (base, changes) = (batch.base.generation, batch.changes.clone());
            let bypasses = batch.ledger.bypasses_since(&batch.base.ledger);
            let error = match self.settle(batch) {
                Ok(None) => continue,
                Ok(Some(generation)) => {
                    announce(&changes, &self.unlock_events);
                    bypass::log(&bypasses, &Who::agent(), &now);
                    return answered(waiting, answers, generation);
                }
                Err(error) => error,
            };
            let (mut notes, mut requests): (Vec<Waiting>, Vec<Waiting>) =
                waiting.drain(..).partition(|one| matches!(one, Waiting::Note(_)));
            match requests.len() {
                0 => {
                    // Only notes: they are not worth the agent.
                    tracing::error!(
                        error = portcullis_policy::text::with_causes(&error),
                        "the audit log could not be written"
                    );
                    return;
                }
                1 => {
                    if let Some(Waiting::Unlock(request, answer)) = requests.pop() {
                        let error = UnlockError::Change(error);
                        notes.push(Waiting::Note(refused(&request, &error, &now, base)));
                        // Whoever asked may be gone.
                        drop(answer.send(Err(error)));
                    }
                    waiting = notes;
                }
                _ => {
                    tracing::warn!(
                        error = portcullis_policy::text::with_causes(&error),
                        "changes of unlocks are made one by one"
                    );
                    if !notes.is_empty() {
                        self.unlocks(notes);
                    }
                    requests.into_iter().for_each(|one| self.unlocks(vec![one]));
                    return;
                }
            }
        }
    }

    /// Tries everything on a copy of the ledger; returns the outcome of each request, in their order.
    fn attempted(&self, waiting: &[Waiting]) -> (Batch, Vec<Attempt>) {
        let now = (self.clock)();
        let base = self.core.lock().base();
        let mut batch = Batch {
            ledger: base.ledger.clone(),
            base,
            now,
            changes: Vec::new(),
            side: SideWrites {
                seen: Some(now),
                ..SideWrites::default()
            },
        };
        let mut answers = Vec::with_capacity(waiting.len());
        let mut notes = Vec::new();
        for one in waiting {
            match one {
                Waiting::Note(entry) => notes.push(entry.clone()),
                Waiting::Unlock(request, _) => {
                    let result = self.store.usable().map_err(ChangeError::from);
                    let result = result.map_err(UnlockError::from);
                    let result = result.and_then(|()| batch.attempt(self, request));
                    if let Err(error) = &result {
                        let entry = refused(request, error, &now, batch.base.generation);
                        batch.side.audit.push(entry);
                    }
                    answers.push(result);
                }
            }
        }
        batch.side.audit.extend(notes);
        (batch, answers)
    }

    /// Commits a batch; returns the generation in which it holds. Nothing if something was closed meanwhile.
    fn settle(&mut self, batch: Batch) -> Result<Option<u64>, ChangeError> {
        let Batch {
            base,
            ledger,
            changes,
            mut side,
            ..
        } = batch;
        note_unlocks(&mut side, (&base.ledger, &ledger), &changes);
        let bypasses = ledger.bypasses_since(&base.ledger);
        bypass::note(&mut side, &bypasses);
        // A lease that ended a moment ago is not opened once more.
        let grants = ledger.grants_at(&(self.clock)());
        let (version, same) = (base.version, grants == base.document.grants);
        let desired = match same {
            true => None,
            false => Some(self.regrant(base, grants, (&changes, &bypasses), &mut side)?),
        };
        self.commit(PreparedChange {
            version,
            ledger,
            desired,
            side,
        })
    }

    /// Opens ports: a generation that changes no resource.
    fn regrant(
        &self,
        base: Base,
        grants: Grants,
        (changes, bypasses): (&[UnlockChange], &[BypassChange]),
        side: &mut SideWrites,
    ) -> Result<Desired, ChangeError> {
        let mut document = Document::clone(&base.document);
        document.grants = grants;
        let mut compiler = base.compiler;
        let number = base.generation + 1;
        let intent = resolve(&mut compiler, &self.targets, &document, base.generation)?;
        check(&self.targets, &intent)?;
        gaps::refuse_new(&self.targets, &intent, &base.intent)?;
        quota::rows(
            changes,
            (&document, &intent),
            &self.targets,
            self.limits.tenant_rows,
        )?;
        let started = bypasses.iter().filter(|change| change.started);
        let by = changes.iter().map(|change| change.by.as_str());
        let by = by.chain(started.map(|change| change.bypass.by.as_str())).next();
        for entry in &mut side.audit {
            entry.generation = number;
        }
        Ok(Desired {
            document,
            intent,
            compiler,
            generation: Generation {
                number,
                at: (self.clock)().seconds(),
                by: by.unwrap_or(AGENT).to_string(),
                changes: keys_of(changes)
                    .into_iter()
                    .chain(bypass::keys_of(bypasses))
                    .collect(),
            },
            writes: Vec::new(),
        })
    }
}

fn answered(waiting: Vec<Waiting>, answers: Vec<Attempt>, generation: u64) {
    let asked = waiting.into_iter().filter_map(|one| match one {
        Waiting::Unlock(_, answer) => Some(answer),
        Waiting::Note(_) => None,
    });
    for (answer, result) in asked.zip(answers) {
        let outcome = result.map(|unlock| UnlockOutcome {
            unlock,
            generation,
            closing: None,
        });
        // Whoever asked may be gone; the change holds all the same.
        drop(answer.send(outcome));
    }
}

/// The unlocks that changed, as a generation names them.
pub(super) fn keys_of(changes: &[UnlockChange]) -> Vec<(Change, Key)> {
    let key = |change: &UnlockChange| Key {
        kind: Kind::Unlock,
        name: change.unlock.id.to_string(),
    };
    changes
        .iter()
        .map(|change| (Change::Changed, key(change)))
        .collect()
}

/// Tells the log and whoever watches.
pub(super) fn announce(changes: &[UnlockChange], unlock_events: &broadcast::Sender<Arc<Unlock>>) {
    for change in changes {
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
        drop(unlock_events.send(Arc::clone(unlock)));
    }
}

/// What is stored of a closing.
pub(super) fn aside_of(
    ledgers: (&Ledger, &Ledger),
    (changes, bypasses): (&[UnlockChange], &[BypassChange]),
    by: &Who,
    now: &Moment,
) -> SideWrites {
    let unlocks = changes
        .iter()
        .map(|change| entry(change, who(change, by), now, 0));
    let ended = bypasses.iter().map(|change| bypass::entry(change, by, now, 0));
    let mut side = SideWrites {
        seen: Some(*now),
        audit: unlocks.chain(ended).collect(),
        ..SideWrites::default()
    };
    note_unlocks(&mut side, ledgers, changes);
    bypass::note(&mut side, bypasses);
    side
}

/// Who did what a request came to.
fn who(change: &UnlockChange, by: &Who) -> Who {
    match change.by == AGENT {
        true => Who::agent(),
        false => by.clone(),
    }
}

/// What a commit writes of unlocks: each as it is at last, and how often programs were revoked, from the ledgers before and
/// after.
pub(super) fn note_unlocks(
    side: &mut SideWrites,
    (before, after): (&Ledger, &Ledger),
    changes: &[UnlockChange],
) {
    let mut newest: HashMap<&Name, &Arc<Unlock>> = HashMap::new();
    for change in changes {
        newest.insert(&change.unlock.id, &change.unlock);
    }
    side.strikes = after.strikes_since(before);
    side.unlocks = newest.into_values().cloned().collect();
}

/// The audit entries of changes that a change of the policy brought with it.
pub(super) fn entries_of(changes: &[UnlockChange], now: &Moment, generation: u64) -> Vec<Entry> {
    changes
        .iter()
        .map(|change| entry(change, Who::agent(), now, generation))
        .collect()
}
