//! A bypass lets everything pass that no quarantine denies, in every policy there is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_policy::{
    Decider, Direction, Document, Fragment, Frame, Grant, GrantKind, IpPacket, L4, Name, Packet,
    PerDirection, Policy, Protocol, Tier, Verdict, View, effective, findings,
};
use proptest::prelude::*;

/// Where everything is denied that can be.
const CLOSED: &str = r#"
version: portcullis/v1
defaults: {egress: deny, ingress: deny}
mandatory:
  - {name: all-out, action: deny, direction: egress}
  - {name: all-in, action: deny, direction: ingress}
baseline:
  - {name: ssh, action: allow, direction: ingress, protocol: tcp, ports: [22]}
profiles:
  closed:
    default: {egress: deny, ingress: deny}
    rules:
      - {name: dhcp, action: deny, direction: egress, protocol: udp, ports: [67]}
endpoints:
  e:
    profiles: [closed]
    rules:
      - {name: none, action: deny, direction: egress, protocol: udp}
"#;

/// The policies of the one endpoint of a document under grants.
fn policies(text: &str, grants: Vec<Grant>) -> PerDirection<Policy> {
    let mut document = Document::from_yaml(text).unwrap();
    document.grants.insert("e".parse().unwrap(), Arc::new(grants));
    let endpoint = document.endpoints.values().next().unwrap();
    PerDirection::from_fn(|direction| effective(&document, "e", endpoint, direction))
}

fn bypass() -> Grant {
    Grant::bypass(&"e".parse().unwrap(), "is it the policy?", 100)
}

/// A quarantine that denies what a rule matches.
fn quarantine(direction: Direction, what: &str) -> Grant {
    let text = format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: q, action: deny, direction: {direction}{what}}}\n"
    );
    Grant {
        unlock: "u".parse().unwrap(),
        program: "p".parse().unwrap(),
        rules: Document::from_yaml(&text).unwrap().baseline.to_vec(),
        kind: GrantKind::Quarantine,
        ends: 200,
    }
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ]
}

/// Packets of every sort, those with a port of few values.
fn packet() -> impl Strategy<Value = Packet> {
    let port = prop_oneof![Just(0u16), Just(22), Just(25), Just(67), Just(68), any::<u16>()];
    let l4 = prop_oneof![
        (port.clone(), port, 0u16..64).prop_map(|(src, dst, flags)| L4::Ports { src, dst, flags }),
        (any::<u8>(), any::<u8>()).prop_map(|(kind, code)| L4::Icmp { kind, code }),
        Just(L4::Short),
        Just(L4::Nothing),
    ];
    let fragment = prop_oneof![
        Just(Fragment::Whole),
        Just(Fragment::First),
        (1u16..4).prop_map(|offset| Fragment::Later { offset }),
    ];
    let protocol = prop_oneof![
        Just(None),
        Just(Some(Protocol::TCP)),
        Just(Some(Protocol::UDP)),
        Just(Some(Protocol::ICMP)),
        Just(Some(Protocol::ICMPV6)),
        any::<u8>().prop_map(Some),
    ];
    let ip = (addresses(), protocol, fragment, l4).prop_map(|((local, remote), protocol, fragment, l4)| {
        Frame::Ip(IpPacket {
            local,
            remote,
            protocol,
            fragment,
            // A later fragment shows nothing.
            l4: if matches!(fragment, Fragment::Later { .. }) {
                L4::Nothing
            } else {
                l4
            },
        })
    });
    let other = prop_oneof![
        Just(Frame::Arp),
        Just(Frame::Rarp),
        Just(Frame::Other),
        Just(Frame::Opaque)
    ];
    prop_oneof![8 => ip, 1 => other].prop_map(|frame| Packet { frame })
}

fn view() -> impl Strategy<Value = View> {
    any::<[bool; 6]>().prop_map(
        |[
            fragment_offset,
            short_header,
            begun_header,
            later_v6_protocol,
            extensions,
            sctp,
        ]| View {
            fragment_offset,
            short_header,
            begun_header,
            later_v6_protocol,
            ipv6_extension_headers: extensions,
            sctp_ports: sctp,
            tcp_flags: if sctp { 0xfff } else { 0xff },
        },
    )
}

/// Matches of a quarantine.
const MATCHES: [&str; 5] = [
    "",
    ", protocol: tcp, ports: [25]",
    ", protocol: udp",
    ", protocol: icmp",
    ", remote: [0.0.0.0/1]",
];

proptest! {
    #[test]
    fn everything_passes(packet in packet(), view in view()) {
        for policy in policies(CLOSED, vec![bypass()]) {
            prop_assert!(!policy.may_deny(), "{policy:?}");
            prop_assert_eq!(policy.judge(&packet, view).0, Verdict::Allow);
        }
    }

    /// What a quarantine denies under a document that allows everything, it denies under a bypass of any document; and it
    /// denies no more.
    #[test]
    fn a_quarantine_holds_and_nothing_else_does(
        packet in packet(),
        view in view(),
        what in proptest::sample::select(&MATCHES[..]),
        direction in proptest::sample::select(&Direction::BOTH[..]),
    ) {
        let open = "version: portcullis/v1\nendpoints: {e: {}}\n";
        let alone = policies(open, vec![quarantine(direction, what)]);
        let both = policies(CLOSED, vec![quarantine(direction, what), bypass()]);
        for (alone, both) in alone.iter().zip(&both) {
            prop_assert_eq!(alone.judge(&packet, view).0, both.judge(&packet, view).0);
        }
    }
}

#[test]
fn the_bypass_is_named_with_its_reason() {
    let PerDirection { egress, ingress } = policies(
        CLOSED,
        vec![
            quarantine(Direction::Egress, ", protocol: tcp, ports: [25]"),
            bypass(),
        ],
    );
    let to = |port: u16| Packet {
        frame: Frame::Ip(IpPacket {
            local: "192.0.2.1".parse().unwrap(),
            remote: "198.51.100.1".parse().unwrap(),
            protocol: Some(Protocol::TCP),
            fragment: Fragment::Whole,
            l4: L4::Ports {
                src: 40_000,
                dst: port,
                flags: 2,
            },
        }),
    };
    let told = |policy: &Policy, port: u16| {
        let (action, decider) = policy.judge(&to(port), View::FULL);
        let Decider::Entry(index) = decider else {
            panic!("{decider:?}")
        };
        let entry = &policy.entries[index as usize];
        (
            action,
            entry.tier,
            entry.origin.to_string(),
            entry.reason.to_string(),
        )
    };
    let bypassed = (
        Verdict::Allow,
        Tier::Bypass,
        "bypass/e".to_string(),
        "is it the policy?".to_string(),
    );
    assert_eq!(told(&egress, 80), bypassed);
    assert_eq!(told(&ingress, 25), bypassed);
    assert_eq!(told(&egress, 25).1, Tier::Quarantine);
}

#[test]
fn other_endpoints_and_findings_do_not_see_it() {
    let text = CLOSED.replace("endpoints:\n  e:", "endpoints:\n  f: {profiles: [closed]}\n  e:");
    let plain = Document::from_yaml(&text).unwrap();
    let mut bypassed = plain.clone();
    let name: Name = "e".parse().unwrap();
    bypassed.grants.insert(name, Arc::new(vec![bypass()]));
    assert_eq!(findings(&plain), findings(&bypassed));
    let f = &plain.endpoints["f"];
    for direction in Direction::BOTH {
        assert_eq!(
            effective(&plain, "f", f, direction),
            effective(&bypassed, "f", f, direction)
        );
    }
}
