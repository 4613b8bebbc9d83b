//! Generated sets look like the published ones, and are read as what they say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::IpAddr;

use portcullis_policy::classbench::parse;
use portcullis_policy::{
    Decider, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, Ranges, Verdict, View,
};
use proptest::prelude::*;

use super::generate::{Kind, generate};

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
