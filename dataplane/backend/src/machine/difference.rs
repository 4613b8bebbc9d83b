//! How a datapath differs from what a machine left there.

use std::collections::{BTreeSet, HashMap};

use super::Machine;
use crate::delta::{Key, Op};

/// Rows that were not as this machine left them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift<K> {
    /// Written by us and gone.
    pub missing: Vec<K>,
    /// Written by us, with another body since.
    pub altered: Vec<K>,
    /// With our tag and not ours.
    pub surplus: Vec<K>,
}

impl<K> Default for Drift<K> {
    fn default() -> Self {
        Drift {
            missing: Vec::new(),
            altered: Vec::new(),
            surplus: Vec::new(),
        }
    }
}

impl<K> Drift<K> {
    /// Number of rows that differ.
    pub fn len(&self) -> usize {
        self.missing.len() + self.altered.len() + self.surplus.len()
    }

    /// Whether the datapath is as this machine left it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<U: Ord + Clone, K: Key, B: Clone + PartialEq> Machine<U, K, B> {
    /// How the rows that were read differ from those known to be installed.
    pub(super) fn drift(&self, seen: &HashMap<K, B>) -> Drift<K> {
        let mut drift = Drift::default();
        let known = self
            .installed
            .iter()
            .filter(|(key, _)| !self.unknown.contains_key(*key));
        for (key, body) in known {
            match seen.get(key) {
                None => drift.missing.push(key.clone()),
                Some(other) if other != body => drift.altered.push(key.clone()),
                Some(_) => {}
            }
        }
        let surplus = seen
            .keys()
            .filter(|k| !self.installed.contains_key(*k) && !self.unknown.contains_key(*k));
        drift.surplus.extend(surplus.cloned());
        drift
    }

    /// Every key on which desired and installed rows differ, or may when the batch in flight is confirmed.
    pub(super) fn differences(&self) -> BTreeSet<K> {
        let changed = self
            .desired
            .iter()
            .filter(|(key, body)| self.installed.get(*key) != Some(*body))
            .map(|(key, _)| key);
        let surplus = self.installed.keys().filter(|k| !self.desired.contains_key(*k));
        let in_flight = self.in_flight.iter().flat_map(|(batch, _)| &batch.ops);
        changed
            .chain(surplus)
            .chain(in_flight.map(Op::key))
            .cloned()
            .collect()
    }
}
