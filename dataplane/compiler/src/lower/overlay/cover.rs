//! The fewest rows over one dimension where parts of it need no row.
//!
//! The dimension is cut into strips. Each strip says which colours a row over it may have, and whether it needs a row at
//! all. With masks the answer is found on the binary trie of prefixes, from the leaves up (as in ORTC, Draves et al. 1999,
//! with "no row" as one more thing to inherit); with ranges and whole values by going along the line.

use super::super::capabilities::MatchSupport;
use crate::class_rows::PortMatch;

/// Whole values that may be listed where a field cannot be masked.
const MOST_VALUES: u32 = 4096;
/// More rows than any cover has.
const IMPOSSIBLE: u32 = 1 << 24;

/// What rows may do to one strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    /// Bit n is set if a row of colour n may decide here.
    pub colours: u128,
    /// Whether the strip is right without a row.
    pub pass: bool,
}

impl Strip {
    /// What is right for two strips at once.
    pub fn and(self, other: Self) -> Self {
        Strip {
            colours: self.colours & other.colours,
            pass: self.pass && other.pass,
        }
    }

    /// Whether nothing is right here.
    pub fn is_impossible(self) -> bool {
        self.colours == 0 && !self.pass
    }

    /// Whether it is right under this colour, or without a row.
    fn holds(self, under: Option<u32>) -> bool {
        match under {
            None => self.pass,
            Some(colour) => self.colours >> colour & 1 == 1,
        }
    }
}

/// One row of a dimension. Of the rows over a number the one with the highest rank decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cover {
    pub port: PortMatch,
    pub rank: u16,
    pub colour: u32,
}

/// A dimension: how many bits, and how a table matches it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dimension {
    pub width: u8,
    pub support: MatchSupport,
}

impl Dimension {
    /// The highest number that the field can hold.
    pub fn last(self) -> u16 {
        match self.width {
            0 => 0,
            width => u16::MAX >> (16 - width),
        }
    }

    /// The prefix of this many bits that begins with `value`.
    fn prefix(self, value: u32, len: u8) -> PortMatch {
        match len {
            0 => PortMatch::Any,
            len => PortMatch::Masked {
                value: value as u16,
                mask: self.last() & (u16::MAX << (self.width - len)),
            },
        }
    }

    fn range(self, low: u16, high: u16) -> PortMatch {
        PortMatch::Range { low, high }
    }
}

/// The fewest rows over all strips; `None` when the table cannot tell them apart.
///
/// `strips` are `(first number, what rows may do)`, ascending from 0.
pub(super) fn cover(strips: &[(u16, Strip)], dimension: Dimension) -> Option<Vec<Cover>> {
    if strips.iter().any(|(_, s)| s.is_impossible()) {
        return None;
    }
    let all = strips.iter().map(|(_, s)| *s).reduce(Strip::and)?;
    if all.pass {
        return Some(Vec::new());
    }
    if all.colours != 0 {
        return Some(vec![Cover {
            port: PortMatch::Any,
            rank: 0,
            colour: all.colours.trailing_zeros(),
        }]);
    }
    match dimension.support {
        MatchSupport::Missing => None,
        MatchSupport::Masked => Some(by_prefix(strips, dimension)),
        MatchSupport::Range => over_each(strips, |under| ranges(strips, dimension, under)),
        MatchSupport::Exact => over_each(strips, |under| values(strips, dimension, under)),
    }
}

/// Rows of equal rank that do not overlap, one for each part: of the strips under each row every one has its colour, and
/// strips without a row pass. `weights` are what a row of each colour costs.
pub(super) fn partition(
    strips: &[(u16, Strip)],
    dimension: Dimension,
    weights: &[usize],
) -> Option<Vec<(PortMatch, u32)>> {
    let cheapest = |colours: u128| {
        let all = (0u32..).zip(weights);
        let able = all.filter(|(colour, _)| colours >> colour & 1 == 1);
        able.min_by_key(|(_, weight)| **weight).map(|(colour, _)| colour)
    };
    let all = strips.iter().map(|(_, s)| *s).reduce(Strip::and)?;
    if all.pass {
        return Some(Vec::new());
    }
    if all.colours != 0 {
        return Some(vec![(PortMatch::Any, cheapest(all.colours)?)]);
    }
    let mut parts = Vec::new();
    match dimension.support {
        MatchSupport::Missing => return None,
        MatchSupport::Masked => halve(strips, dimension, (0, 0), &cheapest, &mut parts)?,
        MatchSupport::Range => {
            for (low, high, colours) in runs(strips, dimension.last(), None)? {
                parts.push((dimension.range(low, high), cheapest(colours)?));
            }
        }
        MatchSupport::Exact => {
            for (low, high, strip) in bounds(strips, dimension.last()).filter(|(.., s)| !s.pass) {
                if u32::from(high - low) + parts.len() as u32 >= MOST_VALUES {
                    return None;
                }
                let colour = cheapest(strip.colours)?;
                parts.extend((low..=high).map(|n| (PortMatch::exactly(n), colour)));
            }
        }
    }
    Some(parts)
}

/// Splits a prefix until one colour, or none, is right for all of it.
fn halve(
    strips: &[(u16, Strip)],
    dimension: Dimension,
    (value, len): (u32, u8),
    cheapest: &impl Fn(u128) -> Option<u32>,
    parts: &mut Vec<(PortMatch, u32)>,
) -> Option<()> {
    let (here, all) = within(strips, dimension, value, len);
    if all.pass {
        return Some(());
    }
    if all.colours != 0 {
        parts.push((dimension.prefix(value, len), cheapest(all.colours)?));
        return Some(());
    }
    if len == dimension.width {
        return None;
    }
    let half = 1u32 << (dimension.width - len - 1);
    halve(here, dimension, (value, len + 1), cheapest, parts)?;
    halve(here, dimension, (value + half, len + 1), cheapest, parts)
}

/// The strips that a prefix meets, and what they allow together.
fn within(strips: &[(u16, Strip)], dimension: Dimension, value: u32, len: u8) -> (&[(u16, Strip)], Strip) {
    let last = value + (1u32 << (dimension.width - len)) - 1;
    let first = strips
        .partition_point(|(start, _)| u32::from(*start) <= value)
        .saturating_sub(1);
    let end = strips.partition_point(|(start, _)| u32::from(*start) <= last);
    let here = strips.get(first..end).unwrap_or(&[]);
    let nothing = Strip {
        colours: 0,
        pass: true,
    };
    let all = here.iter().map(|(_, s)| *s).reduce(Strip::and).unwrap_or(nothing);
    (here, all)
}

/// First and last number of each strip.
fn bounds(strips: &[(u16, Strip)], last: u16) -> impl Iterator<Item = (u16, u16, Strip)> + '_ {
    let ends = strips.iter().skip(1).map(|(start, _)| start - 1).chain([last]);
    strips
        .iter()
        .zip(ends)
        .map(|((low, strip), high)| (*low, high, *strip))
}

/// The shortest list over any colour below, or over none.
fn over_each(
    strips: &[(u16, Strip)],
    rows: impl Fn(Option<u32>) -> Option<Vec<Cover>>,
) -> Option<Vec<Cover>> {
    let named = strips.iter().fold(0, |all, (_, s)| all | s.colours);
    let colours = (0..128u32).filter(|colour| named >> colour & 1 == 1).map(Some);
    let lists = std::iter::once(None).chain(colours).filter_map(|under| {
        let mut list = rows(under)?;
        list.extend(under.map(|colour| Cover {
            port: PortMatch::Any,
            rank: 0,
            colour,
        }));
        Some(list)
    });
    lists.min_by_key(Vec::len)
}

/// Stretches of strips that do not hold under a colour, with the colours that all of a stretch allows.
fn runs(strips: &[(u16, Strip)], last: u16, under: Option<u32>) -> Option<Vec<(u16, u16, u128)>> {
    let mut done: Vec<(u16, u16, u128)> = Vec::new();
    // The run so far, and what it allows up to strips that would hold without it.
    let mut open: Option<((u16, u16, u128), u128)> = None;
    for (low, high, strip) in bounds(strips, last) {
        let joint = open
            .map(|(_, colours)| colours & strip.colours)
            .filter(|both| *both != 0);
        open = match (open, joint, strip.holds(under)) {
            (Some((run, _)), Some(both), true) => Some((run, both)),
            (Some(((from, ..), _)), Some(both), false) => Some(((from, high, both), both)),
            (run, None, holds) => {
                done.extend(run.map(|(run, _)| run));
                if !holds && strip.colours == 0 {
                    return None;
                }
                (!holds).then_some(((low, high, strip.colours), strip.colours))
            }
            (None, Some(_), _) => None,
        };
    }
    done.extend(open.map(|(run, _)| run));
    Some(done)
}

fn ranges(strips: &[(u16, Strip)], dimension: Dimension, under: Option<u32>) -> Option<Vec<Cover>> {
    let runs = runs(strips, dimension.last(), under)?;
    let row = |(low, high, colours): (u16, u16, u128)| Cover {
        port: dimension.range(low, high),
        rank: 1,
        colour: colours.trailing_zeros(),
    };
    Some(runs.into_iter().map(row).collect())
}

fn values(strips: &[(u16, Strip)], dimension: Dimension, under: Option<u32>) -> Option<Vec<Cover>> {
    let mut rows = Vec::new();
    for (low, high, strip) in bounds(strips, dimension.last()).filter(|(.., s)| !s.holds(under)) {
        if strip.colours == 0 || u32::from(high - low) + rows.len() as u32 >= MOST_VALUES {
            return None;
        }
        rows.extend((low..=high).map(|n| Cover {
            port: PortMatch::exactly(n),
            rank: 1,
            colour: strip.colours.trailing_zeros(),
        }));
    }
    Some(rows)
}

/// A prefix of the trie: how many rows it takes under each colour, index 0 for none.
struct Node {
    rows: Vec<u32>,
    /// The same if no row stands at the prefix itself.
    split: Vec<u32>,
    /// The colour of the row that may stand at the prefix itself, and how many rows there are with it.
    best: (u32, u32),
    halves: Option<Box<[Node; 2]>>,
}

impl Node {
    fn new(strips: &[(u16, Strip)], dimension: Dimension, (value, len): (u32, u8), colours: u32) -> Self {
        let (here, all) = within(strips, dimension, value, len);
        let single = here.len() <= 1 || len == dimension.width;
        if single {
            let under = |n: u32| match n.checked_sub(1) {
                under if all.holds(under) => 0,
                _ => IMPOSSIBLE,
            };
            let split = (0..=colours).map(under).collect();
            return Node::over(split, None);
        }
        let half = 1u32 << (dimension.width - len - 1);
        let halves = [value, value + half].map(|value| Node::new(here, dimension, (value, len + 1), colours));
        let [left, right] = &halves;
        let split = left
            .rows
            .iter()
            .zip(&right.rows)
            .map(|(a, b)| (a + b).min(IMPOSSIBLE))
            .collect();
        Node::over(split, Some(Box::new(halves)))
    }

    fn over(split: Vec<u32>, halves: Option<Box<[Node; 2]>>) -> Self {
        let coloured = (0u32..).zip(split.iter().skip(1));
        let best = coloured
            .min_by_key(|(_, rows)| **rows)
            .map_or((0, IMPOSSIBLE), |(c, rows)| (c, *rows));
        let rows = split.iter().map(|rows| (*rows).min(best.1 + 1)).collect();
        Node {
            rows,
            split,
            best,
            halves,
        }
    }

    fn write(&self, dimension: Dimension, (value, len): (u32, u8), mut under: usize, rows: &mut Vec<Cover>) {
        let without = self.split.get(under).copied().unwrap_or(IMPOSSIBLE);
        if without > self.best.1 + 1 || without >= IMPOSSIBLE {
            under = self.best.0 as usize + 1;
            rows.push(Cover {
                port: dimension.prefix(value, len),
                rank: u16::from(len),
                colour: self.best.0,
            });
        }
        if let Some(halves) = &self.halves {
            let half = 1u32 << (dimension.width - len - 1);
            for (node, value) in halves.iter().zip([value, value + half]) {
                node.write(dimension, (value, len + 1), under, rows);
            }
        }
    }
}

fn by_prefix(strips: &[(u16, Strip)], dimension: Dimension) -> Vec<Cover> {
    let named = strips.iter().fold(0, |all, (_, s)| all | s.colours);
    let root = Node::new(strips, dimension, (0, 0), 128 - named.leading_zeros());
    let mut rows = Vec::new();
    root.write(dimension, (0, 0), 0, &mut rows);
    rows
}

#[cfg(test)]
mod tests;
