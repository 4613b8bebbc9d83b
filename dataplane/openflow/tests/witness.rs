//! Every message we send, as `ovs-ofctl` understands it.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use std::process::Command as Process;

use portcullis_openflow::flow_mod::ALL_TABLES;
use portcullis_openflow::switch::async_kind;
use portcullis_openflow::{
    Action, AsyncProp, BundleAdd, BundleControl, BundleKind, Command, ErrorMsg, Features, Field, FlowMod,
    FlowStats, FlowStatsRequest, Fragments, Hello, Instruction, Match, Message, MultipartRequest, PortDesc,
    PortMod, ReplyBody, SwitchConfig, Version, bundle, encode, port,
};

/// Text of `message` by `ovs-ofctl ofp-print`, on one line and without its version.
fn print(message: &Message, version: Version) -> String {
    let mut bytes = Vec::new();
    encode(message, version, 0x1234, &mut bytes).unwrap();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let out = Process::new("ovs-ofctl")
        .args(["ofp-print", &hex])
        .output()
        .unwrap_or_else(|e| {
            panic!("cannot run ovs-ofctl ({e}): install it (Debian: apt-get install openvswitch-common)")
        });
    let complaint = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && complaint.is_empty(),
        "ovs-ofctl says: {complaint}"
    );
    let text = String::from_utf8(out.stdout).unwrap();
    let said = match version {
        Version::V1_4 => " (OF1.4)",
        Version::V1_5 => " (OF1.5)",
    };
    assert!(text.contains(said), "{text} is not {version}");
    text.replace(said, "")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Both versions say the same.
fn assert_prints(message: &Message, expected: &str) {
    for version in [Version::V1_4, Version::V1_5] {
        assert_eq!(print(message, version), expected, "{version}");
    }
}

#[test]
fn flow_mods() {
    let expected = include_str!("fixtures/flow_mods.txt");
    let corpus = common::corpus();
    assert_eq!(
        expected.lines().count(),
        corpus.len(),
        "tests/fixtures/flow_mods.txt has a line for each flow"
    );
    for ((name, row), line) in corpus.into_iter().zip(expected.lines()) {
        let (expected_name, text) = line.split_once('|').unwrap();
        assert_eq!(name, expected_name);
        assert_prints(
            &Message::FlowMod(row),
            &format!("OFPT_FLOW_MOD (xid=0x1234): {text}"),
        );
    }
}

#[test]
fn flow_mod_commands() {
    let row = FlowMod {
        cookie: 0xab00,
        cookie_mask: 0xff00,
        out_port: 3,
        priority: 7,
        match_: Match::new().exact(Field::InPort, 1_u32),
        ..FlowMod::default()
    };
    for (command, expected) in [
        (
            Command::Modify,
            "MOD table:4 priority=7,in_port=1 cookie:0xab00/0xff00 out_port:3 actions=drop",
        ),
        (
            Command::ModifyStrict,
            "MOD_STRICT table:4 priority=7,in_port=1 cookie:0xab00/0xff00 out_port:3 actions=drop",
        ),
        (
            Command::Delete,
            "DEL table:255 priority=7,in_port=1 cookie:0xab00/0xff00 out_port:3 actions=drop",
        ),
        (
            Command::DeleteStrict,
            "DEL_STRICT table:255 priority=7,in_port=1 cookie:0xab00/0xff00 out_port:3 actions=drop",
        ),
    ] {
        // Only a delete may be about all tables.
        let deletes = matches!(command, Command::Delete | Command::DeleteStrict);
        let table_id = if deletes { ALL_TABLES } else { 4 };
        let message = Message::FlowMod(FlowMod {
            command,
            table_id,
            ..row.clone()
        });
        assert_prints(&message, &format!("OFPT_FLOW_MOD (xid=0x1234): {expected}"));
    }
}

#[test]
fn meters_and_groups() {
    for (list, expected) in [
        (vec![Instruction::Meter(4)], "meter:4"),
        (
            vec![
                Instruction::Meter(4),
                Instruction::ApplyActions(vec![Action::output(1)]),
                Instruction::GotoTable(3),
            ],
            "meter:4,output:1,goto_table:3",
        ),
        (vec![Instruction::ApplyActions(vec![Action::Group(9)])], "group:9"),
    ] {
        let message = Message::FlowMod(FlowMod {
            instructions: list,
            ..FlowMod::default()
        });
        assert_prints(
            &message,
            &format!("OFPT_FLOW_MOD (xid=0x1234): ADD actions={expected}"),
        );
    }
}

#[test]
fn connection() {
    assert_prints(
        &Message::Hello(Hello {
            versions: Version::BOTH,
        }),
        "OFPT_HELLO (xid=0x1234): version bitmap: 0x05, 0x06",
    );
    assert_prints(
        &Message::EchoRequest(b"hi".to_vec()),
        "OFPT_ECHO_REQUEST (xid=0x1234): 2 bytes of payload 00000000 68 69 |hi |",
    );
    assert_prints(
        &Message::EchoReply(vec![]),
        "OFPT_ECHO_REPLY (xid=0x1234): 0 bytes of payload",
    );
    assert_prints(&Message::BarrierRequest, "OFPT_BARRIER_REQUEST (xid=0x1234):");
    assert_prints(&Message::BarrierReply, "OFPT_BARRIER_REPLY (xid=0x1234):");
    let mut data = Vec::new();
    encode(&Message::BarrierRequest, Version::V1_5, 7, &mut data).unwrap();
    let error = Message::Error(ErrorMsg {
        typ: 5,
        code: 1,
        experimenter: None,
        data,
    });
    assert_eq!(
        print(&error, Version::V1_5),
        "OFPT_ERROR (xid=0x1234): OFPFMFC_TABLE_FULL OFPT_BARRIER_REQUEST (xid=0x7):"
    );
}

#[test]
fn switch() {
    assert_prints(&Message::FeaturesRequest, "OFPT_FEATURES_REQUEST (xid=0x1234):");
    let features = Features {
        datapath_id: 0x0102_0304_0506_0708,
        n_buffers: 256,
        n_tables: 254,
        auxiliary_id: 0,
        capabilities: 1 | 2 | 4 | 1 << 9,
    };
    assert_prints(
        &Message::FeaturesReply(features),
        "OFPT_FEATURES_REPLY (xid=0x1234): dpid:0102030405060708 n_tables:254, n_buffers:256 capabilities: FLOW_STATS TABLE_STATS PORT_STATS BUNDLES",
    );
    assert_prints(
        &Message::GetConfigRequest,
        "OFPT_GET_CONFIG_REQUEST (xid=0x1234):",
    );
    for (fragments, expected) in [
        (Fragments::Normal, "normal"),
        (Fragments::Drop, "drop"),
        (Fragments::Reassemble, "reassemble"),
        (Fragments::NxMatch, "nx-match"),
    ] {
        let config = SwitchConfig {
            fragments,
            miss_send_len: 128,
        };
        let expected = format!(" (xid=0x1234): frags={expected} miss_send_len=128");
        assert_prints(&Message::SetConfig(config), &format!("OFPT_SET_CONFIG{expected}"));
        assert_prints(
            &Message::GetConfigReply(config),
            &format!("OFPT_GET_CONFIG_REPLY{expected}"),
        );
    }
    let props = vec![
        AsyncProp {
            kind: async_kind::PACKET_IN_MASTER,
            mask: 0,
        },
        AsyncProp {
            kind: async_kind::FLOW_REMOVED_MASTER,
            mask: 0xf,
        },
    ];
    assert_prints(
        &Message::SetAsync(props),
        "OFPT_SET_ASYNC (xid=0x1234): primary: PACKET_IN: (off) PORT_STATUS: (off) FLOW_REMOVED: idle hard delete group_delete ROLE_STATUS: (off) TABLE_STATUS: (off) REQUESTFORWARD: (off) secondary: PACKET_IN: (off) PORT_STATUS: (off) FLOW_REMOVED: (off) ROLE_STATUS: (off) TABLE_STATUS: (off) REQUESTFORWARD: (off)",
    );
}

#[test]
fn ports() {
    let port_mod = PortMod {
        port_no: 3,
        hw_addr: [2, 0, 0, 0, 0, 1],
        config: port::config::PORT_DOWN,
        mask: 0x61,
    };
    assert_prints(
        &Message::PortMod(port_mod),
        "OFPT_PORT_MOD (xid=0x1234): port: 3: addr:02:00:00:00:00:01 config: PORT_DOWN mask: PORT_DOWN NO_FWD NO_PACKET_IN advertise: UNCHANGED",
    );
    let ports = Message::MultipartRequest(MultipartRequest::all_ports());
    assert_prints(&ports, "OFPST_PORT_DESC request (xid=0x1234): port=ANY");
    let one = Message::MultipartRequest(MultipartRequest::PortDesc { port_no: 7 });
    assert_eq!(
        print(&one, Version::V1_5),
        "OFPST_PORT_DESC request (xid=0x1234): port=7"
    );
    let desc = PortDesc {
        port_no: 7,
        hw_addr: [2, 0, 0, 0, 0, 7],
        name: "web1".into(),
        config: 0,
        state: port::state::LIVE,
    };
    assert_prints(
        &Message::MultipartReply {
            more: true,
            body: ReplyBody::PortDesc(vec![desc]),
        },
        "OFPST_PORT_DESC reply (xid=0x1234): flags=[more] 7(web1): addr:02:00:00:00:00:07 config: 0 state: LIVE speed: 0 Mbps now, 0 Mbps max",
    );
}

#[test]
fn bundles() {
    let flags = bundle::flags::ATOMIC | bundle::flags::ORDERED;
    for (kind, expected) in [
        (BundleKind::OpenRequest, "OPEN_REQUEST"),
        (BundleKind::CloseRequest, "CLOSE_REQUEST"),
        (BundleKind::CommitRequest, "COMMIT_REQUEST"),
        (BundleKind::DiscardRequest, "DISCARD_REQUEST"),
        (BundleKind::CommitReply, "COMMIT_REPLY"),
    ] {
        let control = BundleControl {
            bundle_id: 9,
            kind,
            flags,
        };
        let expected =
            format!("OFPT_BUNDLE_CONTROL (xid=0x1234): bundle_id=0x9 type={expected} flags=atomic ordered");
        assert_prints(&Message::BundleControl(control), &expected);
    }
    let row = FlowMod {
        match_: common::tcp().exact(Field::TcpDst, 25_u16),
        ..FlowMod::default()
    };
    let add = BundleAdd {
        bundle_id: 9,
        flags,
        message: Box::new((0x1234, Message::FlowMod(row))),
    };
    assert_prints(
        &Message::BundleAdd(add),
        "OFPT_BUNDLE_ADD_MESSAGE (xid=0x1234): bundle_id=0x9 flags=atomic ordered OFPT_FLOW_MOD (xid=0x1234): ADD tcp,tp_dst=25 actions=drop",
    );
}

#[test]
fn statistics() {
    assert_prints(
        &Message::MultipartRequest(MultipartRequest::Desc),
        "OFPST_DESC request (xid=0x1234):",
    );
    assert_prints(
        &Message::MultipartRequest(MultipartRequest::Table),
        "OFPST_TABLE request (xid=0x1234):",
    );
    // ovs-ofctl keeps the cookie of this request to itself.
    let flows = FlowStatsRequest {
        table_id: 7,
        out_port: 3,
        cookie: 0xab00,
        cookie_mask: 0xff00,
        match_: common::tcp(),
        ..FlowStatsRequest::default()
    };
    assert_prints(
        &Message::MultipartRequest(MultipartRequest::Flow(flows)),
        "OFPST_FLOW request (xid=0x1234): table=7 out_port=3 tcp",
    );
    let (_, row) = common::corpus().pop().unwrap();
    let flow = FlowStats {
        table_id: 4,
        priority: 9,
        cookie: 5,
        idle_timeout: 1,
        hard_timeout: 2,
        duration_sec: 3,
        packet_count: 6,
        byte_count: 7,
        match_: row.match_,
        instructions: row.instructions,
        ..FlowStats::default()
    };
    assert_prints(
        &Message::MultipartReply {
            more: false,
            body: ReplyBody::Flow(vec![flow]),
        },
        "OFPST_FLOW reply (xid=0x1234): cookie=0x5, duration=3s, table=4, n_packets=6, n_bytes=7, idle_timeout=1, hard_timeout=2, priority=9,udp actions=clear_actions,goto_table:9",
    );
}
