//! The rules of a running datapath, shown on the real switch: ownership, drift, restarts, ports that come and go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::time::Duration;

use portcullis_backend::SessionState;
use portcullis_ovs::tables::Table;
use portcullis_testbed::{EndpointSpec, SandboxOptions, etherparse, need_root};
use rig::{Rig, connects, v4};

fn document(denied: &str) -> String {
    format!(
        r#"
version: portcullis/v1
baseline:
  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [{denied}]}}
endpoints:
  web1:
    attachments: [{{interface: web1}}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
  late:
    attachments: [{{iface_id: 6a1e5f0c-late}}]
    macs: ["02:00:00:00:00:03"]
    addresses: [192.0.2.3]
"#
    )
}

const HOSTS: [(&str, u8); 2] = [("web1", 1), ("internet", 9)];

#[test]
fn drift_is_repaired_and_foreign_rows_are_left_alone() {
    if !need_root("drift_is_repaired_and_foreign_rows_are_left_alone") {
        return;
    }
    let (mut rig, _hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let bridge = rig.bridge();
    let ofctl = |args: &[&str]| rig.sandbox.ofctl([&["-O", "OpenFlow15"], args].concat()).unwrap();
    // A foreign row in a table of ours and one elsewhere, there before the agent.
    ofctl(&[
        "add-flow",
        &bridge,
        "table=0,priority=7,in_port=77,cookie=0x1,actions=drop",
    ]);
    ofctl(&["add-flow", &bridge, "table=99,priority=7,cookie=0x2,actions=drop"]);
    let foreign = |rig: &Rig| -> Vec<String> {
        rig.flows()
            .into_iter()
            .filter(|f| f.contains("cookie=0x1,") || f.contains("cookie=0x2,"))
            .collect()
    };
    rig.apply(&document("25"));
    assert_eq!(foreign(&rig).len(), 2);
    rig.until("foreign rows counted", |s| s.foreign_rows == 1);
    let want = rig.flows();

    let [policy, forward, l2] = [Table::EgressPolicy, Table::Forward, Table::L2].map(rig::number);
    let denying = format!("table={policy},tcp,tp_dst=25");
    let ofctl = |args: &[&str]| rig.sandbox.ofctl([&["-O", "OpenFlow15"], args].concat()).unwrap();
    ofctl(&[
        "--strict",
        "del-flows",
        &bridge,
        &format!("table={l2},priority=10,reg2=0,dl_dst=02:00:00:00:00:01"),
    ]);
    let opened = format!("table={policy},tcp,tp_dst=25,actions=goto_table:{forward}");
    ofctl(&["mod-flows", &bridge, &opened]);
    ofctl(&[
        "add-flow",
        &bridge,
        &format!("table={policy},priority=50000,cookie=0x5043000000000009,tcp,actions=goto_table:{forward}"),
    ]);
    rig.until("drift seen", |s| s.drift_repaired >= 3);
    rig.holds("repaired", &want);
    rig.until("counted", |s| {
        s.open_millis.get("rows").is_some_and(|millis| *millis > 0)
    });

    // A row that `explain` finds missing is no longer claimed by status, and is repaired.
    let trace = rig::egress_tcp("web1", 25);
    let explained = |rig: &Rig| rig.runtime.block_on(rig.target.explain(trace.clone())).unwrap();
    assert!(explained(&rig).iter().all(|row| row.present));
    rig.sandbox
        .ofctl(["-O", "OpenFlow15", "del-flows", &bridge, &denying])
        .unwrap();
    if explained(&rig).iter().any(|row| !row.present) {
        assert_ne!(
            rig.target.status().state,
            SessionState::InSync,
            "status contradicts explain"
        );
    }
    rig.holds("repaired after explain", &want);

    // Every row of ours gone at once, foreign rows kept.
    ofctl(&[
        "del-flows",
        &bridge,
        "cookie=0x5043000000000000/0xffff000000000000",
    ]);
    rig.until("refilling", |s| s.drift_repaired > 40);
    rig.holds("refilled", &want);
    assert_eq!(foreign(&rig).len(), 2);
}

#[test]
fn a_foreign_row_in_our_place_is_reported_and_kept() {
    if !need_root("a_foreign_row_in_our_place_is_reported_and_kept") {
        return;
    }
    let (mut rig, _hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let bridge = rig.bridge();
    let row = "table=0,priority=20547,in_port=1,vlan_tci=0x0000,cookie=0x1,actions=drop";
    rig.sandbox
        .ofctl(["-O", "OpenFlow15", "add-flow", &bridge, row])
        .unwrap();
    rig.until("seen", |s| s.foreign_rows == 1);
    rig.set(&document("25"));
    rig.until("the conflict told", |s| {
        s.detail.contains("foreign rows stand where ours belong")
    });
    assert_ne!(rig.target.status().state, SessionState::InSync);
    assert!(rig.flows().iter().any(|f| f.starts_with("cookie=0x1,")));
    rig.sandbox
        .ofctl(["-O", "OpenFlow15", "del-flows", &bridge, "cookie=0x1/-1"])
        .unwrap();
    rig.realized();
}

#[test]
fn a_restarted_switch_is_noticed_and_refilled() {
    if !need_root("a_restarted_switch_is_noticed_and_refilled") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = (internet.tcp_echo(25).unwrap(), internet.tcp_echo(80).unwrap());
    rig.apply(&document("25"));
    let before = rig.flows();
    rig.sandbox.restart_vswitchd().unwrap();
    rig.until("reconnected", |s| s.disconnects >= 1);
    rig.until("in sync with every port", |s| {
        s.state == SessionState::InSync && s.realized == 1
    });
    rig.holds("refilled", &before);
    assert!(!connects(web, v4(9, 25)));
    assert!(connects(web, v4(9, 80)));

    // The database alone may go and come back without a row being touched.
    let writes = rig.target.status().writes;
    rig.sandbox.stop_ovsdb().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    rig.sandbox.start_ovsdb().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    rig.apply(&document("25"));
    assert_eq!(rig.target.status().writes, writes);
}

#[test]
fn an_interface_that_comes_later_is_realized_and_one_that_goes_is_cleaned() {
    if !need_root("an_interface_that_comes_later_is_realized_and_one_that_goes_is_cleaned") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = internet.tcp_echo(25).unwrap();
    rig.apply(&document("25"));
    rig.until("pending told", |s| {
        s.pending
            .iter()
            .any(|p| p.endpoint == "late" && p.why.contains("6a1e5f0c-late"))
            && s.realized == 1
    });
    let before = rig.flows();
    let spec = EndpointSpec {
        iface_id: Some("6a1e5f0c-late".to_string()),
        ..EndpointSpec::numbered("eth7", 3)
    };
    let late = rig.sandbox.add_endpoint(spec).unwrap();
    rig.until("late realized", |s| {
        s.realized == 2 && s.state == SessionState::InSync && s.pending.is_empty()
    });
    assert!(!connects(&late, v4(9, 25)), "policed from the beginning");
    let _more = internet.tcp_echo(80).unwrap();
    assert!(connects(&late, v4(9, 80)));
    assert!(connects(web, v4(9, 80)));
    rig.sandbox.unplug("eth7").unwrap();
    rig.until("late gone", |s| {
        s.realized == 1 && s.state == SessionState::InSync && s.pending.len() == 1
    });
    rig.holds("cleaned", &before);
}

#[test]
fn a_port_without_an_endpoint_is_unmanaged() {
    if !need_root("a_port_without_an_endpoint_is_unmanaged") {
        return;
    }
    let (mut rig, hosts) = Rig::start(
        SandboxOptions::default(),
        &[("web1", 1), ("stray", 4), ("internet", 9)],
        |_| {},
    );
    let [web, stray, internet] = hosts.as_slice() else {
        panic!("three hosts")
    };
    let _serving = (
        internet.tcp_echo(25).unwrap(),
        internet.tcp_echo(80).unwrap(),
        stray.tcp_echo(80).unwrap(),
    );
    rig.apply(&document("25"));
    assert!(!connects(stray, v4(9, 25)));
    assert!(connects(stray, v4(9, 80)));
    assert!(connects(internet, v4(4, 80)));
    assert!(connects(web, v4(4, 80)));
    rig.apply(&document("25").replace("baseline:\n", "unmanaged: deny\nbaseline:\n"));
    assert!(!connects(stray, v4(9, 80)));
    assert!(!connects(internet, v4(4, 80)));
    assert!(connects(web, v4(9, 80)), "endpoints are not touched");
    rig.apply(&document("25").replace("baseline:\n", "unmanaged: allow\nbaseline:\n"));
    assert!(connects(stray, v4(9, 25)));
    assert!(!connects(web, v4(9, 25)));
}

#[test]
fn vlans_are_kept_apart_and_translated() {
    if !need_root("vlans_are_kept_apart_and_translated") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let tagged = |name: &str, n: u8, tag: u16| EndpointSpec {
        tag: Some(tag),
        ..EndpointSpec::numbered(name, n)
    };
    let a = rig.sandbox.add_endpoint(tagged("a10", 10, 10)).unwrap();
    let b = rig.sandbox.add_endpoint(tagged("b10", 11, 10)).unwrap();
    let other = rig.sandbox.add_endpoint(tagged("c20", 12, 20)).unwrap();
    let _serving = [&b, &other].map(|h| (h.tcp_echo(80).unwrap(), h.tcp_echo(25).unwrap()));
    let endpoint = |name: &str, n: u8| {
        format!(
            "  {name}:\n    attachments: [{{interface: {name}}}]\n    macs: [\"02:00:00:00:00:{n:02x}\"]\n    \
             addresses: [192.0.2.{n}, \"2001:db8::{n:x}\"]\n"
        )
    };
    let yaml = document("25") + &endpoint("a10", 10) + &endpoint("b10", 11) + &endpoint("c20", 12);
    rig.apply(&yaml);
    assert!(connects(&a, v4(11, 80)), "same VLAN");
    assert!(!connects(&a, v4(11, 25)), "the sender's policy within a VLAN");
    assert!(!connects(&a, v4(12, 80)), "another VLAN");
    // Over the trunk: the tag is pushed on the way out and popped on the way in.
    let udp = |src: u8, dst: u8, port: u16| {
        let mac = |n| [2, 0, 0, 0, 0, n];
        let builder = etherparse::PacketBuilder::ethernet2(mac(src), mac(dst))
            .ipv4([192, 0, 2, src], [192, 0, 2, dst], 64)
            .udp(4000, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"over the trunk").unwrap();
        frame
    };
    let tag = |frame: &[u8], vid: u16| {
        let [high, low] = vid.to_be_bytes();
        [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat()
    };
    let second = Duration::from_secs(1);
    let uplink = hosts[1].capture().unwrap();
    a.send_frame(&udp(10, 9, 5000)).unwrap();
    let out = uplink
        .until(second, |f| f.ends_with(b"over the trunk"))
        .unwrap()
        .unwrap();
    assert_eq!(out, tag(&udp(10, 9, 5000), 10));
    let inside = [&a, &other].map(|h| h.capture().unwrap());
    for vid in [20, 10] {
        hosts[1].send_frame(&tag(&udp(9, 10, 5000 + vid), vid)).unwrap();
    }
    let got = inside[0]
        .until(second, |f| f.ends_with(b"over the trunk"))
        .unwrap()
        .unwrap();
    assert_eq!(
        got,
        udp(9, 10, 5010),
        "only the frame of its own VLAN, without the tag"
    );
    let stray = inside[1]
        .until(Duration::from_millis(300), |f| f.ends_with(b"over the trunk"))
        .unwrap();
    assert_eq!(stray, None, "nothing for another VLAN's port");
}

#[test]
fn a_foreign_pipeline_takes_over_behind_ours() {
    if !need_root("a_foreign_pipeline_takes_over_behind_ours") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |config| {
        config.first_table = 10;
        config.final_action = portcullis_ovs::FinalAction::GotoTable(50);
    });
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = (
        internet.tcp_echo(25).unwrap(),
        internet.tcp_echo(80).unwrap(),
        web.tcp_echo(80).unwrap(),
    );
    let bridge = rig.bridge();
    let add = |row: &str| {
        rig.sandbox
            .ofctl(["-O", "OpenFlow15", "add-flow", &bridge, row])
            .unwrap()
    };
    add("table=0,priority=9,cookie=0x1,actions=goto_table:10");
    // It expects registers as a packet brings them.
    add("table=50,priority=9,cookie=0x1,reg0=0,reg2=0,reg3=0,reg4=0,reg5=0,actions=NORMAL");
    rig.apply(&document("25"));
    assert!(!connects(web, v4(9, 25)));
    assert!(connects(web, v4(9, 80)));
    assert!(connects(internet, v4(1, 80)));
    let ours: Vec<String> = rig
        .flows()
        .into_iter()
        .filter(|f| f.contains("cookie=0x5043"))
        .collect();
    let last = 10 + Table::all().map(rig::number).max().unwrap();
    let elsewhere = |f: &&String| !(10..=last).any(|t| f.contains(&format!("table={t},")));
    assert_eq!(
        ours.iter().filter(elsewhere).count(),
        0,
        "rows outside tables 10 to {last}"
    );
}

#[test]
fn an_agent_killed_in_the_middle_of_a_change_finishes_it_after_its_restart() {
    if !need_root("an_agent_killed_in_the_middle_of_a_change_finishes_it_after_its_restart") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = (internet.tcp_echo(25).unwrap(), internet.tcp_echo(80).unwrap());
    let policy = format!("table={},", rig::number(Table::EgressPolicy));
    let ports = |round: u32| format!("25, {}, \"{}-{}\"", 1000 + round, 2000 + round, 4000 + round);
    rig.apply(&document("25"));
    let mut seed = 7u32;
    for round in 0..15 {
        rig.set(&document(&ports(round)));
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        std::thread::sleep(Duration::from_micros(u64::from(seed >> 16) % 12_000));
        rig.restart_agent();
        // The same document again, as a restarted daemon reads it from its store: the same generation.
        rig.generation -= 1;
        rig.apply(&document(&ports(round)));
        let settled = rig.flows();
        rig.restart_agent();
        rig.generation -= 1;
        rig.apply(&document(&ports(round)));
        assert_eq!(
            rig.target.status().writes,
            [0; 3],
            "nothing is written needlessly"
        );
        assert_eq!(rig.flows(), settled);
        let classes = settled
            .iter()
            .filter(|f| f.contains(&policy) && f.contains("reg0="))
            .count();
        let one: Vec<_> = settled
            .iter()
            .filter(|f| f.contains("tp_dst=25 ") || f.contains("tp_dst=25,"))
            .collect();
        assert_eq!(
            one.len(),
            2,
            "one class's rows for port 25, IPv4 and IPv6, among {classes}: {one:?}"
        );
    }
    assert!(!connects(web, v4(9, 25)));
    assert!(connects(web, v4(9, 80)));
}

#[test]
fn a_table_that_is_too_small_is_told_with_its_numbers_and_nothing_is_written() {
    if !need_root("a_table_that_is_too_small_is_told_with_its_numbers_and_nothing_is_written") {
        return;
    }
    let (mut rig, _hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    rig.apply(&document("25"));
    let before = rig.flows();
    let id = [
        "--",
        "--id=@t",
        "create",
        "Flow_Table",
        "flow_limit=40",
        "--",
        "set",
        "bridge",
        "br0",
        "flow_tables:3=@t",
    ];
    rig.sandbox.vsctl(id).unwrap();
    let size = |s: &portcullis_backend::TargetStatus| {
        s.tables.iter().find(|t| t.table == "egress_policy").unwrap().size
    };
    rig.until("the size told", |s| {
        size(s) == Some(40) && s.state == SessionState::InSync
    });
    rig.set(&document(
        "3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193, 16385",
    ));
    rig.until("the refusal told", |s| {
        s.detail.contains("takes 40") && s.unsupported.iter().any(|u| u.why.contains("takes 40"))
    });
    assert_eq!(rig.flows(), before);
    rig.apply(&document("26"));
}
