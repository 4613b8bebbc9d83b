//! The order of writes: of all that a plan would make, and of one batch on a target that carries it out as one.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Desired, Machine};
use crate::delta::{Key, Op, Step, op};

/// Writes that go out in one batch with rows that nothing needs after it, on a target that carries out batches as one. With
/// more, those rows go later, so that they hold up nothing that packets meet.
pub(super) const TOGETHER: usize = 256;

/// Deletions of one batch that does nothing else. A change that comes meanwhile waits for its answer.
pub(super) const COLLECTED: usize = 1000;

impl<U: Ord + Clone, K: Key, B: Clone + PartialEq> Machine<U, K, B> {
    /// The writes that would lead from what is installed to `units`, in the order of the steps.
    pub fn plan(&self, units: &Desired<U, K, B>) -> Vec<Op<K, B>> {
        let mut plan: Vec<(Step, Op<K, B>)> = Vec::new();
        let wanted: HashMap<&K, &B> = units
            .values()
            .flat_map(|u| u.iter())
            .map(|(k, b)| (k, b))
            .collect();
        let classes: HashSet<u32> = wanted.keys().filter_map(|k| k.class()).collect();
        for (key, body) in &wanted {
            plan.extend(op(*key, Some(*body), self.installed.get(*key), false));
        }
        for (key, body) in self.installed.iter().filter(|(k, _)| !wanted.contains_key(k)) {
            let stays = key.class().is_some_and(|class| classes.contains(&class));
            plan.extend(op(key, None, Some(body), stays));
        }
        plan.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.key().cmp(y.key())));
        plan.into_iter().map(|(_, op)| op).collect()
    }
}

/// Makes one step of all, in their order, but for collecting more than a few rows.
pub(super) fn merge<K, B>(by_step: &mut BTreeMap<Step, Vec<Op<K, B>>>) {
    let collect = by_step.remove(&Step::Collect).unwrap_or_default();
    let mut ops: Vec<Op<K, B>> = std::mem::take(by_step).into_values().flatten().collect();
    match ops.len() {
        0 => by_step.insert(Step::Collect, collect),
        many if many + collect.len() > TOGETHER => {
            by_step.insert(Step::Flip, ops);
            by_step.insert(Step::Collect, collect)
        }
        _ => {
            ops.extend(collect);
            by_step.insert(Step::Flip, ops)
        }
    };
    by_step.retain(|_, ops| !ops.is_empty());
}
