//! Differences between desired and installed rows, and the order in which they are written.
//!
//! **Editing a class in place.** [`Step::Prepare`] writes the rows that a class in use gains or that change, highest priority
//! first; [`Step::Settle`] then deletes the rows that it loses, lowest priority first. At every moment a packet meets
//! the class's old verdict or its new one, for any two tables in which overlapping rows of equal priority agree:
//!
//! - While rows are written, take the row that decides a packet. If it is an old row, no old row ranks above it (none
//!   was deleted), so it decided before: the old verdict. If it is a new or changed one, every new row that ranks above
//!   it is there already and does not match, so it decides in the new table, too.
//! - While rows are deleted, the new table is complete. If the deciding row is in it, that is the new verdict. If not, it
//!   is still to be deleted and ranks above all matching new rows; every old row above it is still there or stays, and
//!   does not match, so it decided before.
//!
//! An old row and a new one of equal priority may overlap for a moment where ranges are keys. A target decides such a
//! packet by either, which is its old verdict or its new one.
//!
//! This holds for one table. A class whose rows in other stages change as well is written under a free id instead
//! (make before break).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// What sort of row a key names, as far as the order of writing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Rows of a class: no packet meets them before dispatch rows lead to the class.
    Policy,
    /// Rows that lead packets to classes: attach, guard, deliver and what forwards.
    Dispatch,
    /// What a dispatch row leads to beside a class, such as the groups that it forwards to: there before that row, deleted
    /// after it.
    Support,
}

/// The key of a row: what makes two writes be about the same row.
pub trait Key: Clone + Eq + Ord + std::hash::Hash + fmt::Debug {
    /// Which layer it is in, which sets the order of writing.
    fn layer(&self) -> Layer;

    /// The table it is in, as a number, so that rows are counted per table.
    fn table(&self) -> u8;

    /// The class that a policy row belongs to; `None` when it holds for every class, and for all other rows.
    fn class(&self) -> Option<u32>;

    /// Its priority: of overlapping rows of one table, the one with the larger number decides.
    fn priority(&self) -> i32;
}

/// One write to the datapath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op<K, B> {
    /// A row that is not there.
    Add(K, B),
    /// A row that is there with another body.
    Change(K, B),
    /// A row that shall go.
    Delete(K),
}

impl<K, B> Op<K, B> {
    /// The row it is about.
    pub fn key(&self) -> &K {
        match self {
            Op::Add(key, _) | Op::Change(key, _) | Op::Delete(key) => key,
        }
    }

    /// What the row does afterwards; nothing when it is deleted.
    pub fn body(&self) -> Option<&B> {
        match self {
            Op::Add(_, body) | Op::Change(_, body) => Some(body),
            Op::Delete(_) => None,
        }
    }

    /// How golden texts and plans show it: `+`, `~` or `-`.
    pub fn sign(&self) -> char {
        match self {
            Op::Add(..) => '+',
            Op::Change(..) => '~',
            Op::Delete(_) => '-',
        }
    }
}

/// The step of make before break that a write belongs to; steps are written in this order, each confirmed
/// before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// New content: of a class that nothing leads to yet, or rows that a class in use gets.
    Prepare,
    /// Rows that a class in use loses. With the rows it got in place, each packet meets the old verdict or the new one;
    /// who is wired to the class next meets the new one only.
    Settle,
    /// Dispatch rows, all of them at once, and new support rows.
    Flip,
    /// Deletions that change what packets meet, and wait for the flip: rows that hold for every class, and support rows.
    Retire,
    /// Rows of classes that nothing leads to any more. No packet meets them: a generation is in force without this step.
    Collect,
}

/// The write that brings one row from `installed` to `desired`, and its step. `stays`: the row's class is desired, with
/// other rows.
pub fn op<K: Key, B: Clone + PartialEq>(
    key: &K,
    desired: Option<&B>,
    installed: Option<&B>,
    stays: bool,
) -> Option<(Step, Op<K, B>)> {
    let op = match (desired, installed) {
        (Some(want), None) => Op::Add(key.clone(), want.clone()),
        (Some(want), Some(have)) if want != have => Op::Change(key.clone(), want.clone()),
        (None, Some(_)) => Op::Delete(key.clone()),
        _ => return None,
    };
    let step = match (key.layer(), &op) {
        (Layer::Support, Op::Delete(_)) => Step::Retire,
        (Layer::Dispatch | Layer::Support, _) => Step::Flip,
        (Layer::Policy, Op::Delete(_)) if stays => Step::Settle,
        (Layer::Policy, Op::Delete(_)) if key.class().is_none() => Step::Retire,
        (Layer::Policy, Op::Delete(_)) => Step::Collect,
        (Layer::Policy, _) => Step::Prepare,
    };
    Some((step, op))
}

/// Groups of writes: the next begins when the one before it is confirmed. A target may carry out one group in any order.
pub type Groups<K, B> = Vec<Vec<Op<K, B>>>;

/// The writes of [`Step::Prepare`] in groups, and the deletes among them, of rows that nothing leads to any more. Rows of
/// classes that nothing leads to yet come first, in any order; then the rows that classes in use gain, highest
/// priority first. `in_use` says of a class whether a packet may be led to it.
pub fn prepare<K: Key, B>(ops: Vec<Op<K, B>>, in_use: impl Fn(u32) -> bool) -> (Groups<K, B>, Vec<Op<K, B>>) {
    let (mut fresh, mut abandoned) = (Vec::new(), Vec::new());
    let mut levels: BTreeMap<Reverse<i32>, Vec<Op<K, B>>> = BTreeMap::new();
    for op in ops {
        // A row without a class holds for every class, so that it is in use.
        let used = op.key().class().is_none_or(&in_use);
        match &op {
            Op::Delete(_) => abandoned.push(op),
            _ if used => levels.entry(Reverse(op.key().priority())).or_default().push(op),
            _ => fresh.push(op),
        }
    }
    let groups = std::iter::once(fresh).chain(levels.into_values());
    (groups.filter(|ops| !ops.is_empty()).collect(), abandoned)
}

/// The deletes of [`Step::Settle`] in groups: rows that a class in use loses, lowest priority first. And the deletes among
/// them of rows that nothing leads to any more. `stays` says of a class whether it is desired.
pub fn settle<K: Key, B>(ops: Vec<Op<K, B>>, stays: impl Fn(u32) -> bool) -> (Groups<K, B>, Vec<Op<K, B>>) {
    let (lost, abandoned) = ops
        .into_iter()
        .partition(|op| op.key().class().is_some_and(&stays));
    (from_below(lost), abandoned)
}

/// Writes in groups, lowest priority first.
pub fn from_below<K: Key, B>(ops: Vec<Op<K, B>>) -> Groups<K, B> {
    let mut levels: BTreeMap<i32, Vec<Op<K, B>>> = BTreeMap::new();
    for op in ops {
        levels.entry(op.key().priority()).or_default().push(op);
    }
    levels.into_values().collect()
}
