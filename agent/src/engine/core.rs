//! State that was published to readers and targets, and the part of it that is not stored yet.
//!
//! Two threads publish here, each under the lock and only for a moment: the worker, whose changes are stored before they hold,
//! and the closer, whose closings hold at once. Neither holds the lock while it checks, writes or waits.
//!
//! ```text
//! closer   ── close ──▶ state, targets ──▶ backlog ──▶ journal, answer
//! worker   ── base ──▶ edit, resolve, check ──▶ begin ──▶ store ──▶ finish: publish, together with what closed meanwhile
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imbl::OrdMap;
use portcullis_backend::{SessionState, TargetHandle};
use portcullis_compiler::{Compiler, Intent};
use portcullis_policy::{Document, Grant, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{
    AGENT, BypassChange, Change as UnlockChange, Ledger, StrikeKey, Strikes, Unlock,
};
use tokio::sync::watch;

use super::bypass;
use super::unlocks::{entries_of, keys_of};
use super::worker::revise;
use super::{Base, ChangeError, State};
use crate::store::{Generation, Pending, SideWrites, Write};

/// Endpoints, and what unlocks do to them.
pub(super) type Grants = OrdMap<Name, Arc<Vec<Grant>>>;
/// How often programs were revoked, as it changed.
pub(super) type AllStrikes = Vec<(StrikeKey, Option<Strikes>)>;

/// A change that was checked and waits to be stored.
pub(super) struct PreparedChange {
    /// What it was made from; see [`Base`].
    pub version: u64,
    pub ledger: Ledger,
    /// The generation that it makes, if it makes one.
    pub desired: Option<Desired>,
    pub side: SideWrites,
}

/// What a change makes of the policy.
pub(super) struct Desired {
    pub document: Document,
    pub intent: Arc<Intent>,
    pub compiler: Compiler,
    pub generation: Generation,
    pub writes: Vec<Write>,
}

/// A commit on its way, and what was closed meanwhile.
#[derive(Debug, Default)]
struct Committing {
    number: Option<u64>,
    /// Entries of the backlog that are part of it.
    stores: usize,
    closed: Vec<UnlockChange>,
    ended: Vec<BypassChange>,
    strikes: AllStrikes,
    /// Generations that closings made: the history has them behind the one that is being stored.
    recent: Vec<Generation>,
}

/// What a closing changed.
pub(super) struct Changed<'a> {
    pub unlocks: &'a [UnlockChange],
    pub bypasses: &'a [BypassChange],
    pub by: &'a str,
}

/// The outcome of one closing.
#[derive(Debug)]
pub(super) struct Closed {
    /// The generation in which it holds.
    pub generation: u64,
    /// Whether it changed the rows of any endpoint.
    pub tightened: bool,
    /// Its number among closings.
    pub number: u64,
    pub side: SideWrites,
}

#[derive(Debug)]
pub(super) struct Core {
    state: watch::Sender<State>,
    targets: Vec<TargetHandle>,
    compiler: Compiler,
    /// Newest generation that every target was seen to follow.
    followed: u64,
    /// Rises with everything that is published.
    version: u64,
    committing: Option<Committing>,
    backlog: Vec<Arc<Pending>>,
    /// Number of the newest closing.
    closings: u64,
}

/// The lock around it.
#[derive(Debug, Clone)]
pub(super) struct SharedCore(Arc<Mutex<Core>>);

impl SharedCore {
    pub fn new(core: Core) -> Self {
        SharedCore(Arc::new(Mutex::new(core)))
    }

    /// A thread that panicked under the lock published whole states or none.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub fn new(
        state: watch::Sender<State>,
        targets: Vec<TargetHandle>,
        compiler: Compiler,
        backlog: Vec<Arc<Pending>>,
        closings: u64,
    ) -> Self {
        Core {
            state,
            targets,
            compiler,
            followed: 0,
            version: 0,
            committing: None,
            backlog,
            closings,
        }
    }

    /// Reads what is published.
    pub fn read<T>(&self, reader: impl FnOnce(&State) -> T) -> T {
        reader(&self.state.borrow())
    }

    /// The moment to make a change from.
    pub fn base(&mut self) -> Base {
        let generation = self.read(State::generation);
        self.confirm_gone(generation);
        let mut base = self.read(State::base);
        base.compiler = self.compiler.clone();
        base.version = self.version;
        base
    }

    /// Tells the compiler which class ids no target has rows of any more: every one follows a generation without them.
    fn confirm_gone(&mut self, newest: u64) {
        // A generation is applied before the rows of its last classes are deleted, and in sync after that.
        let followed = self.targets.iter().map(|target| {
            let status = target.status();
            match status.state {
                SessionState::InSync => status.applied,
                _ => 0,
            }
        });
        let followed = followed.min().unwrap_or(newest);
        if followed <= self.followed {
            return;
        }
        self.followed = followed;
        let released = self.compiler.released().clone();
        let gone = released.iter().filter(|(_, since)| **since <= followed);
        self.compiler.confirm_gone(gone.map(|(id, _)| *id));
    }

    /// The number of the next generation: none is used twice, nor below one that is being stored.
    fn next_number(&self) -> u64 {
        let committing = self.committing.as_ref().and_then(|commit| commit.number);
        self.read(State::generation).max(committing.unwrap_or(0)) + 1
    }

    /// What holds and is not stored, with what classes the store has to know then.
    pub fn backlog(&self) -> (Vec<Arc<Pending>>, Arc<Intent>, Compiler) {
        let intent = self.read(|state| Arc::clone(&state.intent));
        (self.backlog.clone(), intent, self.compiler.clone())
    }

    /// How much holds and is not stored.
    pub fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// The first entries of the backlog are stored.
    pub fn stored(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.backlog.drain(..count.min(self.backlog.len()));
        let unstored = unstored(&self.backlog);
        self.state.send_modify(|state| state.unstored = unstored);
    }

    /// Something holds, and is not stored yet.
    fn push(&mut self, pending: Pending) {
        let pending = Arc::new(pending);
        let more = unstored(std::slice::from_ref(&pending));
        self.backlog.push(pending);
        self.state.send_modify(|state| state.unstored.extend(more));
    }

    /// Lets a closing hold: readers and every target get it before this returns.
    pub fn close(
        &mut self,
        ledger: Ledger,
        changed: &Changed<'_>,
        mut side: SideWrites,
        now: &Moment,
    ) -> Closed {
        let grants = ledger.grants_at(now);
        let tightened = self.read(|state| state.document.grants != grants);
        self.closings += 1;
        if let Some(commit) = &mut self.committing {
            commit.closed.extend(changed.unlocks.iter().cloned());
            commit.ended.extend(changed.bypasses.iter().cloned());
            commit.strikes.extend(side.strikes.iter().cloned());
        }
        let made = match tightened {
            true => self.regrant(ledger, grants, changed, now),
            false => {
                self.state.send_modify(|state| state.ledger = ledger);
                None
            }
        };
        self.version += 1;
        let generation = self.read(State::generation);
        for entry in &mut side.audit {
            entry.generation = generation;
        }
        let closed = Closed {
            generation,
            tightened,
            number: self.closings,
            side: side.clone(),
        };
        self.push(Pending {
            generation: made,
            side,
            closing: self.closings,
        });
        closed
    }

    /// Publishes other grants as a generation that changes no resource, and returns it.
    fn regrant(
        &mut self,
        ledger: Ledger,
        grants: Grants,
        changed: &Changed<'_>,
        now: &Moment,
    ) -> Option<Generation> {
        let mut document = self.read(|state| Document::clone(&state.document));
        document.grants = grants;
        let number = self.next_number();
        let made = self.resolved(&document, number).or_else(|error| {
            // A class of its own cannot be had: what the endpoints are without any unlock is there already.
            tracing::error!(%error, "a closing takes every unlock of its endpoints with it");
            for change in changed.unlocks {
                document.grants.remove(&change.unlock.endpoint);
            }
            for change in changed.bypasses {
                document.grants.remove(&change.bypass.endpoint);
            }
            self.resolved(&document, number)
        });
        let (intent, compiler) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "a closing has no rows: what it closes is open until its lease ends");
                self.state.send_modify(|state| state.ledger = ledger);
                return None;
            }
        };
        let generation = Generation {
            number: intent.generation,
            at: now.seconds(),
            by: changed.by.to_string(),
            changes: keys_of(changed.unlocks)
                .into_iter()
                .chain(bypass::keys_of(changed.bypasses))
                .collect(),
        };
        let news = match &mut self.committing {
            Some(commit) => {
                commit.recent.push(generation.clone());
                Vec::new()
            }
            None => vec![generation.clone()],
        };
        self.publish(document, ledger, (intent, compiler), (news, false));
        Some(generation)
    }

    fn resolved(
        &self,
        document: &Document,
        number: u64,
    ) -> Result<(Arc<Intent>, Compiler), portcullis_compiler::OutOfClasses> {
        let mut compiler = self.compiler.clone();
        // No class is edited in place: asking a target whether it can would wait for the rows that it makes.
        let intent = compiler.resolve(document, number)?;
        Ok((intent, compiler))
    }

    /// Puts a state in force: readers get it, with the events for watchers, before any target does.
    fn publish(
        &mut self,
        document: Document,
        ledger: Ledger,
        (intent, compiler): (Arc<Intent>, Compiler),
        (news, resources): (Vec<Generation>, bool),
    ) {
        self.compiler = compiler.clone();
        self.state.send_modify(|state| {
            state.document = Arc::new(document);
            state.intent = Arc::clone(&intent);
            state.generation = intent.generation;
            state.compiler = compiler;
            state.ledger = ledger;
            publish(state, news, resources);
        });
        // A burst keeps at most one intent waiting per target: the newest.
        self.targets
            .iter()
            .for_each(|target| target.set_intent(Arc::clone(&intent)));
    }

    /// A change goes to the store now, behind the backlog that this returns; nothing if it was prepared on something that
    /// does not hold any more.
    pub fn begin(&mut self, prepared: &PreparedChange) -> Option<Vec<Arc<Pending>>> {
        if self.version != prepared.version {
            return None;
        }
        self.committing = Some(Committing {
            number: prepared.desired.as_ref().map(|desired| desired.generation.number),
            stores: self.backlog.len(),
            ..Committing::default()
        });
        Some(self.backlog.clone())
    }

    /// A change was not stored: nothing of it holds. A closing may have taken the number behind it.
    pub fn failed(&mut self, now: &Moment) {
        let Some(commit) = self.committing.take() else {
            return;
        };
        let mut news = Vec::new();
        if let Some(number) = commit.number.filter(|_| !commit.recent.is_empty()) {
            let nothing = Generation {
                number,
                at: now.seconds(),
                by: AGENT.to_string(),
                changes: Vec::new(),
            };
            let pending = Pending {
                generation: Some(nothing.clone()),
                ..Pending::default()
            };
            self.backlog
                .insert(commit.stores.min(self.backlog.len()), Arc::new(pending));
            news.push(nothing);
        }
        news.extend(commit.recent);
        self.state.send_modify(|state| publish(state, news, false));
    }

    /// A change was stored: it holds, together with what was closed meanwhile. Returns what ended because of both, and the
    /// generation in which all of it holds.
    pub fn finish(
        &mut self,
        prepared: PreparedChange,
        now: &Moment,
    ) -> Result<(u64, Vec<UnlockChange>), ChangeError> {
        let commit = self.committing.take().unwrap_or_default();
        self.stored(commit.stores);
        self.version += 1;
        let PreparedChange {
            mut ledger, desired, ..
        } = prepared;
        if commit.closed.is_empty() && commit.ended.is_empty() {
            match desired {
                Some(desired) => {
                    let made = (desired.intent, desired.compiler);
                    self.publish(desired.document, ledger, made, (vec![desired.generation], true));
                }
                None => self.state.send_modify(|state| state.ledger = ledger),
            }
            return Ok((self.read(State::generation), Vec::new()));
        }
        let changed = desired.is_some();
        // What was closed meanwhile may have made no generation: then the one that was stored is the newest.
        let stored = desired.as_ref().map_or(0, |desired| desired.generation.number);
        let number = self.next_number().max(stored + 1);
        let mut document = self.read(|state| Document::clone(&state.document));
        let mut news = Vec::new();
        // Who read the policy when only the closings held is told once more, behind them, what changed it.
        let mut changes = Vec::new();
        if let Some(desired) = desired {
            document = desired.document;
            changes.clone_from(&desired.generation.changes);
            news.push(desired.generation);
        }
        news.extend(commit.recent);
        for (key, strikes) in &commit.strikes {
            ledger.set_strikes(key, *strikes);
        }
        let kept = bypass::overlay(&mut ledger, &commit.ended, now);
        let ended = ledger.overlay(&document, &commit.closed, now);
        document.grants = ledger.grants_at(now);
        let same = self.read(|state| state.document.grants == document.grants);
        let mut pending = Pending {
            side: SideWrites {
                unlocks: ended.iter().map(|change| Arc::clone(&change.unlock)).collect(),
                audit: entries_of(&ended, now, number),
                bypasses: kept,
                ..SideWrites::default()
            },
            ..Pending::default()
        };
        if changed || !same {
            let made = match self.resolved(&document, number) {
                Ok(made) => made,
                // Stored, but not enforced: a start of the agent tries again, with the ids that are free then.
                Err(error) => {
                    self.state.send_modify(|state| publish(state, news, changed));
                    return Err(error.into());
                }
            };
            changes.extend(keys_of(&ended));
            let generation = Generation {
                number: made.0.generation,
                at: now.seconds(),
                by: AGENT.to_string(),
                changes,
            };
            news.push(generation.clone());
            self.publish(document, ledger, made, (news, changed));
            pending.generation = Some(generation);
        } else {
            self.state.send_modify(|state| {
                state.ledger = ledger;
                publish(state, news, changed);
            });
        }
        let side = &pending.side;
        if pending.generation.is_some() || !side.unlocks.is_empty() || !side.bypasses.is_empty() {
            self.push(pending);
        }
        Ok((self.read(State::generation), ended))
    }
}

/// Lets watchers see generations, behind all before them. The first may have changed resources.
fn publish(state: &mut State, generations: Vec<Generation>, resources: bool) {
    if let Some(first) = generations.first().filter(|_| resources) {
        first
            .changes
            .iter()
            .for_each(|change| revise(state, change, first));
    }
    for generation in generations {
        state.published = generation.number;
        state.recent.push(Arc::new(generation));
    }
}

/// Unlocks as they are in a backlog, and not in the store.
pub(super) fn unstored(backlog: &[Arc<Pending>]) -> OrdMap<Name, Arc<Unlock>> {
    let unlocks = backlog.iter().flat_map(|pending| &pending.side.unlocks);
    unlocks
        .map(|unlock| (unlock.id.clone(), Arc::clone(unlock)))
        .collect()
}

/// Whether grants open more than others did, or deny less: what may not hold before it is stored.
pub(super) fn relaxes(before: &Grants, after: &Grants) -> bool {
    let none = Vec::new();
    before.diff(after).any(|difference| {
        use imbl::ordmap::DiffItem::{Add, Remove, Update};
        let (was, is): (&Vec<Grant>, &Vec<Grant>) = match difference {
            Add(_, is) => (&none, is),
            Remove(_, was) => (was, &none),
            Update {
                old: (_, was),
                new: (_, is),
            } => (was, is),
        };
        let held = |grant: &Grant| {
            was.iter().any(|other| {
                (&other.unlock, other.kind, &other.rules) == (&grant.unlock, grant.kind, &grant.rules)
                    && other.ends >= grant.ends
            })
        };
        let opens = is.iter().any(|grant| !grant.closes() && !held(grant));
        let lifted = was
            .iter()
            .any(|grant| grant.closes() && !is.iter().any(|g| g.closes() && g.unlock == grant.unlock));
        opens || lifted
    })
}
