//! Smallest prefix table for a coloured partition of a number line (multi-colour ORTC).
//!
//! Draves, King, Venkatachary, Zill, "Constructing Optimal IP Routing Tables", INFOCOM 1999. The passes run
//! over the partition's intervals instead of a materialized trie, so a uniform block costs one step. Longer
//! prefixes win: priority = base + length, and nothing is ever renumbered.

use smallvec::{SmallVec, smallvec};

/// A prefix with its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row<C> {
    /// The number with its low bits zero.
    pub value: u16,
    /// Length in bits, 0 to the width.
    pub len: u8,
    /// What packets of the prefix get: a verdict or an id.
    pub colour: C,
}

/// A set of colours, by their index.
trait Candidates: Clone {
    fn only(index: u16) -> Self;
    fn holds(&self, index: u16) -> bool;
    fn first(&self) -> u16;
    /// What both could be, or what either could.
    fn meet(&self, other: &Self) -> Self;
}

/// Up to 64 colours.
impl Candidates for u64 {
    fn only(index: u16) -> Self {
        1 << index
    }

    fn holds(&self, index: u16) -> bool {
        self >> index & 1 == 1
    }

    fn first(&self) -> u16 {
        self.trailing_zeros() as u16
    }

    fn meet(&self, other: &Self) -> Self {
        match self & other {
            0 => self | other,
            common => common,
        }
    }
}

/// Any number of colours, ascending. Nearly all nodes have a few.
type Many = SmallVec<[u16; 12]>;

impl Candidates for Many {
    fn only(index: u16) -> Self {
        smallvec![index]
    }

    fn holds(&self, index: u16) -> bool {
        self.binary_search(&index).is_ok()
    }

    fn first(&self) -> u16 {
        self.as_slice().first().copied().unwrap_or(0)
    }

    fn meet(&self, other: &Self) -> Self {
        let (few, many) = if self.len() <= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        let common: Many = few.iter().filter(|c| many.holds(**c)).copied().collect();
        if !common.is_empty() {
            return common;
        }
        let mut all: Many = self.iter().chain(other).copied().collect();
        all.sort_unstable();
        all
    }
}

/// One node of the trie: what it could be, and where its halves are when it is not of one colour.
struct Node<S> {
    candidates: S,
    halves: Option<(u32, u32)>,
}

/// Rows for `partition`, a list of `(first number, colour)` that begins at 0, ascending, over `width` bits.
///
/// With `inherited`, numbers without a row have that colour already, and the table may rely on it.
/// Rows come shortest first.
pub fn ortc<C: Copy + Ord>(partition: &[(u16, C)], width: u8, inherited: Option<C>) -> Vec<Row<C>> {
    let mut colours: Vec<C> = partition.iter().map(|(_, c)| *c).collect();
    colours.sort_unstable();
    colours.dedup();
    let index = |c: &C| colours.binary_search(c).ok().and_then(|i| u16::try_from(i).ok());
    let indexed: Vec<(u16, u16)> = partition
        .iter()
        .map(|(start, c)| (*start, index(c).unwrap_or(0)))
        .collect();
    let under = inherited.as_ref().and_then(index);
    let found = match (indexed.len(), colours.len()) {
        (0, _) => return Vec::new(),
        (_, ..=64) => Trie::<u64>::table(&indexed, width, under),
        _ => Trie::<Many>::table(&indexed, width, under),
    };
    let colour = |(value, len, index): (u16, u8, u16)| {
        let colour = colours.get(usize::from(index)).copied()?;
        Some(Row { value, len, colour })
    };
    let mut rows: Vec<Row<C>> = found.into_iter().filter_map(colour).collect();
    rows.sort_unstable_by_key(|r| (r.len, r.value));
    rows
}

/// The trie of one partition.
struct Trie<S> {
    nodes: Vec<Node<S>>,
    width: u8,
}

impl<S: Candidates> Trie<S> {
    fn table(partition: &[(u16, u16)], width: u8, inherited: Option<u16>) -> Vec<(u16, u8, u16)> {
        let nodes = Vec::with_capacity(partition.len() * usize::from(width));
        let mut trie = Trie::<S> { nodes, width };
        let root = trie.gather(partition, 0, width);
        let mut rows = Vec::new();
        trie.emit(root, 0, 0, inherited, &mut rows);
        rows
    }

    /// Bottom-up: the candidates of the block of `bits` bits at `low`, whose part of the partition this is.
    fn gather(&mut self, inside: &[(u16, u16)], low: u16, bits: u8) -> u32 {
        let first = inside.first().map_or(0, |(_, c)| *c);
        let node = if inside.iter().all(|(_, c)| *c == first) {
            Node {
                candidates: S::only(first),
                halves: None,
            }
        } else {
            let half = bits.saturating_sub(1);
            let middle = low | (1u16 << half);
            let zeros = inside.partition_point(|(start, _)| *start < middle);
            // The interval that covers `middle` begins there or before.
            let ones = inside
                .partition_point(|(start, _)| *start <= middle)
                .saturating_sub(1);
            let zero = self.gather(inside.get(..zeros).unwrap_or(inside), low, half);
            let one = self.gather(inside.get(ones..).unwrap_or(inside), middle, half);
            let candidates = match (self.nodes.get(zero as usize), self.nodes.get(one as usize)) {
                (Some(a), Some(b)) => a.candidates.meet(&b.candidates),
                _ => S::only(first),
            };
            Node {
                candidates,
                halves: Some((zero, one)),
            }
        };
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    /// Top-down: keep what is inherited when it will do, else take a colour and write a row.
    fn emit(&self, at: u32, value: u16, len: u8, inherited: Option<u16>, rows: &mut Vec<(u16, u8, u16)>) {
        let Some(node) = self.nodes.get(at as usize) else {
            return;
        };
        let kept = inherited.filter(|c| node.candidates.holds(*c));
        let colour = kept.unwrap_or_else(|| node.candidates.first());
        if kept.is_none() {
            rows.push((value, len, colour));
        }
        if let Some((zero, one)) = node.halves {
            let middle = value | (1u16 << (self.width - len - 1));
            self.emit(zero, value, len + 1, Some(colour), rows);
            self.emit(one, middle, len + 1, Some(colour), rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Colours every number of `width` bits by the rows.
    fn evaluate(rows: &[Row<u8>], width: u8, inherited: Option<u8>) -> Vec<Option<u8>> {
        (0..1u32 << width)
            .map(|n| {
                let hit = |r: &&Row<u8>| (n ^ u32::from(r.value)) >> (width - r.len) == 0;
                rows.iter()
                    .filter(hit)
                    .max_by_key(|r| r.len)
                    .map(|r| r.colour)
                    .or(inherited)
            })
            .collect()
    }

    fn partition(colours: &[u8]) -> Vec<(u16, u8)> {
        let mut list: Vec<(u16, u8)> = (0u16..).zip(colours.iter().copied()).collect();
        list.dedup_by_key(|(_, c)| *c);
        list
    }

    fn range(low: u16, high: u16) -> Vec<(u16, u8)> {
        let mut list = vec![(low, 1)];
        if low > 0 {
            list.insert(0, (0, 0));
        }
        if let Some(after) = high.checked_add(1) {
            list.push((after, 0));
        }
        list
    }

    #[test]
    fn published_cases() {
        for (low, high, rows) in [(1, 65534, 3), (1024, 65535, 2), (32768, 60999, 5)] {
            assert_eq!(ortc(&range(low, high), 16, Some(0)).len(), rows, "[{low},{high}]");
        }
        assert!(ortc(&[(0, 7u8)], 16, Some(7)).is_empty());
        assert_eq!(ortc(&[(0, 7u8)], 16, None).len(), 1);
    }

    #[test]
    fn rows_mean_the_partition_and_are_fewest() {
        // The cheapest table of a block given the colour it inherits, by trying every choice.
        fn best(colours: &[u8], inherited: Option<u8>) -> usize {
            let halves = |colour: Option<u8>| {
                if let [only] = colours {
                    return if colour == Some(*only) { 0 } else { usize::MAX / 4 };
                }
                let (a, b) = colours.split_at(colours.len() / 2);
                best(a, colour) + best(b, colour)
            };
            let kept = if inherited.is_some() {
                halves(inherited)
            } else {
                usize::MAX / 4
            };
            (0..3u8).map(|c| 1 + halves(Some(c))).fold(kept, usize::min)
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2000 {
            let width = 1 + (round % 4) as u8;
            let colours: Vec<u8> = (0..1 << width)
                .map(|_| {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    ((seed >> 33) % 3) as u8
                })
                .collect();
            let inherited = if round % 2 == 0 {
                None
            } else {
                Some((round % 3) as u8)
            };
            let rows = ortc(&partition(&colours), width, inherited);
            let seen: Vec<Option<u8>> = evaluate(&rows, width, inherited);
            assert_eq!(
                seen,
                colours.iter().map(|c| Some(*c)).collect::<Vec<_>>(),
                "{colours:?}"
            );
            assert_eq!(
                rows.len(),
                best(&colours, inherited),
                "{colours:?} inheriting {inherited:?}"
            );
        }
    }
}
