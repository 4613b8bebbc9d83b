//! Rows that nothing leads to any more, until they are deleted.
//!
//! A packet that was led to such a row before may still be on its way to it. A datapath that carries out a batch as one keeps the
//! rows for such packets itself. Any other is given a moment between the write after which nothing leads to the rows and their
//! deletion: the driver counts it, and no other write waits for it.

use std::collections::BTreeSet;

/// Rows that nothing leads to any more.
#[derive(Debug, Clone)]
pub(super) struct Abandoned<K> {
    /// Whether packets are given a moment.
    pauses: bool,
    /// Abandoned since the pause under way began: they wait for the next one.
    next: BTreeSet<K>,
    /// Rows that the pause under way is for.
    pausing: Option<BTreeSet<K>>,
    /// No packet is on its way to these: they may be deleted.
    ripe: BTreeSet<K>,
}

impl<K: Ord + Clone> Abandoned<K> {
    pub(super) fn new(pauses: bool) -> Self {
        Abandoned {
            pauses,
            next: BTreeSet::new(),
            pausing: None,
            ripe: BTreeSet::new(),
        }
    }

    /// Nothing leads to these rows from now on.
    pub(super) fn extend(&mut self, keys: impl IntoIterator<Item = K>) {
        match self.pauses {
            false => self.ripe.extend(keys),
            true => {
                let known = |key: &K| {
                    let pausing = self.pausing.as_ref().is_some_and(|keys| keys.contains(key));
                    pausing || self.ripe.contains(key)
                };
                let new: Vec<K> = keys.into_iter().filter(|key| !known(key)).collect();
                self.next.extend(new);
            }
        }
    }

    /// A row is gone, or will be led to again.
    pub(super) fn remove(&mut self, key: &K) {
        self.next.remove(key);
        self.ripe.remove(key);
        if let Some(pausing) = &mut self.pausing {
            pausing.remove(key);
        }
    }

    /// Keeps those of which `stays` is true: the others are not installed any more.
    pub(super) fn retain(&mut self, stays: impl Fn(&K) -> bool) {
        self.next.retain(&stays);
        self.ripe.retain(&stays);
        if let Some(pausing) = &mut self.pausing {
            pausing.retain(&stays);
        }
    }

    /// Rows that may be deleted with whatever is written next.
    pub(super) fn ripe(&self) -> &BTreeSet<K> {
        &self.ripe
    }

    /// Whether a row that nothing leads to may be deleted.
    pub(super) fn may_go(&self, key: &K) -> bool {
        !self.pauses || self.ripe.contains(key)
    }

    /// Whether a pause is to begin now.
    pub(super) fn begin_pause(&mut self) -> bool {
        if self.pausing.is_some() || self.next.is_empty() {
            return false;
        }
        self.pausing = Some(std::mem::take(&mut self.next));
        true
    }

    /// The pause under way is over.
    pub(super) fn paused(&mut self) {
        self.ripe.extend(self.pausing.take().unwrap_or_default());
    }

    /// Something may lead to the rows again: those that still are abandoned are found out anew. A pause under way goes on.
    pub(super) fn reconsider(&mut self) {
        self.retain(|_| false);
    }

    /// The connection ended: what is abandoned is found out anew.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.pauses);
    }
}
