//! Addresses as numbers, address sets as ranges, and the cells that such sets form.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_policy::Family;

use super::case::{AddressPair, Case, Proof, unsure};
use crate::class_rows::{FrameMatch, RemoteMatch, RemoteRow};

pub(super) type Range = (u128, u128);

/// A set of addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Set {
    All,
    /// These: ascending, apart from each other.
    Ranges(Vec<Range>),
}

/// The last address of a family.
pub(super) fn last(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

/// The address with this number.
pub(super) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn range(prefix: &IpNet) -> Range {
    (number(prefix.network()), number(prefix.broadcast()))
}

/// Sorts ranges and joins those that touch.
fn join(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, end) in ranges {
        match joined.last_mut() {
            Some(before) if before.1 == u128::MAX || first <= before.1 + 1 => before.1 = before.1.max(end),
            _ => joined.push((first, end)),
        }
    }
    joined
}

/// The prefixes of one family in a list; everywhere when the list is empty.
fn union(prefixes: &[IpNet], family: Family) -> Set {
    if prefixes.is_empty() {
        return Set::All;
    }
    let here = prefixes
        .iter()
        .filter(|p| Family::from_address(p.addr()) == family);
    simple(join(here.map(range).collect()), family)
}

fn simple(ranges: Vec<Range>, family: Family) -> Set {
    if ranges == [(0, last(family))] {
        Set::All
    } else {
        Set::Ranges(ranges)
    }
}

/// Which ids addresses have: first address and id of each piece, ascending from 0; no id where two rows disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids(Vec<(u128, Option<u32>)>);

impl Ids {
    /// Of the rows of one family: the longest prefix wins.
    pub fn new(rows: &[RemoteRow], family: Family) -> Self {
        let mut sorted: Vec<(u128, u8, u128, u32)> = rows
            .iter()
            .filter(|r| Family::from_address(r.prefix.addr()) == family)
            .map(|r| {
                let (first, end) = range(&r.prefix);
                (first, r.prefix.prefix_len(), end, r.id)
            })
            .collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut pieces: Vec<(u128, Option<u32>)> = vec![(0, Some(0))];
        let mut put = |at: u128, id: Option<u32>| {
            if pieces.last().is_some_and(|(first, _)| *first == at) {
                pieces.pop();
            }
            if pieces.last().is_none_or(|(_, before)| *before != id) {
                pieces.push((at, id));
            }
        };
        // Prefixes that hold the current address, the longest last.
        let mut open: Vec<(u128, Option<u32>)> = Vec::new();
        let mut before = None;
        for (first, length, end, id) in sorted {
            if before == Some((first, length)) {
                if let Some(here) = open.last_mut() {
                    here.1 = None;
                    put(first, None);
                }
                continue;
            }
            before = Some((first, length));
            close(&mut open, Some(first), &mut put);
            put(first, Some(id));
            open.push((end, Some(id)));
        }
        close(&mut open, None, &mut put);
        pieces.retain(|(first, _)| *first <= last(family));
        Ids(pieces)
    }

    /// An address whose id is uncertain.
    fn unsure(&self) -> Option<u128> {
        self.0
            .iter()
            .find(|(_, id)| id.is_none())
            .map(|(first, _)| *first)
    }

    /// The addresses with this id.
    fn set(&self, id: u32, family: Family) -> Set {
        let mut ranges = Vec::new();
        for (index, (first, own)) in self.0.iter().enumerate() {
            if *own == Some(id) {
                let end = self.0.get(index + 1).map_or(last(family), |(next, _)| next - 1);
                ranges.push((*first, end));
            }
        }
        simple(join(ranges), family)
    }
}

/// Ends the prefixes that do not reach `until`; what comes after each is of the one around it.
fn close(open: &mut Vec<(u128, Option<u32>)>, until: Option<u128>, put: &mut impl FnMut(u128, Option<u32>)) {
    while let Some((end, _)) = open
        .last()
        .copied()
        .filter(|(end, _)| until.is_none_or(|u| *end < u))
    {
        open.pop();
        if let Some(next) = end.checked_add(1) {
            put(next, open.last().map_or(Some(0), |(_, id)| *id));
        }
    }
}

/// The addresses of the entries of a policy and, behind them, of its rows, in one family.
pub(super) struct Addresses {
    pub family: Family,
    pub remote: Vec<Set>,
    pub local: Vec<Set>,
}

impl Addresses {
    /// Whether a row or an entry names addresses at all.
    pub fn are_named(case: &Case<'_>) -> bool {
        let entries = &case.policy.entries;
        case.by_address
            || entries
                .iter()
                .any(|e| !e.matcher.remote.is_empty() || !e.matcher.local.is_empty())
    }

    /// Those of one family. A packet when rows ask for an id that is uncertain.
    pub fn new(case: &Case<'_>, family: Family) -> Proof<Self> {
        let ids = if case.by_id {
            Ids::new(&case.program.remote, family)
        } else {
            Ids(Vec::new())
        };
        if let Some(remote) = ids.unsure() {
            return Err(unsure(case.policy, case.parser, family, remote, (1, 1)));
        }
        let nowhere = || Set::Ranges(Vec::new());
        let mut found = Addresses {
            family,
            remote: Vec::new(),
            local: Vec::new(),
        };
        for entry in &case.policy.entries {
            let m = &entry.matcher;
            let reaches = m.families.contains(family);
            found.remote.push(if reaches {
                union(&m.remote, family)
            } else {
                nowhere()
            });
            found.local.push(union(&m.local, family));
        }
        let mut known: std::collections::HashMap<u32, Set> = std::collections::HashMap::new();
        for row in &case.rows {
            let k = &row.key;
            let reaches = match k.frame {
                FrameMatch::Any | FrameMatch::AnyIp | FrameMatch::Unreadable => true,
                FrameMatch::Ip(f) => f == family,
                FrameMatch::Arp | FrameMatch::EtherType(_) => false,
            };
            found.remote.push(match k.remote {
                _ if !reaches => nowhere(),
                RemoteMatch::Any => Set::All,
                RemoteMatch::Id(id) => known.entry(id).or_insert_with(|| ids.set(id, family)).clone(),
                RemoteMatch::Prefix(prefix) => union(&[prefix], family),
            });
            found
                .local
                .push(k.local.map_or(Set::All, |p| union(&[p], family)));
        }
        Ok(found)
    }

    /// How many pairs of cells all the bounds make, at most.
    pub fn pairs(&self) -> usize {
        let bounds = |sets: &[Set]| {
            let of = |s: &Set| match s {
                Set::All => 0,
                Set::Ranges(ranges) => ranges.len().saturating_mul(2),
            };
            let mut all: HashSet<u128> = HashSet::new();
            for set in sets.iter().filter(|s| of(s) > 0) {
                if let Set::Ranges(ranges) = set {
                    all.extend(
                        ranges
                            .iter()
                            .flat_map(|(first, end)| [*first, end.wrapping_add(1)]),
                    );
                }
            }
            all.len() + 1
        };
        bounds(&self.remote).saturating_mul(bounds(&self.local))
    }

    /// Visits one pair of addresses for each set of entries and rows that some pair reaches.
    pub fn visit(&self, mut place: impl FnMut(AddressPair, &[u64]) -> Proof) -> Proof {
        let everything = vec![u64::MAX; self.remote.len().div_ceil(64)];
        let mut seen: HashSet<Vec<u64>> = HashSet::new();
        for (remote, near) in cells(&self.remote, &everything, self.family) {
            for (local, here) in cells(&self.local, &near, self.family) {
                if !seen.contains(&here) {
                    let at = AddressPair {
                        family: self.family,
                        local,
                        remote,
                    };
                    place(at, &here)?;
                    seen.insert(here);
                }
            }
        }
        Ok(())
    }
}

/// Numbers of the bits that are set.
pub(super) fn ones(bits: &[u64]) -> impl Iterator<Item = usize> + '_ {
    bits.iter().enumerate().flat_map(|(word, bits)| {
        let mut left = *bits;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            left &= left.checked_sub(1)?;
            Some(word * 64 + bit as usize)
        })
    })
}

/// The distinct selections among the sets `within` that some address makes, each with such an address.
fn cells(sets: &[Set], within: &[u64], family: Family) -> Vec<(u128, Vec<u64>)> {
    let mut base = vec![0u64; within.len()];
    let flip = |bits: &mut [u64], item: usize| {
        if let Some(word) = bits.get_mut(item / 64) {
            *word ^= 1 << (item % 64);
        }
    };
    let mut turns: Vec<(u128, usize)> = Vec::new();
    for item in ones(within) {
        match sets.get(item) {
            Some(Set::All) => flip(&mut base, item),
            Some(Set::Ranges(ranges)) => {
                for (first, end) in ranges {
                    turns.push((*first, item));
                    turns.extend(end.checked_add(1).map(|next| (next, item)));
                }
            }
            None => {}
        }
    }
    if turns.is_empty() {
        return vec![(0, base)];
    }
    turns.sort_unstable();
    let mut list = Vec::new();
    let mut seen = HashSet::new();
    let mut note = |at: u128, bits: &Vec<u64>| {
        if at <= last(family) && !seen.contains(bits) {
            seen.insert(bits.clone());
            list.push((at, bits.clone()));
        }
    };
    if turns.first().is_some_and(|(at, _)| *at > 0) {
        note(0, &base);
    }
    for (index, (at, item)) in turns.iter().enumerate() {
        flip(&mut base, *item);
        if turns.get(index + 1).is_none_or(|(next, _)| next != at) {
            note(*at, &base);
        }
    }
    list
}
