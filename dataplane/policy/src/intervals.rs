//! Sets of unsigned numbers as intervals, and their algebra: ports, ICMP types, protocols, addresses.
//!
//! An interval is `(low, high)` with both ends included and `low <= high`. A list of intervals is *normal* when it is
//! ascending and none overlaps or touches the next, so that equal sets are equal lists. [`IntervalSet`] is such a list
//! that is never empty. [`starts`] and [`paint`] are for intervals of several owners, which may overlap.
//!
//! The compiler's proof has interval functions of its own, because it shares no code with the encoder.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::types::Family;

/// An unsigned integer type.
pub trait Unsigned: Copy + Ord {
    /// Zero, the smallest number of the type.
    const MIN: Self;
    /// The largest number of the type.
    const MAX: Self;
    /// The next number; `None` behind [`MAX`](Self::MAX).
    fn next(self) -> Option<Self>;
    /// The number before; `None` before 0.
    fn previous(self) -> Option<Self>;
}

macro_rules! unsigned {
    ($($number:ty),*) => {$(
        impl Unsigned for $number {
            const MIN: Self = 0;
            const MAX: Self = <$number>::MAX;

            #[inline]
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline]
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

unsigned!(u8, u16, u32, u128);

/// Intervals in any order that may overlap, as a normal list.
fn normal<N: Unsigned>(mut intervals: Vec<(N, N)>) -> Vec<(N, N)> {
    intervals.sort_unstable();
    // What follows one that reaches the largest number begins within it.
    let joins = |high: N, low: N| high.next().is_none_or(|next| low <= next);
    intervals.dedup_by(|(low, high), last| {
        let joined = joins(last.1, *low);
        if joined {
            last.1 = last.1.max(*high);
        }
        joined
    });
    intervals
}

/// The parts of an interval that are in a set, ascending.
fn clip<N: Unsigned>((low, high): (N, N), set: &[(N, N)]) -> impl Iterator<Item = (N, N)> + '_ {
    let from = set.partition_point(|(_, end)| *end < low);
    let near = set.get(from..).unwrap_or(&[]).iter();
    near.take_while(move |(first, _)| *first <= high)
        .map(move |(first, end)| (low.max(*first), high.min(*end)))
}

/// Whether some number is in both sets.
fn overlaps<N: Unsigned>(a: &[(N, N)], b: &[(N, N)]) -> bool {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    few.iter().any(|interval| clip(*interval, many).next().is_some())
}

/// Whether a set holds all of another.
fn covers<N: Unsigned>(set: &[(N, N)], other: &[(N, N)]) -> bool {
    other
        .iter()
        .all(|interval| clip(*interval, set).next() == Some(*interval))
}

/// The numbers in both sets.
fn intersection<N: Unsigned>(a: &[(N, N)], b: &[(N, N)]) -> Vec<(N, N)> {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    few.iter().flat_map(|interval| clip(*interval, many)).collect()
}

/// The numbers of a set that another one lacks.
fn difference<N: Unsigned>(set: &[(N, N)], other: &[(N, N)]) -> Vec<(N, N)> {
    let mut left = Vec::new();
    for interval in set {
        let mut from = Some(interval.0);
        for (low, high) in clip(*interval, other) {
            if let (Some(from), Some(to)) = (from, low.previous())
                && from <= to
            {
                left.push((from, to));
            }
            from = high.next();
        }
        left.extend(
            from.filter(|from| *from <= interval.1)
                .map(|from| (from, interval.1)),
        );
    }
    left
}

/// Where numbers of `0..=last` begin to be in other intervals than the number before: 0, the first number of each
/// interval and the one behind its last, ascending and each once.
pub fn starts<N: Unsigned>(intervals: impl IntoIterator<Item = (N, N)>, last: N) -> Vec<N> {
    let mut starts = vec![N::MIN];
    for (low, high) in intervals {
        starts.extend(
            [Some(low), high.next()]
                .into_iter()
                .flatten()
                .filter(|n| *n <= last),
        );
    }
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Who has each number of `0..=last`, for intervals in falling precedence: the first that holds it. Pieces are their
/// first number and the index of their interval, `None` where no interval is; they ascend from 0, and neighbours differ.
/// Sorting is all that costs more than linear time.
pub fn paint<N: Unsigned>(intervals: &[(N, N)], last: N) -> Vec<(N, Option<usize>)> {
    let starts = starts(intervals.iter().copied(), last);
    let mut owner: Vec<Option<usize>> = vec![None; starts.len()];
    // The next piece without an owner at or behind each, with path halving.
    let mut next: Vec<usize> = (0..=starts.len()).collect();
    for (which, (low, high)) in intervals.iter().enumerate() {
        let mut at = free(&mut next, starts.partition_point(|s| s < low));
        while starts.get(at).is_some_and(|s| s <= high) {
            if let (Some(owner), Some(next)) = (owner.get_mut(at), next.get_mut(at)) {
                *owner = Some(which);
                *next = at + 1;
            }
            at = free(&mut next, at + 1);
        }
    }
    let mut pieces: Vec<(N, Option<usize>)> = starts.into_iter().zip(owner).collect();
    pieces.dedup_by_key(|(_, owner)| *owner);
    pieces
}

fn free(next: &mut [usize], mut at: usize) -> usize {
    loop {
        let Some(&to) = next.get(at) else { return at };
        if to == at {
            return at;
        }
        let further = next.get(to).copied().unwrap_or(to);
        if let Some(next) = next.get_mut(at) {
            *next = further;
        }
        at = further;
    }
}

/// An address as a number of as many bits as its family has.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A set of numbers, never empty. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntervalSet<N>(Few<N>);

/// Most sets are one interval, which needs no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Few<N> {
    One([(N, N); 1]),
    Many(Arc<[(N, N)]>),
}

impl<N: Unsigned> IntervalSet<N> {
    /// The set of all numbers.
    pub const fn all() -> Self {
        Self::interval(N::MIN, N::MAX)
    }

    /// The numbers from `low` to `high`, both included; `low` is not above `high`.
    pub const fn interval(low: N, high: N) -> Self {
        IntervalSet(Few::One([(low, high)]))
    }

    /// The numbers of intervals in any order that may overlap; `None` when there are none.
    pub fn from_intervals(intervals: impl IntoIterator<Item = (N, N)>) -> Option<Self> {
        Self::from_normal(normal(intervals.into_iter().collect()))
    }

    fn from_normal(intervals: Vec<(N, N)>) -> Option<Self> {
        match intervals.as_slice() {
            [] => None,
            [(low, high)] => Some(Self::interval(*low, *high)),
            _ => Some(IntervalSet(Few::Many(intervals.into()))),
        }
    }

    /// The intervals as a normal list; at least one.
    #[inline]
    pub fn as_slice(&self) -> &[(N, N)] {
        match &self.0 {
            Few::One(one) => one,
            Few::Many(many) => many,
        }
    }

    /// First and last of each interval, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (N, N)> + '_ {
        self.as_slice().iter().copied()
    }

    /// Whether it is every number.
    pub fn is_all(&self) -> bool {
        self.as_slice() == [(N::MIN, N::MAX)]
    }

    /// Lowest and highest number.
    pub fn bounds(&self) -> (N, N) {
        let intervals = self.as_slice();
        let (first, last) = (intervals.first(), intervals.last());
        (first.map_or(N::MIN, |i| i.0), last.map_or(N::MAX, |i| i.1))
    }

    /// Whether it holds `n`.
    pub fn contains(&self, n: N) -> bool {
        clip((n, n), self.as_slice()).next().is_some()
    }

    /// Whether some number is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        overlaps(self.as_slice(), other.as_slice())
    }

    /// Whether it holds all of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        covers(self.as_slice(), other.as_slice())
    }

    /// The numbers in both; `None` when there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if other.covers(self) {
            return Some(self.clone());
        }
        Self::from_normal(intersection(self.as_slice(), other.as_slice()))
    }

    /// The numbers in either.
    pub fn union(&self, other: &Self) -> Self {
        Self::from_intervals(self.iter().chain(other.iter())).unwrap_or_else(|| self.clone())
    }

    /// The numbers that `other` lacks; `None` when there are none.
    pub fn difference(&self, other: &Self) -> Option<Self> {
        Self::from_normal(difference(self.as_slice(), other.as_slice()))
    }
}

impl IntervalSet<u128> {
    /// Every address of an IP version.
    pub const fn of_family(family: Family) -> Self {
        match family {
            Family::V4 => Self::interval(0, u32::MAX as u128),
            Family::V6 => Self::all(),
        }
    }

    /// The addresses of the prefixes of one IP version; `None` when there are none.
    pub fn from_prefixes<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, family: Family) -> Option<Self> {
        let own = prefixes
            .into_iter()
            .filter(|prefix| Family::from_address(prefix.addr()) == family);
        Self::from_intervals(own.map(|prefix| (number(prefix.network()), number(prefix.broadcast()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sets of 8-bit numbers, each with the numbers it holds. Numbers are near both ends, where the next or previous
    /// number may not exist.
    type Model = [bool; 256];

    fn lists() -> impl Strategy<Value = Vec<(u8, u8)>> {
        let bound = prop_oneof![3 => 0..24u8, 3 => 232..=u8::MAX, 1 => any::<u8>()];
        let pair = (bound.clone(), bound).prop_map(|(a, b)| (a.min(b), a.max(b)));
        proptest::collection::vec(pair, 0..7)
    }

    fn model(intervals: &[(u8, u8)]) -> Model {
        let mut model = [false; 256];
        for (low, high) in intervals {
            model[usize::from(*low)..=usize::from(*high)].fill(true);
        }
        model
    }

    fn combined(a: &Model, b: &Model, both: fn(bool, bool) -> bool) -> Model {
        std::array::from_fn(|n| both(a[n], b[n]))
    }

    fn is_normal(intervals: &[(u8, u8)]) -> bool {
        intervals.iter().all(|(low, high)| low <= high)
            && intervals
                .windows(2)
                .all(|pair| u16::from(pair[0].1) + 1 < u16::from(pair[1].0))
    }

    fn list(set: Option<&IntervalSet<u8>>) -> &[(u8, u8)] {
        set.map_or(&[], IntervalSet::as_slice)
    }

    proptest! {
        #[test]
        fn the_algebra_is_that_of_bitmaps(a in lists(), b in lists(), (low, high) in (any::<u8>(), any::<u8>())) {
            let (in_a, in_b) = (model(&a), model(&b));
            let (a, b) = (normal(a), normal(b));
            let made = [
                (a.clone(), in_a),
                (normal([a.clone(), b.clone()].concat()), combined(&in_a, &in_b, |a, b| a || b)),
                (intersection(&a, &b), combined(&in_a, &in_b, |a, b| a && b)),
                (difference(&a, &b), combined(&in_a, &in_b, |a, b| a && !b)),
                (difference(&[(0, u8::MAX)], &a), combined(&in_a, &in_b, |a, _| !a)),
            ];
            for (list, wanted) in &made {
                prop_assert!(is_normal(list), "{list:?}");
                prop_assert_eq!(&model(list), wanted);
            }
            prop_assert_eq!(overlaps(&a, &b), (0..256).any(|n| in_a[n] && in_b[n]));
            prop_assert_eq!(covers(&a, &b), (0..256).all(|n| in_a[n] || !in_b[n]));
            let run = (low.min(high), low.max(high));
            let clipped: Vec<_> = clip(run, &a).collect();
            prop_assert_eq!(clipped, intersection(&[run], &a));
        }

        #[test]
        fn sets_are_lists_that_are_not_empty(a in lists(), b in lists()) {
            let sets = [&a, &b].map(|list| IntervalSet::from_intervals(list.iter().copied()));
            for (set, made) in sets.iter().zip([&a, &b]) {
                prop_assert_eq!(list(set.as_ref()), normal(made.clone()));
            }
            let [Some(one), Some(two)] = sets else { return Ok(()) };
            let (a, b) = (one.as_slice(), two.as_slice());
            let (both, left, either) = (one.intersection(&two), one.difference(&two), one.union(&two));
            prop_assert_eq!(list(both.as_ref()), intersection(a, b));
            prop_assert_eq!(list(left.as_ref()), difference(a, b));
            prop_assert_eq!(either.as_slice(), normal([a, b].concat()));
            prop_assert_eq!((one.overlaps(&two), one.covers(&two)), (overlaps(a, b), covers(a, b)));
            prop_assert_eq!(one.is_all(), model(a) == [true; 256]);
            let held: Vec<u8> = (0..=u8::MAX).filter(|n| one.contains(*n)).collect();
            prop_assert_eq!(&held, &(0..=u8::MAX).filter(|n| model(a)[usize::from(*n)]).collect::<Vec<_>>());
            prop_assert_eq!(Some(&one.bounds().0), held.first());
            prop_assert_eq!(Some(&one.bounds().1), held.last());
        }

        #[test]
        fn the_first_interval_has_a_number(intervals in lists(), last in prop_oneof![Just(u8::MAX), Just(250u8)]) {
            let intervals: Vec<(u8, u8)> =
                intervals.into_iter().map(|(low, high)| (low.min(last), high.min(last))).collect();
            let wanted: Vec<Option<usize>> = (0..=last)
                .map(|n| intervals.iter().position(|(low, high)| *low <= n && n <= *high))
                .collect();
            let pieces = paint(&intervals, last);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
            let starts = starts(intervals.iter().copied(), last);
            prop_assert!(starts.is_sorted_by(|a, b| a < b) && starts.first() == Some(&0));
            for (n, wanted) in (0..=last).zip(&wanted) {
                let at = pieces.partition_point(|(start, _)| *start <= n) - 1;
                prop_assert_eq!(pieces[at].1, *wanted, "{}", n);
                // Between two starts every number is in the same intervals.
                let start = starts[starts.partition_point(|start| *start <= n) - 1];
                let holds = |n: u8| intervals.iter().map(move |(low, high)| *low <= n && n <= *high);
                prop_assert!(holds(start).eq(holds(n)), "{} and {}", start, n);
            }
        }
    }

    #[test]
    fn prefixes_are_intervals_of_their_family() {
        let prefixes: Vec<IpNet> = ["192.0.2.0/25", "192.0.2.128/25", "2001:db8::/32", "10.0.0.1/32"]
            .map(|prefix| prefix.parse().unwrap())
            .to_vec();
        let v4 = IntervalSet::from_prefixes(&prefixes, Family::V4).unwrap();
        assert_eq!(
            v4.as_slice(),
            [(0x0a00_0001, 0x0a00_0001), (0xc000_0200, 0xc000_02ff)]
        );
        let v6 = IntervalSet::from_prefixes(&prefixes, Family::V6).unwrap();
        assert_eq!(v6.as_slice(), [(0x2001_0db8 << 96, (0x2001_0db9 << 96) - 1)]);
        assert_eq!(IntervalSet::from_prefixes(&prefixes[..1], Family::V6), None);
        let whole = IntervalSet::from_prefixes(&["0.0.0.0/0".parse().unwrap()], Family::V4);
        assert_eq!(whole, Some(IntervalSet::of_family(Family::V4)));
    }
}
