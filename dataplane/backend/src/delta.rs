//! A delta as a value, and its order.

use std::fmt;

/// What sort of row a key names, as far as the order of writing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Rows of a class: no packet meets them before wiring leads to the class.
    Content,
    /// Rows that lead packets to classes: attach, guard, deliver and what forwards.
    Wiring,
}

/// The key of a row: what makes two writes be about the same row.
pub trait Key: Clone + Eq + Ord + std::hash::Hash + fmt::Debug {
    /// Its layer.
    fn layer(&self) -> Layer;

    /// The table it is in, as a number, so that rows are counted per table.
    fn table(&self) -> u8;

    /// The class that a row of content belongs to; `None` when it holds for every class, and for wiring.
    fn class(&self) -> Option<u32>;
}

/// One write.
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
    /// Wiring, all of it at once.
    Flip,
    /// Content that nothing leads to any more.
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
        (Layer::Wiring, _) => Step::Flip,
        (Layer::Content, Op::Delete(_)) if stays => Step::Settle,
        (Layer::Content, Op::Delete(_)) => Step::Collect,
        (Layer::Content, _) => Step::Prepare,
    };
    Some((step, op))
}
