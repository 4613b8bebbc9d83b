//! The match of a rule in canonical form, and its algebra.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::Rule;
use crate::intervals::IntervalSet;
use crate::types::{Family, IcmpMatch, PortRange, Protocol};

/// A set of 16-bit numbers, such as ports.
pub type Ranges = IntervalSet<u16>;

impl Ranges {
    /// The union of ranges; every number when there are none, as in a rule.
    pub fn from_ports(ports: &[PortRange]) -> Self {
        match ports {
            [PortRange { low, high }] => Self::interval(*low, *high),
            ports => Self::from_intervals(ports.iter().map(|r| (r.low, r.high))).unwrap_or_else(Self::all),
        }
    }

    /// How many numbers it holds, 1 to 65,536.
    pub fn count(&self) -> u32 {
        self.iter().map(|(low, high)| u32::from(high - low) + 1).sum()
    }
}

/// A set of IP versions.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

impl Families {
    /// IPv4 and IPv6, as rules have it that name none.
    pub const BOTH: Families = Families { v4: true, v6: true };

    /// The set of this version alone.
    pub fn only(family: Family) -> Self {
        Families {
            v4: family == Family::V4,
            v6: family == Family::V6,
        }
    }

    /// Whether `family` is among them.
    pub fn contains(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    fn and(self, other: Self) -> Self {
        Families {
            v4: self.v4 && other.v4,
            v6: self.v6 && other.v6,
        }
    }

    fn is_empty(self) -> bool {
        !self.v4 && !self.v6
    }
}

/// Which TCP segments; packets of other protocols match either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlagMatch {
    /// Every segment, whatever its flags.
    Any,
    /// Segments that do not open a connection: anything but SYN without ACK.
    NotOpening,
}

/// Whether some ICMP message is within both.
fn icmp_meets(a: Option<IcmpMatch>, b: Option<IcmpMatch>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.kind == b.kind && (a.code.is_none() || b.code.is_none() || a.code == b.code),
        _ => true,
    }
}

/// What a rule matches, in canonical form: a product of one set per dimension, never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Matcher {
    /// IP versions; never empty.
    pub families: Families,
    /// Protocol, or any of them.
    pub protocol: Protocol,
    /// Destination ports; every port for protocols without ports.
    pub dst_ports: Ranges,
    /// Source ports; every port for protocols without ports.
    pub src_ports: Ranges,
    /// Remote prefixes; everywhere when empty.
    pub remote: Vec<IpNet>,
    /// Local prefixes; everywhere when empty.
    pub local: Vec<IpNet>,
    /// ICMP type and code; every one when absent.
    pub icmp: Option<IcmpMatch>,
    /// TCP segments, by their flags.
    pub flags: FlagMatch,
    /// Later fragments too. Essentials are about whole packets: what they let pass opens nothing to fragments.
    pub fragments: bool,
}

impl Matcher {
    fn rank(&self) -> impl Ord + '_ {
        (
            self.protocol,
            &self.dst_ports,
            &self.src_ports,
            (&self.remote, &self.local),
            self.icmp.map(|m| (m.kind, m.code)),
            self.families,
            (self.flags, self.fragments),
        )
    }
}

/// By protocol and ports first; an order and nothing more.
impl Ord for Matcher {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Matcher {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn families_of(prefixes: &[IpNet]) -> Families {
    if prefixes.is_empty() {
        return Families::BOTH;
    }
    Families {
        v4: prefixes.iter().any(|p| matches!(p, IpNet::V4(_))),
        v6: prefixes.iter().any(|p| matches!(p, IpNet::V6(_))),
    }
}

fn canonical_prefixes(prefixes: &[IpNet], families: Families) -> Vec<IpNet> {
    if prefixes.is_empty() {
        return Vec::new();
    }
    let kept: Vec<IpNet> = prefixes
        .iter()
        .copied()
        .filter(|p| families.contains(Family::from_address(p.addr())))
        .collect();
    let mut merged = IpNet::aggregate(&kept);
    merged.sort_unstable();
    // `0.0.0.0/0` and `::/0` together say nothing when both versions are meant; one of them does.
    let whole = |f: Family| {
        merged
            .iter()
            .any(|p| p.prefix_len() == 0 && Family::from_address(p.addr()) == f)
    };
    if Family::BOTH.iter().all(|f| !families.contains(*f) || whole(*f)) {
        Vec::new()
    } else {
        merged
    }
}

fn intersect_prefixes(a: &[IpNet], b: &[IpNet]) -> Option<Vec<IpNet>> {
    if a.is_empty() {
        return Some(b.to_vec());
    }
    if b.is_empty() {
        return Some(a.to_vec());
    }
    let mut both = Vec::new();
    for x in a {
        for y in b {
            if x.contains(y) {
                both.push(*y);
            } else if y.contains(x) {
                both.push(*x);
            }
        }
    }
    if both.is_empty() { None } else { Some(both) }
}

fn covers_prefixes(a: &[IpNet], b: &[IpNet]) -> bool {
    a.is_empty() || (!b.is_empty() && b.iter().all(|y| a.iter().any(|x| x.contains(y))))
}

/// Whether some address of a version is within both.
fn prefixes_meet(a: &[IpNet], b: &[IpNet], family: Family) -> bool {
    let of = |prefixes: &[IpNet]| prefixes.iter().any(|p| Family::from_address(p.addr()) == family);
    match (a.is_empty(), b.is_empty()) {
        (true, true) => true,
        (true, false) => of(b),
        (false, true) => of(a),
        (false, false) if a.is_sorted() && b.is_sorted() => sorted_prefixes_meet(a, b, family),
        (false, false) => a.iter().any(|x| b.iter().any(|y| nested(x, y, family))),
    }
}

fn nested(x: &IpNet, y: &IpNet, family: Family) -> bool {
    Family::from_address(x.addr()) == family && (x.contains(y) || y.contains(x))
}

/// One walk through both: whichever ends first meets nothing that comes later.
fn sorted_prefixes_meet(a: &[IpNet], b: &[IpNet], family: Family) -> bool {
    let of = |p: &&IpNet| Family::from_address(p.addr()) == family;
    let (mut a, mut b) = (a.iter().filter(of).peekable(), b.iter().filter(of).peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        if nested(x, y, family) {
            return true;
        }
        if x.broadcast() < y.broadcast() {
            a.next();
        } else {
            b.next();
        }
    }
    false
}

/// Whether `address` is in one of `prefixes`, or there are none.
fn within(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.is_empty() || prefixes.iter().any(|p| p.contains(&address))
}

impl Matcher {
    /// Matches every IP packet.
    pub fn everything() -> Self {
        Matcher {
            families: Families::BOTH,
            protocol: Protocol::Any,
            dst_ports: Ranges::all(),
            src_ports: Ranges::all(),
            remote: Vec::new(),
            local: Vec::new(),
            icmp: None,
            flags: FlagMatch::Any,
            fragments: true,
        }
    }

    /// The match of a rule; `None` when it can match nothing.
    pub fn from_rule(rule: &Rule) -> Option<Self> {
        let remote: Vec<IpNet> = rule.remote.iter().map(|p| p.0).collect();
        let local: Vec<IpNet> = rule.local.iter().map(|p| p.0).collect();
        let base = Matcher {
            families: rule.ip.map_or(Families::BOTH, Families::only),
            protocol: rule.protocol,
            dst_ports: Ranges::from_ports(&rule.ports),
            src_ports: Ranges::from_ports(&rule.source_ports),
            remote,
            local,
            icmp: rule.icmp,
            flags: FlagMatch::Any,
            fragments: true,
        };
        base.canonical()
    }

    /// Draws the conclusions of one dimension for the others; `None` when nothing is left.
    fn canonical(mut self) -> Option<Self> {
        let by_protocol = match self.protocol {
            Protocol::Number(Protocol::ICMP) => Families::only(Family::V4),
            Protocol::Number(Protocol::ICMPV6) => Families::only(Family::V6),
            _ => Families::BOTH,
        };
        self.families = self
            .families
            .and(by_protocol)
            .and(families_of(&self.remote))
            .and(families_of(&self.local));
        if self.families.is_empty() {
            return None;
        }
        self.remote = canonical_prefixes(&self.remote, self.families);
        self.local = canonical_prefixes(&self.local, self.families);
        Some(self)
    }

    /// What both match; `None` when nothing.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (Protocol::Any, p) | (p, Protocol::Any) => p,
            (p, q) if p == q => p,
            _ => return None,
        };
        let icmp = match (self.icmp, other.icmp) {
            (None, m) | (m, None) => m,
            (Some(a), Some(b)) if a.kind != b.kind => return None,
            (Some(a), Some(b)) => match (a.code, b.code) {
                (None, code) | (code, None) => Some(IcmpMatch { kind: a.kind, code }),
                (x, y) if x == y => Some(a),
                _ => return None,
            },
        };
        let flags = if self.flags == FlagMatch::Any {
            other.flags
        } else {
            self.flags
        };
        Matcher {
            families: self.families.and(other.families),
            protocol,
            dst_ports: self.dst_ports.intersection(&other.dst_ports)?,
            src_ports: self.src_ports.intersection(&other.src_ports)?,
            remote: intersect_prefixes(&self.remote, &other.remote)?,
            local: intersect_prefixes(&self.local, &other.local)?,
            icmp,
            flags,
            fragments: self.fragments && other.fragments,
        }
        .canonical()
    }

    /// Whether some packet could match both. `five_tuple` as in [`Policy`](crate::Policy): ports and ICMP types tell two
    /// matches apart only where packets show them.
    pub fn meets(&self, other: &Self, five_tuple: bool) -> bool {
        let protocol = match (self.protocol, other.protocol) {
            (Protocol::Any, p) | (p, Protocol::Any) => p,
            (p, q) if p == q => p,
            _ => return false,
        };
        let shows_ports = five_tuple || matches!(protocol, Protocol::Number(n) if Protocol::has_ports(n));
        if shows_ports
            && !(self.dst_ports.overlaps(&other.dst_ports) && self.src_ports.overlaps(&other.src_ports))
        {
            return false;
        }
        let families = self.families.and(other.families);
        let shows_icmp = !five_tuple
            && match protocol {
                Protocol::Number(Protocol::ICMP) => !families.v6,
                Protocol::Number(Protocol::ICMPV6) => !families.v4,
                _ => false,
            };
        if shows_icmp && !icmp_meets(self.icmp, other.icmp) {
            return false;
        }
        Family::BOTH.iter().any(|f| {
            families.contains(*f)
                && prefixes_meet(&self.remote, &other.remote, *f)
                && prefixes_meet(&self.local, &other.local, *f)
        })
    }

    /// Whether `self` matches every packet that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.dst_ports.covers(&other.dst_ports) && self.covers_but_ports(other)
    }

    /// Whether everything but the destination ports of `other` is matched by `self`.
    pub fn covers_but_ports(&self, other: &Self) -> bool {
        let families = (self.families.v4 || !other.families.v4) && (self.families.v6 || !other.families.v6);
        let protocol = self.protocol == Protocol::Any || self.protocol == other.protocol;
        let icmp = match (self.icmp, other.icmp) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => a.kind == b.kind && (a.code.is_none() || a.code == b.code),
        };
        families
            && protocol
            && icmp
            && (self.fragments || !other.fragments)
            && (self.flags == FlagMatch::Any || self.flags == other.flags)
            && self.src_ports.covers(&other.src_ports)
            && covers_prefixes(&self.remote, &other.remote)
            && covers_prefixes(&self.local, &other.local)
    }

    /// Whether it names no ports.
    pub fn is_of_all_ports(&self) -> bool {
        self.src_ports.is_all() && self.dst_ports.is_all()
    }

    /// Whether it matches packets of this version, protocol and these addresses, ports aside.
    pub fn matches_addresses(&self, protocol: u8, local: IpAddr, remote: IpAddr) -> bool {
        self.families.contains(Family::from_address(remote))
            && (self.protocol == Protocol::Any || self.protocol == Protocol::Number(protocol))
            && within(&self.remote, remote)
            && within(&self.local, local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_what_touches() {
        let r = |low, high| PortRange { low, high };
        let set = Ranges::from_ports(&[r(10, 20), r(21, 30), r(5, 12), r(65535, 65535), r(0, 0)]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 0), (5, 30), (65535, 65535)]);
        for (n, is_in) in [
            (0, true),
            (1, false),
            (5, true),
            (30, true),
            (31, false),
            (65535, true),
        ] {
            assert_eq!(set.contains(n), is_in, "{n}");
        }
        assert!(Ranges::from_ports(&[r(0, 100), r(101, 65535)]).is_all());
    }

    #[test]
    fn prefixes_limit_the_family() {
        let rule: Rule = serde_json::from_value(serde_json::json!(
            {"name": "a", "action": "deny", "direction": "egress", "remote": ["192.0.2.0/25", "192.0.2.128/25"]}
        ))
        .unwrap();
        let matcher = Matcher::from_rule(&rule).unwrap();
        assert_eq!(matcher.families, Families::only(Family::V4));
        assert_eq!(matcher.remote, ["192.0.2.0/24".parse().unwrap()]);
        let v6 = Matcher {
            families: Families::only(Family::V6),
            ..Matcher::everything()
        };
        assert_eq!(matcher.intersect(&v6), None);
    }
}
