//! What passes under default deny: replies and essentials, and what hides its ports.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_policy::{
    Direction, Document, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, TCP_ACK, TCP_SYN, Verdict,
    View, effective,
};

/// The policy of an endpoint with these rules, in a document that denies both directions unless it says otherwise.
fn policy(direction: Direction, more: &str, rules: &[&str]) -> Policy {
    let rules: Vec<String> = (0..)
        .zip(rules)
        .map(|(n, rule)| {
            let words: Vec<&str> = rule.splitn(3, ' ').collect();
            let rest = words.get(2).map_or(String::new(), |rest| format!(", {rest}"));
            format!(
                "{{name: r{n}, action: {}, direction: {}{rest}}}",
                words[0], words[1]
            )
        })
        .collect();
    let defaults = if more.contains("defaults") {
        ""
    } else {
        "defaults: {egress: deny, ingress: deny}\n"
    };
    let text = format!(
        "version: portcullis/v1\n{defaults}{more}\nendpoints: {{e: {{rules: [{}]}}}}",
        rules.join(", ")
    );
    let document = Document::from_yaml(&text).unwrap();
    let endpoint = document.endpoints.values().next().unwrap();
    effective(&document, "e", endpoint, direction)
}

/// `udp 53 40000 from 192.0.2.53`, `tcp 443 40000 ack from ..`, `icmp 0 from ..`, `47 from ..`; the address is the other
/// side's.
fn packet(text: &str, fragment: Fragment) -> Packet {
    let (what, remote) = text.split_once(" from ").unwrap();
    let remote = remote.parse().unwrap();
    let words: Vec<&str> = what.split(' ').collect();
    let protocol: u8 = match words[0] {
        "icmp" => Protocol::ICMP,
        "icmpv6" => Protocol::ICMPV6,
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        number => number.parse().unwrap(),
    };
    let number = |at: usize| words[at].parse::<u16>().unwrap();
    let l4 = match words[0] {
        "icmp" | "icmpv6" => L4::Icmp {
            kind: number(1) as u8,
            code: 0,
        },
        "tcp" | "udp" | "sctp" => L4::Ports {
            src: number(1),
            dst: number(2),
            flags: match words.get(3) {
                Some(&"syn") => TCP_SYN,
                Some(&"ack") => TCP_ACK,
                _ => 0,
            },
        },
        _ => L4::Nothing,
    };
    let later = matches!(fragment, Fragment::Later { .. });
    let remote: std::net::IpAddr = remote;
    Packet {
        frame: Frame::Ip(IpPacket {
            local: if remote.is_ipv4() {
                "192.0.2.1"
            } else {
                "2001:db8::1"
            }
            .parse()
            .unwrap(),
            remote,
            protocol: Some(protocol),
            fragment,
            l4: if later { L4::Nothing } else { l4 },
        }),
    }
}

#[track_caller]
fn expect(policy: &Policy, passes: &[&str], denied: &[&str]) {
    for (list, action) in [(passes, Verdict::Allow), (denied, Verdict::Deny)] {
        for text in list {
            let (verdict, by) = policy.judge(&packet(text, Fragment::Whole), View::FULL);
            assert_eq!(verdict, action, "{text}, by {}\n{policy:#?}", policy.origin(by));
        }
    }
}

const ANY: &str = "198.51.100.9";

#[test]
fn replies_over_tcp_open_no_connection() {
    let ingress = policy(
        Direction::Ingress,
        "",
        &[
            "deny egress protocol: tcp, ports: [443], remote: [203.0.113.0/24]",
            "allow egress protocol: tcp, ports: [443]",
        ],
    );
    expect(
        &ingress,
        &[
            "tcp 443 40000 ack from 198.51.100.9",
            "tcp 443 22 ack from 198.51.100.9",
            "icmp 3 from 203.0.113.9",
        ],
        &[
            "tcp 443 40000 syn from 198.51.100.9",
            "tcp 443 40000 ack from 203.0.113.9",
            "tcp 80 40000 ack from 198.51.100.9",
            "udp 443 40000 from 198.51.100.9",
            "icmp 0 from 198.51.100.9",
            "icmp 8 from 198.51.100.9",
            "icmp 5 from 198.51.100.9",
        ],
    );
}

#[test]
fn replies_over_udp_go_to_high_ports_that_nothing_denies() {
    let rules = [
        "deny ingress protocol: udp, ports: [5353]",
        "allow egress protocol: udp, ports: [53], remote: [192.0.2.53]",
        "allow egress protocol: udp, ports: [123], source_ports: [123]",
        "allow egress protocol: udp, remote: [192.0.2.99]",
        "allow egress protocol: sctp, ports: [3868]",
    ];
    expect(
        &policy(Direction::Ingress, "", &rules),
        &[
            "udp 53 1024 from 192.0.2.53",
            "udp 53 65535 from 192.0.2.53",
            "udp 123 123 from 198.51.100.9",
            "sctp 3868 1024 from 198.51.100.9",
        ],
        &[
            "udp 53 1023 from 192.0.2.53",
            "udp 53 5353 from 192.0.2.53",
            "udp 53 40000 from 192.0.2.54",
            "udp 54 40000 from 192.0.2.53",
            "udp 123 40000 from 198.51.100.9",
            "udp 53 40000 from 192.0.2.99",
            "sctp 3868 1023 from 198.51.100.9",
        ],
    );
}

#[test]
fn replies_to_icmp_are_the_reply_types() {
    let all = policy(
        Direction::Ingress,
        "",
        &["allow egress protocol: icmp", "allow egress protocol: icmpv6"],
    );
    expect(
        &all,
        &[
            "icmp 0 from 198.51.100.9",
            "icmp 14 from 198.51.100.9",
            "icmpv6 129 from 2001:db8::9",
        ],
        &[
            "icmp 8 from 198.51.100.9",
            "icmp 13 from 198.51.100.9",
            "icmp 5 from 198.51.100.9",
            "icmp 9 from 198.51.100.9",
            "icmpv6 128 from 2001:db8::9",
            "icmpv6 138 from 2001:db8::9",
        ],
    );
    let ping = policy(
        Direction::Ingress,
        "",
        &["allow egress protocol: icmp, icmp: {type: 8}"],
    );
    expect(
        &ping,
        &["icmp 0 from 198.51.100.9"],
        &["icmp 14 from 198.51.100.9", "icmpv6 129 from 2001:db8::9"],
    );
}

#[test]
fn what_names_no_protocol_has_replies_over_tcp_alone() {
    let any = policy(
        Direction::Ingress,
        "",
        &["allow egress remote: [198.51.100.0/24]"],
    );
    expect(
        &any,
        &["tcp 443 40000 ack from 198.51.100.9", "icmp 11 from 203.0.113.9"],
        &[
            "tcp 443 40000 syn from 198.51.100.9",
            "tcp 443 40000 ack from 203.0.113.9",
            "udp 53 40000 from 198.51.100.9",
            "icmp 0 from 198.51.100.9",
            "47 from 198.51.100.9",
            // The rule allows no IPv6.
            "icmpv6 1 from 2001:db8::9",
        ],
    );
    let gre = policy(
        Direction::Ingress,
        "",
        &[
            "deny egress remote: [198.51.100.9]",
            "allow egress protocol: 47, remote: [198.51.100.0/24]",
        ],
    );
    expect(
        &gre,
        &["47 from 198.51.100.8"],
        &["47 from 198.51.100.9", "50 from 198.51.100.8"],
    );
}

#[test]
fn a_default_that_allows_has_replies_over_tcp_minus_denies() {
    let more = "defaults: {egress: allow, ingress: deny}";
    let ingress = policy(
        Direction::Ingress,
        more,
        &["deny egress protocol: tcp, ports: [25]"],
    );
    expect(
        &ingress,
        &["tcp 443 40000 ack from 198.51.100.9"],
        &[
            "tcp 443 40000 syn from 198.51.100.9",
            "tcp 25 40000 ack from 198.51.100.9",
            "udp 53 40000 from 198.51.100.9",
            "icmp 3 from 198.51.100.9",
        ],
    );
}

#[test]
fn where_nothing_is_allowed_nothing_is_answered() {
    for direction in Direction::BOTH {
        let shut = policy(
            direction,
            "",
            &[
                "deny ingress",
                "deny egress",
                "allow ingress protocol: tcp",
                "allow egress",
            ],
        );
        expect(
            &shut,
            &[],
            &[
                "icmp 3 from 198.51.100.9",
                "icmpv6 2 from 2001:db8::9",
                "tcp 443 40000 ack from 198.51.100.9",
            ],
        );
    }
    let egress = policy(Direction::Egress, "", &[]);
    expect(
        &egress,
        &[
            "udp 68 67 from 255.255.255.255",
            "udp 546 547 from ff02::1:2",
            "icmpv6 135 from 2001:db8::9",
            "icmpv6 143 from ff02::16",
            "2 from 224.0.0.22",
        ],
        &[
            "udp 68 67 from 198.51.100.9",
            "udp 546 547 from 2001:db8::9",
            "icmp 3 from 198.51.100.9",
            "icmpv6 143 from 2001:db8::9",
            "icmpv6 134 from ff02::1",
            "icmpv6 130 from ff02::1",
            "2 from 198.51.100.9",
        ],
    );
}

#[test]
fn a_deny_stops_an_essential_if_it_names_its_protocol() {
    let of = |rules: &[&str]| policy(Direction::Ingress, "defaults: {ingress: allow}", rules);
    let dhcp = format!("udp 67 68 from {ANY}");
    // Under a deny for any protocol, what stands below still counts.
    let shut = of(&["deny ingress"]);
    expect(
        &shut,
        &[&dhcp, "icmpv6 136 from 2001:db8::9"],
        &["udp 67 69 from 198.51.100.9"],
    );
    let named = of(&["deny ingress", "deny ingress protocol: udp, ports: [68]"]);
    expect(&named, &["icmpv6 136 from 2001:db8::9"], &[&dhcp]);
    let part = of(&[
        "deny ingress",
        "allow ingress protocol: udp, ports: [68], remote: [198.51.100.0/24]",
        "deny ingress protocol: udp",
    ]);
    expect(&part, &[&dhcp], &["udp 67 68 from 203.0.113.9"]);
    let allowed = of(&[
        "allow ingress protocol: udp, ports: [68]",
        "deny ingress protocol: udp, ports: [68]",
    ]);
    expect(&allowed, &[&dhcp], &[]);
}

#[test]
fn a_quarantine_stops_essentials() {
    use portcullis_policy::{Grant, GrantKind};
    let text = "version: portcullis/v1\nendpoints: {e: {}}";
    let mut document = Document::from_yaml(text).unwrap();
    let rule = |name: &str| {
        serde_json::from_value(serde_json::json!({"name": name, "action": "deny", "direction": "ingress"}))
            .unwrap()
    };
    let grant = Grant {
        program: "p".parse().unwrap(),
        unlock: "u".parse().unwrap(),
        rules: vec![rule("q")],
        ends: 0,
        kind: GrantKind::Quarantine,
    };
    document
        .grants
        .insert("e".parse().unwrap(), std::sync::Arc::new(vec![grant]));
    let endpoint = document.endpoints.values().next().unwrap();
    let shut = effective(&document, "e", endpoint, Direction::Ingress);
    expect(
        &shut,
        &[],
        &["udp 67 68 from 198.51.100.9", "icmpv6 135 from 2001:db8::9"],
    );
}

#[test]
fn announcements_leave_and_are_not_for_others() {
    let rarp = Packet { frame: Frame::Rarp };
    for (direction, action) in [
        (Direction::Egress, Verdict::Allow),
        (Direction::Ingress, Verdict::Deny),
    ] {
        assert_eq!(policy(direction, "", &[]).judge(&rarp, View::FULL).0, action);
    }
}

#[test]
fn later_fragments_pass_if_some_port_does_essentials_aside() {
    let later = Fragment::Later { offset: 9 };
    let says = |policy: &Policy, text: &str| policy.judge(&packet(text, later), View::FULL).0;
    let shut = policy(Direction::Egress, "", &[]);
    for text in [
        "udp 68 67 from 255.255.255.255",
        "udp 546 547 from ff02::1:2",
        "icmpv6 135 from 2001:db8::9",
        "2 from 224.0.0.22",
    ] {
        assert_eq!(says(&shut, text), Verdict::Deny, "{text}");
    }
    // Replies count.
    let answers = policy(
        Direction::Egress,
        "",
        &["allow ingress protocol: udp, ports: [53]"],
    );
    assert_eq!(says(&answers, "udp 53 40000 from 198.51.100.9"), Verdict::Allow);
    assert_eq!(says(&answers, "tcp 53 40000 from 198.51.100.9"), Verdict::Deny);
}

#[test]
fn a_first_fragment_that_shows_its_ports_is_judged_by_them() {
    let web = policy(
        Direction::Ingress,
        "",
        &["allow ingress protocol: tcp, ports: [80]"],
    );
    let begun = |dst| {
        let mut packet = packet(&format!("tcp 40000 {dst} syn from {ANY}"), Fragment::First);
        if let Frame::Ip(ip) = &mut packet.frame
            && let L4::Ports { src, dst, flags } = ip.l4
        {
            ip.l4 = L4::Begun { src, dst, flags };
        }
        packet
    };
    assert_eq!(web.judge(&begun(80), View::FULL).0, Verdict::Allow);
    assert_eq!(web.judge(&begun(81), View::FULL).0, Verdict::Deny);
    let blind = View {
        begun_header: false,
        ..View::FULL
    };
    assert_eq!(web.judge(&begun(80), blind).0, Verdict::Deny);
}
