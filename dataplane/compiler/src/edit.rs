//! Editing a class in place: the writes that lead from its old rows to its new ones, in an order in which every packet
//! meets the old verdict or the new one at any moment.
//!
//! First what is new or changed, highest priority first; then what goes, lowest priority first. Why that is enough for
//! any two tables in which overlapping rows of equal priority agree:
//!
//! - While rows are written, take the winning row of a packet. If it is an old row, no old row ranks above it (none was
//!   removed), so it decided before: the old verdict. If it is a new or changed one, every row of the new table that
//!   ranks above it is there already (highest first) and does not match, so it decides in the new table too.
//! - While rows go, the new table is complete. If the winner is in it, it is the new table's winner. If not, it is a
//!   row to be removed that ranks above all matching rows of the new table; every old row above it is still there or
//!   stays (lowest first) and does not match, so it decided before.
//!
//! An old row and a new one of equal priority may overlap for a moment where ranges are keys; a target decides such a
//! packet by either, which is its old verdict or its new one.
//!
//! It holds for one table. Rows of the `remote` and code stages must not change what they say about a packet in the
//! same edit: then the class is written anew under a free id (make before break).

use std::collections::HashMap;

use crate::program::{PolicyRow, Program, RowKey};

/// The writes of one class's policy stage, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edit {
    /// Rows that are not there, or are there with another action; highest priority first.
    pub writes: Vec<PolicyRow>,
    /// Rows that shall go, lowest priority first.
    pub deletes: Vec<PolicyRow>,
}

impl Edit {
    /// From one program of a class to the next; `None` when it cannot be edited in place.
    pub fn between(old: &Program, new: &Program) -> Option<Self> {
        if old.remote != new.remote || old.words != new.words || old.codes != new.codes {
            return None;
        }
        let name = |row: &PolicyRow| (row.priority, row.key);
        let before: HashMap<(u32, RowKey), &PolicyRow> = old.policy.iter().map(|r| (name(r), r)).collect();
        let after: HashMap<(u32, RowKey), &PolicyRow> = new.policy.iter().map(|r| (name(r), r)).collect();
        let same = |row: &PolicyRow| {
            before
                .get(&name(row))
                .is_some_and(|was| was.action == row.action && was.words == row.words)
        };
        let mut writes: Vec<PolicyRow> = new.policy.iter().filter(|r| !same(r)).copied().collect();
        let mut deletes: Vec<PolicyRow> = old
            .policy
            .iter()
            .filter(|r| !after.contains_key(&name(r)))
            .copied()
            .collect();
        writes.sort_unstable_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.key.cmp(&b.key)));
        deletes.sort_unstable_by(|a, b| a.priority.cmp(&b.priority).then_with(|| a.key.cmp(&b.key)));
        Some(Edit { writes, deletes })
    }

    /// How many rows are written or deleted.
    pub fn len(&self) -> usize {
        self.writes.len() + self.deletes.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
