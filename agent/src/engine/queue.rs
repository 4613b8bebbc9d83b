//! The queue of the worker: callers take turns, and the one with the most requests waiting gives way when the queue is full.
//!
//! Changes of the policy and changes of unlocks wait apart. The worker makes one of the former, then all of the latter in one
//! commit, and so on: neither kind waits for more than one of the other.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::refusals::Refusals;
use super::unlocks::{BATCH, UnlockReply, UnlockRequest, Waiting};
use super::{ChangeError, MakeEdit, Outcome, UnlockError, Who};
use crate::store::Entry;

/// A change of the policy that waits.
pub(super) struct ChangeRequest {
    pub by: Who,
    pub edit: MakeEdit,
    pub answer: oneshot::Sender<Result<Outcome, ChangeError>>,
}

/// What the worker does next.
pub(super) enum Work {
    Change(ChangeRequest),
    Unlocks(Vec<Waiting>),
    /// Something holds and is not stored yet.
    Store,
    /// Answer: the worker is alive.
    Ping(oneshot::Sender<()>),
    /// Nothing waits, and nothing will.
    Stop,
}

/// Items by caller. Callers take turns; the items of one are in the order of their arrival.
#[derive(Debug)]
struct Lanes<T> {
    /// The caller whose turn is next comes first. No lane is empty.
    lanes: VecDeque<(String, VecDeque<T>)>,
    waiting: usize,
    limit: usize,
}

impl<T> Lanes<T> {
    fn new(limit: usize) -> Self {
        Lanes {
            lanes: VecDeque::new(),
            waiting: 0,
            limit,
        }
    }

    /// Adds an item. In a full queue the newest item of the longest lane gives way, if that lane stays the longer one;
    /// the item that found no place or lost it is returned.
    fn push(&mut self, caller: &str, item: T) -> Result<(), T> {
        let own = self.lanes.iter().position(|(name, _)| name == caller);
        let mut lost = None;
        if self.waiting >= self.limit {
            let length = |index: usize| self.lanes.get(index).map_or(0, |(_, lane)| lane.len());
            let longest = (0..self.lanes.len()).max_by_key(|&index| length(index));
            match longest.filter(|&index| length(index) > own.map_or(0, length) + 1) {
                Some(index) => lost = self.lanes.get_mut(index).and_then(|(_, lane)| lane.pop_back()),
                None => return Err(item),
            }
        }
        match own.and_then(|index| self.lanes.get_mut(index)) {
            Some((_, lane)) => lane.push_back(item),
            None => self.lanes.push_back((caller.to_string(), VecDeque::from([item]))),
        }
        match lost {
            Some(lost) => Err(lost),
            None => {
                self.waiting += 1;
                Ok(())
            }
        }
    }

    fn pop(&mut self) -> Option<T> {
        let (caller, mut lane) = self.lanes.pop_front()?;
        let item = lane.pop_front();
        if !lane.is_empty() {
            self.lanes.push_back((caller, lane));
        }
        self.waiting -= usize::from(item.is_some());
        item
    }
}

struct QueueState {
    changes: Lanes<ChangeRequest>,
    unlocks: Lanes<Waiting>,
    refusals: Refusals,
    pings: VecDeque<oneshot::Sender<()>>,
    store: bool,
    /// Whether a change of the policy was made last.
    changed: bool,
    /// Nothing more is taken.
    closed: bool,
}

impl QueueState {
    fn take(&mut self) -> Option<Work> {
        if let Some(ping) = self.pings.pop_front() {
            return Some(Work::Ping(ping));
        }
        if !std::mem::take(&mut self.changed) {
            let change = self.changes.pop();
            if let Some(change) = change {
                self.changed = true;
                return Some(Work::Change(change));
            }
        }
        let counted = self.refusals.due(Instant::now(), self.closed).into_iter();
        let mut batch: Vec<Waiting> = counted.map(Waiting::Note).collect();
        batch.extend(std::iter::from_fn(|| self.unlocks.pop()).take(BATCH));
        if !batch.is_empty() {
            return Some(Work::Unlocks(batch));
        }
        if let Some(change) = self.changes.pop() {
            self.changed = true;
            return Some(Work::Change(change));
        }
        if std::mem::take(&mut self.store) {
            return Some(Work::Store);
        }
        self.closed.then_some(Work::Stop)
    }
}

struct SharedQueue {
    state: Mutex<QueueState>,
    arrived: Condvar,
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }
}

/// A queue of at most `limit` changes of each kind.
pub(super) fn queue(limit: usize) -> (Requests, Works) {
    let shared = Arc::new(SharedQueue {
        state: Mutex::new(QueueState {
            changes: Lanes::new(limit),
            unlocks: Lanes::new(limit),
            refusals: Refusals::default(),
            pings: VecDeque::new(),
            store: false,
            changed: false,
            closed: false,
        }),
        arrived: Condvar::new(),
    });
    let last = Arc::new(Last(Arc::clone(&shared)));
    (Requests(last), Works(shared))
}

/// The end of those who ask.
#[derive(Clone)]
pub(super) struct Requests(Arc<Last>);

/// Closes the queue behind the last of them.
struct Last(Arc<SharedQueue>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Requests {
    /// Adds something, unless the worker takes nothing more.
    fn add<T>(&self, add: impl FnOnce(&mut QueueState) -> T) -> Result<T, ChangeError> {
        let mut state = self.0.0.lock();
        if state.closed {
            return Err(ChangeError::Stopping);
        }
        let added = add(&mut state);
        drop(state);
        self.0.0.arrived.notify_one();
        Ok(added)
    }

    /// Queues a change of the policy. One that finds no place, or loses it, is answered.
    pub fn change(&self, request: ChangeRequest) -> Result<(), ChangeError> {
        let lost = self.add(|state| {
            let caller = request.by.lane();
            (state.changes.push(&caller, request), state.changes.limit)
        })?;
        if let (Err(request), waiting) = lost {
            // The caller may be gone.
            drop(request.answer.send(Err(ChangeError::Busy { waiting })));
        }
        Ok(())
    }

    /// Queues a change of unlocks. One that finds no place, or loses it, is answered.
    pub fn unlock(&self, request: UnlockRequest, answer: UnlockReply) -> Result<(), ChangeError> {
        let caller = request.by.lane();
        self.wait(&caller, Waiting::Unlock(request, answer)).map(drop)
    }

    /// Queues an entry of the audit log, or counts it among other refusals; false when there is no place.
    pub fn note(&self, entry: Entry) -> bool {
        let entry = entry.bounded();
        match self.add(|state| state.refusals.take(entry, Instant::now())) {
            Ok(Some(entry)) => {
                let caller = entry.actor.clone();
                self.wait(&caller, Waiting::Note(entry))
                    .is_ok_and(|lost| lost.is_none())
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Returns an entry of the audit log that lost its place.
    fn wait(&self, caller: &str, waiting: Waiting) -> Result<Option<Entry>, ChangeError> {
        let lost = self.add(|state| (state.unlocks.push(caller, waiting), state.unlocks.limit))?;
        Ok(match lost {
            (Ok(()), _) => None,
            (Err(Waiting::Note(entry)), _) => Some(entry),
            (Err(Waiting::Unlock(_, answer)), waiting) => {
                let busy = UnlockError::Change(ChangeError::Busy { waiting });
                // The caller may be gone.
                drop(answer.send(Err(busy)));
                None
            }
        })
    }

    /// Lets the worker store what holds already.
    pub fn store(&self) {
        // A worker that stops does so by itself.
        drop(self.add(|state| state.store = true));
    }

    /// Lets the worker answer, before what waits.
    pub fn ping(&self, answer: oneshot::Sender<()>) -> Result<(), ChangeError> {
        self.add(|state| state.pings.push_back(answer))
    }

    /// Takes nothing more; the worker ends behind what waits.
    pub fn stop(&self) {
        self.0.0.close();
    }
}

/// The worker's end. Without it everything that waits is answered: the agent is stopping.
pub(super) struct Works(Arc<SharedQueue>);

impl Works {
    /// Waits for work; nothing after that time.
    pub fn next(&self, within: Option<Duration>) -> Option<Work> {
        let end = within.map(|within| Instant::now() + within);
        let mut state = self.0.lock();
        loop {
            if let Some(work) = state.take() {
                return Some(work);
            }
            state = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    let waited = self.0.arrived.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        // Senders that are dropped answer for themselves.
        state.changes = Lanes::new(0);
        state.unlocks = Lanes::new(0);
        state.pings.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lanes: &mut Lanes<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.pop()).collect()
    }

    #[test]
    fn callers_take_turns_and_each_keeps_its_order() {
        let mut lanes = Lanes::new(10);
        for (caller, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 10), ("c", 20), ("b", 11)] {
            assert_eq!(lanes.push(caller, item), Ok(()));
        }
        assert_eq!(all(&mut lanes), [1, 10, 20, 2, 11, 3]);
        assert_eq!((lanes.waiting, lanes.lanes.len()), (0, 0));
    }

    #[test]
    fn a_full_queue_has_a_place_for_callers_with_less_in_it() {
        let mut lanes = Lanes::new(4);
        (1..=4).for_each(|item| assert_eq!(lanes.push("flood", item), Ok(())));
        assert_eq!(lanes.push("flood", 5), Err(5));
        assert_eq!(lanes.push("other", 10), Err(4));
        assert_eq!(lanes.push("third", 20), Err(3));
        // Two of the flood, one of each other: nobody has two more than a newcomer who has one.
        assert_eq!(lanes.push("other", 11), Err(11));
        assert_eq!(lanes.push("fourth", 30), Err(2));
        assert_eq!(lanes.push("fifth", 40), Err(40));
        assert_eq!(all(&mut lanes), [1, 10, 20, 30]);
    }

    #[test]
    fn neither_kind_waits_for_more_than_one_of_the_other() {
        let (requests, works) = queue(8);
        let change = || ChangeRequest {
            by: Who::agent(),
            edit: Box::new(|_| Ok(super::super::Edit::Nothing)),
            answer: oneshot::channel().0,
        };
        let entry = |n: i64| Entry {
            at_ms: n,
            actor: "a".into(),
            role: "operator".into(),
            action: "test".into(),
            subject: String::new(),
            detail: "{}".into(),
            generation: 0,
            evidence: None,
        };
        for n in 0..3 {
            requests.change(change()).unwrap();
            assert!(requests.note(entry(n)));
        }
        requests.store();
        requests.stop();
        assert!(!requests.note(entry(9)), "closed");
        let mut done = Vec::new();
        loop {
            match works.next(None).unwrap() {
                Work::Change(_) => done.push("change".to_string()),
                Work::Unlocks(batch) => done.push(format!("{} unlocks", batch.len())),
                Work::Store => done.push("store".to_string()),
                Work::Ping(_) => unreachable!("none was sent"),
                Work::Stop => break,
            }
        }
        assert_eq!(done, ["change", "3 unlocks", "change", "change", "store"]);
    }

    #[test]
    fn what_waits_is_answered_when_either_end_goes_away() {
        let (requests, works) = queue(8);
        let (answer, mut answered) = oneshot::channel();
        requests.ping(answer).unwrap();
        drop(works);
        assert!(answered.try_recv().is_err());
        assert!(matches!(
            requests.ping(oneshot::channel().0),
            Err(ChangeError::Stopping)
        ));
        let (requests, works) = queue(8);
        assert!(works.next(Some(Duration::ZERO)).is_none());
        drop(requests);
        assert!(matches!(works.next(None), Some(Work::Stop)));
    }
}
