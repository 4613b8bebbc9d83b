//! The smallest prefix table for a coloured partition of a number line: multi-colour ORTC.
//!
//! Draves, King, Venkatachary, Zill, "Constructing Optimal IP Routing Tables", INFOCOM 1999. The passes run
//! over the partition's intervals instead of a materialized trie, so a uniform block costs one step. Longer
//! prefixes win: priority = base + length, and nothing is ever renumbered.

/// A prefix with its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row<C> {
    /// The number with its low bits zero.
    pub value: u16,
    /// Length in bits, 0 to the width.
    pub len: u8,
    /// The colour.
    pub colour: C,
}

/// One node of the trie, its candidate colours, and its halves when it is not of one colour.
struct Node<C> {
    candidates: Vec<C>,
    halves: Option<Box<[Node<C>; 2]>>,
}

/// Rows for `partition`, a list of `(first number, colour)` that begins at 0, ascending, over `width` bits.
///
/// With `inherited`, numbers without a row have that colour already, and the table may rely on it.
/// Rows come shortest first.
pub fn ortc<C: Copy + Ord>(partition: &[(u16, C)], width: u8, inherited: Option<C>) -> Vec<Row<C>> {
    if partition.is_empty() {
        return Vec::new();
    }
    let root = gather(partition, 0, width);
    let mut rows = Vec::new();
    emit(&root, 0, 0, width, inherited, &mut rows);
    rows.sort_unstable_by_key(|r| (r.len, r.value));
    rows
}

/// Bottom-up: what both halves could be, or what either could.
fn gather<C: Copy + Ord>(partition: &[(u16, C)], low: u16, bits: u8) -> Node<C> {
    let inside = colours_within(partition, low, bits);
    let first = inside.first().map(|(_, c)| *c);
    if let Some(colour) = first
        && inside.iter().all(|(_, c)| *c == colour)
    {
        return Node {
            candidates: vec![colour],
            halves: None,
        };
    }
    let half = bits.saturating_sub(1);
    let zero = gather(inside, low, half);
    let one = gather(inside, low | (1u16 << half), half);
    let common: Vec<C> = zero
        .candidates
        .iter()
        .filter(|c| one.candidates.contains(c))
        .copied()
        .collect();
    let candidates = if common.is_empty() {
        let mut all = zero.candidates.clone();
        all.extend(&one.candidates);
        all.sort_unstable();
        all.dedup();
        all
    } else {
        common
    };
    Node {
        candidates,
        halves: Some(Box::new([zero, one])),
    }
}

/// The part of the partition that covers the block of `bits` bits at `low`.
fn colours_within<C>(partition: &[(u16, C)], low: u16, bits: u8) -> &[(u16, C)] {
    let high = u32::from(low) + (1u32 << bits) - 1;
    let from = partition
        .partition_point(|(start, _)| *start <= low)
        .saturating_sub(1);
    let to = partition.partition_point(|(start, _)| u32::from(*start) <= high);
    partition.get(from..to).unwrap_or(&[])
}

/// Top-down: keep what is inherited when it will do, else take a colour and write a row.
fn emit<C: Copy + Ord>(
    node: &Node<C>,
    value: u16,
    len: u8,
    width: u8,
    inherited: Option<C>,
    rows: &mut Vec<Row<C>>,
) {
    let kept = inherited.filter(|c| node.candidates.contains(c));
    let colour = kept.or_else(|| node.candidates.first().copied());
    if kept.is_none()
        && let Some(colour) = colour
    {
        rows.push(Row { value, len, colour });
    }
    if let Some(halves) = &node.halves {
        let one = value | (1u16 << (width - len - 1));
        emit(&halves[0], value, len + 1, width, colour, rows);
        emit(&halves[1], one, len + 1, width, colour, rows);
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
