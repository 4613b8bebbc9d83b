//! Which rows are written next, and the answers.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Batch, Machine, order};
use crate::delta::{Key, Layer, Op, Step, op};
use crate::status::SessionState;

impl<U: Ord + Clone, K: Key, B: Clone + PartialEq> Machine<U, K, B> {
    /// The next batch, when the session may write and there is something to write.
    pub fn next_batch(&mut self) -> Option<Batch<K, B>> {
        if self.state != SessionState::Applying || self.in_flight.is_some() || !self.has_desired {
            return None;
        }
        let mut by_step: BTreeMap<Step, Vec<Op<K, B>>> = BTreeMap::new();
        for key in self.suspects.iter().filter(|k| !self.blocked(k)) {
            if let Some((step, op)) = op(
                key,
                self.desired.get(key),
                self.installed.get(key),
                self.stays(key),
            ) {
                by_step.entry(step).or_default().push(op);
            }
        }
        if self.atomic {
            order::merge(&mut by_step);
        }
        let late = self.take_late(&mut by_step);
        if by_step
            .first_key_value()
            .is_none_or(|(step, _)| *step > Step::Flip)
        {
            self.abandoned.extend(late.iter().cloned());
        }
        let (step, mut ops) = by_step.pop_first()?;
        // What this batch's flip will have abandoned may go with any later batch.
        let abandoned = match step {
            Step::Flip => {
                let collect = by_step.remove(&Step::Collect).unwrap_or_default();
                collect.iter().map(|op| op.key().clone()).chain(late).collect()
            }
            _ => BTreeSet::new(),
        };
        match step {
            Step::Collect => ops.truncate(order::COLLECTED),
            _ => self.add_ripe(&mut ops),
        }
        let batch = Batch { step, ops };
        if let Some(reading) = &mut self.reading {
            reading
                .touched
                .extend(batch.ops.iter().map(|op| op.key().clone()));
        }
        self.in_flight = Some((batch.clone(), abandoned));
        Some(batch)
    }

    /// Takes the deletions out of what is to be written that wait for a pause.
    fn take_late(&self, by_step: &mut BTreeMap<Step, Vec<Op<K, B>>>) -> BTreeSet<K> {
        let mut late = BTreeSet::new();
        for step in [Step::Retire, Step::Collect] {
            let Some(ops) = by_step.get_mut(&step) else {
                continue;
            };
            ops.retain(|op| {
                let key = op.key();
                // A row that holds for every class has no flip that leads away from it.
                let goes =
                    self.abandoned.may_go(key) || (key.layer() == Layer::Policy && key.class().is_none());
                if !goes {
                    late.insert(key.clone());
                }
                goes
            });
        }
        by_step.retain(|_, ops| !ops.is_empty());
        late
    }

    /// Adds deletions that need no order to a batch: few, so that it is hardly longer on its way, and a share of many, so that they
    /// do not pile up while changes follow each other.
    fn add_ripe(&self, ops: &mut Vec<Op<K, B>>) {
        let ripe = self.abandoned.ripe();
        if ripe.is_empty() {
            return;
        }
        let most = order::TOGETHER.max(ripe.len() / 4);
        let there: HashSet<K> = ops.iter().map(|op| op.key().clone()).collect();
        let dead = |key: &&K| !self.desired.contains_key(*key) && self.installed.contains_key(*key);
        let dead = ripe.iter().filter(dead).filter(|key| !there.contains(*key));
        ops.extend(dead.take(most).map(|key| Op::Delete(key.clone())));
    }

    /// Whether packets are to be given a moment now, because they may be on their way to rows that nothing leads to any more.
    /// After `true` the driver waits and calls [`paused`](Self::paused); meanwhile it writes whatever there is to write.
    #[must_use = "after `true` the machine waits for the end of the pause"]
    pub fn begin_pause(&mut self) -> bool {
        self.abandoned.begin_pause()
    }

    /// The pause is over.
    pub fn paused(&mut self) {
        self.abandoned.paused();
    }

    /// The batch in flight is confirmed.
    pub fn acknowledged(&mut self) {
        let Some((batch, abandoned)) = self.in_flight.take() else {
            return;
        };
        for op in batch.ops {
            let kind = match op {
                Op::Add(key, body) => {
                    *self.counts.entry(key.table()).or_default() += 1;
                    self.installed.insert(key, body);
                    0
                }
                Op::Change(key, body) => {
                    self.installed.insert(key, body);
                    1
                }
                Op::Delete(key) => {
                    self.abandoned.remove(&key);
                    self.forget(&key);
                    2
                }
            };
            self.writes[kind] += 1;
        }
        let there = abandoned
            .into_iter()
            .filter(|key| self.installed.contains_key(key));
        self.abandoned.extend(there);
        self.settle();
    }

    /// The batch in flight was refused as a whole, or its result is unknown: nothing is written until a read-back that
    /// began after this moment is taken.
    pub fn rejected(&mut self) {
        let Some((batch, _)) = self.in_flight.take() else {
            return;
        };
        let unknown = batch.ops.iter().map(|op| (op.key().clone(), op.body().cloned()));
        self.unknown.extend(unknown);
        if let Some(reading) = &mut self.reading {
            reading.spoiled = true;
        }
        if self.state == SessionState::Applying {
            self.state = SessionState::Observing;
        }
    }
}
