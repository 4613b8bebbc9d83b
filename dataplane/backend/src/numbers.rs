//! Class numbers of one target.
//!
//! The compiler names classes by ids of 32 bits that all targets have in common. A target whose class key is narrower gives
//! each class a number of its own. It gives a number to another class only when it no longer has rows under it, and waits
//! for no other target.
//!
//! A class whose id fits, and is above every number that was ever in use here, has its id as its number. A number stays with
//! its class until the class is gone. Numbers are not stored: [`Numbers::recover`] finds them again in the rows that are read
//! back, so that a restarted agent, or another agent that takes over, changes no row.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use portcullis_compiler::ClassId;

/// A row that more classes than this have tells none of them from the others.
const COMMON: usize = 16;

/// A target's class key cannot tell all classes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} distinct policies need class numbers and the target's class key has {limit} ({leaving} more are in use by rows \
     that are still to be removed): let more endpoints share their rules, or move some to another target"
)]
pub struct OutOfNumbers {
    /// Classes that are wanted.
    pub wanted: usize,
    /// Highest number that the target's class key holds.
    pub limit: u32,
    /// Numbers of other classes, of which the target may still have rows.
    pub leaving: usize,
}

/// The numbers that a target gives to classes. Class 0, to which nothing is denied, is number 0 everywhere.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    of: BTreeMap<ClassId, u32>,
    back: BTreeMap<u32, ClassId>,
    /// The highest number ever given here, or seen in a row.
    highest: u32,
    /// Rows were read back before: the numbers are those of rows, not guesses.
    known: bool,
    /// Numbers that were found to be free, falling: the last is given next.
    free: Vec<u32>,
}

impl Numbers {
    /// The number of a class.
    pub fn number(&self, class: ClassId) -> Option<u32> {
        match class {
            ClassId::OPEN => Some(0),
            class => self.of.get(&class).copied(),
        }
    }

    /// The class with a number.
    pub fn class(&self, number: u32) -> Option<ClassId> {
        match number {
            0 => Some(ClassId::OPEN),
            number => self.back.get(&number).copied(),
        }
    }

    fn set(&mut self, class: ClassId, number: u32) {
        self.of.insert(class, number);
        self.back.insert(number, class);
        self.highest = self.highest.max(number);
    }

    fn forget(&mut self, class: ClassId) {
        if let Some(number) = self.of.remove(&class) {
            self.back.remove(&number);
        }
    }

    /// Gives every wanted class a number up to a limit. `held` says under which numbers the target may have rows; it is
    /// asked only when ids no longer serve as numbers. After an error no class has another number.
    pub fn give(
        &mut self,
        wanted: &BTreeSet<ClassId>,
        limit: u32,
        held: impl Fn() -> BTreeSet<u32>,
    ) -> Result<(), OutOfNumbers> {
        let new: Vec<ClassId> = wanted
            .iter()
            .filter(|class| self.number(**class).is_none())
            .copied()
            .collect();
        let (fit, rest): (Vec<ClassId>, Vec<ClassId>) = new
            .into_iter()
            .partition(|class| class.0 > self.highest && class.0 <= limit);
        let given: BTreeSet<u32> = fit.iter().map(|class| class.0).collect();
        let back = &self.back;
        self.free
            .retain(|number| !back.contains_key(number) && !given.contains(number));
        if self.free.len() < rest.len() {
            self.look_for_free(wanted, limit, &held(), &given);
            if self.free.len() < rest.len() {
                return Err(OutOfNumbers {
                    wanted: wanted.iter().filter(|class| **class != ClassId::OPEN).count(),
                    limit,
                    leaving: self.of.keys().filter(|class| !wanted.contains(*class)).count(),
                });
            }
        }
        for class in fit {
            self.set(class, class.0);
        }
        for class in rest {
            if let Some(number) = self.free.pop() {
                self.set(class, number);
            }
        }
        Ok(())
    }

    /// Forgets classes that are not wanted and have no rows any more, and lists the numbers that are free then.
    fn look_for_free(
        &mut self,
        wanted: &BTreeSet<ClassId>,
        limit: u32,
        held: &BTreeSet<u32>,
        given: &BTreeSet<u32>,
    ) {
        let gone: Vec<ClassId> = self
            .of
            .iter()
            .filter(|(class, number)| !wanted.contains(*class) && !held.contains(*number))
            .map(|(class, _)| *class)
            .collect();
        for class in gone {
            self.forget(class);
        }
        let used =
            |number: &u32| self.back.contains_key(number) || held.contains(number) || given.contains(number);
        self.free = (1..=limit).filter(|number| !used(number)).collect();
        self.free.reverse();
    }

    /// Takes over the numbers under which a target was found to have exactly the rows of classes. A class whose number was
    /// found to have other rows gets another number: what leads to those rows keeps its verdicts until it is led elsewhere. But
    /// a number that was a class's already stays with it if more than half of the rows are there: that is drift, and is
    /// repaired. Rows are given without the number that they have. Whether any number changed.
    ///
    /// `in_place`: the target has no room for both. Then a number with most of a class's rows is taken over, too, and packets
    /// may meet a mix of old and new rows while they are changed.
    pub fn recover<R: Eq + Hash>(
        &mut self,
        wanted: &BTreeMap<ClassId, HashSet<R>>,
        seen: &BTreeMap<u32, HashSet<R>>,
        in_place: bool,
    ) -> bool {
        let before = self.of.clone();
        let mut found = Found::new(wanted, seen);
        found.own(self, |rows, there| rows == there);
        found.equal();
        if in_place {
            // Some of the rows may have been written under its own number before the room was used up.
            found.alike();
        } else if self.known {
            found.own(self, alike);
        }
        self.known = true;
        let numbers = found.numbers;
        let lost = wanted.keys().filter(|class| !numbers.contains_key(*class));
        let lost: Vec<ClassId> = lost
            .filter(|class| self.of.get(class).is_some_and(|number| seen.contains_key(number)))
            .copied()
            .collect();
        for class in lost {
            self.forget(class);
        }
        for (class, number) in &numbers {
            if self.of.get(class) != Some(number) {
                self.forget(*class);
                if let Some(other) = self.back.get(number).copied() {
                    self.forget(other);
                }
            }
        }
        for (class, number) in numbers {
            self.set(class, number);
        }
        let last = seen.last_key_value().map_or(0, |(number, _)| *number);
        self.highest = self.highest.max(last);
        // What is free was found before these rows were seen.
        self.free.clear();
        self.of != before
    }
}

/// Whether a target's rows are a class's, but for fewer than half.
fn alike<R: Eq + Hash>(rows: &HashSet<R>, there: &HashSet<R>) -> bool {
    let (few, many) = if rows.len() < there.len() {
        (rows, there)
    } else {
        (there, rows)
    };
    let common = few.iter().filter(|row| many.contains(*row)).count();
    !many.is_empty() && 2 * common > many.len()
}

/// Which class has which number, as far as it was found out.
struct Found<'a, R> {
    wanted: &'a BTreeMap<ClassId, HashSet<R>>,
    seen: &'a BTreeMap<u32, HashSet<R>>,
    numbers: BTreeMap<ClassId, u32>,
    taken: BTreeSet<u32>,
}

impl<'a, R: Eq + Hash> Found<'a, R> {
    fn new(wanted: &'a BTreeMap<ClassId, HashSet<R>>, seen: &'a BTreeMap<u32, HashSet<R>>) -> Self {
        Found {
            wanted,
            seen,
            numbers: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    fn take(&mut self, class: ClassId, number: u32) {
        if self.taken.insert(number) {
            self.numbers.insert(class, number);
        }
    }

    /// Classes whose number has their rows.
    fn own(&mut self, numbers: &Numbers, are: impl Fn(&HashSet<R>, &HashSet<R>) -> bool) {
        for (class, rows) in self.open() {
            let number = numbers.number(class);
            let has = |number: &u32| self.seen.get(number).is_some_and(|there| are(rows, there));
            if let Some(number) = number.filter(has) {
                self.take(class, number);
            }
        }
    }

    fn open(&self) -> Vec<(ClassId, &'a HashSet<R>)> {
        let open = self
            .wanted
            .iter()
            .filter(|(class, _)| !self.numbers.contains_key(*class));
        open.map(|(class, rows)| (*class, rows)).collect()
    }

    fn unclaimed(&self) -> impl Iterator<Item = (u32, &'a HashSet<R>)> {
        let unclaimed = self
            .seen
            .iter()
            .filter(|(number, _)| !self.taken.contains(*number));
        unclaimed.map(|(number, rows)| (*number, rows))
    }

    /// Numbers whose rows are exactly those of a class.
    fn equal(&mut self) {
        let mut by_sum: HashMap<u64, Vec<u32>> = HashMap::new();
        for (number, rows) in self.unclaimed() {
            by_sum.entry(sum(rows)).or_default().push(number);
        }
        for (class, rows) in self.open() {
            let candidates = by_sum.get(&sum(rows)).into_iter().flatten().copied();
            let equal = |number: &u32| !self.taken.contains(number) && self.seen.get(number) == Some(rows);
            if let Some(number) = candidates.into_iter().find(equal) {
                self.take(class, number);
            }
        }
    }

    /// Numbers that have most of a class's rows, the most alike first.
    fn alike(&mut self) {
        let mut having: HashMap<&R, Vec<u32>> = HashMap::new();
        for (number, rows) in self.unclaimed() {
            for row in rows {
                having.entry(row).or_default().push(number);
            }
        }
        let mut pairs = Vec::new();
        for (class, rows) in self.open() {
            let mut common: BTreeMap<u32, usize> = BTreeMap::new();
            for number in rows
                .iter()
                .filter_map(|row| having.get(row))
                .filter(|n| n.len() <= COMMON)
                .flatten()
            {
                *common.entry(*number).or_default() += 1;
            }
            let alike = common
                .into_iter()
                .filter(|(number, _)| alike(rows, &self.seen[number]));
            pairs.extend(alike.map(|(number, rows)| (std::cmp::Reverse(rows), class, number)));
        }
        pairs.sort_unstable();
        for (_, class, number) in pairs {
            if !self.numbers.contains_key(&class) {
                self.take(class, number);
            }
        }
    }
}

/// The same for equal sets.
fn sum<R: Hash>(rows: &HashSet<R>) -> u64 {
    let hashes = rows.iter().map(|row| {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        hasher.finish()
    });
    hashes.fold(rows.len() as u64, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: &[u32]) -> BTreeSet<ClassId> {
        ids.iter().copied().map(ClassId).collect()
    }

    fn numbers_of(numbers: &Numbers, classes: &[u32]) -> Vec<u32> {
        classes
            .iter()
            .filter_map(|id| numbers.number(ClassId(*id)))
            .collect()
    }

    #[test]
    fn ids_that_fit_are_numbers_and_free_ones_serve_the_rest() {
        let mut numbers = Numbers::default();
        let nothing = BTreeSet::new;
        numbers.give(&ids(&[0, 1, 2]), 4, nothing).unwrap();
        assert_eq!(numbers_of(&numbers, &[0, 1, 2]), [0, 1, 2]);
        // 1 is gone from the policy, and the target still has its rows.
        numbers
            .give(&ids(&[2, 70_000]), 4, || BTreeSet::from([1, 2]))
            .unwrap();
        assert_eq!(numbers_of(&numbers, &[2, 70_000]), [2, 3]);
        let more = ids(&[2, 70_000, 70_001, 70_002]);
        let error = numbers.give(&more, 4, || BTreeSet::from([1, 2, 3])).unwrap_err();
        assert_eq!((error.wanted, error.limit, error.leaving), (4, 4, 1));
        assert_eq!(
            numbers_of(&numbers, &[2, 70_000, 70_001]),
            [2, 3],
            "nothing was given"
        );
        numbers.give(&more, 4, || BTreeSet::from([2, 3])).unwrap();
        assert_eq!(numbers_of(&numbers, &[2, 70_000, 70_001, 70_002]), [2, 3, 1, 4]);
        assert_eq!(numbers.class(1), Some(ClassId(70_001)));
        // A class that returns before its rows are gone has its number again.
        numbers
            .give(&ids(&[2]), 4, || BTreeSet::from([1, 2, 3, 4]))
            .unwrap();
        numbers
            .give(&ids(&[2, 70_002]), 4, || BTreeSet::from([1, 2, 3, 4]))
            .unwrap();
        assert_eq!(numbers_of(&numbers, &[70_002]), [4]);
    }

    fn rows(rows: &[u32]) -> HashSet<u32> {
        rows.iter().copied().collect()
    }

    #[test]
    fn numbers_are_found_again_in_the_rows() {
        let mut numbers = Numbers::default();
        let wanted = BTreeMap::from([
            (ClassId(70_000), rows(&[1, 2, 3])),
            (ClassId(70_001), rows(&[1, 2, 4])),
            (ClassId(70_002), rows(&[1, 7, 8, 9])),
            (ClassId(2), rows(&[20, 21])),
            (ClassId(3), rows(&[30, 31])),
        ]);
        numbers
            .give(&wanted.keys().copied().collect(), 9, BTreeSet::new)
            .unwrap();
        let seen = BTreeMap::from([
            // The rows of two classes, those of a third but for one, and of none under the number of the fourth.
            (8, rows(&[1, 2, 3])),
            (2, rows(&[1, 2, 4])),
            (5, rows(&[1, 7, 8, 10])),
            (7, rows(&[40])),
        ]);
        let mut crammed = numbers.clone();
        assert!(crammed.recover(&wanted, &seen, true));
        assert_eq!(numbers_of(&crammed, &[70_000, 70_001, 70_002, 3]), [8, 2, 5, 3]);
        assert!(numbers.recover(&wanted, &seen, false));
        assert_eq!(numbers_of(&numbers, &[70_000, 70_001, 3]), [8, 2, 3]);
        // The rows under their numbers are not all theirs.
        assert!(numbers_of(&numbers, &[70_002, 2]).is_empty());
        numbers
            .give(&wanted.keys().copied().collect(), 9, || {
                seen.keys().copied().collect()
            })
            .unwrap();
        let given = numbers.number(ClassId(2)).unwrap();
        assert!(given > 0 && !seen.contains_key(&given) && given != 3);
        assert!(
            !numbers.recover(&wanted, &seen, false),
            "found again, nothing changes"
        );
        // What was a class's and has drifted stays.
        let drifted = BTreeMap::from([(2, rows(&[1, 2])), (8, rows(&[1, 3, 5]))]);
        assert!(!numbers.recover(&wanted, &drifted, false));
    }

    proptest! {
        /// Over any history no two wanted classes share a number, no class gets one under which rows of another may be, and
        /// one that is found in rows that were written is the one under which they were written.
        #[test]
        fn a_number_is_one_classs_while_it_has_rows(
            steps in prop::collection::vec((prop::collection::btree_set(1u32..40, 0..7), any::<bool>()), 1..40),
        ) {
            let limit = 12;
            let mut numbers = Numbers::default();
            // Which class's rows the target has under each number.
            let mut target: BTreeMap<u32, ClassId> = BTreeMap::new();
            let content = |class: ClassId| rows(&[0, class.0, class.0 + 100]);
            for (wanted, restart) in steps {
                let wanted: BTreeSet<ClassId> = wanted.into_iter().map(ClassId).collect();
                if restart {
                    numbers = Numbers::default();
                    let all = BTreeMap::from_iter(wanted.iter().map(|class| (*class, content(*class))));
                    numbers.give(&wanted, limit, BTreeSet::new).unwrap();
                    let seen = BTreeMap::from_iter(target.iter().map(|(number, class)| (*number, content(*class))));
                    numbers.recover(&all, &seen, false);
                    for class in target.values().filter(|class| wanted.contains(*class)) {
                        let number = numbers.number(*class).unwrap();
                        prop_assert_eq!(target.get(&number), Some(class));
                    }
                }
                if numbers.give(&wanted, limit, || target.keys().copied().collect()).is_err() {
                    target.retain(|_, class| wanted.contains(class));
                    numbers.give(&wanted, limit, || target.keys().copied().collect()).unwrap();
                }
                for class in &wanted {
                    let number = numbers.number(*class).unwrap();
                    prop_assert!((1..=limit).contains(&number));
                    prop_assert_eq!(numbers.class(number), Some(*class));
                    let there = target.insert(number, *class);
                    prop_assert!(there.is_none_or(|there| there == *class), "{:?}", there);
                }
                if !restart {
                    target.retain(|_, class| wanted.contains(class));
                }
            }
        }
    }
}
