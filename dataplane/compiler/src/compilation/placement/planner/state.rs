//! What a plan takes of the tables, while it is made.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::ClassId;

/// Costs, by the place of a table in the model.
pub(super) type Costs = Vec<u64>;

/// What each table may hold; nothing where only memory bounds it. Tables that are not listed are not bounded.
pub(super) type Limits = Vec<Option<u64>>;

/// Whether every table has room for this.
pub(super) fn fits(costs: &Costs, limits: &Limits) -> bool {
    let mut both = costs.iter().zip(limits);
    both.all(|(cost, limit)| limit.is_none_or(|limit| *cost <= limit))
}

/// What classes take when one part is left or taken back, and all together.
pub(super) type Shifted = (Vec<(ClassId, Costs)>, Costs);

/// What parts are left, what each class takes of the tables then, and all together.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) left: BTreeSet<usize>,
    pub(super) classes: BTreeMap<ClassId, Costs>,
    pub(super) total: Costs,
}

impl State {
    /// Leaves a part that is not left, or takes one back that is.
    pub(super) fn shift(&mut self, part: usize, (classes, total): Shifted) {
        if !self.left.remove(&part) {
            self.left.insert(part);
        }
        self.classes.extend(classes);
        self.total = total;
    }
}
