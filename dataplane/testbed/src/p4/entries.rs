//! The entries of all tables, with their number in each.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;

use portcullis_proto::p4::v1;

/// What makes two entries the same row: table, priority, and the match as it is encoded.
pub type EntryKey = (u32, i32, Vec<u8>);

/// Entries by place; read as a map, changed so that every table's are counted.
#[derive(Debug, Default, Clone)]
pub struct Entries {
    map: BTreeMap<EntryKey, v1::TableEntry>,
    counts: HashMap<u32, usize>,
}

impl Deref for Entries {
    type Target = BTreeMap<EntryKey, v1::TableEntry>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

impl Entries {
    /// How many entries a table has.
    pub fn in_table(&self, table: u32) -> usize {
        self.counts.get(&table).copied().unwrap_or(0)
    }

    /// Puts an entry there; what was there before.
    pub fn insert(&mut self, place: EntryKey, entry: v1::TableEntry) -> Option<v1::TableEntry> {
        let table = place.0;
        let before = self.map.insert(place, entry);
        if before.is_none() {
            *self.counts.entry(table).or_default() += 1;
        }
        before
    }

    /// Takes an entry away.
    pub fn remove(&mut self, place: &EntryKey) -> Option<v1::TableEntry> {
        let before = self.map.remove(place);
        if before.is_some()
            && let Some(count) = self.counts.get_mut(&place.0)
        {
            *count = count.saturating_sub(1);
        }
        before
    }

    /// Keeps the entries that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&EntryKey, &v1::TableEntry) -> bool) {
        self.map.retain(|place, entry| wanted(place, entry));
        self.counts.clear();
        for (table, ..) in self.map.keys() {
            *self.counts.entry(*table).or_default() += 1;
        }
    }

    pub fn clear(&mut self) {
        self.map.clear();
        self.counts.clear();
    }

    /// What the entries do, to be altered; not where they are.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut v1::TableEntry> {
        self.map.values_mut()
    }
}
