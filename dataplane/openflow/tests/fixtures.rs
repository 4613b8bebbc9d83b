//! What a real Open vSwitch 3.1 sent, captured by `examples/ovs_roundtrip.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use portcullis_openflow::flow_mod::flags;
use portcullis_openflow::instruction::canonical;
use portcullis_openflow::switch::capabilities;
use portcullis_openflow::{
    Action, Field, FlowStats, Header, Instruction, Match, Message, PortReason, RemovedReason, ReplyBody,
    SwitchConfig, Version, decode, encode, frame_len, port,
};

fn unhex(line: &str) -> Vec<u8> {
    (0..line.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&line[i..i + 2], 16).unwrap())
        .collect()
}

fn read(name: &str, version: Version) -> Vec<(Header, Message)> {
    let suffix = if version == Version::V1_4 { "1.4" } else { "1.5" };
    let path = format!(
        "{}/tests/fixtures/{name}-{suffix}.hex",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let frames: Vec<Vec<u8>> = text.lines().map(unhex).collect();
    assert!(!frames.is_empty(), "{path} is empty");
    frames
        .iter()
        .map(|frame| {
            assert_eq!(frame_len(frame), Ok(Some(frame.len())));
            let (header, message) = decode(frame).unwrap();
            assert_eq!(header.version, version.wire());
            (header, message)
        })
        .collect()
}

fn one(name: &str, version: Version) -> Message {
    read(name, version).pop().unwrap().1
}

fn flows(name: &str, version: Version) -> Vec<FlowStats> {
    let mut flows = Vec::new();
    for (_, message) in read(name, version) {
        match message {
            Message::MultipartReply {
                body: ReplyBody::Flow(part),
                ..
            } => flows.extend(part),
            other => panic!("not flows: {other:?}"),
        }
    }
    flows
}

const BOTH: [Version; 2] = [Version::V1_4, Version::V1_5];

#[test]
fn flows_read_back_equal_to_what_was_sent() {
    for version in BOTH {
        let seen = flows("flows", version);
        let corpus = common::corpus();
        assert_eq!(seen.len(), corpus.len());
        for (name, row) in corpus {
            let flow = seen
                .iter()
                .find(|f| f.cookie == row.cookie)
                .unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(flow.match_, row.match_, "{name} {version}");
            assert_eq!(flow.instructions, canonical(row.instructions), "{name} {version}");
            assert_eq!(flow.table_id, row.table_id, "{name}");
            assert_eq!(flow.priority, row.priority, "{name}");
            assert_eq!(flow.idle_timeout, row.idle_timeout, "{name}");
            assert_eq!(flow.hard_timeout, row.hard_timeout, "{name}");
            assert_eq!(flow.importance, row.importance, "{name}");
            assert_eq!(flow.flags & flags::STATE, row.flags & flags::STATE, "{name}");
            assert_eq!(flow.idle_secs.is_some(), version == Version::V1_5);
        }
    }
}

#[test]
fn foreign_flows_do_not_hide_and_go_back_as_they_came() {
    for version in BOTH {
        let seen = flows("foreign", version);
        assert_eq!(seen.len(), 9);
        let wide = seen.iter().find(|f| f.priority == 9).unwrap();
        let (field, value, mask) = wide.match_.opaque().next().expect("tunnel metadata of 64 bytes");
        assert!(
            matches!(
                field,
                Field::Unknown {
                    class: 1,
                    field: 40,
                    ..
                }
            ),
            "{field:?}"
        );
        assert_eq!(value[value.len() - 4..], [0x34, 0x56, 0x78, 0x90]);
        assert_eq!(mask.map(<[u8]>::len), Some(value.len()));

        let tracked = seen.iter().find(|f| f.priority == 10).unwrap();
        let Some(Instruction::ApplyActions(actions)) = tracked.instructions.first() else {
            panic!()
        };
        assert!(matches!(actions[0], Action::Unknown { typ: 0xffff, .. }));
        assert_eq!(actions[1], Action::resubmit(31));

        let regs = Match::new()
            .exact(Field::Reg(0), 1_u32)
            .masked(Field::Reg(1), 2_u32, 3_u32)
            .exact(Field::Reg(4), 0_u32)
            .exact(Field::Reg(5), 7_u32)
            .exact(Field::TunIpv4Src, 0x0102_0304_u32)
            .exact(Field::TunnelId, 1_u64)
            .exact(Field::PktMark, 3_u32)
            .exact(Field::VlanVid, 0x1005_u16);
        let pipeline = seen.iter().find(|f| f.priority == 14).unwrap();
        // A match on VLAN id alone leaves the priority bits open.
        assert_eq!(pipeline.match_, regs);

        let metered = seen.iter().find(|f| f.priority == 16).unwrap();
        assert_eq!(
            metered.instructions,
            [
                Instruction::Meter(1),
                Instruction::ApplyActions(vec![Action::output(1)]),
                Instruction::GotoTable(31),
            ]
        );

        let reply = Message::MultipartReply {
            more: false,
            body: ReplyBody::Flow(seen),
        };
        let mut again = Vec::new();
        encode(&reply, version, 1, &mut again).unwrap();
        assert_eq!(decode(&again).unwrap().1, reply);
    }
}

#[test]
fn ports() {
    for version in BOTH {
        let Message::MultipartReply {
            more: false,
            body: ReplyBody::PortDesc(ports),
        } = one("ports", version)
        else {
            panic!("not ports")
        };
        let mut names: Vec<(u32, &str)> = ports.iter().map(|p| (p.port_no, p.name.as_str())).collect();
        names.sort_unstable();
        assert_eq!(names, [(1, "p1"), (2, "p2"), (port::LOCAL, "br0")]);
        assert!(ports.iter().all(|p| p.state == port::state::LIVE));
        let Message::PortStatus(status) = one("port-status", version) else {
            panic!("not a port status")
        };
        assert_eq!((status.reason, status.port.port_no), (PortReason::Modify, 1));
        assert_eq!(status.port.config, port::config::NO_FWD);
    }
}

#[test]
fn switch() {
    for version in BOTH {
        let Message::FeaturesReply(features) = one("features", version) else {
            panic!("not features")
        };
        assert_eq!((features.n_tables, features.auxiliary_id), (254, 0));
        let wanted = capabilities::FLOW_STATS | capabilities::BUNDLES;
        assert_eq!(features.capabilities & wanted, wanted);
        let Message::MultipartReply {
            body: ReplyBody::Desc(desc),
            ..
        } = one("desc", version)
        else {
            panic!("not a description")
        };
        assert_eq!((desc.hw.as_str(), desc.sw.as_str()), ("Open vSwitch", "3.1.0"));
        let config = SwitchConfig {
            miss_send_len: 0xffff,
            ..SwitchConfig::default()
        };
        assert_eq!(one("config", version), Message::GetConfigReply(config));
        let Message::MultipartReply {
            body: ReplyBody::Table(tables),
            ..
        } = one("tables", version)
        else {
            panic!("not tables")
        };
        assert_eq!(tables.len(), 254);
        let in_table = |n: u8| tables.iter().find(|t| t.table_id == n).unwrap().active_count;
        assert_eq!((in_table(0), in_table(3), in_table(30)), (39, 1, 9));
    }
}

#[test]
fn errors_and_removals() {
    for version in BOTH {
        let Message::Error(error) = one("error", version) else {
            panic!("not an error")
        };
        assert_eq!(error.name(), Some("OFPBMC_BAD_PREREQ"));
        assert_eq!(
            error.explain(),
            "a match field lacks the fields it presupposes: OFPET_BAD_MATCH (4), OFPBMC_BAD_PREREQ (9)"
        );
        let failed = error.failed().unwrap();
        assert_eq!((failed.version, failed.msg_type), (version.wire(), 14));
        let Message::FlowRemoved(removed) = one("removed", version) else {
            panic!("not a removal")
        };
        assert_eq!(removed.reason, RemovedReason::Delete);
        assert_eq!(
            (removed.table_id, removed.idle_timeout, removed.hard_timeout),
            (3, 600, 3600)
        );
        assert_eq!(removed.match_, common::tcp().exact(Field::TcpDst, 80_u16));
    }
}
