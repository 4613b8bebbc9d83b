//! The engine: the one place where the desired state changes.
//!
//! A change is a function from the [`State`] to an [`Edit`]. The worker, one thread, takes one change at a time:
//! it applies the edit, validates, resolves, lets every target check, commits to the store, and only then
//! publishes the new state to readers and targets. Whatever fails leaves everything as it was. Readers never
//! wait for a change that is being made.
//!
//! What only closes waits for none of that: `closing.rs` publishes it at once, and it is stored afterwards.

mod bypass;
mod classes;
mod closing;
mod core;
mod edit;
mod error;
mod extent;
mod gaps;
mod load;
mod preview;
mod queue;
mod quota;
mod refusals;
mod unlocks;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imbl::OrdMap;
use portcullis_backend::TargetHandle;
use portcullis_compiler::{Compiler, Intent};
use portcullis_policy::{Document, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{AGENT, Ledger, Unlock};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use closing::{ClosingState, StoreHealth};
pub use edit::{Baseline, Edit, merge};
pub use error::ChangeError;
pub use preview::{Preview, preview};
pub use unlocks::{Draft, MakeUnlocks, UnlockError, UnlockOutcome, UnlockRequest, Who};

use crate::config::Limits;
use crate::store::{Entry, Generation, Head, History, Key, Kind, Loaded, Missing, Room, Store, StoreError};

use self::core::{Core, SharedCore};
use self::queue::{ChangeRequest, Requests};

/// Changes of the newest generations that are kept in memory for watchers.
const RECENT_CHANGES: usize = 20_000;
/// Generations that a watcher reads from the store at a time.
pub const HISTORY_PAGE: usize = 256;
/// Changes of unlocks that a watcher may be behind.
const UNLOCK_EVENTS: usize = 4096;

/// The desired state as readers see it.
#[derive(Debug)]
pub struct State {
    document: Arc<Document>,
    intent: Arc<Intent>,
    generation: u64,
    compiler: Compiler,
    revisions: Revisions,
    recent: Recent,
    /// Newest generation that watchers see: while a change is stored, closings hold that come behind it.
    published: u64,
    ledger: Ledger,
    /// Unlocks that are not stored as they are: closings that hold already.
    unstored: OrdMap<Name, Arc<Unlock>>,
}

/// The generation that changed each resource last.
#[derive(Debug, Default)]
struct Revisions {
    baseline: u64,
    profiles: HashMap<Name, u64>,
    endpoints: HashMap<Name, u64>,
}

/// The newest generations, contiguous.
#[derive(Debug, Default)]
struct Recent {
    generations: VecDeque<Arc<Generation>>,
    changes: usize,
}

impl Recent {
    /// Those of closings that hold and are not stored.
    fn from_generations<'a>(generations: impl Iterator<Item = &'a Generation>) -> Self {
        let mut recent = Recent::default();
        for generation in generations {
            let last = recent.generations.back().map(|last| last.number);
            if last.is_some_and(|last| last + 1 != generation.number) {
                recent = Recent::default();
            }
            recent.push(Arc::new(generation.clone()));
        }
        recent
    }

    fn push(&mut self, generation: Arc<Generation>) {
        // A generation without changes weighs something too.
        self.changes += generation.changes.len() + 1;
        self.generations.push_back(generation);
        while self.changes > RECENT_CHANGES && self.generations.len() > 1 {
            if let Some(oldest) = self.generations.pop_front() {
                self.changes -= oldest.changes.len() + 1;
            }
        }
    }
}

/// A moment of the desired state.
#[derive(Debug, Clone)]
pub struct Base {
    pub document: Arc<Document>,
    /// What it means for targets.
    pub intent: Arc<Intent>,
    pub generation: u64,
    pub ledger: Ledger,
    /// Where the compiler stands then.
    compiler: Compiler,
    /// How much was published before; a change made from it holds only if nothing was since.
    version: u64,
}

#[cfg(test)]
impl Base {
    /// One that was never committed.
    pub(crate) fn new(document: Arc<Document>, intent: Arc<Intent>) -> Self {
        Base {
            document,
            intent,
            generation: 1,
            ledger: Ledger::default(),
            compiler: Compiler::default(),
            version: 0,
        }
    }
}

impl State {
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// Number of the newest commit; 0 when there was none.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of the newest generation that watchers see.
    pub fn published(&self) -> u64 {
        self.published
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// An unlock that is not stored as it is.
    pub fn unstored(&self, id: &str) -> Option<&Arc<Unlock>> {
        self.unstored.get(id)
    }

    /// The etag of the baseline.
    pub fn baseline_etag(&self) -> String {
        etag(self.revisions.baseline)
    }

    /// The etag of a profile that exists.
    pub fn profile_etag(&self, name: &Name) -> String {
        etag(self.revisions.profiles.get(name).copied().unwrap_or_default())
    }

    /// The etag of an endpoint that exists.
    pub fn endpoint_etag(&self, name: &Name) -> String {
        etag(self.revisions.endpoints.get(name).copied().unwrap_or_default())
    }

    /// This moment, to work with while the state goes on.
    pub fn base(&self) -> Base {
        Base {
            document: Arc::clone(&self.document),
            intent: Arc::clone(&self.intent),
            generation: self.generation,
            ledger: self.ledger.clone(),
            compiler: self.compiler.clone(),
            version: 0,
        }
    }

    fn etag_of(&self, key: &Key) -> String {
        match (key.kind, key.name.parse::<Name>()) {
            (Kind::Profile, Ok(name)) => self.profile_etag(&name),
            (Kind::Endpoint, Ok(name)) => self.endpoint_etag(&name),
            _ => self.baseline_etag(),
        }
    }

    /// Generations after a number, when memory still has all of them.
    fn recent_after(&self, generation: u64, limit: usize) -> Option<Vec<Arc<Generation>>> {
        if generation >= self.published {
            return Some(Vec::new());
        }
        let first = self.recent.generations.front()?.number;
        let skip = usize::try_from((generation + 1).checked_sub(first)?).ok()?;
        Some(
            self.recent
                .generations
                .iter()
                .skip(skip)
                .take(limit)
                .cloned()
                .collect(),
        )
    }
}

/// A revision as clients see it.
fn etag(revision: u64) -> String {
    format!("r{revision}")
}

/// The result of a change.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The generation it made; the newest one when it changed nothing.
    pub generation: u64,
    pub changes: Vec<(crate::store::Change, Key)>,
    /// The etag of the resource that was edited, when it was one and exists.
    pub etag: String,
    /// The policy after it.
    pub document: Arc<Document>,
}

type MakeEdit = Box<dyn FnOnce(&State) -> Result<Edit, ChangeError> + Send>;

/// The handle to the worker, and the way to read the state.
#[derive(Debug, Clone)]
pub struct Engine {
    state: watch::Receiver<State>,
    requests: Requests,
    history: PathBuf,
    unlock_events: broadcast::Sender<Arc<Unlock>>,
    clock: Clock,
    audited: Arc<Mutex<Head>>,
    closings: mpsc::UnboundedSender<closing::ClosingRequest>,
    targets: Vec<TargetHandle>,
    /// Number of the newest closing that the database has.
    stored: watch::Receiver<u64>,
    health: closing::Health,
    stopping: Arc<AtomicBool>,
    room: Room,
}

/// What the clocks say now.
pub type Clock = fn() -> Moment;

impl Engine {
    /// Takes up what the store holds, hands it to the targets, and starts the worker. `tenant_label` is the label that
    /// names an endpoint's tenant.
    pub fn start(
        mut store: Store,
        loaded: Loaded,
        targets: Vec<TargetHandle>,
        limits: Limits,
        clock: Clock,
        tenant_label: &str,
    ) -> Result<(Self, JoinHandle<Result<(), StoreError>>), StoreError> {
        let health = closing::Health::default();
        let problem = store.problem().map(ToString::to_string);
        let missing = loaded.audit.clone();
        let load::Started {
            mut state,
            compiler,
            classes,
            backlog,
            closings,
        } = load::state(&store, loaded, clock(), tenant_label)?;
        state.ledger.limit_tenants(limits.tenant_unlocks);
        health.set(|health| {
            health.unusable = problem.is_some();
            health.problem = problem.unwrap_or_default();
            health.waiting = backlog.len() as u64;
            health.audit.clone_from(&missing);
        });
        // Generation 0 is no decision: whatever a datapath holds then, stays.
        if state.generation > 0 {
            targets
                .iter()
                .for_each(|t| t.set_intent(Arc::clone(&state.intent)));
        }
        let history = store.file().to_path_buf();
        let room = store.room();
        let journal = closing::write_down(store.take_journal(), health.clone());
        let (publish, state) = watch::channel(state);
        let (requests, works) = queue::queue(limits.queued_changes);
        let (unlock_events, _) = broadcast::channel(UNLOCK_EVENTS);
        let (stored_sender, stored) = watch::channel(store.closings().0);
        let audited = Arc::new(Mutex::new(store.audited()));
        let stopping = Arc::new(AtomicBool::new(false));
        let core = SharedCore::new(Core::new(publish, targets.clone(), compiler, backlog, closings));
        let (close, asked) = mpsc::unbounded_channel();
        let closer = closing::Closer {
            core: core.clone(),
            clock,
            unlock_events: unlock_events.clone(),
            journal: journal.clone(),
            requests: requests.clone(),
            health: health.clone(),
        };
        tokio::task::spawn_blocking(move || closer.run(asked));
        let worker = worker::Worker {
            audited: Arc::clone(&audited),
            unlock_events: unlock_events.clone(),
            clock,
            store,
            core,
            classes,
            targets: targets.clone(),
            limits,
            journal,
            stored: stored_sender,
            health: health.clone(),
            stopping: Arc::clone(&stopping),
            room: room.clone(),
            archive_again: None,
        };
        let task = tokio::task::spawn_blocking(move || worker.run(&works));
        let engine = Engine {
            state,
            requests,
            history,
            unlock_events,
            clock,
            audited,
            closings: close,
            targets,
            stored,
            health,
            stopping,
            room,
        };
        engine.report_missing(missing);
        Ok((engine, task))
    }

    /// Reports that the end of the audit log is not where the agent left it, and notes it in the log once.
    fn report_missing(&self, missing: Option<Missing>) {
        let Some(Missing { number, problem, new }) = missing else {
            return;
        };
        tracing::error!(
            number,
            problem,
            "the audit log was changed while the agent was stopped: look into it, then `portcullis database accept`"
        );
        if !new {
            return;
        }
        let entry = Entry {
            at_ms: self.now().wall_ms,
            actor: AGENT.to_string(),
            role: AGENT.to_string(),
            action: "audit.truncated".to_string(),
            subject: format!("audit/{number}"),
            detail: serde_json::json!({"why": problem}).to_string(),
            generation: self.read(State::generation),
            evidence: None,
        };
        if !self.note(entry) {
            tracing::error!("that is not in the audit log itself: too much waits");
        }
    }

    /// Reads the state; the reader must be quick, the next change waits for it.
    pub fn read<T>(&self, reader: impl FnOnce(&State) -> T) -> T {
        reader(&self.state.borrow())
    }

    /// A receiver of every new generation.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Makes a change; it is durable when this returns. A caller that goes away does not undo it.
    pub async fn change(
        &self,
        by: Who,
        edit: impl FnOnce(&State) -> Result<Edit, ChangeError> + Send + 'static,
    ) -> Result<Outcome, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let edit = Box::new(edit);
        self.requests.change(ChangeRequest { by, edit, answer })?;
        answered.await.map_err(|_| ChangeError::Stopping)?
    }

    /// Changes unlocks. What only closes holds when this returns, and the outcome says how far it got; anything else is
    /// durable, many at a time together.
    pub async fn unlocks(&self, request: UnlockRequest) -> Result<UnlockOutcome, UnlockError> {
        match request.closes {
            true => self.close(request).await,
            false => self.open(request).await,
        }
    }

    async fn open(&self, request: UnlockRequest) -> Result<UnlockOutcome, UnlockError> {
        self.room.check().map_err(ChangeError::from)?;
        let (answer, answered) = oneshot::channel();
        self.requests.unlock(request, answer)?;
        answered.await.map_err(|_| ChangeError::Stopping)?
    }

    /// Puts an entry into the audit log, with the next commit. False when there is no room for it: too much waits, or the disk is
    /// nearly full, and what is left is for what closes.
    pub fn note(&self, entry: Entry) -> bool {
        self.room.check().is_ok() && self.requests.note(entry)
    }

    /// Every unlock as it changes, from now on.
    pub fn watch_unlocks(&self) -> broadcast::Receiver<Arc<Unlock>> {
        self.unlock_events.subscribe()
    }

    /// What the clocks say now.
    pub fn now(&self) -> Moment {
        (self.clock)()
    }

    /// The end of the audit log as far as it is known to be written.
    pub fn audited(&self) -> Head {
        *self.audited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the database and the journal of closings stand.
    pub fn health(&self) -> StoreHealth {
        self.health.read()
    }

    /// A reader of what is stored, beside the one that writes.
    pub fn history(&self) -> Result<History, StoreError> {
        let StoreHealth {
            unusable, problem, ..
        } = self.health();
        match unusable {
            true => Err(StoreError::Unusable { problem }),
            false => History::open(&self.history),
        }
    }

    /// Generations after a number, at most [`HISTORY_PAGE`], ascending and without a gap; empty when there are
    /// none. `Err(oldest)` when the next one is forgotten.
    pub async fn generations_after(
        &self,
        generation: u64,
    ) -> Result<Result<Vec<Arc<Generation>>, u64>, StoreError> {
        if let Some(recent) = self.read(|state| state.recent_after(generation, HISTORY_PAGE)) {
            return Ok(Ok(recent));
        }
        let file = self.history.clone();
        let read = move || History::open(&file)?.after(generation, HISTORY_PAGE);
        let found = tokio::task::spawn_blocking(read)
            .await
            .map_err(StoreError::Lost)??;
        Ok(match found.first() {
            Some(first) if first.number == generation + 1 => Ok(found.into_iter().map(Arc::new).collect()),
            Some(first) => Err(first.number),
            // There were generations after it, or memory would have answered.
            None => Err(self.read(State::generation) + 1),
        })
    }

    /// Returns when the worker is between two changes: it is alive.
    pub async fn ping(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.requests.ping(answer).is_ok() && answered.await.is_ok()
    }

    /// Ends the worker behind the changes that wait already; await the handle that [`start`](Self::start) gave.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.requests.stop();
    }
}
