//! What speaks for the network: router advertisements, redirects, DHCP servers, multicast queries, frames for bridges.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use portcullis_policy::{EndpointRole, L4, MacAddr, Protocol};

use super::craft::{Content, Corpus, Ext, Frame, Route, Segment, icmp, ip, raw, udp};
use super::{Host, INTERNET, MAIL, Mac, WEB};

const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const IGMP: u8 = 2;

/// What a server with these roles may not send, if the frame is that.
pub fn speaks_for_the_network(
    frame: &Frame,
    content: &Content,
    roles: &BTreeSet<EndpointRole>,
) -> Option<&'static str> {
    let dst = frame.route.dst;
    if dst[..5] == [0x01, 0x80, 0xc2, 0, 0] && dst[5] <= 0x0f {
        return Some("a frame for bridges");
    }
    if dst[..5] == [0x01, 0x00, 0x0c, 0xcc, 0xcc] && matches!(dst[5], 0xcc | 0xcd) {
        return Some("a frame for bridges");
    }
    let Content::Ip(ip) = content else { return None };
    let (what, role) = match (ip.protocol, ip.l4, ip.src.is_ipv6()) {
        (Some(Protocol::ICMP), L4::Icmp { kind: 9, .. }, false)
        | (Some(Protocol::ICMPV6), L4::Icmp { kind: 134, .. }, true) => {
            ("a router advertisement", EndpointRole::Router)
        }
        (Some(Protocol::ICMP), L4::Icmp { kind: 5, .. }, false)
        | (Some(Protocol::ICMPV6), L4::Icmp { kind: 137, .. }, true) => ("a redirect", EndpointRole::Router),
        (Some(Protocol::ICMPV6), L4::Icmp { kind: 130, .. }, true) => {
            ("a multicast query", EndpointRole::Router)
        }
        // What does not show its protocol may be an advertisement.
        (None, _, true) if matches!(ip.src, IpAddr::V6(a) if a.is_unicast_link_local()) => {
            ("what hides its protocol", EndpointRole::Router)
        }
        (Some(IGMP), _, false) if ip.dst == IpAddr::V4(ALL_HOSTS) => {
            ("a multicast query", EndpointRole::Router)
        }
        // To a client whatever port it comes from, or from a server's port.
        (Some(Protocol::UDP), L4::Ports { src: 67, .. } | L4::Ports { dst: 68, .. }, false)
        | (Some(Protocol::UDP), L4::Ports { src: 547, .. } | L4::Ports { dst: 546, .. }, true) => {
            ("a DHCP server's message", EndpointRole::DhcpServer)
        }
        _ => return None,
    };
    (!roles.contains(&role)).then_some(what)
}

/// RFC 1112: a group's address as a MAC; RFC 2464 for IPv6.
fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(a) => {
            let [_, b, c, d] = a.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(a) => {
            let o = a.octets();
            [0x33, 0x33, o[12], o[13], o[14], o[15]]
        }
    }
}

pub fn add(corpus: &mut Corpus) {
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    let reports: IpAddr = "ff02::16".parse().unwrap();
    let group = IpAddr::from([239, 1, 2, 3]);
    let messages: Vec<(&str, IpAddr, Segment)> = vec![
        ("a router advertisement", all_nodes, icmp(true, 134, 0)),
        (
            "a router solicitation",
            "ff02::2".parse().unwrap(),
            icmp(true, 133, 0),
        ),
        (
            "a router advertisement of IPv4",
            ALL_HOSTS.into(),
            icmp(false, 9, 0),
        ),
        ("an MLD query", all_nodes, icmp(true, 130, 0)),
        ("an MLDv1 report", reports, icmp(true, 131, 0)),
        ("an MLDv2 report", reports, icmp(true, 143, 0)),
        ("an IGMP query", ALL_HOSTS.into(), raw(IGMP)),
        ("an IGMP report", group, raw(IGMP)),
    ];
    for from in Host::all() {
        let name = from.name();
        for (what, to, segment) in &messages {
            let route = Route {
                from,
                src: from.mac(),
                dst: group_mac(*to),
            };
            let packet = ip(from.ip(to.is_ipv6()), *to);
            corpus.ip(format!("{name}: {what}"), route, &packet, segment);
        }
        let own = IpAddr::V6(MacAddr(from.mac()).link_local());
        for chain in [vec![Ext::CutOff(60)], vec![Ext::TooLong(0)]] {
            let route = Route {
                from,
                src: from.mac(),
                dst: group_mac(all_nodes),
            };
            let mut packet = ip(own, all_nodes);
            packet.chain = chain;
            let what = format!("{name}: an advertisement behind {:?}", packet.chain);
            corpus.ip(what, route, &packet, &icmp(true, 134, 0));
        }
        for to in [WEB, MAIL, INTERNET].into_iter().filter(|to| *to != from) {
            let route = super::craft::route(from, to);
            for (v6, what, segment) in [
                (true, "a router advertisement", icmp(true, 134, 0)),
                (true, "a redirect", icmp(true, 137, 0)),
                (true, "a redirect of code 1", icmp(true, 137, 1)),
                (false, "a redirect", icmp(false, 5, 1)),
                (false, "a DHCP reply", udp(67, 68)),
                (false, "a DHCP reply from another port", udp(1067, 68)),
                (false, "a DHCP reply to a relay", udp(67, 67)),
                (false, "a DHCP request", udp(68, 67)),
                (true, "a DHCPv6 reply", udp(547, 546)),
                (true, "a DHCPv6 reply from another port", udp(1547, 546)),
                (true, "a DHCPv6 reply to a relay", udp(547, 547)),
                (true, "a DHCPv6 request", udp(546, 547)),
                (false, "a query for one host", raw(IGMP)),
            ] {
                let packet = ip(from.ip(v6), to.ip(v6));
                corpus.ip(format!("{name}→{}: {what}", to.name()), route, &packet, &segment);
            }
        }
    }
}
