//! Codes for ports: one row for a rule whatever its port sets, where a stage before the policy gives ports codes.
//!
//! Port sets are packed into layers of pairwise disjoint sets (layered interval codes; Bremler-Barr, Harchol, Hay,
//! "Encoding Short Ranges in TCAM Without Expansion", 2018, have the idea for ranges). A port's code holds, layer by
//! layer, the code word of the set that contains it, or zeros. Words of a layer have constant weight, so that none
//! covers another: `code & word == word` finds exactly the ports of a set. A layer of m sets takes the smallest n with
//! `C(n, n/2) >= m` bits, and (what plain numbering could not do) one code of all ones lies in every set: later
//! fragments, which show no ports, match the row of every rule without rows of their own. Bit 0 is set for later
//! fragments only, so that a row can exclude them.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_policy::Ranges;

use super::capabilities::MatchSupport;
use super::cells::{port_cells, range_cells};
use crate::class_rows::{CodeRow, CodeStage, PortMatch};

/// The bit that only later fragments have.
const LATER: u64 = 1;

/// A code stage and the words of its sets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Coding {
    pub stage: CodeStage,
    words: BTreeMap<Vec<(u16, u16)>, u64>,
}

impl Coding {
    /// Codes for these port sets; `None` when they take more bits than there are.
    pub fn new(sets: &BTreeSet<Vec<(u16, u16)>>, kind: MatchSupport, bits: u16) -> Option<Self> {
        let layers = layers(sets);
        let mut words = BTreeMap::new();
        let mut shift = 1u32;
        for layer in &layers {
            let width = word_width(layer.len());
            for (set, word) in layer.iter().zip(constant_weight(width)) {
                words.insert((*set).clone(), word.checked_shl(shift)?);
            }
            shift += width;
        }
        if shift > u32::from(bits).min(u64::BITS) {
            return None;
        }
        let all = words.values().fold(LATER, |all, word| all | word);
        let stage = CodeStage {
            rows: rows(&words, kind),
            later: if words.is_empty() { 0 } else { all },
            width: shift as u8,
        };
        Some(Coding { stage, words })
    }

    /// The match of a set; later fragments match too unless they are excluded.
    pub fn find(&self, set: &Ranges, but_later: bool) -> Option<PortMatch> {
        let key: Vec<(u16, u16)> = set.iter().collect();
        let value = *self.words.get(&key)?;
        let mask = if but_later { value | LATER } else { value };
        Some(PortMatch::Code { value, mask })
    }

    /// Rows of the stage, the one of later fragments among them.
    pub fn rows(&self) -> usize {
        self.stage.rows.len() + usize::from(self.stage.later != 0)
    }
}

/// Rows that one set takes in a stage of its own.
pub(super) fn stage_rows(set: &[(u16, u16)], kind: MatchSupport) -> usize {
    rows(&BTreeMap::from([(set.to_vec(), 1)]), kind).len()
}

/// Ports taken in a layer, and its sets.
type Layer<'a> = (BTreeMap<u16, u16>, Vec<&'a Vec<(u16, u16)>>);

/// First fit, smaller sets first: disjoint sets of a layer share its bits.
fn layers(sets: &BTreeSet<Vec<(u16, u16)>>) -> Vec<Vec<&Vec<(u16, u16)>>> {
    let size = |set: &[(u16, u16)]| -> u32 {
        set.iter()
            .map(|(low, high)| u32::from(*high) - u32::from(*low) + 1)
            .sum()
    };
    let mut sorted: Vec<&Vec<(u16, u16)>> = sets.iter().collect();
    sorted.sort_by_key(|set| (size(set), *set));
    let mut layers: Vec<Layer<'_>> = Vec::new();
    for set in sorted {
        let free = |taken: &BTreeMap<u16, u16>| {
            set.iter()
                .all(|(low, high)| taken.range(..=high).next_back().is_none_or(|(_, end)| end < low))
        };
        let at = layers.iter().position(|(taken, _)| free(taken));
        let at = at.unwrap_or_else(|| {
            layers.push(Default::default());
            layers.len() - 1
        });
        if let Some((taken, members)) = layers.get_mut(at) {
            taken.extend(set.iter().copied());
            members.push(set);
        }
    }
    layers.into_iter().map(|(_, members)| members).collect()
}

/// The fewest bits whose half-weight words are enough for `count` sets.
fn word_width(count: usize) -> u32 {
    let enough = |n: &u32| {
        let mut words = 1u128;
        for k in 0..n / 2 {
            words = words * u128::from(n - k) / u128::from(k + 1);
        }
        words >= count as u128
    };
    (1..=u64::BITS).find(enough).unwrap_or(u64::BITS)
}

/// Words of `width` bits with half of them set (one of one), ascending.
fn constant_weight(width: u32) -> impl Iterator<Item = u64> {
    let lowest = (1u64 << (width / 2).max(1)) - 1;
    std::iter::successors(Some(lowest), |word| {
        // The next number of equal weight (Gosper).
        let unit = word & word.wrapping_neg();
        let ripple = word.checked_add(unit)?;
        Some(ripple | ((word ^ ripple) / unit) >> 2)
    })
}

/// The rows that give every port the words of the sets that contain it.
fn rows(words: &BTreeMap<Vec<(u16, u16)>, u64>, kind: MatchSupport) -> Vec<CodeRow> {
    let mut changes: BTreeMap<u32, u64> = BTreeMap::from([(0, 0)]);
    for (set, word) in words {
        for (low, high) in set {
            *changes.entry(u32::from(*low)).or_default() ^= word;
            *changes.entry(u32::from(*high) + 1).or_default() ^= word;
        }
    }
    let mut code = 0;
    let mut line: Vec<(u16, u64)> = Vec::with_capacity(changes.len());
    for (start, word) in changes {
        code ^= word;
        if let Ok(start) = u16::try_from(start) {
            line.push((start, code));
        }
    }
    line.dedup_by_key(|(_, code)| *code);
    let cells = match kind {
        MatchSupport::Range => range_cells(&line, u16::MAX, Some(0)),
        _ => port_cells(&line, 16, Some(0)),
    };
    let row = |(port, rank, code): (PortMatch, u16, u64)| CodeRow {
        priority: u32::from(rank) + 1,
        port,
        code,
    };
    cells.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(stage: &CodeStage, port: u16) -> u64 {
        let hits = stage.rows.iter().filter(|r| r.port.hits(port, 0));
        hits.max_by_key(|r| r.priority).map_or(0, |r| r.code)
    }

    #[test]
    fn a_code_tells_exactly_the_ports_of_a_set() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 20) % n
        };
        for round in 0..200 {
            let sets: BTreeSet<Vec<(u16, u16)>> = (0..random(40))
                .map(|_| {
                    let mut ports = Vec::new();
                    for _ in 0..=random(2) {
                        let low = random(300) as u16;
                        ports.push(portcullis_policy::PortRange {
                            low,
                            high: low + (random(if round % 2 == 0 { 3 } else { 80 })) as u16,
                        });
                    }
                    Ranges::from_ports(&ports).iter().collect()
                })
                .collect();
            for kind in [MatchSupport::Masked, MatchSupport::Range] {
                let Some(coding) = Coding::new(&sets, kind, 64) else {
                    continue;
                };
                for set in &sets {
                    let ranges: Vec<_> = set
                        .iter()
                        .map(|(low, high)| portcullis_policy::PortRange {
                            low: *low,
                            high: *high,
                        })
                        .collect();
                    let ranges = Ranges::from_ports(&ranges);
                    let with = coding.find(&ranges, false).expect("known");
                    let without = coding.find(&ranges, true).expect("known");
                    for port in (0..=400).chain([65535]) {
                        let code = code_of(&coding.stage, port);
                        assert_eq!(with.hits(port, code), ranges.contains(port), "{set:?} {port}");
                        assert_eq!(without.hits(port, code), ranges.contains(port), "{set:?} {port}");
                    }
                    assert!(with.hits(0, coding.stage.later));
                    assert!(!without.hits(0, coding.stage.later));
                }
            }
        }
    }

    #[test]
    fn words_are_many_and_short() {
        assert_eq!(
            [1, 2, 3, 6, 7, 10, 11, 126, 127].map(word_width),
            [1, 2, 3, 4, 5, 5, 6, 9, 10]
        );
        for width in 1..=12 {
            let words: Vec<u64> = constant_weight(width).take_while(|w| *w < 1 << width).collect();
            let first = words.first().map(|w| w.count_ones());
            assert!(words.iter().all(|w| Some(w.count_ones()) == first));
            assert!(words.is_sorted());
        }
    }
}
