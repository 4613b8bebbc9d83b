//! What only routers and DHCP servers send, and the VLANs of frames: as our P4 program sees them.

use std::net::IpAddr;

use portcullis_policy::{EndpointRole, L4, MacAddr, Protocol};

use super::craft::{Content, Corpus, Frame, Route, icmp, igmp, ip, udp};
use super::{Host, Mac};

/// The VLAN that a frame is in: 0 without a tag, 4095 where its tags do not say.
pub fn vlan_id(frame: &Frame) -> u16 {
    match frame.tags.as_slice() {
        [] => 0,
        [(0x9100, _), ..] | [(_, 0), _, ..] => 4095,
        [(_, vid), ..] => *vid,
    }
}

/// The role that a server needs for what a frame carries.
pub fn needed_role(content: &Content) -> Option<EndpointRole> {
    let Content::Ip(ip) = content else { return None };
    let v6 = ip.src.is_ipv6();
    let link_local = matches!(ip.src, IpAddr::V6(a) if a.is_unicast_link_local());
    let router = match (ip.protocol, ip.l4) {
        (Some(Protocol::ICMP), L4::Icmp { kind, .. }) if !v6 => matches!(kind, 5 | 9),
        (Some(Protocol::ICMPV6), L4::Icmp { kind, .. }) if v6 => matches!(kind, 130 | 134 | 137),
        (Some(2), _) => !v6 && ip.igmp == Some(0x11),
        // What does not show its protocol may be an advertisement.
        (None, _) => v6 && link_local,
        _ => false,
    };
    // Servers send from their port, to relays too; clients take a message whatever port it comes from.
    let (server, client) = if v6 { (547, 546) } else { (67, 68) };
    let of_server = ip.protocol == Some(Protocol::UDP)
        && matches!(ip.l4, L4::Ports { src, dst, .. } if src == server || dst == client);
    if router {
        Some(EndpointRole::Router)
    } else {
        of_server.then_some(EndpointRole::DhcpServer)
    }
}

/// What routers and DHCP servers send: from a server without that role it goes nowhere.
pub fn add(corpus: &mut Corpus) {
    for from in Host::all() {
        of_host(from, corpus);
    }
}

fn of_host(from: Host, corpus: &mut Corpus) {
    let name = from.name();
    let own_ll = IpAddr::V6(MacAddr(from.mac()).link_local());
    let v4 = |text: &str| IpAddr::V4(text.parse().unwrap());
    let v6 = |text: &str| IpAddr::V6(text.parse().unwrap());
    let group = |dst: Mac| Route {
        from,
        src: from.mac(),
        dst,
    };
    let (all_v4, all_v6) = ([1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]);
    let own = from.v4();
    for (what, dst, packet, segment) in [
        ("IGMP query", all_v4, ip(own, v4("224.0.0.1")), igmp(0x11)),
        (
            "IGMP query of a group",
            [1, 0, 0x5e, 1, 1, 1],
            ip(own, v4("239.1.1.1")),
            igmp(0x11),
        ),
        (
            "IGMPv3 report",
            [1, 0, 0x5e, 0, 0, 0x16],
            ip(own, v4("224.0.0.22")),
            igmp(0x22),
        ),
        (
            "IGMP leave",
            [1, 0, 0x5e, 0, 0, 2],
            ip(own, v4("224.0.0.2")),
            igmp(0x17),
        ),
        (
            "router advertisement",
            all_v4,
            ip(own, v4("224.0.0.1")),
            icmp(false, 9, 0),
        ),
        (
            "router solicitation",
            [1, 0, 0x5e, 0, 0, 2],
            ip(own, v4("224.0.0.2")),
            icmp(false, 10, 0),
        ),
        (
            "DHCP answer from another port",
            [0xff; 6],
            ip(own, v4("255.255.255.255")),
            udp(40123, 68),
        ),
        (
            "DHCP answer to a relay",
            [0xff; 6],
            ip(own, v4("255.255.255.255")),
            udp(67, 67),
        ),
        ("MLD query", all_v6, ip(own_ll, v6("ff02::1")), icmp(true, 130, 0)),
        (
            "MLD report",
            [0x33, 0x33, 0, 0, 0, 0x16],
            ip(own_ll, v6("ff02::16")),
            icmp(true, 143, 0),
        ),
        (
            "DHCPv6 reply from another port",
            all_v6,
            ip(own_ll, v6("ff02::1")),
            udp(40123, 546),
        ),
        (
            "DHCPv6 reply to a relay",
            all_v6,
            ip(own_ll, v6("ff02::1")),
            udp(547, 547),
        ),
    ] {
        for tags in [&[][..], &[(0x8100, 0)][..], &[(0x8100, 7)][..]] {
            corpus.tagged(
                format!("{name} {what} behind {tags:x?}"),
                group(dst),
                tags,
                &packet,
                &segment,
            );
        }
        corpus.snap(format!("{name} {what} in SNAP"), group(dst), &packet, &segment);
        corpus.ip(
            format!("{name} {what} in its first fragment"),
            group(dst),
            &packet.piece(0, true),
            &segment,
        );
    }
}
