//! The contract of a table: its name, match fields, priorities, actions, layer, and what happens to a frame that no row matches.
//!
//! Each file of a table has its contract as a constant. Rows are written only with priorities of a contract: a
//! [`Level`] is made from nothing else. A test builds the rows of many bridges and policies and compares them with the contracts, in
//! both directions, and `describe` prints them.

use portcullis_backend::delta::Layer;
use portcullis_openflow::Field;

use super::Table;

/// What a table holds and does.
#[derive(Debug, Clone, Copy)]
pub struct Contract {
    /// The name in status, plans and the stage model.
    pub name: &'static str,
    /// What the table decides, as the docs say it.
    pub does: &'static str,
    /// Whether its rows belong to classes.
    pub layer: Layer,
    /// The fields that its rows may match.
    pub keys: &'static [Field],
    /// Its priorities, the highest first. They do not overlap.
    pub priorities: &'static [Priority],
    /// What its rows may do.
    pub effects: &'static [Effect],
    /// What happens to a frame that no other row matches.
    pub miss: Miss,
    /// Whether hits of its rows are counted by rule.
    pub is_counted: bool,
}

/// A priority with a name, or a range of priorities for rows that are ordered among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority {
    /// Its name in the docs.
    pub name: &'static str,
    /// The lowest number of the range.
    pub lowest: u16,
    /// The highest number, the same as `lowest` for a single priority.
    pub highest: u16,
    /// Which rows have it, as the docs say it.
    pub rows: &'static str,
}

impl Priority {
    /// A range that holds one priority.
    pub const fn new(name: &'static str, number: u16, rows: &'static str) -> Self {
        Priority::range(name, number, number, rows)
    }

    /// A range of priorities, both ends included.
    pub const fn range(name: &'static str, lowest: u16, highest: u16, rows: &'static str) -> Self {
        Priority {
            name,
            lowest,
            highest,
            rows,
        }
    }

    /// The priority `steps` above the lowest, at most the highest.
    pub fn above(self, steps: u16) -> Level {
        Level(self.lowest.saturating_add(steps).min(self.highest))
    }

    /// The priority with a number, if it is in the range.
    pub fn level(self, number: u32) -> Option<Level> {
        let number = u16::try_from(number).ok()?;
        (self.lowest..=self.highest)
            .contains(&number)
            .then_some(Level(number))
    }
}

/// The number of a priority that a contract names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(u16);

impl Level {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl From<Priority> for Level {
    fn from(priority: Priority) -> Self {
        Level(priority.lowest)
    }
}

/// One kind of thing that a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Drops the frame: the row has no instructions.
    Drop,
    /// Goes on in a later table.
    Goto(Table),
    /// Looks up a table and comes back.
    Resubmit(Table),
    /// Writes a field, or copies another field to it.
    Set(Field),
    /// Removes the outer VLAN tag.
    PopVlan,
    /// Adds a VLAN tag.
    PushVlan,
    /// Sends the frame out of a port of the bridge.
    Output,
    /// Lets the switch forward the frame by itself (NORMAL).
    Normal,
    /// Lets the switch add a row to a table.
    Learn(Table),
    /// Goes on in the foreign pipeline that `final` names.
    Foreign,
}

/// What happens to a frame that no other row of a table matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// A row of priority 0 drops it, so that it is counted.
    Drop,
    /// The row of this priority matches every frame.
    Row(Priority),
    /// Nothing: the lookup is on the side, and the frame goes on where it came from.
    Return,
}

/// The priority of the rows of [`Miss::Drop`].
pub const MISSED: Priority = Priority::new("miss", 0, "every frame that no other row matches: dropped");

#[cfg(test)]
mod tests;
