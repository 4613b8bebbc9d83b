//! Encoding one dimension without prefixes, and what expanding every rule into prefixes would cost.

use std::collections::BTreeMap;

use ipnet::IpNet;
use portcullis_policy::{Entry, Family, Policy};

use crate::plane::Space;
use crate::program::PortMatch;

/// Exact rows over the commonest colour: for fields that cannot be masked.
pub(crate) fn exact_cells<C: Copy + Ord>(
    partition: &[(u16, C)],
    space: Space,
    inherited: Option<C>,
) -> Vec<(PortMatch, u16, C)> {
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
    let mut cells = Vec::new();
    if commonest != inherited {
        cells.extend(commonest.map(|c| (PortMatch::Any, 0, c)));
    }
    for (start, end, colour) in spans {
        if Some(colour) != commonest {
            let exact = |n| PortMatch::Masked {
                value: n as u16,
                mask: u16::MAX,
            };
            cells.extend((start..end).map(|n| (exact(n), 1, colour)));
        }
    }
    cells
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
        ranges.iter().map(|(low, high)| prefix_count(low, high)).sum()
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
                    list.iter().filter(|p| Family::of(p.addr()) == family).count() as u64
                }
            };
            count(&m.remote) * count(&m.local)
        };
        let families: u64 = Family::BOTH.into_iter().map(per_family).sum();
        families * prefixes(&m.dst_ports) * prefixes(&m.src_ports)
    };
    policy.entries.iter().map(entry).sum::<u64>() + 1
}

/// How many prefixes a range takes.
fn prefix_count(low: u16, high: u16) -> u64 {
    let (mut at, end) = (u32::from(low), u32::from(high) + 1);
    let mut count = 0;
    while at < end {
        let aligned = if at == 0 { 1 << 16 } else { at & at.wrapping_neg() };
        let fitting = 1u32 << (31 - (end - at).leading_zeros());
        at += aligned.min(fitting);
        count += 1;
    }
    count
}
