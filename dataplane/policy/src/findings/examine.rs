//! What each entry of one policy contributes: nothing, nothing of its own, or something.
//!
//! An entry's match is carved up by the entries before it, in order: what is left is what it decides. That is carved
//! up by the entries after it: each takes what it would decide if the entry were not there. The search stops at the
//! first piece that would be decided otherwise, so an entry that matters is seldom looked at for long. Work is
//! bounded; an entry that exhausts its bound is [`Standing::Unknown`].

use std::cell::OnceCell;

use super::product::{Planes, Product, cut};
use crate::effective::{Entry, Policy, Tier};
use crate::matcher::Matcher;
use crate::types::{Family, Protocol};

/// What one entry contributes to its policy. Indices are those of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It decides no packet: these entries decide all it matches.
    Never(Vec<usize>),
    /// Without its rule, all it decides would be decided the same way, by these; `None` is the default.
    Same(Vec<Option<usize>>),
    /// A reply, all of which other replies would take: those above it, and these below it, which decide the same way.
    Taken(Vec<usize>),
    /// Without its rule, some packet would be decided otherwise.
    Matters,
    /// The budget did not suffice.
    Unknown,
}

/// How much may be done. Both numbers go down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Pairs of entries that may still be compared roughly, about 3 ns each.
    pub(super) scans: u64,
    /// Pairs of products that may still be compared exactly, about 50 ns each.
    pub(super) steps: u64,
}

impl Budget {
    /// Of one document or policy: about two seconds at worst.
    pub(super) const WHOLE: Budget = Budget {
        scans: 150_000_000,
        steps: 4_000_000,
    };
    /// Most steps for one entry: an entry that needs more is left alone, so that others get their turn.
    const ENTRY: u64 = 100_000;
    /// What taking one product from another costs, in steps.
    const CUT: u64 = 8;

    fn spend(count: &mut u64, much: u64) -> Option<()> {
        *count = count.checked_sub(much)?;
        Some(())
    }
}

/// Bounds of a match, for a quick and sure "do not overlap".
#[derive(Clone, Copy)]
struct Bounds {
    /// IP versions: bit 0 is IPv4, bit 1 is IPv6.
    families: u8,
    /// The protocol; 256 is any.
    protocol: u16,
    /// Destination ports; all where the protocol shows none.
    dst: (u16, u16),
    src: (u16, u16),
    /// Remote IPv4 addresses; all when IPv6 is meant too.
    remote: (u32, u32),
    local: (u32, u32),
}

impl Bounds {
    fn new(policy: &Policy, matcher: &Matcher) -> Self {
        let shows_ports = match matcher.protocol {
            Protocol::Number(n) => policy.shows_ports(n),
            Protocol::Any => policy.five_tuple,
        };
        let ports = |ranges: &crate::matcher::Ranges| {
            if shows_ports {
                ranges.bounds()
            } else {
                (0, u16::MAX)
            }
        };
        let addresses = |prefixes: &[ipnet::IpNet]| {
            let bounds = prefixes.iter().map(|p| match p {
                ipnet::IpNet::V4(p) => (u32::from(p.network()), u32::from(p.broadcast())),
                ipnet::IpNet::V6(_) => (0, u32::MAX),
            });
            let all = bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
            let only_v4 = !matcher.families.contains(Family::V6);
            all.filter(|_| only_v4).unwrap_or((0, u32::MAX))
        };
        Bounds {
            families: u8::from(matcher.families.v4) | (u8::from(matcher.families.v6) << 1),
            protocol: match matcher.protocol {
                Protocol::Any => 256,
                Protocol::Number(n) => n.into(),
            },
            dst: ports(&matcher.dst_ports),
            src: ports(&matcher.src_ports),
            remote: addresses(&matcher.remote),
            local: addresses(&matcher.local),
        }
    }

    fn may_overlap(&self, other: &Self) -> bool {
        fn meet<T: PartialOrd>(a: (T, T), b: (T, T)) -> bool {
            a.0 <= b.1 && b.0 <= a.1
        }
        (self.protocol == other.protocol || self.protocol == 256 || other.protocol == 256)
            && meet(self.dst, other.dst)
            && self.families & other.families != 0
            && meet(self.remote, other.remote)
            && meet(self.src, other.src)
            && meet(self.local, other.local)
    }
}

/// The rule behind an origin: a reply stands or falls with the rule it mirrors.
pub(super) fn rule_of(origin: &str) -> &str {
    origin.strip_prefix("replies/").unwrap_or(origin)
}

/// One policy, ready to be asked about its entries.
pub(super) struct Examined<'a> {
    policy: &'a Policy,
    /// Where replies begin, which stand under everything else.
    replies: usize,
    bounds: Vec<Bounds>,
    cut: Vec<OnceCell<Box<Planes>>>,
}

/// One plane of an entry under examination: the others that overlap it there, in order.
struct Carving<'a> {
    others: Vec<(usize, &'a Product)>,
    /// How many of them come before the entry.
    before: usize,
}

/// What the entries before and after took.
#[derive(Default)]
struct Takers {
    before: Vec<usize>,
    after: Vec<Option<usize>>,
}

fn note<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

impl<'a> Examined<'a> {
    pub(super) fn new(policy: &'a Policy) -> Self {
        Examined {
            policy,
            replies: policy.entries.partition_point(|e| e.tier != Tier::Replies),
            bounds: policy
                .entries
                .iter()
                .map(|e| Bounds::new(policy, &e.matcher))
                .collect(),
            cut: policy.entries.iter().map(|_| OnceCell::new()).collect(),
        }
    }

    fn planes(&self, index: usize) -> Option<&Planes> {
        let entry = self.policy.entries.get(index)?;
        let cell = self.cut.get(index)?;
        Some(cell.get_or_init(|| Box::new(cut(self.policy, &entry.matcher))))
    }

    fn entry(&self, index: usize) -> Option<&'a Entry> {
        self.policy.entries.get(index)
    }

    /// Whether `other` counts when `entry` is examined. Leases come and go, each on its own: only what stays counts.
    fn counts(other: &Entry, entry: &Entry) -> bool {
        other.tier != Tier::Unlock || other.origin == entry.origin
    }

    /// The entries among `of` that may overlap the one at `index`, in order; `None` when the budget ends.
    fn near(&self, index: usize, of: std::ops::Range<usize>, budget: &mut Budget) -> Option<Vec<usize>> {
        let own = self.bounds.get(index)?;
        let entry = self.entry(index)?;
        Budget::spend(&mut budget.scans, of.len() as u64)?;
        let others = self.bounds.get(of.clone())?;
        let near = of.zip(others).filter(|(other, bounds)| {
            *other != index
                && own.may_overlap(bounds)
                && self.entry(*other).is_some_and(|o| Self::counts(o, entry))
        });
        Some(near.map(|(other, _)| other).collect())
    }

    /// The first entry of another rule before this one that alone covers all of it.
    fn covered_by_one(&self, index: usize, near: &[usize]) -> Option<usize> {
        let entry = self.entry(index)?;
        let own = self.planes(index)?;
        near.iter().copied().take_while(|n| *n < index).find(|other| {
            self.entry(*other).is_some_and(|o| o.origin != entry.origin)
                && self.planes(*other).is_some_and(|planes| {
                    own.iter().zip(planes).all(|(own, other)| match (own, other) {
                        (None, _) => true,
                        (Some(_), None) => false,
                        (Some(own), Some(other)) => other.covers(own),
                    })
                })
        })
    }

    /// What the entry at `index` contributes.
    pub(super) fn standing(&self, index: usize, budget: &mut Budget) -> Standing {
        self.examine(index, budget).unwrap_or(Standing::Unknown)
    }

    fn examine(&self, index: usize, budget: &mut Budget) -> Option<Standing> {
        let all = self.policy.entries.len();
        if self.entry(index)?.tier == Tier::Replies {
            let replies = self.near(index, self.replies..all, budget)?;
            if let Some(standing) = self.taken_by_replies(index, &replies, budget)? {
                return Some(standing);
            }
        }
        let near = self.near(index, 0..all, budget)?;
        Budget::spend(&mut budget.steps, near.len() as u64)?;
        if let Some(one) = self.covered_by_one(index, &near) {
            return Some(Standing::Never(vec![one]));
        }
        let mut takers = Takers::default();
        let mut allowance = Budget::ENTRY.min(budget.steps);
        let granted = allowance;
        let mut same = Some(true);
        for (plane, own) in self.planes(index)?.iter().enumerate() {
            let Some(own) = own else { continue };
            allowance = allowance.checked_sub(near.len() as u64)?;
            let carving = self.carving(index, plane, own, &near);
            same = self.carve(index, own, &carving, &mut takers, &mut allowance);
            if same != Some(true) {
                break;
            }
        }
        Budget::spend(&mut budget.steps, granted - allowance)?;
        Some(match same? {
            false => Standing::Matters,
            true if takers.after.is_empty() => Standing::Never(takers.before),
            true => Standing::Same(takers.after),
        })
    }

    /// Whether `others`, replies too, take all of a reply: those before it, and those of the same action that come next,
    /// before any of the other one. Then nothing depends on it, whatever rules stand above: a cheap look, since replies stand
    /// under all rules and overlap most of them.
    fn taken_by_replies(
        &self,
        index: usize,
        others: &[usize],
        budget: &mut Budget,
    ) -> Option<Option<Standing>> {
        Budget::spend(&mut budget.steps, others.len() as u64)?;
        if self.covered_by_one(index, others).is_some() {
            return Some(Some(Standing::Taken(Vec::new())));
        }
        let action = self.entry(index)?.action;
        let same =
            |other: &&usize| **other < index || self.entry(**other).is_some_and(|o| o.action == action);
        let others: Vec<usize> = others.iter().take_while(same).copied().collect();
        let mut takers = Vec::new();
        for (plane, own) in self.planes(index)?.iter().enumerate() {
            let Some(own) = own else { continue };
            let carving = self.carving(index, plane, own, &others);
            if self.left(own, &carving, budget)? {
                return Some(None);
            }
            let after = carving.others.iter().skip(carving.before);
            after.for_each(|(other, _)| note(&mut takers, *other));
        }
        Some(Some(Standing::Taken(takers)))
    }

    fn carving<'s>(&'s self, index: usize, plane: usize, own: &Product, near: &[usize]) -> Carving<'s> {
        let rule = self.entry(index).map(|e| rule_of(&e.origin));
        let mut others = Vec::new();
        let mut before = 0;
        for other in near.iter().copied() {
            // What comes after and belongs to the same rule goes when the rule goes.
            let goes_too = other > index && self.entry(other).map(|o| rule_of(&o.origin)) == rule;
            let product = self.planes(other).and_then(|p| p.get(plane)?.as_ref());
            if let Some(product) = product.filter(|p| !goes_too && p.overlaps(own)) {
                before += usize::from(other < index);
                others.push((other, product));
            }
        }
        Carving { others, before }
    }

    /// Whether all that the entry decides of `own` would be decided the same way without its rule; `None` when the
    /// allowance ends.
    fn carve(
        &self,
        index: usize,
        own: &Product,
        carving: &Carving<'_>,
        takers: &mut Takers,
        allowance: &mut u64,
    ) -> Option<bool> {
        let action = self.entry(index)?.action;
        let mut pieces = vec![(own.clone(), 0)];
        while let Some((piece, from)) = pieces.pop() {
            let rest = carving.others.get(from..)?;
            let next = rest.iter().position(|(_, product)| product.overlaps(&piece));
            Budget::spend(
                allowance,
                next.map_or(rest.len() as u64, |n| n as u64 + Budget::CUT),
            )?;
            let Some((at, (other, product))) = next.and_then(|n| Some((from + n, rest.get(n)?))) else {
                if self.policy.default != action {
                    return Some(false);
                }
                note(&mut takers.after, None);
                continue;
            };
            if at < carving.before {
                note(&mut takers.before, *other);
            } else if self.entry(*other)?.action != action {
                return Some(false);
            } else {
                note(&mut takers.after, Some(*other));
            }
            pieces.extend(piece.without(product).into_iter().map(|p| (p, at + 1)));
        }
        Some(true)
    }

    /// The mandatory entries before this one that decide some of its match otherwise, and whether each decides all
    /// that both match.
    pub(super) fn overruling(&self, index: usize, budget: &mut Budget) -> Option<Vec<(usize, bool)>> {
        let entry = self.entry(index)?;
        let near = self.near(index, 0..index, budget)?;
        let mut found = Vec::new();
        for other in near.iter().copied() {
            let Some(mandatory) = self.entry(other) else {
                continue;
            };
            if mandatory.tier == Tier::Mandatory && mandatory.action != entry.action {
                Budget::spend(&mut budget.steps, near.len() as u64)?;
                let earlier: Vec<usize> = near.iter().copied().take_while(|n| *n < other).collect();
                let (some, all) = self.decides(other, index, &earlier, budget)?;
                if some {
                    found.push((other, all));
                }
            }
        }
        Some(found)
    }

    /// Whether the mandatory entry at `other` decides some of what it shares with the entry at `index`, and whether
    /// it decides all of that but what is essential.
    fn decides(
        &self,
        other: usize,
        index: usize,
        earlier: &[usize],
        budget: &mut Budget,
    ) -> Option<(bool, bool)> {
        let origin = &self.entry(other)?.origin;
        let (mut some, mut all) = (false, true);
        let shared = self.planes(index)?.iter().zip(self.planes(other)?);
        for (plane, (own, other)) in shared.enumerate() {
            let shared = own.as_ref().zip(other.as_ref()).and_then(|(a, b)| a.intersect(b));
            let Some(own) = &shared else { continue };
            let mut others = Vec::new();
            for before in earlier.iter().copied() {
                let before_entry = self.entry(before)?;
                let product = self.planes(before).and_then(|p| p.get(plane)?.as_ref());
                if &before_entry.origin != origin
                    && let Some(product) = product.filter(|p| p.overlaps(own))
                {
                    all &= before_entry.tier == Tier::Essential;
                    others.push((before, product));
                }
            }
            let before = others.len();
            some = some || self.left(own, &Carving { others, before }, budget)?;
        }
        Some((some, all))
    }

    /// Whether anything of `own` is left by all the others.
    fn left(&self, own: &Product, carving: &Carving<'_>, budget: &mut Budget) -> Option<bool> {
        let mut pieces = vec![(own.clone(), 0)];
        while let Some((piece, from)) = pieces.pop() {
            let rest = carving.others.get(from..)?;
            let next = rest.iter().position(|(_, product)| product.overlaps(&piece));
            Budget::spend(
                &mut budget.steps,
                next.map_or(rest.len() as u64, |n| n as u64 + Budget::CUT),
            )?;
            let Some((n, (_, product))) = next.and_then(|n| Some((n, rest.get(n)?))) else {
                return Some(true);
            };
            pieces.extend(piece.without(product).into_iter().map(|p| (p, from + n + 1)));
        }
        Some(false)
    }
}
