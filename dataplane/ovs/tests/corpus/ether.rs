//! What is around IP: VLAN tags, other EtherTypes, SNAP, and frames to many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::craft::{
    ArpSays, Content, Corpus, Ip, Route, SYN, Segment, Tag, arp_payload, icmp, ip, raw, route, tcp, udp,
};
use super::{BARE, FREE, Host, INTERNET, MAIL, Mac, STRAY, WEB};

const PATHS: [(Host, Host); 8] = [
    (WEB, INTERNET),
    (INTERNET, WEB),
    (MAIL, INTERNET),
    (INTERNET, MAIL),
    (FREE, INTERNET),
    (INTERNET, FREE),
    (INTERNET, STRAY),
    (BARE, MAIL),
];

pub fn add(corpus: &mut Corpus) {
    for (from, to) in PATHS {
        vlans(from, to, corpus);
        ether_types(from, to, corpus);
        snap(from, to, corpus);
    }
    for from in Host::all() {
        groups(from, corpus);
    }
    strangers(corpus);
}

fn messages(v6: bool) -> Vec<(&'static str, Segment)> {
    vec![
        ("tcp 25", tcp(40123, 25, SYN)),
        ("tcp 80", tcp(40123, 80, SYN)),
        ("tcp 9999", tcp(40123, 9999, SYN)),
        ("udp 53", udp(40123, 53)),
        ("udp 15000", udp(40123, 15000)),
        ("ping", icmp(v6, if v6 { 128 } else { 8 }, 0)),
        ("gre", raw(47)),
    ]
}

fn vlans(from: Host, to: Host, corpus: &mut Corpus) {
    let tags: [(&str, &[Tag]); 15] = [
        ("priority tag", &[(0x8100, 0)]),
        ("VLAN 7", &[(0x8100, 7)]),
        ("VLAN 4094", &[(0x8100, 4094)]),
        ("service VLAN 7", &[(0x88a8, 7)]),
        ("VLAN 7 in service VLAN 9", &[(0x88a8, 9), (0x8100, 7)]),
        ("VLAN 7 in VLAN 9", &[(0x8100, 9), (0x8100, 7)]),
        ("service VLAN 7 in VLAN 9", &[(0x8100, 9), (0x88a8, 7)]),
        ("priority tag in VLAN 9", &[(0x8100, 9), (0x8100, 0)]),
        ("VLAN 7 in a priority tag", &[(0x8100, 0), (0x8100, 7)]),
        ("service VLAN 7 in a priority tag", &[(0x8100, 0), (0x88a8, 7)]),
        ("0x9100 tag", &[(0x9100, 7)]),
        ("0x9100 tag in VLAN 9", &[(0x8100, 9), (0x9100, 7)]),
        ("three tags", &[(0x8100, 9), (0x8100, 8), (0x8100, 7)]),
        ("three service tags", &[(0x88a8, 9), (0x88a8, 8), (0x88a8, 7)]),
        ("VLAN 7 in 0x9100", &[(0x9100, 9), (0x8100, 7)]),
    ];
    for (name, tags) in tags {
        for v6 in [false, true] {
            for (message, segment) in messages(v6) {
                corpus.tagged(
                    format!("{}→{} v6={v6} {message} behind {name}", from.name(), to.name()),
                    route(from, to),
                    tags,
                    &ip(from.ip(v6), to.ip(v6)),
                    &segment,
                );
            }
        }
        let what = format!("{}→{} 0x88cc behind {name}", from.name(), to.name());
        corpus.other(what, route(from, to), tags, 0x88cc, Content::Other);
        let says = own_arp(from, to);
        let id = corpus.id();
        corpus.frame(
            format!("{}→{} ARP behind {name}", from.name(), to.name()),
            route(from, to),
            tags,
            super::craft::ARP,
            &arp_payload(1, &says, id),
            Content::Arp(says),
        );
    }
}

pub fn own_arp(from: Host, to: Host) -> ArpSays {
    let v4 = |h: Host| match h.v4() {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    ArpSays {
        sha: from.mac(),
        spa: v4(from),
        tpa: v4(to),
        well_formed: true,
    }
}

fn ether_types(from: Host, to: Host, corpus: &mut Corpus) {
    let kinds: [(u16, &str, Content); 12] = [
        (0x88cc, "LLDP", Content::Other),
        (0x8035, "RARP", Content::Rarp),
        (0x8863, "PPPoE discovery", Content::Other),
        (0x8864, "PPPoE session", Content::Encapsulated),
        (0x8847, "MPLS", Content::Encapsulated),
        (0x8848, "MPLS multicast", Content::Encapsulated),
        (0x88e5, "MACsec", Content::Other),
        (0x88f7, "PTP", Content::Other),
        (0x0600, "the lowest EtherType", Content::Other),
        (0xffff, "the highest EtherType", Content::Other),
        (0x809b, "AppleTalk", Content::Other),
        (0x88b5, "local experiments", Content::Other),
    ];
    for (number, name, content) in kinds {
        let what = format!("{}→{} {name}", from.name(), to.name());
        corpus.other(what, route(from, to), &[], number, content);
    }
    // Real packets inside MPLS (RFC 3032) and PPPoE (RFC 2516).
    for (message, segment) in messages(false) {
        let id = corpus.id();
        let (inner, _) = ip(from.v4(), to.v4()).encode(&segment, id);
        let label = [&[0, 0x01, 0x41, 64][..], &inner].concat();
        let what = format!("{}→{} {message} in MPLS", from.name(), to.name());
        corpus.frame(what, route(from, to), &[], 0x8847, &label, Content::Encapsulated);
        let length = (inner.len() as u16 + 2).to_be_bytes();
        let ppp = [&[0x11, 0, 0, 1, length[0], length[1], 0, 0x21][..], &inner].concat();
        let what = format!("{}→{} {message} in PPPoE", from.name(), to.name());
        corpus.frame(what, route(from, to), &[], 0x8864, &ppp, Content::Encapsulated);
    }
}

/// IEEE 802.3 with a length, and RFC 1042 inside it.
fn snap(from: Host, to: Host, corpus: &mut Corpus) {
    let path = format!("{}→{}", from.name(), to.name());
    for v6 in [false, true] {
        for (message, segment) in messages(v6) {
            let what = format!("{path} v6={v6} {message} in SNAP");
            corpus.snap(what, route(from, to), &ip(from.ip(v6), to.ip(v6)), &segment);
        }
    }
    let heads: [(&str, &[u8], Content); 4] = [
        ("a spanning tree LLC frame", &[0x42, 0x42, 3], Content::Other),
        (
            "SNAP with 0x88cc",
            &[0xaa, 0xaa, 3, 0, 0, 0, 0x88, 0xcc],
            Content::Other,
        ),
        (
            "SNAP of another organization",
            &[0xaa, 0xaa, 3, 0, 0, 0xc, 0x20, 0],
            Content::Other,
        ),
        (
            "SNAP with a VLAN tag",
            &[0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0],
            Content::BareTag,
        ),
    ];
    for (name, head, content) in heads {
        let id = corpus.id().to_be_bytes();
        let payload = [head, &[0; 40], &id].concat();
        corpus.frame(
            format!("{path} {name}"),
            route(from, to),
            &[],
            payload.len() as u16,
            &payload,
            content,
        );
    }
}

fn group_route(from: Host, dst: Mac) -> Route {
    Route {
        from,
        src: from.mac(),
        dst,
    }
}

fn groups(from: Host, corpus: &mut Corpus) {
    let broadcast = [0xff; 6];
    let v4 = |a: [u8; 4]| IpAddr::V4(Ipv4Addr::from(a));
    let v6 = |text: &str| IpAddr::V6(text.parse::<Ipv6Addr>().unwrap());
    let targets: Vec<(Mac, IpAddr)> = vec![
        (broadcast, v4([255, 255, 255, 255])),
        (broadcast, v4([224, 0, 0, 1])),
        (broadcast, v4([192, 0, 2, 255])),
        (broadcast, WEB.v4()),
        (broadcast, INTERNET.v4()),
        (broadcast, v4([223, 255, 255, 255])),
        (broadcast, v4([240, 0, 0, 1])),
        (broadcast, v4([255, 255, 255, 254])),
        (broadcast, v4([0, 0, 0, 0])),
        ([1, 0, 0x5e, 0, 0, 1], v4([224, 0, 0, 1])),
        ([1, 0, 0x5e, 0x7f, 0xff, 0xff], v4([239, 255, 255, 255])),
        ([1, 0, 0x5e, 0, 2, 2], MAIL.v4()),
        ([0x33, 0x33, 0, 0, 0, 1], v6("ff02::1")),
        ([0x33, 0x33, 0, 0, 0, 0xfb], v6("ff05::fb")),
        ([0x33, 0x33, 0, 0, 0, 1], WEB.v6()),
        ([0x33, 0x33, 0, 0, 0, 1], v6("feff::1")),
        (broadcast, v6("ff02::1")),
        (broadcast, INTERNET.v6()),
        ([0x33, 0x33, 0, 0, 0, 1], v6("::")),
    ];
    for (mac, dst) in targets {
        for (message, segment) in messages(dst.is_ipv6()) {
            let what = format!("{}→group {message} to {dst} in {mac:02x?}", from.name());
            let packet = ip(from.ip(dst.is_ipv6()), dst);
            corpus.ip(what.clone(), group_route(from, mac), &packet, &segment);
            corpus.tagged(
                format!("{what} behind VLAN 7"),
                group_route(from, mac),
                &[(0x8100, 7)],
                &packet,
                &segment,
            );
            let two = [(0x8100, 9), (0x8100, 7)];
            corpus.tagged(
                format!("{what} behind two tags"),
                group_route(from, mac),
                &two,
                &packet,
                &segment,
            );
        }
    }
    for (mac, kind, name, content) in [
        (broadcast, 0x88cc, "LLDP", Content::Other),
        ([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, "LLDP", Content::Other),
        (
            [0x01, 0x80, 0xc2, 0, 0, 0x00],
            0x88cc,
            "something to the spanning tree group",
            Content::Other,
        ),
        (
            [0x01, 0x80, 0xc2, 0, 0, 0x10],
            0x88cc,
            "something to a group that is forwarded",
            Content::Other,
        ),
        (
            [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc],
            0x2000,
            "CDP",
            Content::Other,
        ),
        (broadcast, 0x8847, "MPLS", Content::Encapsulated),
        (broadcast, 0x8864, "PPPoE session", Content::Encapsulated),
        (broadcast, 0x8863, "PPPoE discovery", Content::Other),
    ] {
        let what = format!("{}→{mac:02x?} {name}", from.name());
        corpus.other(what, group_route(from, mac), &[], kind, content);
    }
    let segment = udp(40123, 15000);
    let packet: Ip = ip(from.v4(), v4([255, 255, 255, 255]));
    for n in [10, 19] {
        let what = format!("{}→broadcast IPv4 header of {n} bytes", from.name());
        corpus.broken(what, group_route(from, broadcast), &packet, &segment, |b| {
            b.truncate(n)
        });
    }
    for (offset, more) in [(0, true), (3, false)] {
        for dst in [v4([224, 0, 0, 251]), v6("ff02::fb"), WEB.v4(), WEB.v6()] {
            let what = format!("{}→group fragment at {offset} of udp 15000 to {dst}", from.name());
            let packet = ip(from.ip(dst.is_ipv6()), dst).piece(offset, more);
            corpus.ip(what, group_route(from, broadcast), &packet, &segment);
        }
    }
}

/// Unicast MACs that nobody here has.
fn strangers(corpus: &mut Corpus) {
    for from in Host::all() {
        for v6 in [false, true] {
            for (message, segment) in messages(v6) {
                let what = format!("{}→nobody v6={v6} {message}", from.name());
                let nobody = group_route(from, [2, 0, 0, 0, 0xee, 0xee]);
                corpus.ip(what, nobody, &ip(from.ip(v6), INTERNET.ip(v6)), &segment);
            }
        }
        // To itself: a switch sends nothing back where it came from.
        let what = format!("{}→itself", from.name());
        corpus.ip(
            what,
            route(from, from),
            &ip(from.v4(), from.v4()),
            &udp(40123, 15000),
        );
    }
    // Group addresses of IP in frames to one.
    for (name, dst) in [
        ("multicast", IpAddr::from([224, 0, 0, 1])),
        ("broadcast", IpAddr::from([255; 4])),
        ("all nodes", IpAddr::V6("ff02::1".parse().unwrap())),
    ] {
        for (message, segment) in messages(dst.is_ipv6()) {
            for (from, to) in PATHS {
                let what = format!(
                    "{}→{} {message} to {name} in a unicast frame",
                    from.name(),
                    to.name()
                );
                corpus.ip(what, route(from, to), &ip(from.ip(dst.is_ipv6()), dst), &segment);
            }
        }
    }
    // From the internet with a stranger's addresses.
    let packet = ip(IpAddr::from([203, 0, 113, 200]), STRAY.v4());
    corpus.ip(
        "internet→stray from afar",
        route(INTERNET, STRAY),
        &packet,
        &udp(40123, 15000),
    );
}
