//! The core of a session: which rows to write next. Pure: no I/O and no clock.
//!
//! ```text
//! Disconnected ──connected──▶ Handshaking ──ready──▶ Observing ──observed──▶ Applying ──last ack──▶ InSync
//!      ▲                                                ▲  (rows read back)     │ ▲                   │
//!      └────────────── disconnected (any state) ────────┴────── rejected ───────┘ └── newer desired ──┘
//! ```
//!
//! A generation is *in force* ([`Machine::is_in_force`]) as soon as packets meet its rows and nothing else; rows of classes that
//! nothing leads to any more may still have to be deleted, which is part of Applying.
//!
//! The machine holds the desired rows, the rows known to be installed, and the *suspects*: keys on which the
//! two may differ. Work is proportional to suspects, not to rows. A batch is one [`Step`] of make before
//! break, or all of them on a target that carries out a batch as one; the next is made only after it is confirmed, from what is
//! desired by then.
//!
//! **While a batch is in flight, its keys stay suspects.** The installed body of such a key is known only with the
//! answer, so a desired body that equals the last known one proves nothing: the batch may be about to replace it.
//!
//! **A read-back may overlap writes.** A key that a batch writes between the start and the end of a read-back may be
//! read before or after that write. The machine therefore takes the answers to its batches for such keys, and the
//! read-back for all others. Only a read-back that must establish what is there (after a connection, or after a batch
//! whose result is unknown) delays writing.

mod abandoned;
mod batches;
mod difference;
mod order;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::delta::{Key, Layer, Op, Step};
use crate::status::SessionState;
use abandoned::Abandoned;

pub use difference::Drift;

/// Rows that are made and dropped together: a class, a port.
pub type Unit<K, B> = Arc<Vec<(K, B)>>;

/// A unit's old and new rows.
type Before<K, B> = (Option<Unit<K, B>>, Option<Unit<K, B>>);

/// Every row that a target has to hold, by unit. A persistent map: a comparison with the map that it was made from takes time in
/// proportion to what differs.
pub type Desired<U, K, B> = OrdMap<U, Unit<K, B>>;

/// Writes that are sent together and confirmed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<K, B> {
    /// The step of the order of writing that it belongs to.
    pub step: Step,
    /// The writes, in the order of their keys.
    pub ops: Vec<Op<K, B>>,
}

/// What a read-back showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed<K, B> {
    /// Rows with our tag.
    pub ours: Vec<(K, B)>,
    /// Keys of rows without it, in our tables.
    pub foreign: Vec<K>,
}

/// A read-back that has begun.
#[derive(Debug, Clone)]
struct Reading<K, B> {
    /// Rows of ours that were read so far.
    seen: HashMap<K, B>,
    /// Keys among them, and keys that changed meanwhile, on which installed rows may differ from those read.
    different: HashSet<K>,
    /// Keys of foreign rows that were read so far.
    foreign: HashSet<K>,
    /// Keys of batches that were in flight at some moment since it began: their answers decide.
    touched: HashSet<K>,
    /// A batch failed or a difference was seen since it began: what was read may be older than that.
    spoiled: bool,
}

/// The machine; `U` names units, `K` rows, `B` is what a row does.
#[derive(Debug, Clone)]
pub struct Machine<U: Ord, K, B> {
    state: SessionState,
    units: Desired<U, K, B>,
    desired: HashMap<K, B>,
    /// Desired rows of each class.
    classes: HashMap<u32, usize>,
    installed: HashMap<K, B>,
    /// Rows of ours per table.
    counts: BTreeMap<u8, u64>,
    foreign: HashSet<K>,
    suspects: BTreeSet<K>,
    /// Rows that nothing leads to any more: flips that abandoned them are confirmed.
    abandoned: Abandoned<K>,
    /// The batch in flight, and the rows that nothing leads to once it is confirmed.
    in_flight: Option<(Batch<K, B>, BTreeSet<K>)>,
    /// Rows of batches that failed since the last read-back, with the bodies that they were to get: what the target holds there
    /// is unknown, and no drift.
    unknown: HashMap<K, Option<B>>,
    wanted: u64,
    applied: u64,
    has_desired: bool,
    in_force: bool,
    /// The rows were known once since the connection began.
    known: bool,
    /// A read-back is wanted that delays nothing.
    resync: bool,
    reading: Option<Reading<K, B>>,
    writes: [u64; 3],
    /// The target carries out a batch as one: no packet meets a part of it.
    atomic: bool,
}

impl<U: Ord + Clone, K: Key, B: Clone + PartialEq> Default for Machine<U, K, B> {
    fn default() -> Self {
        Machine {
            state: SessionState::Disconnected,
            units: OrdMap::new(),
            desired: HashMap::new(),
            classes: HashMap::new(),
            installed: HashMap::new(),
            counts: BTreeMap::new(),
            foreign: HashSet::new(),
            suspects: BTreeSet::new(),
            abandoned: Abandoned::new(false),
            in_flight: None,
            unknown: HashMap::new(),
            wanted: 0,
            applied: 0,
            has_desired: false,
            in_force: false,
            known: false,
            resync: false,
            reading: None,
            writes: [0; 3],
            atomic: false,
        }
    }
}

impl<U: Ord + Clone, K: Key, B: Clone + PartialEq> Machine<U, K, B> {
    /// For a target that carries out each batch as one, in which new rows, what leads to them and the rows that nothing leads
    /// to any more may change at once.
    #[must_use]
    pub fn atomic() -> Self {
        Machine {
            atomic: true,
            ..Self::default()
        }
    }

    /// For a target in which packets may be on their way to rows that nothing leads to any more: see
    /// [`begin_pause`](Self::begin_pause).
    #[must_use]
    pub fn pausing() -> Self {
        Machine {
            abandoned: Abandoned::new(true),
            ..Self::default()
        }
    }

    /// Where the session stands. It is in sync when the target holds the desired rows and no others of ours.
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// Whether packets meet the newest desired rows and nothing else: they are all confirmed, and what is still to be deleted are
    /// rows of classes that nothing leads to.
    pub fn is_in_force(&self) -> bool {
        self.in_force && self.is_writing()
    }

    fn is_writing(&self) -> bool {
        matches!(self.state, SessionState::Applying | SessionState::InSync)
    }

    /// Generation of the newest desired state, and the one known to be installed: 0 while none is known to be, after a
    /// connection ended or a read-back found drift, until every row was confirmed again.
    pub fn generations(&self) -> (u64, u64) {
        (self.wanted, self.applied)
    }

    /// Rows added, changed, deleted so far.
    pub fn writes(&self) -> [u64; 3] {
        self.writes
    }

    /// The rows known to be installed.
    pub fn installed(&self) -> &HashMap<K, B> {
        &self.installed
    }

    /// Every row that the target may hold: those known to be installed, those on their way, and those of batches whose result
    /// is unknown. A row that is on its way comes with its old body and with its new one; a delete has no body.
    pub fn may_hold(&self) -> impl Iterator<Item = (&K, Option<&B>)> {
        let installed = self.installed.iter().map(|(key, body)| (key, Some(body)));
        let in_flight = self.in_flight.iter().flat_map(|(batch, _)| &batch.ops);
        let in_flight = in_flight.map(|op| (op.key(), op.body()));
        let unknown = self.unknown.iter().map(|(key, body)| (key, body.as_ref()));
        installed.chain(in_flight).chain(unknown)
    }

    /// How many rows a table is known to hold.
    pub fn rows_in(&self, table: u8) -> u64 {
        self.counts.get(&table).copied().unwrap_or(0)
    }

    /// Every desired row, by key.
    pub fn desired(&self) -> &HashMap<K, B> {
        &self.desired
    }

    /// The same rows by unit.
    pub fn units(&self) -> &Desired<U, K, B> {
        &self.units
    }

    /// Whether the rows were read since the connection began.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Rows of others in our tables.
    pub fn foreign(&self) -> usize {
        self.foreign.len()
    }

    /// Desired rows whose place a foreign row holds: they cannot be written without overwriting it.
    pub fn conflicts(&self) -> Vec<&K> {
        if self.foreign.is_empty() {
            return Vec::new();
        }
        self.suspects.iter().filter(|k| self.blocked(k)).collect()
    }

    /// A connection exists; versions are being settled.
    pub fn connected(&mut self) {
        self.disconnected();
        self.state = SessionState::Handshaking;
    }

    /// The peer is ready: its rows have to be read.
    pub fn ready(&mut self) {
        self.state = SessionState::Observing;
    }

    /// The connection ended. Whether the batch in flight was executed, and whether the target kept its rows, is unknown
    /// until the next read-back.
    pub fn disconnected(&mut self) {
        self.state = SessionState::Disconnected;
        self.applied = 0;
        self.in_flight = None;
        self.known = false;
        self.resync = false;
        self.reading = None;
        self.unknown.clear();
        self.abandoned.forget();
    }

    /// Asks for a read-back. It begins with the next [`begin_observation`](Self::begin_observation) and delays no write.
    pub fn request_resync(&mut self) {
        self.resync = true;
    }

    /// A row on the target was seen to differ from what is known to be installed: nothing is claimed and nothing is
    /// written until a read-back that began after this moment is taken.
    pub fn doubt(&mut self) {
        if !self.is_writing() {
            return;
        }
        if let Some(reading) = &mut self.reading {
            reading.spoiled = true;
        }
        self.applied = 0;
        self.state = SessionState::Observing;
    }

    /// Whether to read back now. After `true` the driver reads every row and answers with [`observed`](Self::observed)
    /// or [`observation_failed`](Self::observation_failed); until then this returns `false`. What it read in pieces it may pass
    /// in pieces: [`observed_part`](Self::observed_part).
    #[must_use = "after `true` the machine waits for the rows"]
    pub fn begin_observation(&mut self) -> bool {
        let wanted = match self.state {
            SessionState::Observing => true,
            SessionState::Applying | SessionState::InSync => self.resync,
            SessionState::Disconnected | SessionState::Handshaking | SessionState::Unusable => false,
        };
        if !wanted || self.reading.is_some() {
            return false;
        }
        self.resync = false;
        let in_flight = self.in_flight.iter().flat_map(|(batch, _)| &batch.ops);
        self.reading = Some(Reading {
            seen: HashMap::with_capacity(self.installed.len()),
            different: HashSet::new(),
            foreign: HashSet::new(),
            touched: in_flight.map(|op| op.key().clone()).collect(),
            spoiled: false,
        });
        true
    }

    /// The rows could not be read. They are asked for again.
    pub fn observation_failed(&mut self) {
        if self.reading.take().is_some() {
            self.resync = true;
        }
    }

    /// Whether the read-back that is going on says nothing about a key, because a batch wrote it meanwhile.
    fn is_touched(&self, key: &K) -> bool {
        self.reading
            .as_ref()
            .is_some_and(|reading| reading.spoiled || reading.touched.contains(key))
    }

    /// Sets the desired state. Units that are the same `Arc` cost nothing.
    pub fn set_desired(&mut self, generation: u64, units: Desired<U, K, B>) {
        let mut changed: Vec<Before<K, B>> = Vec::new();
        for item in self.units.diff(&units) {
            changed.push(match item {
                DiffItem::Add(_, new) => (None, Some(Arc::clone(new))),
                DiffItem::Update { old, new } => (Some(Arc::clone(old.1)), Some(Arc::clone(new.1))),
                DiffItem::Remove(_, old) => (Some(Arc::clone(old)), None),
            });
        }
        for (key, _) in changed
            .iter()
            .filter_map(|(old, _)| old.as_ref())
            .flat_map(|u| u.iter())
        {
            if self.desired.remove(key).is_some() {
                self.count(key, false);
            }
            self.suspects.insert(key.clone());
        }
        for (key, body) in changed
            .iter()
            .filter_map(|(_, new)| new.as_ref())
            .flat_map(|u| u.iter())
        {
            if self.desired.insert(key.clone(), body.clone()).is_none() {
                self.count(key, true);
            }
            self.suspects.insert(key.clone());
            // Dispatch rows will lead to it again: it waits for the next flip before it may go.
            self.abandoned.remove(key);
            if let Some((_, abandoned)) = &mut self.in_flight {
                abandoned.remove(key);
            }
        }
        self.units = units;
        self.wanted = generation;
        self.has_desired = true;
        self.settle();
    }

    /// Keeps count of a class's desired rows.
    fn count(&mut self, key: &K, more: bool) {
        let Some(class) = key.class() else { return };
        let rows = self.classes.entry(class).or_default();
        *rows = if more { *rows + 1 } else { rows.saturating_sub(1) };
        if *rows == 0 {
            self.classes.remove(&class);
        }
    }

    /// Whether the class of a row is desired.
    fn stays(&self, key: &K) -> bool {
        key.class().is_some_and(|class| self.classes.contains_key(&class))
    }

    /// Timed rows that a read-back did not find, because their time is over: they are no longer installed, which is no
    /// drift, and no longer desired. `over` says of a body whether its time is over: a row that is desired for longer
    /// than the one that ended is written again. Call it before [`observed`](Self::observed).
    pub fn ended(&mut self, keys: impl IntoIterator<Item = K>, over: impl Fn(&B) -> bool) {
        for key in keys {
            if self.is_touched(&key) {
                continue;
            }
            if self.desired.get(&key).is_some_and(&over) {
                self.desired.remove(&key);
                self.count(&key, false);
            }
            if self.installed.get(&key).is_some_and(&over) {
                self.forget(&key);
            }
            if let Some(reading) = &mut self.reading {
                reading.different.insert(key.clone());
            }
            self.suspects.insert(key);
        }
        self.settle();
    }

    /// A read-back found a row of ours with a body that it took by itself, as timed rows do, which is no drift. If
    /// another body is desired, it is written again. Call it before [`observed`](Self::observed).
    pub fn became(&mut self, key: K, body: B) {
        if self.is_touched(&key) {
            return;
        }
        if let Some(installed) = self.installed.get_mut(&key) {
            *installed = body;
            if let Some(reading) = &mut self.reading {
                reading.different.insert(key.clone());
            }
            self.suspects.insert(key);
            self.settle();
        }
    }

    /// A row is not installed any more.
    fn forget(&mut self, key: &K) {
        if let (Some(_), Some(rows)) = (self.installed.remove(key), self.counts.get_mut(&key.table())) {
            *rows = rows.saturating_sub(1);
        }
    }

    /// Takes a part of a read-back, so that the work is spread over its parts.
    pub fn observed_part(&mut self, part: Observed<K, B>) {
        let Some(reading) = &mut self.reading else {
            return;
        };
        for (key, body) in part.ours {
            if self.installed.get(&key) != Some(&body) {
                reading.different.insert(key.clone());
            }
            reading.seen.insert(key, body);
        }
        reading.foreign.extend(part.foreign);
    }

    /// Whether the read-back under way has found a row of ours.
    pub fn was_read(&self, key: &K) -> bool {
        self.reading
            .as_ref()
            .is_some_and(|reading| reading.seen.contains_key(key))
    }

    /// Takes the last part of a read-back, or all of it. Returns the drift since this machine last knew the rows.
    pub fn observed(&mut self, observed: Observed<K, B>) -> Drift<K> {
        self.observed_part(observed);
        let mut drift = Drift::default();
        let Some(reading) = self.reading.take() else {
            return drift;
        };
        if reading.spoiled {
            return drift;
        }
        let (mut seen, different) = (reading.seen, reading.different);
        self.foreign = reading.foreign;
        for key in &reading.touched {
            self.foreign.remove(key);
            match self.installed.get(key) {
                Some(body) => seen.insert(key.clone(), body.clone()),
                None => seen.remove(key),
            };
        }
        // As many rows, none of which differs: nothing drifted. That is the usual case, and takes no walk over all rows.
        let same = |key: &K| self.installed.get(key) == seen.get(key);
        let known = self.known && self.unknown.is_empty();
        if known && seen.len() == self.installed.len() && different.iter().all(same) {
            self.state = SessionState::Applying;
            self.settle();
            return drift;
        }
        if self.known {
            drift = self.drift(&seen);
        }
        if !drift.is_empty() {
            self.applied = 0;
            // What leads where is not what it was left as.
            self.abandoned.reconsider();
        }
        self.unknown.clear();
        self.counts.clear();
        for key in seen.keys() {
            *self.counts.entry(key.table()).or_default() += 1;
        }
        self.installed = seen;
        self.abandoned.retain(|key| self.installed.contains_key(key));
        self.suspects = self.differences();
        self.known = true;
        self.state = SessionState::Applying;
        self.settle();
        drift
    }

    fn blocked(&self, key: &K) -> bool {
        self.foreign.contains(key) && !self.installed.contains_key(key)
    }

    /// Whether a row is one that no packet meets once nothing is left to be flipped: of a class that is not desired.
    fn is_harmless(&self, key: &K) -> bool {
        let of_class = key.layer() == Layer::Policy && key.class().is_some();
        of_class && !self.desired.contains_key(key) && !self.stays(key)
    }

    /// Drops suspects on which desired and installed agree. When none is left but rows that no packet meets, the newest
    /// generation is in force. Keys of the batch in flight may agree now and differ when it is confirmed: they stay.
    fn settle(&mut self) {
        if !self.is_writing() {
            return;
        }
        if self.in_flight.is_none() {
            let (desired, installed) = (&self.desired, &self.installed);
            self.suspects.retain(|key| desired.get(key) != installed.get(key));
        }
        let idle = self.in_flight.is_none();
        self.in_force = self.has_desired && idle && self.suspects.iter().all(|key| self.is_harmless(key));
        if self.in_force {
            self.applied = self.wanted;
        }
        self.state = match self.has_desired && self.suspects.is_empty() && self.in_flight.is_none() {
            true => SessionState::InSync,
            false => SessionState::Applying,
        };
    }
}

#[cfg(test)]
mod tests;
