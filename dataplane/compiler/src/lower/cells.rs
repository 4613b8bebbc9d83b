//! Encoding of one dimension without prefixes, and the cost of expanding every rule into prefixes.

use std::collections::BTreeMap;

use ipnet::IpNet;
use portcullis_policy::{Entry, Family, Policy};

use super::ortc::ortc;
use super::plane::Space;
use crate::class_rows::PortMatch;

/// Fewest rows with masks.
pub(crate) fn port_cells<C: Copy + Ord>(
    partition: &[(u16, C)],
    width: u8,
    inherited: Option<C>,
) -> Vec<(PortMatch, u16, C)> {
    let cell = |row: super::ortc::Row<C>| {
        let port = match row.len {
            0 => PortMatch::Any,
            len => PortMatch::Masked {
                value: row.value,
                // Of an ICMP type only eight bits exist.
                mask: (u16::MAX >> (16 - width)) & (u16::MAX << (width - len)),
            },
        };
        (port, u16::from(row.len), row.colour)
    };
    ortc(partition, width, inherited).into_iter().map(cell).collect()
}

/// Exact rows over the commonest colour, for fields that cannot be masked; `None` when they are more than `most`.
pub(crate) fn exact_cells<C: Copy + Ord>(
    partition: &[(u16, C)],
    space: Space,
    inherited: Option<C>,
    most: u32,
) -> Option<Vec<(PortMatch, u16, C)>> {
    let count = 1u32 << space.width();
    let ends = partition
        .iter()
        .skip(1)
        .map(|(s, _)| u32::from(*s))
        .chain([count]);
    let spans: Vec<(u32, u32, C)> = partition
        .iter()
        .zip(ends)
        .map(|((s, c), e)| (u32::from(*s), e, *c))
        .collect();
    let mut weight: BTreeMap<C, u32> = BTreeMap::new();
    for (start, end, colour) in &spans {
        *weight.entry(*colour).or_default() += end - start;
    }
    let commonest = weight.iter().max_by_key(|(_, n)| **n).map(|(c, _)| *c);
    let others = spans.iter().filter(|(_, _, c)| Some(*c) != commonest);
    if others.map(|(start, end, _)| end - start).sum::<u32>() > most {
        return None;
    }
    let mut cells = Vec::new();
    if commonest != inherited {
        cells.extend(commonest.map(|c| (PortMatch::Any, 0, c)));
    }
    for (start, end, colour) in spans {
        if Some(colour) != commonest {
            cells.extend((start..end).map(|n| (PortMatch::exactly(n as u16), 1, colour)));
        }
    }
    Some(cells)
}

/// One row per interval over the colour with the most intervals.
pub(crate) fn range_cells<C: Copy + Ord>(
    partition: &[(u16, C)],
    last: u16,
    inherited: Option<C>,
) -> Vec<(PortMatch, u16, C)> {
    let mut count: BTreeMap<C, u32> = BTreeMap::new();
    for (_, colour) in partition {
        *count.entry(*colour).or_default() += 1;
    }
    let under = inherited
        .filter(|c| count.contains_key(c))
        .or_else(|| count.iter().max_by_key(|(_, n)| **n).map(|(c, _)| *c));
    let mut cells = Vec::new();
    if under != inherited {
        cells.extend(under.map(|c| (PortMatch::Any, 0, c)));
    }
    let ends = partition.iter().skip(1).map(|(s, _)| s - 1).chain([last]);
    for ((low, colour), high) in partition.iter().zip(ends) {
        if Some(*colour) != under {
            cells.push((PortMatch::Range { low: *low, high }, 1, *colour));
        }
    }
    cells
}

/// Rows if every entry were expanded into prefixes on its own, for both IP versions it speaks of.
pub(crate) fn naive(policy: &Policy) -> u64 {
    let prefixes = |ranges: &portcullis_policy::Ranges| -> u64 {
        ranges
            .iter()
            .map(|(low, high)| prefixes(low, high).count() as u64)
            .sum()
    };
    let entry = |e: &Entry| -> u64 {
        let m = &e.matcher;
        let per_family = |family: Family| -> u64 {
            if !m.families.contains(family) {
                return 0;
            }
            let count = |list: &[IpNet]| {
                if list.is_empty() {
                    1
                } else {
                    list.iter()
                        .filter(|p| Family::from_address(p.addr()) == family)
                        .count() as u64
                }
            };
            count(&m.remote) * count(&m.local)
        };
        let families: u64 = Family::BOTH.into_iter().map(per_family).sum();
        families * prefixes(&m.dst_ports) * prefixes(&m.src_ports)
    };
    policy.entries.iter().map(entry).sum::<u64>() + 1
}

/// The prefixes of a range, as value and mask.
pub(crate) fn prefixes(low: u16, high: u16) -> impl Iterator<Item = PortMatch> {
    let (mut at, end) = (u32::from(low), u32::from(high) + 1);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let aligned = if at == 0 { 1 << 16 } else { at & at.wrapping_neg() };
        let size = aligned.min(1u32 << (31 - (end - at).leading_zeros()));
        let value = at as u16;
        at += size;
        Some(match !(size - 1) as u16 {
            0 => PortMatch::Any,
            mask => PortMatch::Masked { value, mask },
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Cells = Vec<(PortMatch, u16, u8)>;

    /// What cells say of a value: the highest rank that matches, or else what was there before.
    fn says(cells: &Cells, value: u16, inherited: Option<u8>) -> Option<u8> {
        let matching = cells.iter().filter(|(port, ..)| port.hits(value, 0));
        let best = matching.max_by_key(|(_, rank, _)| *rank);
        best.map_or(inherited, |(.., colour)| Some(*colour))
    }

    fn partition(last: u16) -> impl Strategy<Value = Vec<(u16, u8)>> {
        let start = prop_oneof![0..40u16, last - 40..=last];
        prop::collection::btree_map(start, 0u8..3, 0..8).prop_map(|mut cuts| {
            cuts.entry(0).or_insert(0);
            let mut cuts: Vec<(u16, u8)> = cuts.into_iter().collect();
            cuts.dedup_by_key(|(_, colour)| *colour);
            cuts
        })
    }

    proptest! {
        /// Whichever match a field has, every value gets the colour of its part.
        #[test]
        fn cells_say_what_the_partition_says(
            (space, partition) in prop_oneof![
                partition(255).prop_map(|p| (Space::Icmp, p)),
                partition(u16::MAX).prop_map(|p| (Space::Ports, p)),
            ],
            inherited in prop::option::of(0u8..3),
        ) {
            let exact = exact_cells(&partition, space, inherited, 4096).unwrap();
            let masked = port_cells(&partition, space.width(), inherited);
            let ranges = range_cells(&partition, space.last(), inherited);
            // Around every cut and at both ends.
            let cuts = partition.iter().flat_map(|(start, _)| [start.saturating_sub(1), *start]);
            for value in cuts.chain([space.last()]) {
                let wanted = partition.iter().rfind(|(start, _)| *start <= value).map(|(_, c)| *c);
                for cells in [&exact, &masked, &ranges] {
                    prop_assert_eq!(says(cells, value, inherited), wanted, "{} by {:?}", value, cells);
                }
            }
        }
    }
}
