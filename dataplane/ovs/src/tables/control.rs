//! What no server port may send, managed or not, guarded or not: what speaks for the network, unless the endpoint has the
//! role for it; frames for bridges; and tags behind those that a port without tags lost. These rows are in `guard`.
//!
//! OpenFlow has no field for the type of IGMP: a general query is known by its group, 224.0.0.1. Queries to one group
//! look like reports.
//!
//! A message of a DHCP server is known by either port. Servers send from 67, to port 68 of clients and to port 67 of relays
//! (RFC 2131, 4.1); from 547 of IPv6, to 546 and 547 (RFC 8415, 7.2). But clients take a message to their port whatever
//! port it comes from, so a match on the server's port alone would stop only servers that keep to it; and a match on the
//! client's port alone would let through what goes to relays. Clients send from 68 to 67, and from 546 to 547, which is
//! neither.

//!
//! On the kernel's datapath rows drop headers that are cut short, too, also where nothing is denied. There two parsers meet: ovs-vswitchd
//! looks the packet up by its own, which goes by the lengths that IP says, and the kernel caches the result under what its parser found,
//! which goes by the frame. A header that is cut short shows as zeros in the first, and as a header made of padding in the second:
//! without these rows a server could have an answer cached that is for packets which it may not send.

use portcullis_openflow::{Field, Match};
use portcullis_policy::Protocol;

use super::attach::TAGGED;
use super::guard::CONTROL;
use super::{Forwarding, TAG_TYPES, Table, forward};
use crate::flow::{Flow, Writer};
use crate::regs;

const IPV4: u128 = 0x0800;
const IPV6: u128 = 0x86dd;
const IGMP: u128 = 2;
/// All hosts (RFC 1112).
const ALL_HOSTS: u128 = 0xe000_0001;

/// What is dropped, as hits name it, and the bit of the sender that lets it pass; none where nothing does.
struct ControlDrop {
    name: &'static str,
    unless: Option<u128>,
    matching: Match,
}

fn icmp(ether_type: u128, protocol: u8, field: Field, kind: u8) -> Match {
    Match::new()
        .exact(Field::EthType, ether_type)
        .exact(Field::IpProto, u128::from(protocol))
        .exact(field, u128::from(kind))
}

fn udp(ether_type: u128, field: Field, port: u16) -> Match {
    Match::new()
        .exact(Field::EthType, ether_type)
        .exact(Field::IpProto, u128::from(Protocol::UDP))
        .exact(field, u128::from(port))
}

/// A bit of `ip_frag`: a fragment that is not the first, which has no ports.
const LATER: u128 = 2;

/// Headers that show as zeros, for they are cut short: of IP, and of what is in it.
fn cut_short() -> Vec<Match> {
    let ip = |kind| Match::new().exact(Field::EthType, kind);
    let mut list = vec![
        ip(IPV4)
            .exact(Field::IpProto, 0u128)
            .exact(Field::Ipv4Src, 0u128)
            .exact(Field::Ipv4Dst, 0u128),
        // Extension headers that do not end within the length that IP says: the addresses are there, and the protocol is not.
        ip(IPV6).exact(Field::IpProto, 0u128),
    ];
    let inside = |kind, protocol: u8| {
        ip(kind)
            .exact(Field::IpProto, u128::from(protocol))
            .masked(Field::IpFrag, 0u128, LATER)
    };
    for (protocol, source, destination) in [
        (Protocol::TCP, Field::TcpSrc, Field::TcpDst),
        (Protocol::UDP, Field::UdpSrc, Field::UdpDst),
        (Protocol::SCTP, Field::SctpSrc, Field::SctpDst),
    ] {
        for kind in [IPV4, IPV6] {
            let ports = inside(kind, protocol).exact(source, 0u128);
            list.push(ports.exact(destination, 0u128));
        }
    }
    // Type 0 of ICMPv6 is reserved (RFC 4443, 2.1). That of ICMP is the echo reply, which a header that is cut short looks like.
    list.push(inside(IPV6, Protocol::ICMPV6).exact(Field::Icmpv6Type, 0u128));
    list
}

fn drops(forwarding: Forwarding) -> Vec<ControlDrop> {
    let v4 = |kind| icmp(IPV4, Protocol::ICMP, Field::Icmpv4Type, kind);
    let v6 = |kind| icmp(IPV6, Protocol::ICMPV6, Field::Icmpv6Type, kind);
    let igmp_query = Match::new()
        .exact(Field::EthType, IPV4)
        .exact(Field::IpProto, IGMP)
        .exact(Field::Ipv4Dst, ALL_HOSTS);
    let unparsed = Match::new()
        .exact(Field::EthType, IPV6)
        .exact(Field::IpProto, 0u128)
        .masked(Field::Ipv6Src, 0xfe80u128 << 112, 0xffc0u128 << 112);
    let router = |name, matching| (name, Some(regs::ROUTER), matching);
    let server = |name, matching| (name, Some(regs::DHCP_SERVER), matching);
    let mut list = vec![
        // RFC 1256, 792, 4861.
        router("router-advertisement", v4(9)),
        router("router-advertisement", v6(134)),
        // Extension headers that do not end show as protocol 0, and may hide one (RFC 7113).
        router("router-advertisement", unparsed),
        router("redirect", v4(5)),
        router("redirect", v6(137)),
        // RFC 2710, 3810, 3376.
        router("multicast-query", v6(130)),
        router("multicast-query", igmp_query),
        // RFC 2131, 8415.
        server("dhcp-server", udp(IPV4, Field::UdpDst, 68)),
        server("dhcp-server", udp(IPV4, Field::UdpSrc, 67)),
        server("dhcp-server", udp(IPV6, Field::UdpDst, 546)),
        server("dhcp-server", udp(IPV6, Field::UdpSrc, 547)),
    ];
    for (group, mask) in forward::RESERVED_GROUPS {
        let matching = Match::new().masked(Field::EthDst, group, mask);
        list.push(("link-layer-control", None, matching));
    }
    let tagged = Match::new().masked(Field::VlanVid, TAGGED, TAGGED);
    list.push(("vlan-tag", Some(regs::TAGS), tagged));
    for kind in TAG_TYPES {
        let hidden = Match::new()
            .exact(Field::VlanVid, 0u128)
            .exact(Field::EthType, u128::from(kind));
        list.push(("vlan-tag", Some(regs::TAGS), hidden));
    }
    if forwarding.two_parsers {
        list.extend(
            cut_short()
                .into_iter()
                .map(|matching| ("header-cut-short", None, matching)),
        );
    }
    let named = |(name, unless, matching)| ControlDrop {
        name,
        unless,
        matching,
    };
    list.into_iter().map(named).collect()
}

fn matching(drop: ControlDrop) -> Match {
    match drop.unless {
        Some(bit) => drop.matching.masked(regs::SENDER, 0u128, bit),
        None => drop.matching,
    }
}

/// The rows, whatever the policy.
pub fn rows(forwarding: Forwarding, writer: &Writer) -> Vec<Flow> {
    let row = |drop| writer.drop(Table::Guard, CONTROL, matching(drop));
    drops(forwarding).into_iter().map(row).collect()
}

/// The names of the rows, by what they match.
pub(crate) fn names(forwarding: Forwarding) -> impl Iterator<Item = (Match, &'static str)> {
    drops(forwarding).into_iter().map(|drop| {
        let name = drop.name;
        (matching(drop), name)
    })
}
