//! Classes with overlays above them. Each pair that a row leads to is compiled as one policy, so that an overlay costs a packet
//! nothing: rows of both stand in one order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::row::Lead;

/// Policies of classes alone: their places are the numbers of their classes.
pub const CLASSES: u32 = 1 << 16;
/// Pairs that one direction can have: more than there are rows in a table of the embedded switch, which may all change at once.
pub const MOST: u32 = 3 << 16;

/// Rows that the compiled policies of all pairs of one direction may have together. Each pair has the rows of its class once more,
/// in about 100 bytes each.
pub const MOST_ROWS: usize = 1 << 22;

/// The pairs of one direction that rows lead to.
#[derive(Debug, Default)]
pub struct Pairs {
    known: BTreeMap<Lead, Pair>,
    free: BTreeSet<u32>,
    /// How many pairs have a class, and how many an overlay.
    of_class: HashMap<u16, usize>,
    of_overlay: HashMap<u16, usize>,
    /// Rows of all pairs together.
    rows: usize,
}

#[derive(Debug)]
struct Pair {
    place: u32,
    rows: usize,
}

/// Whether it is a pair. Class 0 denies nothing, whatever the overlay says.
fn is_pair(lead: Lead) -> bool {
    lead.class != 0 && lead.overlay != 0
}

impl Pairs {
    /// Whether there is a place for the policy of a row that is to lead to `lead` and led to `before`.
    pub fn has_room(&self, before: Option<Lead>, lead: Lead) -> bool {
        let is_left = |lead: Lead| self.known.get(&lead).is_some_and(|pair| pair.rows == 1);
        let room = (self.known.len() as u32) < MOST || before.is_some_and(is_left);
        !is_pair(lead) || self.known.contains_key(&lead) || room
    }

    /// Whether a new pair with this many rows keeps all policies within `most` rows; true for a pair that is there.
    pub fn has_room_for_rows(&self, lead: Lead, rows: usize, most: usize) -> bool {
        !is_pair(lead) || self.known.contains_key(&lead) || self.rows + rows <= most
    }

    /// Counts a row of a class that comes (`more`) or goes. `false` if it comes and all policies would have more than `most` rows.
    pub fn row_of_class(&mut self, class: u16, more: bool, most: usize) -> bool {
        let pairs = self.of_class.get(&class).copied().unwrap_or(0);
        count(&mut self.rows, pairs, more, most)
    }

    /// Counts a row of an overlay that comes (`more`) or goes. `false` if it comes and all policies would have more than `most` rows.
    pub fn row_of_overlay(&mut self, overlay: u16, more: bool, most: usize) -> bool {
        let pairs = self.of_overlay.get(&overlay).copied().unwrap_or(0);
        count(&mut self.rows, pairs, more, most)
    }

    /// Counts a row that leads to `lead`, if it [has room](Self::has_room). `rows` is the number of rows of the pair's policy.
    /// `true` if the pair is new: its policy has to be compiled.
    pub fn add(&mut self, lead: Lead, rows: usize) -> bool {
        if !is_pair(lead) || !self.has_room(None, lead) {
            return false;
        }
        if let Some(pair) = self.known.get_mut(&lead) {
            pair.rows += 1;
            return false;
        }
        let next = CLASSES + self.known.len() as u32;
        let place = self.free.pop_first().unwrap_or(next);
        self.known.insert(lead, Pair { place, rows: 1 });
        *self.of_class.entry(lead.class).or_default() += 1;
        *self.of_overlay.entry(lead.overlay).or_default() += 1;
        self.rows += rows;
        true
    }

    /// Forgets a row that led to `lead`. Returns the place of its policy if no other row leads there: the place is free then. `rows`
    /// is the number of rows of the policy.
    pub fn remove(&mut self, lead: Lead, rows: usize) -> Option<u32> {
        let pair = self.known.get_mut(&lead)?;
        pair.rows -= 1;
        if pair.rows > 0 {
            return None;
        }
        let place = self.known.remove(&lead)?.place;
        self.free.insert(place);
        less(&mut self.of_class, lead.class);
        less(&mut self.of_overlay, lead.overlay);
        self.rows = self.rows.saturating_sub(rows);
        Some(place)
    }

    /// The place of the policy to which a row leads.
    pub fn place(&self, lead: Lead) -> u32 {
        match self.known.get(&lead) {
            Some(pair) => pair.place,
            None => lead.class.into(),
        }
    }

    /// Every pair, and the place of its policy.
    pub fn iter(&self) -> impl Iterator<Item = (Lead, u32)> {
        self.known.iter().map(|(lead, pair)| (*lead, pair.place))
    }
}

/// Counts one pair fewer of a class or an overlay, and forgets it with the last.
fn less(counts: &mut HashMap<u16, usize>, number: u16) {
    if let Some(count) = counts.get_mut(&number) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&number);
        }
    }
}

/// Adds a row to, or takes it from, the policies of this many pairs. `false` and no change if all policies together would have more
/// than `most` rows.
fn count(rows: &mut usize, pairs: usize, more: bool, most: usize) -> bool {
    match more {
        true if *rows + pairs > most => return false,
        true => *rows += pairs,
        false => *rows = rows.saturating_sub(pairs),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_no_row_leads_there() {
        let lead = |class, overlay| Lead { class, overlay };
        let mut pairs = Pairs::default();
        assert!(!pairs.add(lead(0, 5), 0) && !pairs.add(lead(5, 0), 0), "no pairs");
        assert_eq!((pairs.place(lead(0, 5)), pairs.place(lead(5, 0))), (0, 5));
        assert!(pairs.add(lead(1, 7), 0) && !pairs.add(lead(1, 7), 0) && pairs.add(lead(2, 7), 0));
        assert_eq!(
            (pairs.place(lead(1, 7)), pairs.place(lead(2, 7))),
            (CLASSES, CLASSES + 1)
        );
        assert_eq!(pairs.remove(lead(1, 7), 0), None);
        assert_eq!(pairs.remove(lead(1, 7), 0), Some(CLASSES));
        assert!(pairs.add(lead(3, 9), 0) && pairs.add(lead(4, 9), 0));
        let places: Vec<u32> = pairs.iter().map(|(_, place)| place).collect();
        assert_eq!(places, [CLASSES + 1, CLASSES, CLASSES + 2]);
    }

    #[test]
    fn there_are_no_more_pairs_than_places() {
        let mut pairs = Pairs::default();
        for n in 0..MOST {
            assert!(pairs.add(Lead::from_parameter((n / 60_000 + 1) << 16 | (n % 60_000 + 1)), 0));
        }
        let more = Lead::from_parameter(9 << 16 | 1);
        assert!(!pairs.has_room(None, more) && !pairs.add(more, 0));
        assert_eq!(pairs.place(more), 1);
        assert!(pairs.has_room(None, Lead::from_class(9)));
        // The one row of a pair may lead to another.
        let one = Lead::from_parameter(1 << 16 | 1);
        assert!(pairs.has_room(Some(one), more));
        assert!(
            pairs
                .iter()
                .all(|(_, place)| (CLASSES..CLASSES + MOST).contains(&place))
        );
    }

    #[test]
    fn pairs_have_so_many_rows_together() {
        let lead = |class, overlay| Lead { class, overlay };
        let mut pairs = Pairs::default();
        assert!(pairs.add(lead(1, 7), 7) && pairs.add(lead(1, 8), 1));
        let room = |pairs: &Pairs, at, rows| pairs.has_room_for_rows(at, rows, 10);
        assert!(!room(&pairs, lead(2, 9), 3) && room(&pairs, lead(2, 9), 2));
        assert!(room(&pairs, lead(1, 7), 99), "it is there");
        // A row of the class is one of both pairs.
        assert!(pairs.row_of_class(1, true, 10) && !pairs.row_of_class(1, true, 10));
        assert!(!pairs.row_of_overlay(7, true, 10) && pairs.row_of_overlay(9, true, 10));
        assert!(pairs.row_of_class(1, false, 10) && pairs.row_of_overlay(7, true, 10));
        assert_eq!(pairs.remove(lead(1, 8), 1), Some(CLASSES + 1));
        assert!(pairs.row_of_class(1, true, 10) && pairs.row_of_class(1, true, 10));
        assert!(!pairs.row_of_class(1, true, 10));
    }
}
