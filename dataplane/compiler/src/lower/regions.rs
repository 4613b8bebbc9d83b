//! Address regions: sets of addresses that no rule distinguishes.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use portcullis_policy::{Entry, Family};

/// A region of addresses: everything under `prefix` that no longer prefix takes, and who holds there.
#[derive(Debug)]
pub(super) struct AddressRegion {
    /// The prefix; `None` for everywhere else.
    pub prefix: Option<IpNet>,
    /// Index of the area around it.
    pub parent: usize,
    /// Entries that hold there.
    pub members: BTreeSet<u32>,
}

/// Splits an address dimension into atoms; the first is "everywhere else".
pub(super) fn areas(
    entries: &[(u32, &Entry)],
    prefixes: impl Fn(&Entry) -> &[IpNet],
    family: Family,
) -> Vec<AddressRegion> {
    let mut holders: HashMap<IpNet, Vec<u32>> = HashMap::new();
    let mut everywhere = BTreeSet::new();
    for (index, entry) in entries {
        if prefixes(entry).is_empty() {
            everywhere.insert(*index);
        }
        for prefix in prefixes(entry)
            .iter()
            .filter(|p| Family::from_address(p.addr()) == family)
        {
            holders.entry(*prefix).or_default().push(*index);
        }
    }
    let mut all: Vec<IpNet> = holders.keys().copied().collect();
    all.sort_unstable_by_key(|p| (p.prefix_len(), p.addr()));
    let mut list = vec![AddressRegion {
        prefix: None,
        parent: 0,
        members: everywhere,
    }];
    let mut at: HashMap<IpNet, usize> = HashMap::new();
    for prefix in all {
        let parent = std::iter::successors(prefix.supernet(), IpNet::supernet)
            .find_map(|above| at.get(&above).copied())
            .unwrap_or(0);
        let mut members = list.get(parent).map(|a| a.members.clone()).unwrap_or_default();
        members.extend(holders.get(&prefix).into_iter().flatten());
        at.insert(prefix, list.len());
        list.push(AddressRegion {
            prefix: Some(prefix),
            parent,
            members,
        });
    }
    list
}

/// Distinct prefixes of one IP version: what `areas` would split, counted cheaply.
pub(super) fn distinct(
    entries: &[(u32, &Entry)],
    prefixes: impl Fn(&Entry) -> &[IpNet],
    family: Family,
) -> usize {
    let all: std::collections::HashSet<IpNet> = entries
        .iter()
        .flat_map(|(_, e)| prefixes(e))
        .copied()
        .filter(|p| Family::from_address(p.addr()) == family)
        .collect();
    all.len()
}

/// Ids of remote areas: equal memberships share one, "everywhere else" is 0. Returns the set of each id too.
pub(super) fn remote_ids(areas: &[AddressRegion]) -> (Vec<u32>, Vec<BTreeSet<u32>>) {
    let mut sets: Vec<BTreeSet<u32>> = Vec::new();
    let mut known: HashMap<&BTreeSet<u32>, u32> = HashMap::new();
    let ids = areas
        .iter()
        .map(|area| {
            *known.entry(&area.members).or_insert_with(|| {
                sets.push(area.members.clone());
                u32::try_from(sets.len() - 1).unwrap_or(u32::MAX)
            })
        })
        .collect();
    (ids, sets)
}
