//! The engines against each other, against the reference verdict, and against looking at every row.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod engines;

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use portcullis_policy::{
    Decider, Direction, Entry, Families, FlagMatch, Fragment, IcmpMatch, IpPacket, L4, Matcher, PortRange,
    Protocol, Ranges, Tier, View,
};
use proptest::prelude::*;

use super::*;
use crate::class_rows::{CodeRow, CodeStage, Codes, PortMatch, RemoteMatch, RemoteRow, RowKey, WordRow};

const PREFIXES: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "10.1.2.255/32",
    "192.0.2.0/25",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::7/128",
    "::/0",
];

fn prefix() -> impl Strategy<Value = IpNet> {
    prop::sample::select(PREFIXES.to_vec()).prop_map(|p| p.parse().unwrap())
}

fn action() -> impl Strategy<Value = Verdict> {
    prop::sample::select(vec![Verdict::Allow, Verdict::Deny])
}

fn number() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![
        0u16, 1, 7, 8, 63, 64, 80, 127, 128, 443, 1023, 1024, 32768, 65534, 65535,
    ])
}

fn ranges() -> impl Strategy<Value = Ranges> {
    let range = (number(), number()).prop_map(|(a, b)| PortRange {
        low: a.min(b),
        high: a.max(b),
    });
    prop::collection::vec(range, 0..3).prop_map(|list| Ranges::from_ports(&list))
}

/// A matcher such as no document makes: every dimension on its own.
fn matcher() -> impl Strategy<Value = Matcher> {
    let protocol = prop::sample::select(vec![
        None,
        None,
        Some(6u8),
        Some(6),
        Some(17),
        Some(1),
        Some(58),
        Some(47),
        Some(0),
    ]);
    let icmp = prop::option::weighted(0.3, (0u8..3, prop::option::of(0u8..2)));
    (
        prop::sample::select(vec![(true, true), (true, false), (false, true)]),
        protocol,
        (ranges(), ranges()),
        prop::collection::vec(prefix(), 0..3),
        prop::collection::vec(prefix(), 0..2),
        icmp,
        any::<bool>(),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |((v4, v6), protocol, (src_ports, dst_ports), remote, local, icmp, opening, fragments)| Matcher {
                families: Families { v4, v6 },
                protocol: protocol.map_or(Protocol::Any, Protocol::Number),
                dst_ports,
                src_ports,
                remote,
                local,
                icmp: icmp.map(|(kind, code)| IcmpMatch { kind, code }),
                flags: if opening {
                    FlagMatch::Any
                } else {
                    FlagMatch::NotOpening
                },
                fragments,
            },
        )
}

fn entry(action: Verdict, matcher: Matcher) -> Entry {
    Entry {
        tier: Tier::Endpoint,
        origin: "e".into(),
        reason: "".into(),
        action,
        matcher: matcher.into(),
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop::collection::vec((action(), matcher()), 0..5), action()).prop_map(|(list, default)| Policy {
        direction: Direction::Egress,
        entries: list
            .into_iter()
            .map(|(action, matcher)| entry(action, matcher))
            .collect(),
        default,
        five_tuple: false,
    })
}

/// Those of the built-in models, and some that no built-in model has.
static SIGHTS: LazyLock<Vec<ParserView>> = LazyLock::new(|| {
    let mut list: Vec<ParserView> = StageModel::names()
        .iter()
        .map(|name| ParserView::from_model(&StageModel::named(name).unwrap()))
        .collect();
    for (fragment_offset, later_v6_protocol, ipv6_extension_headers, sctp_ports) in [
        (true, false, true, true),
        (false, true, true, true),
        (true, false, false, true),
        (true, true, true, false),
        (false, true, false, false),
    ] {
        list.push(ParserView {
            view: View {
                fragment_offset,
                later_v6_protocol,
                ipv6_extension_headers,
                sctp_ports,
                tcp_flags: if sctp_ports { 0xfff } else { 0xff },
                short_header: true,
                begun_header: true,
            },
            unreadable: true,
            opaque: vec![0x8847],
        });
    }
    list
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Without rows every cell is reported, with what its entries say: that must be the reference verdict.
    #[test]
    fn entries_say_what_the_reference_says(policy in policy()) {
        prop_assume!(policy.may_deny());
        let program = ClassRows::default();
        for parser in SIGHTS.iter() {
            let case = Case::new(&policy, &program, &[], parser, |_| unreachable!()).unwrap();
            for family in Family::BOTH {
                let addresses = Addresses::new(&case, family).unwrap();
                let (reports, wrong) = (Cell::new(0u32), std::cell::RefCell::new(None));
                let report = |packet: Packet, wanted: Verdict, got: Option<Verdict>| {
                    reports.set(reports.get() + 1);
                    let (judged, by) = policy.judge(&packet, parser.view);
                    if got.is_some() || judged != wanted {
                        *wrong.borrow_mut() = Some(format!("{wanted}, not {judged} by {by:?}: {packet:?}"));
                    }
                    Ok(())
                };
                cells::compare(&case, family, Some(&addresses), &mut Memo::default(), &report).unwrap();
                prop_assert_eq!(wrong.into_inner(), None, "{:?} {:#?}", parser, policy);
                prop_assert!(reports.get() > 5);
            }
        }
    }
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        2 => Just(PortMatch::Any),
        2 => (number(), number()).prop_map(|(a, b)| PortMatch::Range { low: a.min(b), high: a.max(b) }),
        1 => (number(), 0u32..=16).prop_map(|(n, bits)| {
            let mask = (0xffff_0000u32 >> bits) as u16;
            PortMatch::Masked { value: n & mask, mask }
        }),
        1 => (number(), prop::sample::select(vec![0x0001u16, 0x8001, 0xff0f])).prop_map(|(n, mask)| {
            PortMatch::Masked { value: n & mask, mask }
        }),
        2 => (0u64..4, 0u64..4).prop_map(|(value, mask)| PortMatch::Code { value: value & mask, mask }),
    ]
}

fn codes() -> impl Strategy<Value = Codes> {
    let stage = || {
        let rows = prop::collection::vec((number(), number(), 0u64..4), 0..4);
        (rows, 0u64..4).prop_map(|(rows, later)| CodeStage {
            rows: (0u32..)
                .zip(rows)
                .map(|(priority, (a, b, code))| CodeRow {
                    priority,
                    port: PortMatch::Range {
                        low: a.min(b),
                        high: a.max(b),
                    },
                    code,
                })
                .collect(),
            later,
            width: 2,
        })
    };
    (stage(), stage()).prop_map(|(src, dst)| Codes { src, dst })
}

fn key() -> impl Strategy<Value = RowKey> {
    let frame = prop::sample::select(vec![
        FrameMatch::Any,
        FrameMatch::Ip(Family::V4),
        FrameMatch::Ip(Family::V4),
        FrameMatch::Ip(Family::V6),
        FrameMatch::Unreadable,
        FrameMatch::Arp,
        FrameMatch::EtherType(0x8847),
    ]);
    let remote = prop_oneof![
        2 => Just(RemoteMatch::Any),
        1 => prefix().prop_map(RemoteMatch::Prefix),
        1 => (0u32..3).prop_map(RemoteMatch::Id),
    ];
    (
        frame,
        prop::sample::select(vec![None, None, Some(6u8), Some(17), Some(1), Some(44), Some(0)]),
        prop::sample::select(vec![None, None, Some(true), Some(false)]),
        prop::sample::select(vec![
            None,
            None,
            None,
            Some((2u16, 0x12u16)),
            Some((0, 0xfff)),
            Some((0x10, 0x10)),
        ]),
        remote,
        prop::option::weighted(0.2, prefix()),
        (port_match(), port_match()),
    )
        .prop_map(
            |(frame, protocol, later, flags, remote, local, (src, dst))| RowKey {
                frame,
                protocol,
                later,
                flags,
                remote,
                local,
                src,
                dst,
            },
        )
}

/// Rows of all shapes, with words, ids and codes.
fn program() -> impl Strategy<Value = ClassRows> {
    let row = (key(), 1u32..6, action(), prop::option::weighted(0.2, 0u16..2)).prop_map(
        |(key, priority, action, words)| PolicyRow {
            priority,
            key,
            action,
            words,
            by: Decider::Default,
        },
    );
    let remote = (prefix(), 0u32..3).prop_map(|(prefix, id)| RemoteRow { prefix, id });
    let word = (
        0u16..2,
        prop::sample::select(vec![0u16, 1, 6, 1023]),
        any::<u64>(),
    )
        .prop_map(|(set, block, word)| WordRow { set, block, word });
    (
        prop::collection::vec(row, 0..6),
        prop::collection::vec(remote, 0..4),
        prop::collection::vec(word, 0..4),
        prop::option::weighted(0.8, codes()),
    )
        .prop_map(|(policy, remote, words, codes)| ClassRows {
            policy,
            remote,
            words,
            codes: codes.map(Arc::new),
            ..ClassRows::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Of arbitrary rows every cell reports what looking at each row gives.
    #[test]
    fn rows_say_what_each_row_says(program in program(), policy in policy()) {
        prop_assume!(policy.may_deny());
        for parser in SIGHTS.iter() {
            let mut known = KnownCodes::default();
            let case = match Case::new(&policy, &program, &[], parser, |c| known.get(c)) {
                Ok(case) => case,
                Err(example) => {
                    let says = linear::decide(&program, &[], &example.packet, parser);
                    prop_assert_eq!(says.map(|(_, action)| action), None);
                    continue;
                }
            };
            for family in Family::BOTH {
                let addresses = match Addresses::new(&case, family) {
                    Ok(addresses) => addresses,
                    Err(example) => {
                        let says = linear::decide(&program, &[], &example.packet, parser);
                        prop_assert_eq!(says.map(|(_, action)| action), None);
                        continue;
                    }
                };
                let wrong = std::cell::RefCell::new(None);
                let report = |packet: Packet, _: Verdict, got: Option<Verdict>| {
                    let says = linear::decide(&program, &[], &packet, parser).map(|(_, action)| action);
                    if says != got {
                        *wrong.borrow_mut() = Some(format!("{got:?}, not {says:?}: {packet:?}"));
                    }
                    Ok(())
                };
                cells::compare(&case, family, Some(&addresses), &mut Memo::default(), &report).unwrap();
                prop_assert_eq!(wrong.into_inner(), None, "{:?} {:#?} {:#?}", parser, policy, program);
            }
        }
    }
}

/// What every class of a model with the mark has.
fn fixed() -> Vec<PolicyRow> {
    let row = |frame, action| PolicyRow {
        priority: 5000,
        key: RowKey { frame, ..RowKey::ANY },
        action,
        words: None,
        by: Decider::Arp,
    };
    vec![
        row(FrameMatch::Arp, Verdict::Allow),
        row(FrameMatch::Unreadable, Verdict::Deny),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn ids_are_those_of_the_longest_prefix(rows in prop::collection::vec((prefix(), 0u32..3), 0..6)) {
        let rows: Vec<RemoteRow> = rows.into_iter().map(|(prefix, id)| RemoteRow { prefix, id }).collect();
        let asks = PolicyRow { key: RowKey { remote: RemoteMatch::Id(1), ..RowKey::ANY }, ..fixed()[0] };
        let deny = Policy::constant(Direction::Egress, Verdict::Deny);
        let parser = ParserView::from_model(&StageModel::named("p4-range").unwrap());
        let program = ClassRows { remote: rows.clone(), policy: vec![asks], ..ClassRows::default() };
        let case = Case::new(&deny, &program, &[], &parser, |_| unreachable!()).unwrap();
        for family in Family::BOTH {
            let Ok(found) = Addresses::new(&case, family) else {
                let twice = |a: &RemoteRow| rows.iter().any(|b| a.prefix == b.prefix && a.id != b.id);
                prop_assert!(rows.iter().any(twice));
                continue;
            };
            for text in ["0.0.0.0", "10.0.0.1", "10.1.0.1", "10.1.2.3", "10.1.2.4", "10.1.2.254", "10.1.2.255", "10.1.3.0", "11.0.0.0", "192.0.2.127", "192.0.2.128",
                "255.255.255.255", "::", "2001:db8::1", "2001:db8:1::7", "2001:db8:1::8", "2001:db9::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
            {
                let address: std::net::IpAddr = text.parse().unwrap();
                if Family::from_address(address) != family {
                    continue;
                }
                let number = match address {
                    std::net::IpAddr::V4(a) => u128::from(u32::from(a)),
                    std::net::IpAddr::V6(a) => u128::from(a),
                };
                let inside = match &found.remote[0] {
                    addresses::Set::All => true,
                    addresses::Set::Ranges(list) => list.iter().any(|(a, b)| *a <= number && number <= *b),
                };
                let id = remote_row(&program, address).map_or(0, |r| r.id);
                prop_assert_eq!(inside, id == 1, "{}", text);
            }
        }
    }
}

#[test]
fn the_memo_keeps_its_bound_and_its_word() {
    let mut prover = Prover::new(StageModel::named("p4-range").unwrap(), fixed());
    let policy = |n: u16| Policy {
        entries: vec![entry(
            Verdict::Deny,
            Matcher {
                protocol: Protocol::Number(Protocol::TCP),
                dst_ports: Ranges::from_ports(&[PortRange { low: n, high: n }]),
                ..Matcher::everything()
            },
        )],
        ..Policy::constant(Direction::Egress, Verdict::Allow)
    };
    let rows = |n: u16| {
        let row = |priority, key, action| PolicyRow {
            priority,
            key,
            action,
            words: None,
            by: Decider::Default,
        };
        let tcp = RowKey {
            protocol: Some(Protocol::TCP),
            later: Some(false),
            dst: PortMatch::exactly(n),
            ..RowKey::ANY
        };
        ClassRows {
            policy: vec![row(5, tcp, Verdict::Deny), row(1, RowKey::ANY, Verdict::Allow)],
            ..ClassRows::default()
        }
    };
    for n in 0..3000 {
        assert_eq!(prover.prove(&policy(n), &rows(n)), Ok(()), "{n}");
        // What was proved of one class is not taken for another.
        let example = prover.prove(&policy(n), &rows(n + 1)).unwrap_err();
        let Frame::Ip(IpPacket {
            fragment: Fragment::Whole,
            l4: L4::Ports { dst, .. },
            ..
        }) = example.packet.frame
        else {
            panic!("{example}");
        };
        assert!(dst == n || dst == n + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Frames that are not IP, by looking at each row.
    #[test]
    fn other_frames_meet_bare_rows(program in program(), default in action(), deny in any::<bool>()) {
        let policy = Policy {
            entries: if deny { vec![entry(Verdict::Deny, Matcher::everything())] } else { Vec::new() },
            ..Policy::constant(Direction::Egress, default)
        };
        prop_assume!(policy.may_deny());
        for parser in SIGHTS.iter() {
            let Ok(case) = Case::new(&policy, &program, &[], parser, |c| KnownCodes::default().get(c)) else { continue };
            // No row names 0x88cc; rows name 0x8847.
            let mut wrong = Vec::new();
            let marked = parser.unreadable;
            for (ether_type, frame) in [
                (0x0806, Frame::Arp),
                (0x8035, Frame::Rarp),
                (0x88cc, Frame::Other),
                (0x88cc, Frame::Opaque),
                (0x8847, Frame::Other),
                (0x8847, Frame::Opaque),
            ] {
                let opaque = parser.opaque.contains(&ether_type);
                let exists = match frame {
                    Frame::Opaque => marked || opaque,
                    _ => !opaque,
                };
                let hits = |r: &&PolicyRow| {
                    let k = r.key;
                    let frame_hit = match k.frame {
                        FrameMatch::Any => true,
                        FrameMatch::Arp => ether_type == 0x0806,
                        FrameMatch::EtherType(t) => t == ether_type,
                        FrameMatch::Unreadable => marked && frame == Frame::Opaque,
                        FrameMatch::Ip(_) | FrameMatch::AnyIp => false,
                    };
                    let later = if k.later == Some(false) { None } else { k.later };
                    frame_hit && RowKey { frame: FrameMatch::Any, later, ..k } == RowKey::ANY
                };
                let got = top(program.policy.iter().filter(hits), &program.words, 0).map(|(_, action)| action);
                let (wanted, _) = policy.judge(&Packet { frame: frame.clone() }, parser.view);
                if exists && got != Some(wanted) {
                    wrong.push((Packet { frame }, wanted, got));
                }
            }
            match not_ip(&case) {
                Ok(()) => prop_assert_eq!(wrong, vec![], "{:?} {:#?}", parser, program),
                Err(example) => {
                    // Of the types that a model calls opaque, any may be the one that shows it.
                    let known = wrong.contains(&(example.packet.clone(), example.wanted, example.got));
                    prop_assert!(known || parser.opaque.len() > 1, "{} {:?}", example, wrong);
                }
            }
        }
    }
}

#[test]
fn a_class_that_denies_nothing_has_no_rows() {
    let open = Policy::constant(Direction::Egress, Verdict::Allow);
    let model = StageModel::named("ovs").unwrap();
    let mut program = ClassRows::default();
    assert_eq!(prove(&open, &program, &fixed(), &model), Ok(()));
    for row in fixed() {
        program.policy = vec![row];
        assert!(prove(&open, &program, &fixed(), &model).is_err());
    }
}
