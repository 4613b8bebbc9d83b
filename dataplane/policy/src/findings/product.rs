//! Exact set algebra on matches: products of interval sets, and their differences.
//!
//! A match is not one product over all dimensions, because what a packet shows depends on its protocol: GRE shows no
//! ports, and a rule for any protocol meets it whatever the ports. So a match is cut into *planes* within which every
//! packet shows the same dimensions; in each plane it is one product of five interval sets.

use std::sync::LazyLock;

use ipnet::IpNet;

use crate::direction::Direction;
use crate::effective::Policy;
use crate::intervals::IntervalSet;
use crate::matcher::{FlagMatch, Matcher, Ranges};
use crate::types::{Family, IcmpMatch, Protocol, Verdict};

/// A set of numbers of one dimension.
type Set = IntervalSet<u128>;

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

const ALL_16: Set = Set::interval(0, u16::MAX as u128);
const BOTH_FLAGS: Set = Set::interval(0, 1);

fn ports(ranges: &Ranges) -> Option<Set> {
    Set::from_intervals(ranges.iter().map(|(low, high)| (low.into(), high.into())))
}

fn addresses(prefixes: &[IpNet], family: Family) -> Option<Set> {
    match prefixes {
        [] => Some(Set::of_family(family)),
        prefixes => Set::from_prefixes(prefixes, family),
    }
}

fn icmp_set(icmp: Option<IcmpMatch>) -> Set {
    match icmp {
        None => ALL_16,
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
    Set::from_intervals(own.map(|n| (n.into(), n.into())))
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
            Plane::Tcp => BOTH_FLAGS,
            Plane::Icmp => icmp_set(matcher.icmp),
            Plane::Ports | Plane::Bare => protocols,
        };
        let (dst, src) = match plane {
            Plane::Tcp | Plane::Ports => (ports(&matcher.dst_ports)?, ports(&matcher.src_ports)?),
            Plane::Icmp | Plane::Bare => (ALL_16, ALL_16),
        };
        let remote = addresses(&matcher.remote, family)?;
        let local = addresses(&matcher.local, family)?;
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
            a.intersection(f)?,
            b.intersection(g)?,
            c.intersection(h)?,
            d.intersection(i)?,
            e.intersection(j)?,
        ]))
    }

    /// What `self` has and `other`, which overlaps it, lacks: at most five disjoint products.
    pub(crate) fn without(&self, other: &Self) -> Vec<Product> {
        let mut left = Vec::new();
        let mut rest = self.clone();
        for (dimension, cut) in other.0.iter().enumerate() {
            let Some(own) = rest.0.get(dimension) else { break };
            let (outside, inside) = (own.difference(cut), own.intersection(cut));
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
