//! Closings: they hold before anything is stored.
//!
//! A thread of its own takes one after the other, on a queue without a limit. It changes the ledger in memory and gives every
//! target the intent without what is closed; no check, no commit and no other change is waited for. Then the journal writes
//! it down, on another thread, and the worker stores it when it can.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_backend::{TargetHandle, TargetStatus};
use portcullis_unlock::ledger::{BypassChange, Change as UnlockChange, Subject, Unlock};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::bypass;
use super::core::{Changed, SharedCore, relaxes};
use super::queue::Requests;
use super::unlocks::{Draft, UnlockError, UnlockOutcome, UnlockRequest, Who, announce, aside_of, refused};
use super::{ChangeError, Clock, Engine};
use crate::metrics;
use crate::store::{Closing, Journal, Missing, SideWrites};

/// How long an answer waits for targets and for the journal to confirm a closing. The closing waits for neither.
const CONFIRMED: Duration = Duration::from_secs(1);

/// How often it is looked whether the database fails, meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// How far a closing got by the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClosingState {
    /// Every target confirmed it.
    pub applied: bool,
    /// It is on the disk: a restart closes it again.
    pub durable: bool,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
}

/// A message to the thread that writes the journal.
pub(super) enum Note {
    /// A closing was made.
    Made(u64, Box<Closing>, oneshot::Sender<Result<(), String>>),
    /// The database has every closing up to this number, and this number of commits.
    Stored(u64, u64),
}

/// How the disk stands, for status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreHealth {
    /// Why the database is not written; empty when it is.
    pub problem: String,
    /// Why the journal of closings is not written; empty when it is.
    pub journal: String,
    /// Closings, and what came of them, that hold and are not in the database.
    pub waiting: u64,
    /// Whether the agent runs without its database.
    pub unusable: bool,
    /// What is wrong with the end of the audit log since the agent was stopped.
    pub audit: Option<Missing>,
}

/// [`StoreHealth`] as threads share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<StoreHealth>>);

impl Health {
    pub fn read(&self) -> StoreHealth {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, change: impl FnOnce(&mut StoreHealth)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The journal's word on a closing.
type Written = oneshot::Receiver<Result<(), String>>;

/// What became of a request to close.
pub(super) enum Reply {
    Holds {
        unlock: Option<Arc<Unlock>>,
        generation: u64,
        /// Number of the closing, and the journal's word where it was written down; nothing when nothing changed.
        written: Option<(u64, Option<Written>)>,
    },
    /// It would open something as well: that is stored first.
    Opens(UnlockRequest),
    /// The request is invalid, or the unlock is over.
    Refused(UnlockError),
}

/// A request to close, and where its answer goes.
pub(super) type ClosingRequest = (UnlockRequest, oneshot::Sender<Reply>);

/// The thread that closes.
pub(super) struct Closer {
    pub core: SharedCore,
    pub clock: Clock,
    pub unlock_events: broadcast::Sender<Arc<Unlock>>,
    pub journal: Sender<Note>,
    pub requests: Requests,
    pub health: Health,
}

impl Closer {
    /// Runs until the last sender is gone.
    pub fn run(self, mut asked: mpsc::UnboundedReceiver<ClosingRequest>) {
        while let Some((request, answer)) = asked.blocking_recv() {
            // The caller may be gone: the closing holds all the same.
            drop(answer.send(self.close(request)));
        }
    }

    fn close(&self, request: UnlockRequest) -> Reply {
        let mut core = self.core.lock();
        let now = (self.clock)();
        let (document, before) = core.read(|state| (Arc::clone(state.document()), state.ledger().clone()));
        let mut ledger = before.clone();
        let mut draft = Draft {
            ledger: &mut ledger,
            document: &document,
            now,
        };
        let mut changes = match (request.make)(&mut draft) {
            Ok(changes) => changes,
            Err(error) => {
                let generation = core.read(|state| state.generation());
                drop(core);
                self.note(refused(&request, &error, &now, generation));
                return Reply::Refused(error);
            }
        };
        ledger.orphans(&document, &mut changes, &now);
        if relaxes(&document.grants, &ledger.grants_at(&now)) {
            return Reply::Opens(request);
        }
        let unlock = changes.first().map(|change| Arc::clone(&change.unlock));
        let bypasses = core.read(|state| ledger.bypasses_since(state.ledger()));
        if changes.is_empty() && bypasses.is_empty() {
            let generation = core.read(|state| state.generation());
            let written = None;
            return Reply::Holds {
                unlock,
                generation,
                written,
            };
        }
        let side = aside_of((&before, &ledger), (&changes, &bypasses), &request.by, &now);
        let by = who(&changes, &bypasses, &request.by, &now);
        let changed = Changed {
            unlocks: &changes,
            bypasses: &bypasses,
            by: &by,
        };
        let closed = core.close(ledger, &changed, side, &now);
        let waiting = core.waiting() as u64;
        self.health.set(|health| health.waiting = waiting);
        drop(core);
        announce(&changes, &self.unlock_events);
        bypass::log(&bypasses, &request.by, &now);
        let ends = |change: &UnlockChange| change.unlock.state.has_ended();
        // A check that fails, and closes nothing yet, is made again after a restart.
        let written = (closed.tightened || changes.iter().any(ends)).then(|| {
            self.write(
                closed.number,
                closing_of(&closed.side, by, closed.generation, now),
            )
        });
        self.wake();
        Reply::Holds {
            unlock,
            generation: closed.generation,
            written: Some((closed.number, written)),
        }
    }

    fn write(&self, number: u64, closing: Closing) -> Written {
        let (answer, written) = oneshot::channel();
        // Without the thread that writes the answer never comes: the closing is not durable by the journal.
        drop(self.journal.send(Note::Made(number, Box::new(closing), answer)));
        written
    }

    fn wake(&self) {
        self.requests.store();
    }

    fn note(&self, entry: crate::store::Entry) {
        if !self.requests.note(entry) {
            metrics::denial_dropped();
        }
    }
}

fn who(
    changes: &[UnlockChange],
    bypasses: &[BypassChange],
    by: &Who,
    now: &portcullis_unlock::clock::Moment,
) -> String {
    let unlocks = changes.iter().map(|change| change.by.clone());
    let bypasses = bypasses.iter().map(|change| bypass::who(change, by, now).name);
    unlocks.chain(bypasses).next().unwrap_or_else(|| by.name.clone())
}

/// A closing as the journal has it.
fn closing_of(
    side: &SideWrites,
    by: String,
    generation: u64,
    now: portcullis_unlock::clock::Moment,
) -> Closing {
    let (mut strikes, mut tenant_strikes) = (Vec::new(), Vec::new());
    for ((subject, program), found) in side.strikes.iter().cloned() {
        match subject {
            Subject::Endpoint(endpoint) => strikes.push((endpoint, program, found)),
            Subject::Tenant(tenant) => tenant_strikes.push((tenant, program, found)),
        }
    }
    Closing {
        generation,
        seen: now,
        by,
        unlocks: side.unlocks.iter().map(|unlock| Unlock::clone(unlock)).collect(),
        strikes,
        tenant_strikes,
        audit: side.audit.clone(),
        bypasses: side
            .bypasses
            .iter()
            .map(|(endpoint, _)| endpoint.clone())
            .collect(),
    }
}

/// Begins to write the journal, on a thread of its own that ends with the last who tells it something.
pub(super) fn write_down(journal: Option<Journal>, health: Health) -> Sender<Note> {
    let (notes, received) = channel();
    let began = std::thread::Builder::new()
        .name("closings".to_string())
        .spawn(move || keep(journal, &received, &health));
    if let Err(error) = began {
        tracing::error!(%error, "closings are not durable while the database cannot be written");
    }
    notes
}

fn keep(mut journal: Option<Journal>, notes: &Receiver<Note>, health: &Health) {
    const NONE: &str = "the database had no room for its name when the agent was started: there is no journal of closings until the agent is \
         started again";
    if journal.is_none() && !health.read().unusable {
        health.set(|health| health.journal = NONE.to_string());
    }
    while let Ok(note) = notes.recv() {
        match note {
            Note::Stored(number, commits) => {
                if let Some(journal) = &mut journal {
                    journal.stored(number, commits);
                }
            }
            Note::Made(number, closing, answer) => {
                let written = match &mut journal {
                    Some(journal) => journal
                        .append(number, &closing)
                        .map_err(|error| error.to_string()),
                    None => Err(NONE.to_string()),
                };
                let problem = written.clone().err().unwrap_or_default();
                if !problem.is_empty() {
                    tracing::error!(
                        problem,
                        "a closing holds, and is not durable until the database is written"
                    );
                }
                health.set(|health| health.journal = problem);
                drop(answer.send(written));
            }
        }
    }
}

impl Engine {
    /// Closes: it holds when this returns, and the answer says how far it got. Where it would open something as well it is a
    /// change like any other.
    pub(super) async fn close(&self, request: UnlockRequest) -> Result<UnlockOutcome, UnlockError> {
        let stopping = || UnlockError::Change(ChangeError::Stopping);
        let (answer, answered) = oneshot::channel();
        self.closings.send((request, answer)).map_err(|_| stopping())?;
        match answered.await.map_err(|_| stopping())? {
            Reply::Refused(error) => Err(error),
            Reply::Opens(request) => self.open(request).await,
            Reply::Holds {
                unlock,
                generation,
                written,
            } => {
                let closing = match written {
                    Some((number, journal)) => self.confirmed(generation, number, journal).await,
                    None => ClosingState {
                        applied: true,
                        durable: true,
                        waits_for: Vec::new(),
                    },
                };
                Ok(UnlockOutcome {
                    unlock,
                    generation,
                    closing: Some(closing),
                })
            }
        }
    }

    /// How far a closing gets within a moment.
    async fn confirmed(&self, generation: u64, number: u64, journal: Option<Written>) -> ClosingState {
        let end = tokio::time::Instant::now() + CONFIRMED;
        let applied = async {
            for target in &self.targets {
                let mut watch = target.watch();
                let confirmed = async { watch.wait_for(|status| holds(status, generation)).await.is_ok() };
                if tokio::time::timeout_at(end, confirmed).await.is_err() {
                    break;
                }
            }
        };
        let ((), durable) = tokio::join!(
            applied,
            durable(number, journal, self.stored.clone(), &self.health, end)
        );
        let mut waits_for: Vec<String> = self
            .targets
            .iter()
            .filter_map(|target| waits(target, generation))
            .collect();
        let applied = waits_for.is_empty();
        if !durable {
            let StoreHealth { problem, journal, .. } = self.health.read();
            let why = [journal, problem].into_iter().filter(|why| !why.is_empty());
            let why = why.collect::<Vec<String>>().join("; ");
            let why = if why.is_empty() {
                "no answer yet".to_string()
            } else {
                why
            };
            waits_for.push(format!("the disk: {why}"));
        }
        ClosingState {
            applied,
            durable,
            waits_for,
        }
    }
}

/// Whether a target confirmed a generation, and can still be asked.
fn holds(status: &TargetStatus, generation: u64) -> bool {
    status.applied >= generation && !status.state.is_away()
}

/// What a target waits for before it holds a generation.
fn waits(target: &TargetHandle, generation: u64) -> Option<String> {
    let status = target.status();
    if holds(&status, generation) {
        return None;
    }
    let detail = match status.detail.as_str() {
        "" => String::new(),
        detail => format!(": {detail}"),
    };
    Some(format!("target {} is {}{detail}", target.name(), status.state))
}

/// Whether the journal or the database has a closing by some moment. While nothing is known against the database its word
/// is waited for, so that who asks next finds the closing there.
async fn durable(
    number: u64,
    journal: Option<Written>,
    mut stored: watch::Receiver<u64>,
    health: &Health,
    end: tokio::time::Instant,
) -> bool {
    let written = async {
        match journal {
            Some(journal) => matches!(journal.await, Ok(Ok(()))),
            None => false,
        }
    };
    let in_database = async { stored.wait_for(|newest| *newest >= number).await.is_ok() };
    tokio::pin!(written, in_database);
    let mut noted = None;
    loop {
        if noted == Some(true) && !health.read().problem.is_empty() {
            return true;
        }
        tokio::select! {
            found = &mut written, if noted.is_none() => noted = Some(found),
            found = &mut in_database => return found || noted == Some(true),
            () = tokio::time::sleep(LOOK) => {}
            () = tokio::time::sleep_until(end) => return noted == Some(true),
        }
    }
}
