//! The source guard, and what it must let pass: foreign MACs and addresses, ARP, neighbour discovery, DHCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_policy::MacAddr;

use super::craft::{
    ARP, ArpSays, Content, Corpus, Ext, IPV4, Nd, Route, SYN, arp_payload, icmp, ip, lla, nd, nd_with, raw,
    route, tcp, udp,
};
use super::ether::own_arp;
use super::{BARE, FREE, Host, INTERNET, MAIL, Mac, STRAY, WEB};

const FOREIGN: Mac = [2, 0, 0, 0, 0xaa, 0xaa];
/// A link-local address that a host could choose by itself (RFC 7217).
const CHOSEN: &str = "fe80::1234:5678:9abc:def0";
const SENDERS: [Host; 6] = [WEB, MAIL, FREE, BARE, STRAY, INTERNET];

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

pub fn add(corpus: &mut Corpus) {
    for from in SENDERS {
        let to = if from == INTERNET { WEB } else { INTERNET };
        sources(from, to, corpus);
        arp(from, to, corpus);
        arp(from, MAIL, corpus);
        neighbours(from, to, corpus);
        strange_neighbours(from, to, corpus);
        configuration(from, corpus);
        hidden(from, to, corpus);
    }
    for to in [WEB, MAIL, FREE, BARE, STRAY] {
        served(to, corpus);
    }
}

/// A stranger's MAC is one of its own per sender: what the switch learns must not disturb other frames.
fn foreign(from: Host) -> Mac {
    let mut mac = FOREIGN;
    mac[5] = from.mac()[5];
    mac
}

fn sources(from: Host, to: Host, corpus: &mut Corpus) {
    let name = from.name();
    let wrong_mac = Route {
        src: foreign(from),
        ..route(from, to)
    };
    for is_v6 in [false, true] {
        let packet = ip(from.ip(is_v6), to.ip(is_v6));
        corpus.ip(
            format!("{name} with a foreign MAC, v6={is_v6}"),
            wrong_mac,
            &packet,
            &tcp(40123, 9999, SYN),
        );
        corpus.ip(
            format!("{name} with a foreign MAC, v6={is_v6}, udp"),
            wrong_mac,
            &packet,
            &udp(40123, 53),
        );
    }
    corpus.other(
        format!("{name} with a foreign MAC, LLDP"),
        wrong_mac,
        &[],
        0x88cc,
        Content::Other,
    );
    corpus.arp(
        format!("{name} with a foreign MAC, ARP"),
        wrong_mac,
        1,
        own_arp(from, to),
    );
    let sources = [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.63",
        "192.0.2.64",
        "192.0.2.79",
        "192.0.2.80",
        "192.0.2.9",
        "0.0.0.0",
        "255.255.255.255",
        "127.0.0.1",
        "224.0.0.1",
        "203.0.113.1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8::3",
        "2001:db8:0:63:ffff:ffff:ffff:ffff",
        "2001:db8:0:64::",
        "2001:db8:0:64:ffff:ffff:ffff:ffff",
        "2001:db8:0:65::",
        "::",
        "::1",
        "fe80::ff:fe00:1",
        "fe80::ff:fe00:2",
        "fe80::1",
        "fe80::ffff",
        "fe80::1:0",
        CHOSEN,
        "fe80:0:0:1:1234:5678:9abc:def0",
        "ff02::1",
        "2001:db8:1::1",
    ];
    for source in sources {
        let src: IpAddr = source.parse().unwrap();
        let dst = to.ip(src.is_ipv6());
        let packet = ip(src, dst);
        let mut send = |what: &str, segment| {
            corpus.ip(
                format!("{name} as {source}: {what}"),
                route(from, to),
                &packet,
                &segment,
            )
        };
        send("tcp", tcp(40123, 9999, SYN));
        send("udp", udp(40123, 53));
        send("dhcp", udp(68, 67));
        send("dhcpv6", udp(546, 547));
        send(
            "ping",
            icmp(src.is_ipv6(), if src.is_ipv6() { 128 } else { 8 }, 0),
        );
        send("gre", raw(47));
        corpus.ip(
            format!("{name} as {source}: later fragment"),
            route(from, to),
            &packet.clone().piece(9, false),
            &udp(68, 67),
        );
        corpus.tagged(
            format!("{name} as {source}: VLAN 7"),
            route(from, to),
            &[(0x8100, 7)],
            &packet,
            &udp(40123, 53),
        );
        if src.is_ipv6() {
            let mut behind = packet.clone();
            behind.chain = vec![Ext::HopByHop(0), Ext::Destination(0)];
            corpus.ip(
                format!("{name} as {source}: behind extension headers"),
                route(from, to),
                &behind,
                &udp(40123, 53),
            );
        }
    }
}

fn arp(from: Host, to: Host, corpus: &mut Corpus) {
    let name = from.name();
    let own = own_arp(from, to);
    let variants: [(&str, ArpSays); 11] = [
        ("own", own),
        ("for itself", ArpSays { tpa: own.spa, ..own }),
        (
            "a probe for itself",
            ArpSays {
                spa: Ipv4Addr::UNSPECIFIED,
                tpa: own.spa,
                ..own
            },
        ),
        (
            "a probe for another",
            ArpSays {
                spa: Ipv4Addr::UNSPECIFIED,
                tpa: v4("192.0.2.77"),
                ..own
            },
        ),
        (
            "a probe for a third",
            ArpSays {
                spa: Ipv4Addr::UNSPECIFIED,
                tpa: v4("192.0.2.200"),
                ..own
            },
        ),
        (
            "with a foreign address",
            ArpSays {
                spa: v4("192.0.2.254"),
                ..own
            },
        ),
        (
            "with the address of mail1",
            ArpSays {
                spa: v4("192.0.2.2"),
                ..own
            },
        ),
        (
            "with an address of its prefix",
            ArpSays {
                spa: v4("192.0.2.70"),
                ..own
            },
        ),
        (
            "with a foreign MAC inside",
            ArpSays {
                sha: foreign(from),
                ..own
            },
        ),
        ("with MAC zero inside", ArpSays { sha: [0; 6], ..own }),
        (
            "a probe with a foreign MAC inside",
            ArpSays {
                sha: foreign(from),
                spa: Ipv4Addr::UNSPECIFIED,
                tpa: own.spa,
                ..own
            },
        ),
    ];
    for (variant, says) in variants {
        for operation in [1, 2, 3, 256] {
            let what = format!("{name}→{} ARP {operation} {variant}", to.name());
            corpus.arp(what, route(from, to), operation, says);
            let everybody = Route {
                dst: [0xff; 6],
                ..route(from, to)
            };
            let what = format!("{name}→broadcast (about {}) ARP {operation} {variant}", to.name());
            corpus.arp(what, everybody, operation, says);
        }
    }
    let spoil: [(&str, usize, u8); 4] = [
        ("hardware type 2", 1, 2),
        ("protocol type 0x0801", 3, 1),
        ("hardware length 7", 4, 7),
        ("protocol length 5", 5, 5),
    ];
    for (what, at, value) in spoil {
        let says = ArpSays {
            well_formed: false,
            ..own
        };
        let mut payload = arp_payload(1, &says, corpus.id());
        payload[at] = value;
        let what = format!("{name}→{} ARP with {what}", to.name());
        corpus.frame(what, route(from, to), &[], ARP, &payload, Content::Arp(says));
    }
    let says = ArpSays {
        well_formed: false,
        ..own
    };
    let what = format!("{name}→{} ARP cut short", to.name());
    let payload = arp_payload(1, &says, corpus.id());
    corpus.frame(
        what,
        route(from, to),
        &[],
        ARP,
        &payload[..27],
        Content::Arp(says),
    );
}

fn neighbours(from: Host, to: Host, corpus: &mut Corpus) {
    let name = from.name();
    let IpAddr::V6(own) = from.v6() else { return };
    let own_ll = MacAddr(from.mac()).link_local();
    let targets = [
        own,
        own_ll,
        v6("2001:db8::2"),
        v6("2001:db8::99"),
        v6("2001:db8:0:64::5"),
        v6("fe80::99"),
        v6(CHOSEN),
        MacAddr(MAIL.mac()).link_local(),
    ];
    let sources = [
        own,
        own_ll,
        Ipv6Addr::UNSPECIFIED,
        v6("2001:db8::99"),
        v6("fe80::99"),
        v6(CHOSEN),
        MacAddr(MAIL.mac()).link_local(),
    ];
    let macs = [None, Some(from.mac()), Some(foreign(from))];
    let all_nodes = Route {
        dst: [0x33, 0x33, 0, 0, 0, 1],
        ..route(from, to)
    };
    for kind in [135, 136] {
        for source in sources {
            for target in targets {
                for mac in macs {
                    let what = format!("{name} nd {kind} as {source} about {target} with {mac:02x?}");
                    let segment = nd(kind, target, mac);
                    let unicast = ip(source.into(), to.v6());
                    corpus.ip(what.clone(), route(from, to), &unicast, &segment);
                    let group = ip(source.into(), v6("ff02::1").into());
                    corpus.ip(format!("{what}, to all"), all_nodes, &group, &segment);
                }
            }
        }
    }
    // RFC 4861 sections 4.1, 4.2: solicitations and advertisements of routers carry the sender's MAC too.
    for (kind, before) in [(133, 8), (134, 16)] {
        let mut segment = icmp(true, kind, 0);
        segment.bytes.truncate(before);
        segment.bytes.extend(lla(1, foreign(from)));
        segment.nd = Some(Nd {
            kind,
            target: Ipv6Addr::UNSPECIFIED,
            mac: Some(foreign(from)),
        });
        let what = format!("{name} icmpv6 {kind} with a foreign MAC inside");
        corpus.ip(what, route(from, to), &ip(own.into(), to.v6()), &segment);
        corpus.unseen("the options of router discovery");
    }
    for kind in [133, 134, 137, 143] {
        for source in [own, own_ll, Ipv6Addr::UNSPECIFIED, v6("fe80::99")] {
            let what = format!("{name} icmpv6 {kind} as {source}, to all");
            let packet = ip(source.into(), v6("ff02::1").into());
            corpus.ip(what, all_nodes, &packet, &icmp(true, kind, 0));
        }
    }
}

/// Neighbour discovery that says things twice, in odd places or in pieces.
fn strange_neighbours(from: Host, to: Host, corpus: &mut Corpus) {
    let name = from.name();
    let IpAddr::V6(own) = from.v6() else { return };
    let packet = ip(own.into(), to.v6());
    let (mine, theirs) = (from.mac(), foreign(from));
    for (kind, option) in [(135u8, 1u8), (136, 2)] {
        let target = if kind == 136 { own } else { v6("2001:db8::99") };
        let pair = |a: Mac, b: Mac| [lla(option, a), lla(option, b)].concat();
        let long = [&[option, 2][..], &theirs, &[0; 8]].concat();
        let variants: [(&str, Vec<u8>, Option<Mac>); 6] = [
            ("the foreign MAC twice", pair(theirs, theirs), Some(theirs)),
            ("the foreign MAC, then its own", pair(theirs, mine), Some(theirs)),
            (
                "its own MAC, then the foreign one",
                pair(mine, theirs),
                Some(theirs),
            ),
            (
                "MAC zero, then the foreign one",
                pair([0; 6], theirs),
                Some(theirs),
            ),
            (
                "another option first, then the foreign MAC",
                [vec![14, 1, 0, 0, 0, 0, 0, 0], lla(option, theirs)].concat(),
                Some(theirs),
            ),
            // RFC 4861 section 4.6.1: on Ethernet the length is 1; a longer one is no MAC.
            ("an option of another length", long, None),
        ];
        for (variant, options, says) in variants {
            let what = format!("{name} nd {kind} with {variant}");
            corpus.ip(
                what,
                route(from, to),
                &packet,
                &nd_with(kind, target, &options, says),
            );
        }
        let mut behind = packet.clone();
        behind.chain = vec![Ext::HopByHop(0), Ext::Destination(0)];
        for mac in [mine, theirs] {
            let what = format!("{name} nd {kind} behind extension headers with {mac:02x?}");
            corpus.ip(what, route(from, to), &behind, &nd(kind, target, Some(mac)));
            let first = packet.clone().piece(0, true);
            let what = format!("{name} nd {kind} as a first fragment with {mac:02x?}");
            corpus.ip(what, route(from, to), &first, &nd(kind, target, Some(mac)));
        }
        // RFC 4861 section 7.1: a code other than 0 is no neighbour discovery.
        let mut coded = nd(kind, target, Some(mine));
        coded.bytes[1] = 1;
        coded.l4 = portcullis_policy::L4::Icmp { kind, code: 1 };
        coded.nd = None;
        corpus.ip(
            format!("{name} nd {kind} with code 1"),
            route(from, to),
            &packet,
            &coded,
        );
    }
}

/// DHCP and DHCPv6 of the client.
fn configuration(from: Host, corpus: &mut Corpus) {
    let name = from.name();
    let to_all = |dst: Mac| Route {
        from,
        src: from.mac(),
        dst,
    };
    let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
    for (source, segment, what) in [
        ("0.0.0.0", udp(68, 67), "DHCP discover"),
        ("0.0.0.0", udp(67, 68), "DHCP offer from nowhere"),
        ("0.0.0.0", udp(68, 68), "DHCP of the wrong ports"),
        ("0.0.0.0", udp(40123, 53), "anything from nowhere"),
    ] {
        let packet = ip(source.parse().unwrap(), broadcast);
        corpus.ip(format!("{name} {what}"), to_all([0xff; 6]), &packet, &segment);
    }
    let own = ip(from.v4(), broadcast);
    corpus.ip(
        format!("{name} DHCP renewal to all"),
        to_all([0xff; 6]),
        &own,
        &udp(68, 67),
    );
    corpus.ip(
        format!("{name} DHCP service to all"),
        to_all([0xff; 6]),
        &own,
        &udp(67, 68),
    );
    let servers = v6("ff02::1:2");
    let own_ll = MacAddr(from.mac()).link_local();
    for (source, segment, what) in [
        (own_ll, udp(546, 547), "DHCPv6 solicit"),
        (own_ll, udp(547, 546), "DHCPv6 advertise"),
        (v6("fe80::99"), udp(546, 547), "DHCPv6 solicit as another"),
    ] {
        let packet = ip(source.into(), servers.into());
        corpus.ip(
            format!("{name} {what}"),
            to_all([0x33, 0x33, 0, 1, 0, 2]),
            &packet,
            &segment,
        );
    }
}

/// What comes from the network's services to a host.
fn served(to: Host, corpus: &mut Corpus) {
    let name = to.name();
    for is_v6 in [false, true] {
        for (source, target) in [(67, 68), (68, 67), (547, 546), (546, 547)] {
            for from in [INTERNET, MAIL] {
                if from == to {
                    continue;
                }
                let what = format!("{}→{name} v6={is_v6} udp {source}>{target}", from.name());
                let packet = ip(from.ip(is_v6), to.ip(is_v6));
                corpus.ip(what, route(from, to), &packet, &udp(source, target));
            }
        }
    }
    let bad = v6("2001:db8:bad::1");
    for (source, target) in [(bad, v6("2001:db8::1")), (v6("2001:db8::9"), v6("2001:db8::1"))] {
        for kind in [135, 136] {
            let what = format!("internet→{name} nd {kind} from {source}");
            let packet = ip(source.into(), to.v6());
            corpus.ip(
                what,
                route(INTERNET, to),
                &packet,
                &nd(kind, target, Some(INTERNET.mac())),
            );
        }
    }
}

/// Foreign sources inside what the switch may not look into.
fn hidden(from: Host, to: Host, corpus: &mut Corpus) {
    let name = from.name();
    let spoofed = ip(v4("203.0.113.99").into(), to.v4());
    for tags in [
        &[(0x8100, 9), (0x8100, 7)][..],
        &[(0x8100, 9), (0x8100, 8), (0x8100, 7)],
    ] {
        let what = format!("{name} as 203.0.113.99 behind {} tags", tags.len());
        corpus.tagged(what, route(from, to), tags, &spoofed, &udp(40123, 53));
    }
    let what = format!("{name} as 203.0.113.99 in SNAP");
    corpus.snap(what, route(from, to), &spoofed, &udp(40123, 53));
    // RFC 791, RFC 8200: the version is part of the header; with another one it is not what the EtherType says.
    for (ether_type, version) in [(IPV4, 0x60u8), (super::craft::IPV6, 0x40)] {
        let packet = ip(from.ip(ether_type != IPV4), to.ip(ether_type != IPV4));
        let what = format!(
            "{name}→{} version {} under {ether_type:#06x}",
            to.name(),
            version >> 4
        );
        corpus.broken(what, route(from, to), &packet, &tcp(40123, 9999, SYN), |b| {
            b[0] = version | (b[0] & 0x0f)
        });
        corpus.unseen("the version field of IP");
    }
}
