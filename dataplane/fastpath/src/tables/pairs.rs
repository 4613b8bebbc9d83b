//! Classes with overlays above them. Each pair that a row leads to is compiled as one policy, so that an overlay costs a packet
//! nothing: rows of both stand in one order.

use std::collections::{BTreeMap, BTreeSet};

use crate::row::Lead;

/// Policies of classes alone: their places are the numbers of their classes.
pub const CLASSES: u32 = 1 << 16;
/// Pairs that one direction can have: more than there are rows in a table of the embedded switch, which may all change at once.
pub const MOST: u32 = 3 << 16;

/// The pairs of one direction that rows lead to.
#[derive(Debug, Default)]
pub struct Pairs {
    known: BTreeMap<Lead, Pair>,
    free: BTreeSet<u32>,
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
    /// Whether a row can be kept that leads there, if it led somewhere before.
    pub fn has_room(&self, before: Option<Lead>, lead: Lead) -> bool {
        let is_left = |lead: Lead| self.known.get(&lead).is_some_and(|pair| pair.rows == 1);
        let room = (self.known.len() as u32) < MOST || before.is_some_and(is_left);
        !is_pair(lead) || self.known.contains_key(&lead) || room
    }

    /// Counts a row that leads there, where there [is room](Self::has_room). Whether its policy has to be compiled.
    pub fn add(&mut self, lead: Lead) -> bool {
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
        true
    }

    /// Forgets a row that led there. The place of its policy, if no other row leads there.
    pub fn remove(&mut self, lead: Lead) -> Option<u32> {
        let pair = self.known.get_mut(&lead)?;
        pair.rows -= 1;
        if pair.rows > 0 {
            return None;
        }
        let place = self.known.remove(&lead)?.place;
        self.free.insert(place);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_no_row_leads_there() {
        let lead = |class, overlay| Lead { class, overlay };
        let mut pairs = Pairs::default();
        assert!(!pairs.add(lead(0, 5)) && !pairs.add(lead(5, 0)), "no pairs");
        assert_eq!((pairs.place(lead(0, 5)), pairs.place(lead(5, 0))), (0, 5));
        assert!(pairs.add(lead(1, 7)) && !pairs.add(lead(1, 7)) && pairs.add(lead(2, 7)));
        assert_eq!(
            (pairs.place(lead(1, 7)), pairs.place(lead(2, 7))),
            (CLASSES, CLASSES + 1)
        );
        assert_eq!(pairs.remove(lead(1, 7)), None);
        assert_eq!(pairs.remove(lead(1, 7)), Some(CLASSES));
        assert!(pairs.add(lead(3, 9)) && pairs.add(lead(4, 9)));
        let places: Vec<u32> = pairs.iter().map(|(_, place)| place).collect();
        assert_eq!(places, [CLASSES + 1, CLASSES, CLASSES + 2]);
    }

    #[test]
    fn there_are_no_more_pairs_than_places() {
        let mut pairs = Pairs::default();
        for n in 0..MOST {
            assert!(pairs.add(Lead::from_parameter((n / 60_000 + 1) << 16 | (n % 60_000 + 1))));
        }
        let more = Lead::from_parameter(9 << 16 | 1);
        assert!(!pairs.has_room(None, more) && !pairs.add(more));
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
}
