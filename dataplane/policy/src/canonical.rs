//! The canonical form of a policy: policies that no packet can tell apart have the same one.

use crate::effective::{Entry, Policy};
use crate::matcher::{FlagMatch, Matcher};
use crate::types::Protocol;

/// The canonical form: the same verdict on every packet, in an order that does not depend on how the rules were
/// written. Names, reasons and tiers play no part; each entry keeps its own, so that the rule that decides can be
/// named.
///
/// Two entries *meet* when some packet matches both, and *contend* when they also have different actions. Only the
/// order of contending entries means anything, so:
///
/// 1. An entry goes when one earlier entry takes all it would match, in whatever order entries that do not contend
///    are written: the earlier one has the other action, or it has the same action and an entry between the two
///    contends with both. (If `f` covers `e`, whatever contends with `e` contends with `f`, so that this one entry
///    is all there can be to hold the two in their order.) Of equal entries the first stays.
/// 2. The level of an entry is the longest chain of contending entries above it, and the order is by level, action,
///    breadth (what is narrower first, so that nothing is hidden behind its own action) and match.
///
/// The verdict stays: let `a` be the first entry that matches a packet as written. It was not dropped, or an earlier
/// one would match. If `b` comes first in the canonical order and has the other action, then the two contend, `b` was
/// written below `a`, its level is therefore higher, and `a` comes first: a contradiction. So whichever comes first has
/// the action of `a`. The deciding entry can be another one of the same action.
///
/// Whether anything can be denied ([`Policy::may_deny`]) stays too, since it depends on verdicts alone.
///
/// Time: a sort, plus what meets in the dimension in which the fewest entries do.
pub fn canonical(policy: &Policy) -> Policy {
    let items: Vec<Item<'_>> = (0u32..)
        .zip(&policy.entries)
        .map(|(at, entry)| Item::new(at, entry, policy.five_tuple))
        .collect();
    let mut kept = Reduction::new(policy, &items).run();
    kept.sort_unstable_by(|a, b| a.rank().cmp(&b.rank()).then_with(|| a.item.at.cmp(&b.item.at)));
    kept.dedup_by(|later, first| later.rank() == first.rank());
    Policy {
        entries: kept.iter().map(|p| p.item.entry.clone()).collect(),
        ..Policy::constant(policy.direction, policy.default)
    }
    .with_five_tuple(policy.five_tuple)
}

impl Policy {
    fn with_five_tuple(self, five_tuple: bool) -> Self {
        Policy { five_tuple, ..self }
    }
}

/// Stands for every protocol.
const ANY: u16 = 256;

/// An entry, with the fields that distinguish most pairs in one place.
#[derive(Debug)]
struct Item<'a> {
    /// Its place as written.
    at: u32,
    protocol: u16,
    /// Bounds of the destination and source ports; everything where packets may show none.
    dst: (u16, u16),
    src: (u16, u16),
    /// Never less than that of an entry it covers.
    breadth: u64,
    /// Orders like the match, as far as it goes.
    quick: u64,
    entry: &'a Entry,
}

impl<'a> Item<'a> {
    fn new(at: u32, entry: &'a Entry, five_tuple: bool) -> Self {
        let m = &entry.matcher;
        let protocol = match m.protocol {
            Protocol::Any => ANY,
            Protocol::Number(n) => n.into(),
        };
        let shows = five_tuple || matches!(m.protocol, Protocol::Number(n) if Protocol::has_ports(n));
        let all = (0, u16::MAX);
        let (dst, src) = if shows {
            (m.dst_ports.bounds(), m.src_ports.bounds())
        } else {
            (all, all)
        };
        Item {
            at,
            protocol,
            dst,
            src,
            breadth: breadth(m),
            quick: u64::from(protocol) << 48
                | u64::from(dst.0) << 32
                | u64::from(dst.1) << 16
                | u64::from(src.0),
            entry,
        }
    }

    fn is_allow(&self) -> bool {
        self.entry.action.passes()
    }

    /// Whether some packet matches both; the cheap questions first.
    fn meets(&self, other: &Item<'_>, five_tuple: bool) -> bool {
        let apart = |a: (u16, u16), b: (u16, u16)| a.1 < b.0 || b.1 < a.0;
        let other_protocol = self.protocol != other.protocol && self.protocol != ANY && other.protocol != ANY;
        !other_protocol
            && !apart(self.dst, other.dst)
            && !apart(self.src, other.src)
            && self.entry.matcher.meets(&other.entry.matcher, five_tuple)
    }

    fn covers(&self, other: &Item<'_>) -> bool {
        self.breadth >= other.breadth && self.entry.matcher.covers(&other.entry.matcher)
    }

    /// The stretch it takes in a dimension.
    fn span(&self, dimension: Dimension) -> (u64, u64) {
        let m = &self.entry.matcher;
        let ports = |(low, high): (u16, u16)| match self.protocol {
            ANY => (0, u64::MAX),
            protocol => {
                let at = u64::from(protocol) << 16;
                (at | u64::from(low), at | u64::from(high))
            }
        };
        match dimension {
            Dimension::Destination => ports(self.dst),
            Dimension::Source => ports(self.src),
            Dimension::Remote => addresses(&m.remote, m),
            Dimension::Local => addresses(&m.local, m),
        }
    }
}

/// The stretch that prefixes take: IPv4 addresses below, the first half of IPv6 addresses above.
fn addresses(prefixes: &[ipnet::IpNet], m: &Matcher) -> (u64, u64) {
    const V6: u64 = 1 << 63;
    let number = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(a) => u64::from(a.to_bits()),
        std::net::IpAddr::V6(a) => V6 | (a.to_bits() >> 65) as u64,
    };
    let low = prefixes.iter().map(|p| number(p.network())).min();
    let high = prefixes.iter().map(|p| number(p.broadcast())).max();
    (
        low.unwrap_or(if m.families.v4 { 0 } else { V6 }),
        high.unwrap_or(if m.families.v6 {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        }),
    )
}

/// How much a match takes, one dimension behind the other: no part of it is less than that of a match it covers.
fn breadth(m: &Matcher) -> u64 {
    let widest = |prefixes: &[ipnet::IpNet]| {
        let host_bits = prefixes.iter().map(|p| p.max_prefix_len() - p.prefix_len());
        u64::from(host_bits.max().unwrap_or(u8::MAX))
    };
    let icmp = match m.icmp {
        None => 2,
        Some(i) if i.code.is_none() => 1,
        Some(_) => 0,
    };
    let parts = [
        (1, u64::from(m.protocol == Protocol::Any)),
        (1, u64::from(m.families.v4 && m.families.v6)),
        (17, u64::from(m.dst_ports.count())),
        (17, u64::from(m.src_ports.count())),
        (8, widest(&m.remote)),
        (8, widest(&m.local)),
        (2, icmp),
        (1, u64::from(m.flags == FlagMatch::Any)),
        (1, u64::from(m.fragments)),
    ];
    parts.iter().fold(0, |all, (bits, part)| all << bits | part)
}

/// An entry with its place in the canonical order.
#[derive(Debug)]
struct Placed<'i, 'a> {
    level: u32,
    item: &'i Item<'a>,
}

impl Placed<'_, '_> {
    fn rank(&self) -> impl Ord + '_ {
        let item = self.item;
        (
            self.level,
            item.entry.action,
            item.breadth,
            item.quick,
            &*item.entry.matcher,
        )
    }
}

/// Finds out which entries stay, and their levels.
struct Reduction<'i, 'a> {
    five_tuple: bool,
    items: &'i [Item<'a>],
    /// Entries of each action, allow and deny.
    near: [Near; 2],
    /// Level of each entry; `None` when it went.
    levels: Vec<Option<u32>>,
}

impl<'i, 'a> Reduction<'i, 'a> {
    fn new(policy: &Policy, items: &'i [Item<'a>]) -> Self {
        let dimension = Dimension::best(items);
        let near =
            [true, false].map(|allow| Near::new(items.iter().filter(|i| i.is_allow() == allow), dimension));
        Reduction {
            five_tuple: policy.five_tuple,
            items,
            near,
            levels: Vec::with_capacity(items.len()),
        }
    }

    fn run(mut self) -> Vec<Placed<'i, 'a>> {
        for item in self.items {
            let level = self.level(item);
            self.levels.push(level);
        }
        let placed = self.items.iter().zip(self.levels);
        placed
            .filter_map(|(item, level)| Some(Placed { level: level?, item }))
            .collect()
    }

    /// The level an entry of an earlier place has, when it stayed.
    fn earlier(&self, at: u32) -> Option<(&'i Item<'a>, u32)> {
        let at = at as usize;
        Some((self.items.get(at)?, (*self.levels.get(at)?)?))
    }

    fn level(&self, item: &Item<'a>) -> Option<u32> {
        let [allows, denies] = &self.near;
        let (same, other) = if item.is_allow() {
            (allows, denies)
        } else {
            (denies, allows)
        };
        let (mut level, mut last, mut covered) = (0, None, false);
        other.before(item, |at| {
            if let Some((above, its)) = self.earlier(at)
                && item.meets(above, self.five_tuple)
            {
                level = level.max(its + 1);
                last = last.max(Some(at));
                covered |= above.covers(item);
            }
            !covered
        });
        if let Some(last) = last {
            same.before(item, |at| {
                covered |= at < last && self.earlier(at).is_some_and(|(above, _)| above.covers(item));
                !covered
            });
        }
        (!covered).then_some(level)
    }
}

/// In which entries are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Destination,
    Source,
    Remote,
    Local,
}

impl Dimension {
    /// With at most this many entries, choosing costs more than it saves.
    const FEW: usize = 64;

    /// The one in which the fewest entries meet.
    fn best(items: &[Item<'_>]) -> Self {
        if items.len() <= Self::FEW {
            return Dimension::Destination;
        }
        [
            Dimension::Destination,
            Dimension::Remote,
            Dimension::Source,
            Dimension::Local,
        ]
        .into_iter()
        .min_by_key(|d| std::cmp::Reverse(d.apart(items)))
        .unwrap_or(Dimension::Destination)
    }

    /// How many pairs do not meet.
    fn apart(self, items: &[Item<'_>]) -> u64 {
        let (mut lows, mut highs): (Vec<u64>, Vec<u64>) = items.iter().map(|i| i.span(self)).unzip();
        lows.sort_unstable();
        highs.sort_unstable();
        let mut ended = highs.iter().peekable();
        let mut below = 0u64;
        lows.iter()
            .map(|low| {
                while ended.next_if(|high| *high < low).is_some() {
                    below += 1;
                }
                below
            })
            .sum()
    }
}

/// Some entries by their stretch in one dimension, in blocks that are skipped as a whole.
#[derive(Debug)]
struct Near {
    dimension: Dimension,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    low: u64,
    high: u64,
    /// Lowest place as written.
    first: u32,
    members: Vec<(u64, u64, u32)>,
}

impl Near {
    fn new<'i, 'a: 'i>(items: impl Iterator<Item = &'i Item<'a>>, dimension: Dimension) -> Self {
        let member = |i: &Item<'_>| {
            let (low, high) = i.span(dimension);
            (low, high, i.at)
        };
        let mut members: Vec<(u64, u64, u32)> = items.map(member).collect();
        members.sort_unstable();
        let size = members.len().isqrt().max(16);
        let block = |members: &[(u64, u64, u32)]| Block {
            low: members.iter().map(|m| m.0).min().unwrap_or(u64::MAX),
            high: members.iter().map(|m| m.1).max().unwrap_or(0),
            first: members.iter().map(|m| m.2).min().unwrap_or(u32::MAX),
            members: members.to_vec(),
        };
        Near {
            dimension,
            blocks: members.chunks(size).map(block).collect(),
        }
    }

    /// Visits the places of entries above `item` that may meet it, until the visitor says no.
    fn before(&self, item: &Item<'_>, mut visit: impl FnMut(u32) -> bool) {
        let (low, high) = item.span(self.dimension);
        let blocks = self.blocks.iter().take_while(|b| b.low <= high);
        for block in blocks.filter(|b| b.high >= low && b.first < item.at) {
            for (_, _, at) in block
                .members
                .iter()
                .filter(|(l, h, at)| *l <= high && low <= *h && *at < item.at)
            {
                if !visit(*at) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
