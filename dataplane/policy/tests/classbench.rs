//! ClassBench filter sets: what is read, what is refused, and made-up sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::IpAddr;

use portcullis_policy::classbench::{Kind, generate, parse};
use portcullis_policy::{
    Decider, Families, Family, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, Ranges, Verdict, View,
};
use proptest::prelude::*;

const SET: &str = "# two hosts and the rest\n\
    @192.0.2.1/32\t198.51.100.0/24\t0 : 65535\t80 : 80\t0x06/0xFF\t0x1000/0x1000\t\n\
    \n\
    @192.0.2.77/24 0.0.0.0/0 1024 : 65535 0 : 1023 0x11/0xFF 0x0000/0x0000 and more deny\n\
    @0.0.0.0/0\t203.0.113.0/24\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000 allow\r\n\
    @0.0.0.0/0 0.0.0.0/0 0 : 65535 7 : 7 0x2f/0xFF";

fn decider(policy: &Policy, local: &str, remote: &str, protocol: u8, src: u16, dst: u16) -> String {
    let packet = Packet {
        frame: Frame::Ip(IpPacket {
            local: local.parse::<IpAddr>().unwrap(),
            remote: remote.parse::<IpAddr>().unwrap(),
            protocol: Some(protocol),
            fragment: Fragment::Whole,
            l4: L4::Ports { src, dst, flags: 2 },
        }),
    };
    policy.origin(policy.judge(&packet, View::FULL).1)
}

#[test]
fn a_set_is_read() {
    let policy = parse(SET, Verdict::Deny).unwrap();
    assert!(policy.five_tuple);
    assert_eq!(policy.default, Verdict::Deny);
    let names: Vec<&str> = policy.entries.iter().map(|e| &*e.origin).collect();
    assert_eq!(names, ["filter/2", "filter/4", "filter/5", "filter/6"]);
    let actions: Vec<Verdict> = policy.entries.iter().map(|e| e.action).collect();
    assert_eq!(
        actions,
        [Verdict::Allow, Verdict::Deny, Verdict::Allow, Verdict::Allow]
    );
    let [first, second, third, fourth] = &policy.entries[..] else {
        panic!()
    };
    assert_eq!(first.matcher.local, ["192.0.2.1/32".parse().unwrap()]);
    assert_eq!(first.matcher.remote, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(first.matcher.protocol, Protocol::Number(6));
    assert_eq!(
        second.matcher.local,
        ["192.0.2.0/24".parse().unwrap()],
        "host bits are masked off"
    );
    assert!(second.matcher.remote.is_empty());
    assert_eq!(second.matcher.families, Families::only(Family::V4));
    assert_eq!(third.matcher.protocol, Protocol::Any);
    assert_eq!(third.matcher.dst_ports, Ranges::all());
    assert_eq!(fourth.matcher.dst_ports.bounds(), (7, 7));
    for (local, remote, protocol, src, dst, by) in [
        ("192.0.2.1", "198.51.100.9", 6, 9, 80, "filter/2"),
        ("192.0.2.1", "198.51.100.9", 6, 9, 81, "default/egress"),
        ("192.0.2.9", "10.0.0.1", 17, 1024, 1023, "filter/4"),
        ("192.0.2.9", "10.0.0.1", 17, 1023, 1023, "default/egress"),
        ("10.0.0.1", "203.0.113.1", 99, 0, 0, "filter/5"),
        // Every protocol shows ports.
        ("10.0.0.1", "10.0.0.2", 47, 0, 7, "filter/6"),
        ("10.0.0.1", "10.0.0.2", 47, 0, 8, "default/egress"),
        ("2001:db8::1", "2001:db8::2", 47, 0, 7, "default/egress"),
    ] {
        assert_eq!(decider(&policy, local, remote, protocol, src, dst), by);
    }
    assert_eq!(
        parse(SET, Verdict::Allow).unwrap().entries[0].action,
        Verdict::Deny
    );
    assert!(parse("", Verdict::Allow).unwrap().entries.is_empty());
}

#[test]
fn what_is_not_a_filter_is_refused() {
    const P: &str = "@192.0.2.1/32 192.0.2.2/32";
    for (line, field, expected) in [
        (
            "192.0.2.1/32 192.0.2.2/32 0 : 1 0 : 1 0x06/0xFF".to_string(),
            "filter",
            "begins with @",
        ),
        ("@".into(), "source prefix", "192.0.2.0/24"),
        ("@192.0.2.1".into(), "source prefix", "192.0.2.0/24"),
        ("@192.0.2.1/+4".into(), "source prefix", "192.0.2.0/24"),
        ("@192.0.2.1/33".into(), "source prefix", "0 to 32"),
        ("@192.0.2.1/99999999999".into(), "source prefix", "0 to 32"),
        ("@192.0.2.1/32 2001:db8::/32".into(), "destination prefix", "IPv4"),
        (format!("{P} 0 - 65535"), "source ports", "1024 : 65535"),
        (
            format!("{P} 0 : 65536 0 : 1 0x06/0xFF"),
            "source ports",
            "0 to 65535",
        ),
        (format!("{P} 0 : 1 9 : 3 0x06/0xFF"), "destination ports", "3 : 9"),
        (format!("{P} 0 : 1 3 :"), "destination ports", "1024 : 65535"),
        (format!("{P} 0 : 1 0 : 1"), "protocol", "0x06/0xFF"),
        (format!("{P} 0 : 1 0 : 1 6/0xFF"), "protocol", "0x06/0xFF"),
        (format!("{P} 0 : 1 0 : 1 0x06/0x0F"), "protocol", "0x00, for any"),
        (format!("{P} 0 : 1 0 : 1 0x106/0xFF"), "protocol", "0xFF"),
        (
            format!("{P} 0 : 1 0 : 1 0x06/0xFF 0x10"),
            "flags",
            "0x1000/0x1000",
        ),
        (
            format!("{P} 0 : 1 0 : 1 0x06/0xFF 0x10000/0x1000"),
            "flags",
            "0x1000/0x1000",
        ),
    ] {
        let error = parse(&format!("# set\n{line}\n"), Verdict::Deny).unwrap_err();
        assert_eq!((error.line, error.field), (2, field), "{line}: {error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("line 2: {field} `")) && text.contains(expected),
            "{text}"
        );
    }
}

fn distinct<T: Eq + std::hash::Hash>(items: impl Iterator<Item = T>) -> usize {
    items.collect::<HashSet<_>>().len()
}

/// Bounds from the published sets of 1,000 filters, with some room.
#[test]
fn made_up_sets_look_like_the_published_ones() {
    for (kind, sources, destinations, from, to, tcp, wide) in [
        (Kind::Acl, 70..=210, 250..=400, 1..=2, 80..=145, 600..=890, 0..=60),
        (
            Kind::Fw,
            50..=160,
            140..=250,
            10..=30,
            35..=55,
            120..=550,
            330..=650,
        ),
        (
            Kind::Ipc,
            200..=300,
            350..=500,
            15..=35,
            35..=60,
            220..=320,
            60..=200,
        ),
    ] {
        let policy = parse(&generate(kind, 1000, 1), Verdict::Deny).unwrap();
        let matchers = || policy.entries.iter().map(|e| &*e.matcher);
        let counts = [
            (distinct(matchers().map(|m| &m.local)), sources, "sources"),
            (
                distinct(matchers().map(|m| &m.remote)),
                destinations,
                "destinations",
            ),
            (distinct(matchers().map(|m| &m.src_ports)), from, "source ports"),
            (
                distinct(matchers().map(|m| &m.dst_ports)),
                to,
                "destination ports",
            ),
            (
                matchers().filter(|m| m.protocol == Protocol::Number(6)).count(),
                tcp,
                "TCP",
            ),
            (
                matchers().filter(|m| m.local.is_empty()).count(),
                wide,
                "from anywhere",
            ),
        ];
        for (count, expected, what) in counts {
            assert!(
                expected.contains(&count),
                "{kind:?}: {count} {what}, expected {expected:?}"
            );
        }
        let pairs = distinct(matchers().map(|m| (&m.local, &m.remote)));
        assert!((290..=950).contains(&pairs), "{kind:?}: {pairs} pairs");
        assert!(distinct(matchers()) >= 970, "{kind:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = parse(&text, Verdict::Allow);
    }

    #[test]
    fn nearly_filters_are_read_or_refused(words in proptest::collection::vec(
        proptest::sample::select(vec!["@", "@10.0.0.1/8", "10.0.0.0/33", "0.0.0.0/0", "0", ":", "65535", "65536",
            "0x06/0xFF", "0x/", "0xFFFFFFFFFF/0x1", "allow", "deny", "é", "\n", "#"]), 0..14)) {
        let text = words.join(" ");
        if let Err(error) = parse(&text, Verdict::Allow) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count());
        }
    }

    #[test]
    fn made_up_sets_are_read(
        kind in proptest::sample::select(vec![Kind::Acl, Kind::Fw, Kind::Ipc]), filters in 0..300usize, seed: u64,
    ) {
        let text = generate(kind, filters, seed);
        prop_assert_eq!(&text, &generate(kind, filters, seed));
        let policy = parse(&text, Verdict::Deny).unwrap();
        prop_assert_eq!(policy.entries.len(), filters);
        // Written back from what was read, every filter is the line it came from.
        for (entry, line) in policy.entries.iter().zip(text.lines()) {
            let prefix = |nets: &[ipnet::IpNet]| nets.first().map_or("0.0.0.0/0".to_string(), ToString::to_string);
            let m = &entry.matcher;
            let ports = |r: &Ranges| format!("{} : {}", r.bounds().0, r.bounds().1);
            let protocol = match m.protocol {
                Protocol::Any => "0x00/0x00".to_string(),
                Protocol::Number(n) => format!("0x{n:02x}/0xFF"),
            };
            let written = format!("@{}\t{}\t{}\t{}\t{protocol}\t",
                prefix(&m.local), prefix(&m.remote), ports(&m.src_ports), ports(&m.dst_ports));
            prop_assert!(line.starts_with(&written), "{} is not {}", line, written);
        }
    }
}

#[test]
fn a_made_up_set_decides_packets() {
    let policy = parse(&generate(Kind::Fw, 200, 3), Verdict::Deny).unwrap();
    let hit = policy.entries.iter().any(|e| {
        let address = |nets: &[ipnet::IpNet]| {
            nets.first()
                .map_or("1.2.3.4".to_string(), |n| n.addr().to_string())
        };
        let m = &e.matcher;
        let protocol = if let Protocol::Number(n) = m.protocol {
            n
        } else {
            6
        };
        let by = decider(
            &policy,
            &address(&m.local),
            &address(&m.remote),
            protocol,
            m.src_ports.bounds().0,
            m.dst_ports.bounds().0,
        );
        by == *e.origin
    });
    assert!(hit);
    assert_eq!(policy.origin(Decider::Default), "default/egress");
}
