//! Rows as a device stores them: identity of a row (key), and its body.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use portcullis_backend::delta::{Key, Layer};

/// The table number that stands for multicast groups.
pub const GROUPS: u8 = u8::MAX;

#[allow(missing_docs, reason = "`low` and `high` are the ends of the range")]
/// What a row says of one match field; a field that may hold anything is not there (P4Runtime 9.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// Equals the value, in all bits.
    Exact(u128),
    /// Begins with the value's first `length` bits.
    Lpm {
        /// The value, zero behind the prefix.
        value: u128,
        /// Length of the prefix, in bits.
        length: u16,
    },
    /// `field & mask == value`.
    Ternary {
        /// The value, zero outside the mask.
        value: u128,
        /// The mask, not zero.
        mask: u128,
    },
    /// From `low` to `high`, both included.
    Range { low: u128, high: u128 },
    /// The whole value of a key that may be left open.
    Optional(u128),
}

impl Match {
    /// Whether everything that the other matches is matched.
    pub fn covers(&self, other: &Match) -> bool {
        match (self, other) {
            (
                Match::Ternary { value, mask },
                Match::Ternary {
                    value: other,
                    mask: narrow,
                },
            ) => mask & narrow == *mask && other & mask == *value,
            (Match::Range { low, high }, Match::Range { low: from, high: to }) => low <= from && to <= high,
            (one, other) => one == other,
        }
    }
}

/// Where a row is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A row of a table.
    Table {
        /// Its number in [`Device::tables`](crate::device::Device::tables).
        table: u8,
        /// The higher wins; 0 in a table without ternary, range and optional keys.
        priority: i32,
        /// Match fields by id, ascending.
        fields: Vec<(u32, Match)>,
    },
    /// A multicast group of the packet replication engine.
    Group(u32),
}

/// The key of a row. Rows of a table are ordered by falling priority, as rows that a class in use gets are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowKey(pub Arc<Keyed>);

/// A place, and what the order of writing needs to know of it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Keyed {
    /// Table and match, or the group.
    pub place: Place,
    /// That of a class's rows, or of rows that lead to classes.
    pub layer: Layer,
    /// The class a row of content belongs to.
    pub class: Option<u32>,
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.table()
            .cmp(&other.table())
            .then_with(|| other.priority().cmp(&self.priority()))
            .then_with(|| self.0.place.cmp(&other.0.place))
    }
}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Key for RowKey {
    fn layer(&self) -> Layer {
        self.0.layer
    }

    fn table(&self) -> u8 {
        match &self.0.place {
            Place::Table { table, .. } => *table,
            Place::Group(_) => GROUPS,
        }
    }

    fn class(&self) -> Option<u32> {
        self.0.class
    }

    fn priority(&self) -> i32 {
        match &self.0.place {
            Place::Table { priority, .. } => *priority,
            Place::Group(_) => 0,
        }
    }
}

/// An action's id, its parameters by id, and the ends that its row carries.
pub type Parts<'a> = (u32, &'a [(u32, u128)], &'a [End]);

/// What a row does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Does {
    /// An action with its parameters by id, ascending.
    Action {
        /// Id of the action.
        id: u32,
        /// Parameters by id, ascending.
        params: Vec<(u32, u128)>,
    },
    /// An action whose first parameter becomes others at their moments, by the switch's own clock ([`crate::ends`]).
    Until {
        /// Id of the action.
        id: u32,
        /// Its parameters by id, ascending.
        params: Vec<(u32, u128)>,
        /// What the first one becomes; rising in time, not empty.
        ends: Vec<End>,
    },
    /// A copy for each of these ports, ascending.
    Copies(Vec<u32>),
}

/// What the first parameter of a row's action becomes, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// The moment, in seconds since the Unix epoch.
    pub at: u64,
    /// Its value from then on.
    pub value: u32,
}

impl Does {
    /// An action, with ends if there are some.
    pub fn action(id: u32, params: Vec<(u32, u128)>, ends: Vec<End>) -> Self {
        if ends.is_empty() {
            Does::Action { id, params }
        } else {
            Does::Until { id, params, ends }
        }
    }

    /// The action now, its parameters, and what the first one becomes; none of a group.
    pub fn parts(&self) -> Option<Parts<'_>> {
        match self {
            Does::Action { id, params } => Some((*id, params, &[])),
            Does::Until { id, params, ends } => Some((*id, params, ends)),
            Does::Copies(_) => None,
        }
    }

    /// Whether a row that did this does the other when the next of its ends have passed, and nothing else has changed.
    pub fn ends_as(&self, other: &Self) -> bool {
        let (Does::Until { id, params, ends }, Some((_, _, left))) = (self, other.parts()) else {
            return false;
        };
        let Some(last) = ends.len().checked_sub(left.len() + 1).and_then(|at| ends.get(at)) else {
            return false;
        };
        let mut params = params.clone();
        if let Some((_, first)) = params.first_mut() {
            *first = last.value.into();
        }
        let rest = ends.get(ends.len() - left.len()..).unwrap_or_default();
        Does::action(*id, params, rest.to_vec()) == *other
    }
}

/// A row as sent and as read back: its identity and what it does.
pub type Row = (RowKey, Does);

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Exact(value) | Match::Optional(value) => write!(f, "{value:#x}"),
            Match::Lpm { value, length } => write!(f, "{value:#x}/{length}"),
            Match::Ternary { value, mask } => write!(f, "{value:#x}&{mask:#x}"),
            Match::Range { low, high } => write!(f, "{low}-{high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(table: u8, priority: i32) -> RowKey {
        RowKey(Arc::new(Keyed {
            place: Place::Table {
                table,
                priority,
                fields: Vec::new(),
            },
            layer: Layer::Policy,
            class: None,
        }))
    }

    #[test]
    fn a_row_ends_as_its_ends_say() {
        let end = |at, value| End { at, value };
        let does = |class, ends: &[End]| Does::action(7, vec![(1, class), (2, 40)], ends.to_vec());
        let now = does(5, &[end(10, 6), end(20, 0)]);
        assert!(now.ends_as(&does(6, &[end(20, 0)])));
        assert!(now.ends_as(&does(0, &[])));
        for other in [
            now.clone(),
            does(5, &[]),
            does(6, &[]),
            does(6, &[end(21, 0)]),
            does(0, &[end(20, 0)]),
        ] {
            assert!(!now.ends_as(&other), "{other:?}");
        }
        assert!(!does(5, &[]).ends_as(&does(0, &[])));
    }

    #[test]
    fn rows_are_ordered_by_table_and_falling_priority() {
        let group = RowKey(Arc::new(Keyed {
            place: Place::Group(1),
            layer: Layer::Dispatch,
            class: None,
        }));
        let mut rows = vec![group.clone(), key(1, 5), key(0, 1), key(1, 9)];
        rows.sort();
        assert_eq!(rows, [key(0, 1), key(1, 9), key(1, 5), group]);
    }
}
