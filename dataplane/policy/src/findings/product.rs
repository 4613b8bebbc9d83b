//! Exact set algebra on matches: products of interval sets, and their differences.
//!
//! A match is not one product over all dimensions, because what a packet shows depends on its protocol: GRE shows no
//! ports, and a rule for any protocol meets it whatever the ports. So a match is cut into *planes* within which every
//! packet shows the same dimensions; in each plane it is one product of five interval sets.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;

use crate::direction::Direction;
use crate::effective::Policy;
use crate::matcher::{FlagMatch, Matcher, Ranges};
use crate::types::{Family, IcmpMatch, Protocol, Verdict};

/// A set of numbers, never empty: sorted, disjoint, never adjacent inclusive intervals. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set(Few);

/// Most sets are one interval, which needs no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Few {
    One([(u128, u128); 1]),
    Many(Arc<[(u128, u128)]>),
}

/// Of four disjoint planes per IP version, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plane {
    /// TCP: ports, and whether the segment opens a connection.
    Tcp,
    /// Other protocols that show ports: ports and the protocol's number.
    Ports,
    /// ICMP of this version: type and code.
    Icmp,
    /// The rest: only the protocol's number.
    Bare,
}

/// Number of planes: four for IPv4, then four for IPv6.
const PLANES: usize = 8;

/// A product of one set per dimension: what the plane is about (TCP: 0 opening, 1 not; ICMP: type * 256 + code; else
/// the protocol's number), destination ports, source ports, remote addresses, local addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product([Set; 5]);

/// A match, plane by plane; `None` where it matches nothing.
pub(crate) type Planes = [Option<Product>; PLANES];

static ALL_16: LazyLock<Set> = LazyLock::new(|| Set::interval(0, u128::from(u16::MAX)));
static ALL_32: LazyLock<Set> = LazyLock::new(|| Set::interval(0, u128::from(u32::MAX)));
static ALL_128: LazyLock<Set> = LazyLock::new(|| Set::interval(0, u128::MAX));
static BOTH_FLAGS: LazyLock<Set> = LazyLock::new(|| Set::interval(0, 1));

impl Set {
    fn interval(low: u128, high: u128) -> Self {
        Set(Few::One([(low, high)]))
    }

    fn intervals(&self) -> &[(u128, u128)] {
        match &self.0 {
            Few::One(one) => one,
            Few::Many(many) => many,
        }
    }

    /// Of intervals in any order that may overlap; `None` when there are none.
    fn from_intervals(mut intervals: Vec<(u128, u128)>) -> Option<Self> {
        intervals.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(intervals.len());
        for (low, high) in intervals {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self::sorted(merged)
    }

    fn sorted(intervals: Vec<(u128, u128)>) -> Option<Self> {
        match intervals.as_slice() {
            [] => None,
            [(low, high)] => Some(Self::interval(*low, *high)),
            _ => Some(Set(Few::Many(intervals.into()))),
        }
    }

    fn ports(ranges: &Ranges) -> Option<Self> {
        if ranges.is_all() {
            return Some(ALL_16.clone());
        }
        Self::sorted(ranges.iter().map(|(l, h)| (l.into(), h.into())).collect())
    }

    fn prefixes(prefixes: &[IpNet], family: Family) -> Option<Self> {
        if prefixes.is_empty() {
            return Some(match family {
                Family::V4 => ALL_32.clone(),
                Family::V6 => ALL_128.clone(),
            });
        }
        let own = prefixes
            .iter()
            .filter(|p| Family::from_address(p.addr()) == family);
        Self::from_intervals(
            own.map(|p| (number(p.network()), number(p.broadcast())))
                .collect(),
        )
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (mut a, mut b) = (
            self.intervals().iter().peekable(),
            other.intervals().iter().peekable(),
        );
        while let (Some((a_low, a_high)), Some((b_low, b_high))) = (a.peek(), b.peek()) {
            if a_high < b_low {
                a.next();
            } else if b_high < a_low {
                b.next();
            } else {
                return true;
            }
        }
        false
    }

    /// Whether `other` has nothing that `self` lacks.
    fn covers(&self, other: &Self) -> bool {
        let mut own = self.intervals().iter().peekable();
        other.intervals().iter().all(|(low, high)| {
            while own.next_if(|(_, own_high)| own_high < low).is_some() {}
            own.peek()
                .is_some_and(|(own_low, own_high)| own_low <= low && high <= own_high)
        })
    }

    fn intersect(&self, other: &Self) -> Option<Self> {
        if other.covers(self) {
            return Some(self.clone());
        }
        let mut both = Vec::new();
        let (mut a, mut b) = (
            self.intervals().iter().peekable(),
            other.intervals().iter().peekable(),
        );
        while let (Some((a_low, a_high)), Some((b_low, b_high))) = (a.peek(), b.peek()) {
            let (low, high) = (*a_low.max(b_low), *a_high.min(b_high));
            if low <= high {
                both.push((low, high));
            }
            if a_high < b_high {
                a.next();
            } else {
                b.next();
            }
        }
        Self::sorted(both)
    }

    /// What `self` has and `other` lacks.
    fn without(&self, other: &Self) -> Option<Self> {
        let mut left = Vec::new();
        let mut cuts = other.intervals().iter().peekable();
        for (low, high) in self.intervals() {
            let mut next = Some(*low);
            while cuts.next_if(|(_, cut_high)| cut_high < low).is_some() {}
            while let Some((cut_low, cut_high)) = cuts.peek().filter(|(cut_low, _)| cut_low <= high) {
                if let Some(from) = next
                    && let Some(to) = cut_low.checked_sub(1)
                    && from <= to
                {
                    left.push((from, to));
                }
                next = cut_high.checked_add(1);
                if cut_high > high {
                    break;
                }
                cuts.next();
            }
            if let Some(from) = next.filter(|n| n <= high) {
                left.push((from, *high));
            }
        }
        Self::sorted(left)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn icmp_set(icmp: Option<IcmpMatch>) -> Set {
    match icmp {
        None => ALL_16.clone(),
        Some(IcmpMatch { kind, code }) => {
            let base = u128::from(kind) << 8;
            match code {
                None => Set::interval(base, base + 255),
                Some(code) => Set::interval(base + u128::from(code), base + u128::from(code)),
            }
        }
    }
}

fn plane_of(policy: &Policy, protocol: u8, family: Family) -> Plane {
    if policy.shows_ports(protocol) {
        if protocol == Protocol::TCP {
            Plane::Tcp
        } else {
            Plane::Ports
        }
    } else if policy.shows_icmp(protocol, family) {
        Plane::Icmp
    } else {
        Plane::Bare
    }
}

/// The protocols of a plane. Protocol 0 is never a packet's (see [`Policy::judge`]).
fn protocols(policy: &Policy, family: Family, plane: Plane) -> Option<Set> {
    let own = (1..=u8::MAX).filter(|n| plane_of(policy, *n, family) == plane);
    Set::from_intervals(own.map(|n| (n.into(), n.into())).collect())
}

const KINDS: [Plane; 4] = [Plane::Tcp, Plane::Ports, Plane::Icmp, Plane::Bare];

fn plane_at(index: usize) -> (Family, Plane) {
    let family = if index < KINDS.len() {
        Family::V4
    } else {
        Family::V6
    };
    let plane = KINDS.get(index % KINDS.len()).copied().unwrap_or(Plane::Bare);
    (family, plane)
}

/// The IP version of a plane.
pub(crate) fn family_of(plane: usize) -> Family {
    plane_at(plane).0
}

/// The protocols of every plane: of documents' policies, then of five-tuple policies.
static PROTOCOLS: LazyLock<[[Option<Set>; PLANES]; 2]> = LazyLock::new(|| {
    [false, true].map(|five_tuple| {
        let policy = Policy {
            five_tuple,
            ..Policy::constant(Direction::Egress, Verdict::Allow)
        };
        std::array::from_fn(|index| {
            let (family, plane) = plane_at(index);
            protocols(&policy, family, plane)
        })
    })
});

/// A match of an entry of `policy`, plane by plane.
pub(crate) fn cut(policy: &Policy, matcher: &Matcher) -> Planes {
    let [documents, five_tuples] = &*PROTOCOLS;
    let mut any = if policy.five_tuple { five_tuples } else { documents }.iter();
    std::array::from_fn(|index| {
        let (family, plane) = plane_at(index);
        let any = any.next()?.as_ref();
        if !matcher.families.contains(family) {
            return None;
        }
        let protocols = match matcher.protocol {
            Protocol::Any => any?.clone(),
            Protocol::Number(n) if n != 0 && plane_of(policy, n, family) == plane => {
                Set::interval(n.into(), n.into())
            }
            Protocol::Number(_) => return None,
        };
        let about = match plane {
            Plane::Tcp if matcher.flags == FlagMatch::NotOpening => Set::interval(1, 1),
            Plane::Tcp => BOTH_FLAGS.clone(),
            Plane::Icmp => icmp_set(matcher.icmp),
            Plane::Ports | Plane::Bare => protocols,
        };
        let (dst, src) = match plane {
            Plane::Tcp | Plane::Ports => (Set::ports(&matcher.dst_ports)?, Set::ports(&matcher.src_ports)?),
            Plane::Icmp | Plane::Bare => (ALL_16.clone(), ALL_16.clone()),
        };
        let remote = Set::prefixes(&matcher.remote, family)?;
        let local = Set::prefixes(&matcher.local, family)?;
        Some(Product([about, dst, src, remote, local]))
    })
}

impl Product {
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.overlaps(b))
    }

    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.covers(b))
    }

    pub(crate) fn intersect(&self, other: &Self) -> Option<Self> {
        let [a, b, c, d, e] = &self.0;
        let [f, g, h, i, j] = &other.0;
        Some(Product([
            a.intersect(f)?,
            b.intersect(g)?,
            c.intersect(h)?,
            d.intersect(i)?,
            e.intersect(j)?,
        ]))
    }

    /// What `self` has and `other`, which overlaps it, lacks: at most five disjoint products.
    pub(crate) fn without(&self, other: &Self) -> Vec<Product> {
        let mut left = Vec::new();
        let mut rest = self.clone();
        for (dimension, cut) in other.0.iter().enumerate() {
            let Some(own) = rest.0.get(dimension) else { break };
            let (outside, inside) = (own.without(cut), own.intersect(cut));
            if let Some(outside) = outside {
                let mut piece = rest.clone();
                piece.replace(dimension, outside);
                left.push(piece);
            }
            let Some(inside) = inside else { break };
            rest.replace(dimension, inside);
        }
        left
    }

    fn replace(&mut self, dimension: usize, set: Set) {
        if let Some(slot) = self.0.get_mut(dimension) {
            *slot = set;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sets() -> impl Strategy<Value = Vec<(u128, u128)>> {
        let bound = prop_oneof![0..40u128, (u128::MAX - 3)..=u128::MAX];
        let pair = (bound.clone(), bound).prop_map(|(a, b)| (a.min(b), a.max(b)));
        proptest::collection::vec(pair, 1..5)
    }

    fn has(set: Option<&Set>, n: u128) -> bool {
        set.is_some_and(|s| {
            s.intervals()
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&n))
        })
    }

    proptest! {
        #[test]
        fn sets_are_sets(a in sets(), b in sets()) {
            let (a, b) = (Set::from_intervals(a).unwrap(), Set::from_intervals(b).unwrap());
            let (both, less) = (a.intersect(&b), a.without(&b));
            let mut common = false;
            let mut lacking = false;
            for n in (0..45).chain(u128::MAX - 5..=u128::MAX) {
                let (in_a, in_b) = (has(Some(&a), n), has(Some(&b), n));
                prop_assert_eq!(has(both.as_ref(), n), in_a && in_b);
                prop_assert_eq!(has(less.as_ref(), n), in_a && !in_b);
                common |= in_a && in_b;
                lacking |= in_b && !in_a;
            }
            prop_assert_eq!(a.overlaps(&b), common);
            prop_assert_eq!(a.covers(&b), !lacking);
            for set in [both, less].into_iter().flatten() {
                prop_assert_eq!(Set::from_intervals(set.intervals().to_vec()).unwrap(), set);
            }
        }
    }
}
