//! Flows that say everything the agent may say, for the witness tests and the check against a real switch.
#![allow(dead_code, clippy::unwrap_used)]

use portcullis_openflow::flow_mod::flags;
use portcullis_openflow::port;
use portcullis_openflow::{Action, Bits, Field, FlowMod, Instruction, Learn, LearnSpec, Match, Oxm};

pub fn ipv6(text: &str) -> u128 {
    u128::from(text.parse::<std::net::Ipv6Addr>().unwrap())
}

pub fn ipv4(text: &str) -> u32 {
    u32::from(text.parse::<std::net::Ipv4Addr>().unwrap())
}

pub fn tcp() -> Match {
    Match::new()
        .exact(Field::EthType, 0x0800_u16)
        .exact(Field::IpProto, 6_u8)
}

pub fn tcp6() -> Match {
    Match::new()
        .exact(Field::EthType, 0x86dd_u16)
        .exact(Field::IpProto, 6_u8)
}

fn udp() -> Match {
    Match::new()
        .exact(Field::EthType, 0x0800_u16)
        .exact(Field::IpProto, 17_u8)
}

fn nd(icmp_type: u8) -> Match {
    Match::new()
        .exact(Field::EthType, 0x86dd_u16)
        .exact(Field::IpProto, 58_u8)
        .exact(Field::Icmpv6Type, icmp_type)
        .exact(Field::Icmpv6Code, 0_u8)
}

fn goto(table: u8) -> Vec<Instruction> {
    vec![Instruction::GotoTable(table)]
}

fn apply(actions: Vec<Action>) -> Vec<Instruction> {
    vec![Instruction::ApplyActions(actions)]
}

fn row(match_: Match, instructions: Vec<Instruction>) -> FlowMod {
    FlowMod {
        match_,
        instructions,
        ..FlowMod::default()
    }
}

/// The row whose mask has a hole: sent in 1.5, a switch reports it in 1.4 as one load for each run of bits.
pub const SCATTERED: &str = "set a scattered mask";

/// Named flow-mods, each with a cookie of its own.
pub fn corpus() -> Vec<(&'static str, FlowMod)> {
    let mut rows = matching();
    rows.extend(acting());
    for (i, (_, row)) in (1_u64..).zip(rows.iter_mut()) {
        row.cookie = 0xc0de_0000_0000_0000 | i;
        // Distinct priorities keep flows of equal match apart.
        row.priority = 1000 + u16::try_from(i).unwrap();
    }
    rows
}

fn matching() -> Vec<(&'static str, FlowMod)> {
    let web = tcp().exact(Field::TcpDst, 80_u16);
    vec![
        ("any", row(Match::new(), vec![])),
        ("in_port", row(Match::new().exact(Field::InPort, 1_u32), goto(2))),
        (
            "in_port local",
            row(Match::new().exact(Field::InPort, port::LOCAL), goto(2)),
        ),
        (
            "reg exact",
            row(Match::new().exact(Field::Reg(0), 7_u32), goto(2)),
        ),
        ("reg zero", row(Match::new().exact(Field::Reg(1), 0_u32), goto(2))),
        (
            "regs masked",
            row(
                Match::new()
                    .masked(Field::Reg(2), 0x1200_u32, 0xff00_u32)
                    .masked(Field::Reg(3), 1_u32, 1_u32)
                    .exact(Field::Reg(14), 0xffff_ffff_u32)
                    .exact(Field::Reg(15), 3_u32),
                goto(2),
            ),
        ),
        (
            "metadata",
            row(Match::new().masked(Field::Metadata, 0x10_u64, 0xf0_u64), goto(2)),
        ),
        (
            "tun_id",
            row(Match::new().exact(Field::TunnelId, 99_u64), goto(2)),
        ),
        (
            "eth",
            row(
                Match::new().exact(Field::EthDst, 0x0200_0000_0001_u64).masked(
                    Field::EthSrc,
                    0x0100_0000_0000_u64,
                    0x0100_0000_0000_u64,
                ),
                goto(2),
            ),
        ),
        (
            "vlan none",
            row(Match::new().exact(Field::VlanVid, 0_u16), goto(2)),
        ),
        (
            "vlan any",
            row(
                Match::new().masked(Field::VlanVid, 0x1000_u16, 0x1000_u16),
                goto(2),
            ),
        ),
        (
            "vlan 100 pcp 3",
            row(
                Match::new()
                    .exact(Field::VlanVid, 0x1064_u16)
                    .exact(Field::VlanPcp, 3_u8),
                goto(2),
            ),
        ),
        (
            "vlan masked",
            row(
                Match::new().masked(Field::VlanVid, 0x1010_u16, 0x1ff0_u16),
                goto(2),
            ),
        ),
        (
            "ipv4 prefixes",
            row(
                Match::new()
                    .exact(Field::EthType, 0x0800_u16)
                    .exact(Field::Ipv4Src, ipv4("192.0.2.10"))
                    .masked(Field::Ipv4Dst, ipv4("198.51.100.0"), ipv4("255.255.255.0"))
                    .exact(Field::IpDscp, 46_u8)
                    .exact(Field::IpEcn, 1_u8),
                goto(2),
            ),
        ),
        ("tcp port", row(web.clone().exact(Field::VlanVid, 0_u16), goto(2))),
        (
            "tcp masked ports and flags",
            row(
                tcp()
                    .masked(Field::TcpSrc, 0x0400_u16, 0xfc00_u16)
                    .masked(Field::TcpDst, 0_u16, 0xfff8_u16)
                    .masked(Field::TcpFlags, 0x002_u16, 0x012_u16),
                goto(2),
            ),
        ),
        (
            "tcp flags exact",
            row(tcp6().exact(Field::TcpFlags, 0x010_u16), goto(2)),
        ),
        (
            "tcp port zero",
            row(
                tcp().exact(Field::TcpDst, 0_u16).exact(Field::TcpSrc, 65535_u16),
                goto(2),
            ),
        ),
        (
            "udp",
            row(
                udp()
                    .exact(Field::UdpSrc, 53_u16)
                    .masked(Field::UdpDst, 0x8000_u16, 0x8000_u16),
                goto(2),
            ),
        ),
        (
            "sctp",
            row(
                Match::new()
                    .exact(Field::EthType, 0x86dd_u16)
                    .exact(Field::IpProto, 132_u8)
                    .exact(Field::SctpSrc, 9_u16)
                    .masked(Field::SctpDst, 0x1000_u16, 0xf000_u16),
                goto(2),
            ),
        ),
        (
            "later fragment",
            row(udp().masked(Field::IpFrag, 2_u8, 2_u8), goto(2)),
        ),
        ("first fragment", row(tcp().exact(Field::IpFrag, 1_u8), goto(2))),
        (
            "not a fragment",
            row(tcp6().masked(Field::IpFrag, 0_u8, 1_u8), goto(2)),
        ),
        (
            "ttl",
            row(
                Match::new()
                    .exact(Field::EthType, 0x0800_u16)
                    .exact(Field::IpTtl, 255_u8),
                goto(2),
            ),
        ),
        (
            "icmp",
            row(
                Match::new()
                    .exact(Field::EthType, 0x0800_u16)
                    .exact(Field::IpProto, 1_u8)
                    .exact(Field::Icmpv4Type, 3_u8)
                    .exact(Field::Icmpv4Code, 4_u8),
                goto(2),
            ),
        ),
        (
            "ipv6 prefixes",
            row(
                tcp6()
                    .masked(Field::Ipv6Src, ipv6("2001:db8:1::"), ipv6("ffff:ffff:ffff::"))
                    .exact(Field::Ipv6Dst, ipv6("2001:db8::10"))
                    .exact(Field::Ipv6Flabel, 0xbeef_u32)
                    .exact(Field::TcpDst, 443_u16),
                goto(2),
            ),
        ),
        (
            "neighbour solicitation",
            row(
                nd(135)
                    .exact(Field::NdTarget, ipv6("2001:db8::10"))
                    .exact(Field::NdSll, 0x0200_0000_0001_u64),
                goto(2),
            ),
        ),
        (
            "neighbour advertisement",
            row(
                nd(136)
                    .masked(Field::NdTarget, ipv6("2001:db8::"), ipv6("ffff:ffff::"))
                    .exact(Field::NdTll, 0x0200_0000_0001_u64),
                goto(2),
            ),
        ),
        (
            "arp",
            row(
                Match::new()
                    .exact(Field::EthType, 0x0806_u16)
                    .exact(Field::ArpOp, 1_u16)
                    .exact(Field::ArpSpa, ipv4("192.0.2.10"))
                    .masked(Field::ArpTpa, ipv4("192.0.2.0"), ipv4("255.255.255.128"))
                    .exact(Field::ArpSha, 0x0200_0000_0001_u64)
                    .masked(Field::ArpTha, 0_u64, 0x0100_0000_0000_u64),
                goto(2),
            ),
        ),
        (
            "timeouts, flags, importance",
            FlowMod {
                idle_timeout: 600,
                hard_timeout: 3600,
                importance: 9,
                table_id: 3,
                flags: flags::SEND_FLOW_REM | flags::NO_BYT_COUNTS | flags::RESET_COUNTS,
                ..row(web, goto(4))
            },
        ),
    ]
}

fn acting() -> Vec<(&'static str, FlowMod)> {
    vec![
        (
            "outputs",
            row(
                tcp(),
                apply(vec![
                    Action::output(1),
                    Action::output(port::IN_PORT),
                    Action::output(port::LOCAL),
                    Action::output(port::NORMAL),
                    Action::output(port::FLOOD),
                    Action::output(port::ALL),
                    Action::Output {
                        port: port::CONTROLLER,
                        max_len: 128,
                    },
                ]),
            ),
        ),
        (
            "vlan tags",
            row(
                tcp().exact(Field::VlanVid, 0_u16),
                apply(vec![
                    Action::PushVlan(0x8100),
                    Action::set(Field::VlanVid, 0x1064_u16),
                    Action::set(Field::VlanPcp, 5_u8),
                    Action::output(2),
                    Action::PopVlan,
                    Action::output(1),
                ]),
            ),
        ),
        (
            "set registers and metadata",
            row(
                Match::new().exact(Field::InPort, 2_u32),
                vec![
                    Instruction::ApplyActions(vec![
                        Action::set(Field::Reg(0), 5_u32),
                        Action::set(Field::Reg(9), 0_u32),
                        Action::set_masked(Field::Reg(1), 0x1200_u32, 0xff00_u32),
                        Action::set(Field::Metadata, 77_u64),
                        Action::set_masked(Field::Metadata, 0x5000_u64, 0xf000_u64),
                        Action::set(Field::XReg(2), 0x1_0000_0002_u64),
                        Action::SetField(Oxm::new(Field::XxReg(3), 1, Some(u128::from(u64::MAX)))),
                    ]),
                    Instruction::WriteMetadata {
                        value: 0x7,
                        mask: 0xf,
                    },
                    Instruction::GotoTable(5),
                ],
            ),
        ),
        (
            SCATTERED,
            row(
                Match::new().exact(Field::InPort, 2_u32),
                apply(vec![Action::set_masked(Field::Reg(2), 0x0a05_u32, 0xff0f_u32)]),
            ),
        ),
        (
            "set packet fields",
            row(
                tcp(),
                apply(vec![
                    Action::set(Field::EthDst, 0x0200_0000_0002_u64),
                    Action::set_masked(Field::EthSrc, 0x0200_0000_0000_u64, 0xffff_ff00_0000_u64),
                    Action::set(Field::Ipv4Dst, ipv4("203.0.113.9")),
                    Action::set(Field::IpDscp, 10_u8),
                    Action::set(Field::TcpDst, 8080_u16),
                    Action::set_masked(Field::TcpSrc, 0x1000_u16, 0xf000_u16),
                    Action::set(Field::InPort16, 0_u16),
                    Action::DecTtl,
                    Action::output(1),
                ]),
            ),
        ),
        (
            "moves",
            row(
                Match::new(),
                apply(vec![
                    Action::Move {
                        src: Bits::from_field(Field::InPort16),
                        dst: Bits::at(Field::Reg(4), 16),
                        n_bits: 16,
                    },
                    Action::Move {
                        src: Bits::from_field(Field::EthSrc),
                        dst: Bits::from_field(Field::EthDst),
                        n_bits: 48,
                    },
                    Action::Move {
                        src: Bits::at(Field::XReg(0), 4),
                        dst: Bits::at(Field::Metadata, 8),
                        n_bits: 40,
                    },
                ]),
            ),
        ),
        (
            "resubmit and clone",
            row(
                Match::new().exact(Field::InPort, 1_u32),
                apply(vec![
                    Action::resubmit(7),
                    Action::Resubmit {
                        in_port: Some(2),
                        table: 8,
                    },
                    Action::Resubmit {
                        in_port: Some(port::LOCAL),
                        table: 9,
                    },
                    Action::Clone(vec![
                        Action::set(Field::Reg(5), 1_u32),
                        Action::Clone(vec![Action::resubmit(10)]),
                        Action::output(2),
                    ]),
                    Action::SetQueue(1),
                    Action::output(port::NORMAL),
                ]),
            ),
        ),
        (
            "learn",
            row(tcp(), apply(vec![learn(), Action::output(port::NORMAL)])),
        ),
        (
            "write actions",
            row(udp(), vec![Instruction::WriteActions(vec![Action::output(2)])]),
        ),
        (
            "clear actions",
            row(udp(), vec![Instruction::ClearActions, Instruction::GotoTable(9)]),
        ),
    ]
}

fn learn() -> Action {
    Action::Learn(Box::new(Learn {
        idle_timeout: 30,
        hard_timeout: 300,
        priority: 500,
        cookie: 0xfeed,
        flags: Learn::SEND_FLOW_REM | Learn::DELETE_LEARNED,
        table_id: 20,
        fin_idle: 5,
        fin_hard: 10,
        limit: 0,
        specs: vec![
            LearnSpec::MatchValue {
                value: 0x0800,
                dst: Bits::from_field(Field::EthType),
                n_bits: 16,
            },
            LearnSpec::MatchValue {
                value: 6,
                dst: Bits::from_field(Field::IpProto),
                n_bits: 8,
            },
            LearnSpec::MatchField {
                src: Bits::from_field(Field::Ipv4Src),
                dst: Bits::from_field(Field::Ipv4Dst),
                n_bits: 32,
            },
            LearnSpec::MatchField {
                src: Bits::from_field(Field::TcpDst),
                dst: Bits::from_field(Field::TcpSrc),
                n_bits: 16,
            },
            LearnSpec::MatchField {
                src: Bits::from_field(Field::VlanVid),
                dst: Bits::from_field(Field::VlanVid),
                n_bits: 12,
            },
            LearnSpec::LoadValue {
                value: 1,
                dst: Bits::at(Field::Reg(6), 3),
                n_bits: 1,
            },
            LearnSpec::LoadField {
                src: Bits::from_field(Field::InPort16),
                dst: Bits::from_field(Field::Reg(7)),
                n_bits: 16,
            },
            LearnSpec::OutputField {
                src: Bits::from_field(Field::InPort16),
                n_bits: 16,
            },
        ],
    }))
}
