//! Random policies and packets, made to meet each other's edges.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses its part and fails by panicking"
)]

pub mod grid;
pub mod mutate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_policy::{
    Direction, Document, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, effective,
};
use proptest::prelude::*;

const PORTS: [u16; 12] = [0, 1, 22, 25, 80, 443, 1023, 1024, 40000, 65533, 65534, 65535];
const PREFIXES: [&str; 8] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::7",
    "0.0.0.0/0",
];

fn ports() -> impl Strategy<Value = Vec<String>> {
    let port = || prop::sample::select(PORTS.to_vec());
    let range = (port(), port()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    prop::collection::vec(range, 0..3)
}

fn prefixes(chance: f64) -> impl Strategy<Value = Vec<String>> {
    let some = prop::collection::vec(
        prop::sample::select(PREFIXES.to_vec()).prop_map(str::to_string),
        1..3,
    );
    prop::option::weighted(chance, some).prop_map(Option::unwrap_or_default)
}

fn rule() -> impl Strategy<Value = serde_json::Value> {
    let protocol = prop::sample::select(vec!["tcp", "tcp", "udp", "sctp", "icmp", "icmpv6", "any", "47"]);
    let icmp = prop::option::of((
        prop::sample::select(vec![0u8, 3, 8, 128, 135, 255]),
        prop::option::of(0u8..2),
    ));
    let shape = (any::<bool>(), any::<bool>(), protocol, ports(), ports(), icmp);
    (
        shape,
        prefixes(0.3),
        prefixes(0.15),
        prop::option::weighted(0.2, any::<bool>()),
    )
        .prop_map(
            |((deny, egress, protocol, dst, src, icmp), remote, local, family)| {
                let mut rule = serde_json::json!({
                    "name": "r",
                    "action": if deny { "deny" } else { "allow" },
                    "direction": if egress { "egress" } else { "ingress" },
                    "protocol": protocol,
                    "remote": remote,
                    "local": local,
                });
                if matches!(protocol, "tcp" | "udp" | "sctp") {
                    rule["ports"] = dst.into();
                    rule["source_ports"] = if src.len() == 2 {
                        src.into()
                    } else {
                        Vec::<String>::new().into()
                    };
                }
                if let (true, Some((kind, code))) = (protocol.starts_with("icmp"), icmp) {
                    rule["icmp"] = match code {
                        Some(code) => serde_json::json!({"type": kind, "code": code}),
                        None => serde_json::json!({"type": kind}),
                    };
                }
                if let Some(v4) = family {
                    rule["ip"] = if v4 { 4 } else { 6 }.into();
                }
                rule
            },
        )
}

fn list(max: usize) -> impl Strategy<Value = Vec<serde_json::Value>> {
    prop::collection::vec(rule(), 0..max).prop_map(|mut rules| {
        // What can never match is refused by validation: keep the rest.
        rules.retain(|r| {
            let parsed: Result<portcullis_policy::Rule, _> = serde_json::from_value(r.clone());
            parsed.is_ok_and(|r| portcullis_policy::Matcher::from_rule(&r).is_some())
        });
        for (n, rule) in rules.iter_mut().enumerate() {
            rule["name"] = format!("r{n}").into();
            // An empty list of matches is refused; absent means everything.
            if let Some(fields) = rule.as_object_mut() {
                fields.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
            }
        }
        rules
    })
}

/// A document with one endpoint `e` and about as many rules as people write for one.
pub fn document() -> impl Strategy<Value = Document> {
    document_of([3, 4, 4, 3])
}

/// A document with one endpoint `e` and fewer than so many mandatory, baseline, profile and own rules.
pub fn document_of([mandatory, baseline, profile, own]: [usize; 4]) -> impl Strategy<Value = Document> {
    let default = || prop::sample::select(vec!["allow", "deny"]);
    (
        list(mandatory),
        list(baseline),
        list(profile),
        list(own),
        default(),
        default(),
    )
        .prop_map(|(mandatory, baseline, profile, own, egress, ingress)| {
            let value = serde_json::json!({
                "version": "portcullis/v1",
                "defaults": {"egress": egress, "ingress": ingress},
                "mandatory": mandatory,
                "baseline": baseline,
                "profiles": {"p": {"rules": profile}},
                "endpoints": {"e": {"profiles": ["p"], "rules": own}},
            });
            Document::from_yaml(&value.to_string()).expect("a valid document")
        })
}

/// The policy of endpoint `e`.
pub fn policy(document: &Document, direction: Direction) -> Policy {
    effective(document, "e", &document.endpoints["e"], direction)
}

fn address(v4: bool) -> BoxedStrategy<IpAddr> {
    if v4 {
        prop::sample::select(vec![
            [10, 1, 2, 3],
            [10, 1, 2, 4],
            [10, 1, 3, 0],
            [10, 2, 0, 0],
            [11, 0, 0, 0],
            [0, 0, 0, 0],
        ])
        .prop_map(|a| IpAddr::V4(Ipv4Addr::from(a)))
        .boxed()
    } else {
        prop::sample::select(vec![
            "2001:db8:1::7",
            "2001:db8:1::8",
            "2001:db8:2::",
            "2001:db9::",
            "::",
            "fe80::1",
        ])
        .prop_map(|a| IpAddr::V6(a.parse::<Ipv6Addr>().expect("an address")))
        .boxed()
    }
}

fn near_port() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => (prop::sample::select(PORTS.to_vec()), -1i32..=1).prop_map(|(p, d)| (i32::from(p) + d).clamp(0, 65535) as u16),
        1 => any::<u16>(),
    ]
}

fn frame_of(ip: IpPacket) -> Packet {
    Packet { frame: Frame::Ip(ip) }
}

/// A packet that is essential, or nearly: whole, and as a fragment.
fn essential() -> impl Strategy<Value = Packet> {
    let udp = |src, dst| (17u8, L4::Ports { src, dst, flags: 0 });
    let icmp = |kind| (58u8, L4::Icmp { kind, code: 0 });
    let payload = prop::sample::select(vec![
        udp(68, 67),
        udp(67, 68),
        udp(546, 547),
        udp(547, 546),
        icmp(130),
        icmp(133),
        icmp(135),
        icmp(143),
        (2, L4::Nothing),
    ]);
    let v4 = vec!["255.255.255.255", "224.0.0.22", "10.1.2.3"];
    let v6 = vec!["ff02::1:2", "ff02::16", "2001:db8:1::7"];
    let remote = (prop::sample::select(v4), prop::sample::select(v6));
    let fragment = prop::sample::select(vec![
        Fragment::Whole,
        Fragment::Whole,
        Fragment::First,
        Fragment::Later { offset: 2 },
    ]);
    (payload, remote, any::<bool>(), fragment).prop_map(|((protocol, l4), (four, six), v4, fragment)| {
        let (local, remote) = if v4 { ("10.1.2.4", four) } else { ("fe80::1", six) };
        let later = matches!(fragment, Fragment::Later { .. });
        let foreign = protocol == 58 && v4;
        frame_of(IpPacket {
            local: local.parse().expect("an address"),
            remote: remote.parse().expect("an address"),
            protocol: Some(protocol),
            fragment,
            l4: if later || foreign { L4::Nothing } else { l4 },
        })
    })
}

/// A packet near the edges of such documents: whole, fragments at offsets 1 and 2, headers that are too short, chains
/// that cannot be followed.
pub fn packet() -> impl Strategy<Value = Packet> {
    let ip = any::<bool>().prop_flat_map(|v4| {
        let protocol = prop::sample::select(vec![0u8, 1, 6, 6, 6, 6, 17, 44, 58, 132, 47, 50]);
        let flags = prop::sample::select(vec![0u16, 0x02, 0x12, 0x10, 0x04, 0x03]);
        let icmp = (
            prop::sample::select(vec![0u8, 3, 8, 11, 128, 133, 135, 255]),
            0u8..3,
        );
        let ports = (near_port(), near_port(), prop::bool::weighted(0.05));
        (address(v4), address(v4), protocol, ports, flags, icmp, 0u8..9)
    });
    let ip = ip.prop_map(
        |(local, remote, protocol, (src, dst, blank), flags, (kind, code), part)| {
            let ports = Protocol::has_ports(protocol);
            let is_icmp = matches!((protocol, local), (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)));
            let fragment = match part {
                0 => Fragment::Later { offset: 2 },
                1 => Fragment::Later { offset: 1 },
                2 => Fragment::First,
                _ => Fragment::Whole,
            };
            let l4 = match fragment {
                Fragment::Later { .. } => L4::Nothing,
                _ if part == 3 && (ports || is_icmp) => L4::Short,
                Fragment::First if ports && blank => L4::Begun {
                    src,
                    dst,
                    flags: if protocol == Protocol::TCP { flags } else { 0 },
                },
                _ if ports && blank => L4::Ports {
                    src: 0,
                    dst: 0,
                    flags: 0,
                },
                _ if ports => L4::Ports {
                    src,
                    dst,
                    flags: if protocol == Protocol::TCP { flags } else { 0 },
                },
                _ if is_icmp => L4::Icmp { kind, code },
                _ => L4::Nothing,
            };
            let unknown = part == 4 && l4 == L4::Nothing;
            frame_of(IpPacket {
                local,
                remote,
                protocol: (!unknown).then_some(protocol),
                fragment,
                l4,
            })
        },
    );
    prop_oneof![
        20 => ip,
        3 => essential(),
        1 => Just(Packet { frame: Frame::Arp }),
        1 => Just(Packet { frame: Frame::Rarp }),
        1 => Just(Packet { frame: Frame::Other }),
        1 => Just(Packet { frame: Frame::Opaque }),
    ]
}
