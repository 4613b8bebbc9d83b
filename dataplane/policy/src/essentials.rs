//! Essentials: protocols that an endpoint needs to be on a network, under all rules.
//!
//! Neighbour discovery (RFC 4861), MLD (RFC 2710, RFC 3810), IGMP (RFC 3376), DHCP (RFC 2131) and DHCPv6 (RFC 8415) as a
//! client. ARP and RARP announcements are essentials too, but no IP: [`judge`](crate::Policy::judge) lets them pass.
//!
//! They stand directly under the rule tiers. A deny of a named protocol that matches one stops it. A deny for any protocol
//! does not name it, so the walk of an essential packet goes on below such a rule; a quarantine stops everything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::direction::{Direction, PerDirection};
use crate::document::Document;
use crate::effective::{Entry, Tier, allow};
use crate::matcher::{Families, Matcher, Ranges};
use crate::types::{Family, IcmpMatch, Protocol, Verdict};

/// Where a DHCPv6 client sends to (RFC 8415, section 7.1).
const DHCPV6_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// IPv4 and IPv6 multicast.
const GROUPS: (Ipv4Addr, u8, Ipv6Addr, u8) = (
    Ipv4Addr::new(224, 0, 0, 0),
    4,
    Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
    8,
);
/// IGMP, of which no target shows the type.
const IGMP: u8 = 2;

/// The essentials of every endpoint of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Essentials(PerDirection<Arc<[Entry]>>);

/// Those of a document that names no DHCP server.
static USUAL: LazyLock<Essentials> = LazyLock::new(|| Essentials::with_servers(&[]));

impl Default for Essentials {
    fn default() -> Self {
        USUAL.clone()
    }
}

impl Essentials {
    /// Those of a document, whose DHCP servers an endpoint may write to directly.
    pub(crate) fn from_document(document: &Document) -> Self {
        let servers: Vec<IpNet> = document.reserved.dhcp.iter().map(|prefix| prefix.0).collect();
        match servers.as_slice() {
            [] => USUAL.clone(),
            servers => Essentials::with_servers(servers),
        }
    }

    fn with_servers(servers: &[IpNet]) -> Self {
        Essentials(PerDirection::from_fn(|d| made(d, servers).into()))
    }

    /// Those of a direction.
    pub(crate) fn of_direction(&self, direction: Direction) -> &[Entry] {
        &self.0[direction]
    }

    /// The rules of a direction, in order, with the essentials among them: each in front of the first deny for any
    /// protocol that would stop it, or under all rules where only the default would.
    pub(crate) fn insert(&self, direction: Direction, rules: Vec<&Entry>, default: Verdict) -> Vec<Entry> {
        let place = |essential: &'_ Entry| {
            let stopped = rules
                .iter()
                .position(|rule| is_broad(rule) && rule.matcher.meets(&essential.matcher, false));
            stopped.or(default.denies().then_some(rules.len()))
        };
        let essentials = self.of_direction(direction).iter();
        let mut places: Vec<(usize, &Entry)> = essentials.filter_map(|e| Some((place(e)?, e))).collect();
        // Stable.
        places.sort_by_key(|(at, _)| *at);
        let mut places = places.into_iter().peekable();
        let mut policy = Vec::with_capacity(rules.len() + places.len());
        for at in 0..=rules.len() {
            while let Some((_, essential)) = places.next_if(|(place, _)| *place == at) {
                named(rules.get(at..).unwrap_or(&[]), essential, &mut policy);
                policy.push(essential.clone());
            }
            policy.extend(rules.get(at).map(|rule| (*rule).clone()));
        }
        policy
    }
}

/// Whether it is a deny that names no essential and stops none.
fn is_broad(rule: &Entry) -> bool {
    rule.action.denies() && rule.matcher.protocol == Protocol::Any && rule.tier != Tier::Quarantine
}

/// What the rules from a place on say of an essential, as far as it is not what the essential says: down to the last deny
/// that names it.
fn named(rules: &[&Entry], essential: &Entry, policy: &mut Vec<Entry>) {
    let first = policy.len();
    let mut end = first;
    for rule in rules.iter().filter(|rule| !is_broad(rule)) {
        let Some(matcher) = rule.matcher.intersect(&essential.matcher) else {
            continue;
        };
        let denies = rule.action.denies();
        policy.push(Entry {
            matcher: Arc::new(matcher),
            ..(*rule).clone()
        });
        if denies {
            end = policy.len();
        }
    }
    policy.truncate(end);
}

/// Whether a rule is a deny that stops all or part of an essential: it names the protocol, and matches type or ports.
pub(crate) fn stops(rule: &Entry, essential: &Entry) -> bool {
    rule.action.denies()
        && rule.matcher.protocol != Protocol::Any
        && rule.matcher.meets(&essential.matcher, false)
}

fn made(direction: Direction, servers: &[IpNet]) -> Vec<Entry> {
    let whole = |family: Family, protocol: u8| Matcher {
        families: Families::only(family),
        protocol: Protocol::Number(protocol),
        fragments: false,
        ..Matcher::everything()
    };
    let icmp = |kind: u8| Matcher {
        icmp: Some(IcmpMatch { kind, code: None }),
        ..whole(Family::V6, Protocol::ICMPV6)
    };
    let dhcp = |family: Family, client: u16, server: u16| {
        let (src, dst) = match direction {
            Direction::Egress => (client, server),
            Direction::Ingress => (server, client),
        };
        Matcher {
            src_ports: one(src),
            dst_ports: one(dst),
            ..whole(family, Protocol::UDP)
        }
    };
    let (mut dhcp4, mut dhcp6) = (dhcp(Family::V4, 68, 67), dhcp(Family::V6, 546, 547));
    let mut igmp = whole(Family::V4, IGMP);
    // Router advertisements, redirects and queries are a router's to send. What the endpoint sends goes where the
    // protocols send it, so that nothing else leaves under these names.
    let (discovery, listener): (&[u8], &[u8]) = match direction {
        Direction::Egress => (&[133, 135, 136], &[131, 132, 143]),
        Direction::Ingress => (&[134, 135, 136, 137], &[130, 131, 132, 143]),
    };
    let mut groups6 = Vec::new();
    if direction == Direction::Egress {
        let (v4, v4_bits, v6, v6_bits) = GROUPS;
        igmp.remote = Ipv4Net::new(v4, v4_bits).map(IpNet::V4).into_iter().collect();
        groups6 = Ipv6Net::new(v6, v6_bits).map(IpNet::V6).into_iter().collect();
        dhcp4.remote = to(servers, Ipv4Addr::BROADCAST.into());
        dhcp6.remote = to(servers, DHCPV6_SERVERS.into());
    }
    let discovery = discovery.iter().map(|kind| ("neighbour-discovery", icmp(*kind)));
    let listener = listener.iter().map(|kind| {
        let remote = groups6.clone();
        (
            "mld",
            Matcher {
                remote,
                ..icmp(*kind)
            },
        )
    });
    discovery
        .chain(listener)
        .chain([("igmp", igmp), ("dhcp", dhcp4), ("dhcpv6", dhcp6)])
        .map(|(name, matcher)| allow(Tier::Essential, &format!("essential/{name}"), matcher))
        .collect()
}

fn one(port: u16) -> Ranges {
    Ranges::interval(port, port)
}

/// An address and those of the servers that are of its version.
fn to(servers: &[IpNet], address: IpAddr) -> Vec<IpNet> {
    let own = servers
        .iter()
        .copied()
        .filter(|s| Family::from_address(s.addr()) == Family::from_address(address));
    let mut all: Vec<IpNet> = own.chain([IpNet::from(address)]).collect();
    all = IpNet::aggregate(&all);
    all.sort_unstable();
    all
}
