//! Encoding rule by rule: a row for each product of a rule's prefixes and port ranges, or one row where the ports
//! have codes.
//!
//! A row's priority is one above the highest of the rules below it that its rule overlaps, so that a rule that comes
//! or goes moves only those it overlaps with.
//!
//! Later fragments pass when some port of their protocol does (`deny` rules for some ports do not touch them, `allow`
//! rules for some ports let them pass), unless such denies together cover what is allowed: then this encoding
//! declines.

use ipnet::IpNet;
use portcullis_policy::{Decider, Entry, Family, FlagMatch, Policy, Protocol, Ranges, Verdict};

use super::capabilities::{Capabilities, MatchSupport};
use super::cells::prefixes;
use super::{BASE, Declined, NOT_OPENING, Part, SharedCodes, ceiling};
use crate::class_rows::{FrameMatch, PolicyRow, PortMatch, RemoteMatch, RowKey};
use crate::model::StageModel;

/// Rows one rule may take.
const ROWS_PER_RULE: usize = 65_536;

/// The rows of one IP version.
pub(super) fn part(
    policy: &Policy,
    model: &StageModel,
    capabilities: &Capabilities,
    family: Family,
    codes: Option<&SharedCodes>,
) -> Result<Part, Declined> {
    let entries: Vec<(u32, &Entry)> = (0u32..)
        .zip(&policy.entries)
        .filter(|(_, e)| e.matcher.families.contains(family))
        .collect();
    decline(policy, model, capabilities, family, &entries)?;
    let encode = Encode {
        policy,
        capabilities,
        family,
        codes,
    };
    let levels = levels(&entries, family);
    let mut part = Part::default();
    for ((index, entry), level) in entries.iter().zip(levels) {
        let priority = BASE + level;
        if priority >= ceiling(model, policy.direction) {
            return Err(Declined::Priorities(priority));
        }
        for key in encode.keys(entry)? {
            part.coded |= [key.src, key.dst]
                .iter()
                .any(|p| matches!(p, PortMatch::Code { .. }));
            part.policy.push(PolicyRow {
                priority,
                key,
                action: entry.action,
                words: None,
                by: Decider::Entry(*index),
            });
        }
    }
    Ok(part)
}

/// Whether an entry says nothing about later fragments on its own: it names some ports, types or flags only, or it is about
/// whole packets.
fn partial(entry: &Entry) -> bool {
    let m = &entry.matcher;
    !m.fragments
        || !m.dst_ports.is_all()
        || !m.src_ports.is_all()
        || m.icmp.is_some()
        || m.flags != FlagMatch::Any
}

/// What this encoding cannot express exactly.
fn decline(
    policy: &Policy,
    model: &StageModel,
    capabilities: &Capabilities,
    family: Family,
    entries: &[(u32, &Entry)],
) -> Result<(), Declined> {
    let prefixed = |e: &Entry| !e.matcher.remote.is_empty();
    if !capabilities.remote && entries.iter().any(|(_, e)| prefixed(e)) {
        return Err(Declined::Inexact);
    }
    if policy.five_tuple {
        return Ok(());
    }
    let flagged = |e: &Entry| {
        e.matcher.flags != FlagMatch::Any
            && (e.matcher.protocol == Protocol::Any || !model.view.fragment_offset)
    };
    let inexact = Capabilities::blind(model, family)
        || (!model.view.sctp_ports && policy.names_sctp_ports())
        || !capabilities.later
        || entries.iter().any(|(_, e)| flagged(e))
        || denied_piecemeal(policy, entries);
    if inexact { Err(Declined::Inexact) } else { Ok(()) }
}

/// Whether denies of some ports could together cover what an allow below them, or the default, lets pass.
/// May say so when they do not.
fn denied_piecemeal(policy: &Policy, entries: &[(u32, &Entry)]) -> bool {
    let protocols: std::collections::BTreeSet<Protocol> =
        entries.iter().map(|(_, e)| e.matcher.protocol).collect();
    protocols.into_iter().any(|protocol| {
        let speaks = |e: &Entry| {
            e.matcher.protocol == protocol || e.matcher.protocol == Protocol::Any || protocol == Protocol::Any
        };
        let of = |action: Verdict| {
            entries
                .iter()
                .map(|(_, e)| *e)
                .filter(move |e| speaks(e) && e.action == action)
        };
        let mut denies = of(Verdict::Deny).filter(|e| partial(e)).peekable();
        if denies.peek().is_none() {
            return false;
        }
        let (src, dst): (Vec<Ranges>, Vec<Ranges>) = denies.map(extent).unzip();
        let (src, dst) = (union(&src), union(&dst));
        let covered = |e: &Entry| {
            let (s, d) = extent(e);
            src.covers(&s) && dst.covers(&d)
        };
        (policy.default.passes() && src.is_all() && dst.is_all())
            || of(Verdict::Allow).filter(|e| e.matcher.fragments).any(covered)
    })
}

/// Source and destination ports; type and code for ICMP.
fn extent(entry: &Entry) -> (Ranges, Ranges) {
    let m = &entry.matcher;
    let one = |n: u8| Ranges::interval(n.into(), n.into());
    match m.icmp {
        None => (m.src_ports.clone(), m.dst_ports.clone()),
        Some(i) => (one(i.kind), i.code.map_or_else(Ranges::all, one)),
    }
}

fn union(sets: &[Ranges]) -> Ranges {
    Ranges::from_intervals(sets.iter().flat_map(Ranges::iter)).unwrap_or_else(Ranges::all)
}

/// How many rows the ports of an entry take without codes.
pub(super) fn direct_rows(policy: &Policy, capabilities: &Capabilities, entry: &Entry) -> usize {
    let m = &entry.matcher;
    let of = |ports: &Ranges, kind| direct(ports, kind).map_or(usize::MAX, |rows| rows.len());
    let later = !policy.five_tuple && entry.action.passes() && m.fragments && partial(entry);
    of(&m.src_ports, capabilities.src)
        .saturating_mul(of(&m.dst_ports, capabilities.dst))
        .saturating_add(usize::from(later))
}

/// The rows of a port set without codes.
pub(super) fn direct(ports: &Ranges, kind: MatchSupport) -> Option<Vec<PortMatch>> {
    if ports.is_all() {
        return Some(vec![PortMatch::Any]);
    }
    let count = |(low, high): (u16, u16)| usize::from(high - low) + 1;
    match kind {
        MatchSupport::Missing => None,
        MatchSupport::Range => Some(
            ports
                .iter()
                .map(|(low, high)| PortMatch::Range { low, high })
                .collect(),
        ),
        MatchSupport::Masked => Some(ports.iter().flat_map(|(low, high)| prefixes(low, high)).collect()),
        MatchSupport::Exact if ports.iter().map(count).sum::<usize>() > ROWS_PER_RULE / 16 => None,
        MatchSupport::Exact => Some(
            ports
                .iter()
                .flat_map(|(low, high)| (low..=high).map(PortMatch::exactly))
                .collect(),
        ),
    }
}

struct Encode<'a> {
    policy: &'a Policy,
    capabilities: &'a Capabilities,
    family: Family,
    codes: Option<&'a SharedCodes>,
}

impl Encode<'_> {
    /// The keys of one entry's rows.
    fn keys(&self, entry: &Entry) -> Result<Vec<RowKey>, Declined> {
        let m = &entry.matcher;
        let of_family = |list: &[IpNet]| -> Vec<Option<IpNet>> {
            if list.is_empty() {
                return vec![None];
            }
            let here = list
                .iter()
                .filter(|p| Family::from_address(p.addr()) == self.family);
            here.map(|p| Some(*p)).collect()
        };
        let ports = self.ports(entry)?;
        let (remotes, locals) = (of_family(&m.remote), of_family(&m.local));
        if ports
            .len()
            .saturating_mul(remotes.len())
            .saturating_mul(locals.len())
            > ROWS_PER_RULE
        {
            return Err(Declined::TooLarge(format!(
                "{} takes more than {ROWS_PER_RULE} rows",
                entry.origin
            )));
        }
        let mut keys = Vec::with_capacity(ports.len() * remotes.len() * locals.len());
        for remote in &remotes {
            for local in &locals {
                keys.extend(ports.iter().map(|key| RowKey {
                    remote: remote.map_or(RemoteMatch::Any, RemoteMatch::Prefix),
                    local: *local,
                    ..*key
                }));
            }
        }
        Ok(keys)
    }

    /// The keys of protocol, ports, flags and fragments.
    fn ports(&self, entry: &Entry) -> Result<Vec<RowKey>, Declined> {
        let m = &entry.matcher;
        let base = RowKey {
            frame: FrameMatch::Ip(self.family),
            protocol: match m.protocol {
                Protocol::Any => None,
                Protocol::Number(n) => Some(n),
            },
            ..RowKey::ANY
        };
        let flags: &[Option<(u16, u16)>] = match (m.flags, m.protocol) {
            (FlagMatch::NotOpening, Protocol::Number(Protocol::TCP)) => &NOT_OPENING,
            _ => &[None],
        };
        let fragments = !self.policy.five_tuple && partial(entry);
        let but_later = fragments && (entry.action.denies() || !m.fragments);
        if direct_rows(self.policy, self.capabilities, entry) > 1
            && let Some((src, dst)) = self.coded(entry, but_later)
        {
            let key = |f: &Option<_>| RowKey {
                src,
                dst,
                flags: *f,
                ..base
            };
            return Ok(flags.iter().map(key).collect());
        }
        let (srcs, dsts) = self.plain(entry)?;
        let later = (fragments && (but_later || srcs != [PortMatch::Any] || dsts != [PortMatch::Any]))
            .then_some(false);
        let mut keys = Vec::with_capacity(srcs.len() * dsts.len() * flags.len() + 1);
        for src in &srcs {
            for dst in &dsts {
                keys.extend(flags.iter().map(|f| RowKey {
                    src: *src,
                    dst: *dst,
                    flags: *f,
                    later,
                    ..base
                }));
            }
        }
        if later.is_some() && !but_later {
            keys.push(RowKey {
                later: Some(true),
                ..base
            });
        }
        Ok(keys)
    }

    /// Both port dimensions by code, where every one that is named has a code.
    fn coded(&self, entry: &Entry, but_later: bool) -> Option<(PortMatch, PortMatch)> {
        let (codes, m) = (self.codes?, &entry.matcher);
        if m.icmp.is_some() || (m.src_ports.is_all() && m.dst_ports.is_all()) {
            return None;
        }
        let find = |coding: &super::codes::Coding, ports: &Ranges| {
            if ports.is_all() {
                Some(PortMatch::Any)
            } else {
                coding.find(ports, but_later)
            }
        };
        Some((find(&codes.src, &m.src_ports)?, find(&codes.dst, &m.dst_ports)?))
    }

    fn plain(&self, entry: &Entry) -> Result<(Vec<PortMatch>, Vec<PortMatch>), Declined> {
        let m = &entry.matcher;
        let exactly = |n: u8| match self.capabilities.icmp {
            MatchSupport::Range => PortMatch::Range {
                low: n.into(),
                high: n.into(),
            },
            MatchSupport::Masked => PortMatch::Masked {
                value: n.into(),
                mask: 0xff,
            },
            MatchSupport::Exact | MatchSupport::Missing => PortMatch::exactly(n.into()),
        };
        match m.icmp {
            Some(_) if self.capabilities.icmp == MatchSupport::Missing => Err(Declined::Inexact),
            Some(i) => Ok((
                vec![exactly(i.kind)],
                vec![i.code.map_or(PortMatch::Any, exactly)],
            )),
            None => match (
                direct(&m.src_ports, self.capabilities.src),
                direct(&m.dst_ports, self.capabilities.dst),
            ) {
                (Some(src), Some(dst)) => Ok((src, dst)),
                _ => Err(Declined::Inexact),
            },
        }
    }
}

/// The bounds of one entry in each dimension, for a quick and never too narrow overlap test.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    low: [u32; 5],
    high: [u32; 5],
}

impl Bounds {
    fn new(entry: &Entry, family: Family) -> Self {
        let m = &entry.matcher;
        let (remote, local) = (addresses(&m.remote, family), addresses(&m.local, family));
        let protocol = match m.protocol {
            Protocol::Any => (0, 255),
            Protocol::Number(n) => (u32::from(n), u32::from(n)),
        };
        let ports = |ranges: &Ranges| {
            let low = ranges.iter().next().map_or(0, |(low, _)| low);
            let high = ranges.iter().last().map_or(u16::MAX, |(_, high)| high);
            (u32::from(low), u32::from(high))
        };
        let (src, dst) = extent(entry);
        let all = [remote, local, protocol, ports(&src), ports(&dst)];
        Bounds {
            low: all.map(|(low, _)| low),
            high: all.map(|(_, high)| high),
        }
    }
}

/// The first 32 bits of the lowest and the highest address.
fn addresses(list: &[IpNet], family: Family) -> (u32, u32) {
    let bits = |a: std::net::IpAddr| match a {
        std::net::IpAddr::V4(a) => u32::from(a),
        std::net::IpAddr::V6(a) => (u128::from(a) >> 96) as u32,
    };
    let here = || list.iter().filter(|p| Family::from_address(p.addr()) == family);
    let low = here().map(|p| bits(p.network())).min();
    let high = here().map(|p| bits(p.broadcast())).max();
    (low.unwrap_or(0), high.unwrap_or(u32::MAX))
}

/// For each entry one more than the highest level of those below it that it overlaps.
fn levels(entries: &[(u32, &Entry)], family: Family) -> Vec<u32> {
    let bounds: Vec<Bounds> = entries.iter().map(|(_, e)| Bounds::new(e, family)).collect();
    let column =
        |of: fn(&Bounds, usize) -> u32, at| -> Vec<u32> { bounds.iter().map(|b| of(b, at)).collect() };
    let low: [Vec<u32>; 5] =
        std::array::from_fn(|at| column(|b, at| b.low.get(at).copied().unwrap_or(0), at));
    let high: [Vec<u32>; 5] =
        std::array::from_fn(|at| column(|b, at| b.high.get(at).copied().unwrap_or(u32::MAX), at));
    let mut levels = vec![0u32; bounds.len()];
    for (at, b) in bounds.iter().enumerate().rev() {
        let highest = overlapped(b, at + 1, &low, &high, &levels);
        if let Some(level) = levels.get_mut(at) {
            *level = highest + 1;
        }
    }
    levels
}

/// The highest level of the entries from `below` on that overlap `b`; written so that it is done eight at a time.
fn overlapped(b: &Bounds, below: usize, low: &[Vec<u32>; 5], high: &[Vec<u32>; 5], levels: &[u32]) -> u32 {
    fn tail(column: &[u32], below: usize) -> &[u32] {
        column.get(below..).unwrap_or(&[])
    }
    let (l, h) = (
        low.each_ref().map(|c| tail(c, below)),
        high.each_ref().map(|c| tail(c, below)),
    );
    let (first, last) = (b.low, b.high);
    let dimension = |at: usize| {
        l[at]
            .iter()
            .zip(h[at])
            .map(move |(lo, hi)| (*lo <= last[at]) & (first[at] <= *hi))
    };
    tail(levels, below)
        .iter()
        .zip(dimension(0))
        .zip(dimension(1))
        .zip(dimension(2))
        .zip(dimension(3))
        .zip(dimension(4))
        .map(|(((((level, a), b), c), d), e)| if a & b & c & d & e { *level } else { 0 })
        .fold(0, u32::max)
}
