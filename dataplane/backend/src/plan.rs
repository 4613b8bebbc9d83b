//! What an intent would change, as people read it.

use std::collections::BTreeMap;

use crate::delta::{Key, Op};
use crate::handle::{Plan, TablePlan};
use crate::machine::{Desired, Machine};

/// The changes that lead from the rows of a machine to desired ones. `tables` has the number, the name and the size of each; `text`
/// shows a row, with its body where it has one.
pub fn plan<U, K, B>(
    machine: &Machine<U, K, B>,
    desired: &Desired<U, K, B>,
    tables: impl IntoIterator<Item = (u8, String, Option<u64>)>,
    text: impl Fn(&K, Option<&B>) -> String,
) -> Plan
where
    U: Ord + Clone,
    K: Key,
    B: Clone + PartialEq,
{
    let table = |(number, table, size)| {
        let now = machine.rows_in(number);
        let plan = TablePlan {
            table,
            size,
            now,
            ..TablePlan::default()
        };
        (number, plan)
    };
    let mut tables: BTreeMap<u8, TablePlan> = tables.into_iter().map(table).collect();
    let mut rows = Vec::new();
    for op in machine.plan(desired) {
        if let Some(table) = tables.get_mut(&op.key().table()) {
            match &op {
                Op::Add(..) => table.add += 1,
                Op::Change(..) => table.change += 1,
                Op::Delete(_) => table.delete += 1,
            }
        }
        let body = match &op {
            Op::Add(_, body) | Op::Change(_, body) => Some(body),
            Op::Delete(key) => machine.installed().get(key),
        };
        rows.push(format!("{} {}", op.sign(), text(op.key(), body)));
    }
    Plan {
        tables: tables.into_values().collect(),
        rows,
        warnings: Vec::new(),
        leaves: Vec::new(),
        holds_again: Vec::new(),
    }
}
