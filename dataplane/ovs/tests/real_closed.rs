//! The bridge without the agent's rows: restarts of the switch, changes of its fail mode, other settings, and caches
//! that cannot be asked about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::time::{Duration, Instant};

use portcullis_backend::{SessionState, TargetStatus};
use portcullis_ovs::FailMode;
use portcullis_testbed::stream::{Outcome, two_streams};
use portcullis_testbed::{EndpointSpec, NetnsHost, SandboxOptions, etherparse, need_root};
use rig::{Rig, connects, v4};

const ALLOWED: u16 = 7000;
const DENIED: u16 = 25;

const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
  - {name: smtp-udp, action: deny, direction: egress, protocol: udp, ports: [25]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    rules:
      - {name: own, action: deny, direction: egress, protocol: udp, ports: [80]}
"#;

const HOSTS: [(&str, u8); 2] = [("web1", 1), ("internet", 9)];

fn standalone() -> SandboxOptions {
    SandboxOptions {
        standalone: true,
        ..SandboxOptions::default()
    }
}

fn exposed(status: &TargetStatus, cause: &str) -> bool {
    status.exposures.iter().any(|e| e.cause == cause)
}

fn traffic(hosts: &[NetnsHost], during: &mut dyn FnMut()) -> Outcome {
    let [web, internet] = hosts else {
        panic!("two hosts")
    };
    two_streams(web, (internet, v4(9, 0).ip()), [ALLOWED, DENIED], during).unwrap()
}

#[test]
fn the_fail_mode_is_set_before_the_first_row_and_a_restart_of_the_switch_passes_nothing() {
    if !need_root("the_fail_mode_is_set_before_the_first_row_and_a_restart_of_the_switch_passes_nothing") {
        return;
    }
    let (mut rig, hosts) = Rig::start(standalone(), &HOSTS, |config| config.fail_mode = FailMode::Secure);
    rig.apply(DOCUMENT);
    let mode = rig.sandbox.vsctl(["get", "bridge", "br0", "fail_mode"]).unwrap();
    assert_eq!(mode.trim(), "secure");
    assert!(
        !exposed(&rig.target.status(), "fail_mode"),
        "{:#?}",
        rig.target.status()
    );
    let seen = traffic(&hosts, &mut || {
        rig.sandbox.restart_vswitchd().unwrap();
        rig.until("reconnected", |s| s.disconnects >= 1);
        rig.realized();
        std::thread::sleep(Duration::from_millis(500));
    });
    println!(
        "sent {} arrived {} leaked {}",
        seen.sent, seen.arrived, seen.leaked
    );
    assert_eq!(seen.leaked, 0, "a denied datagram passed");
    assert!(seen.arrived > 0);
}

#[test]
fn a_bridge_that_is_not_secure_is_told_and_is_changed_only_where_that_may_interrupt() {
    if !need_root("a_bridge_that_is_not_secure_is_told_and_is_changed_only_where_that_may_interrupt") {
        return;
    }
    let (mut rig, hosts) = Rig::start(standalone(), &HOSTS, |_| {});
    rig.apply(DOCUMENT);
    let told = |rig: &Rig| {
        rig.target
            .status()
            .exposures
            .iter()
            .find(|e| e.cause == "fail_mode")
            .cloned()
    };
    let exposure = told(&rig).unwrap();
    assert!(
        exposure
            .what
            .contains("after each start of ovs-vswitchd every packet passes")
    );
    assert!(exposure.remedy.contains("fail_mode = \"secure\""), "{exposure:?}");

    // What it means, counted.
    rig.sandbox.restart_vswitchd().unwrap();
    rig.until("reconnected", |s| s.disconnects >= 1);
    rig.realized();
    rig.until("counted", |s| {
        s.open_millis.get("fail_mode").is_some_and(|millis| *millis > 0)
    });

    // Configured now, with rows there: not without the word.
    rig.config.fail_mode = FailMode::Secure;
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(DOCUMENT);
    assert!(told(&rig).unwrap().remedy.contains("--allow-interruption"));
    assert_eq!(rig.target.status().writes, [0, 0, 0]);
    rig.config.allow_interruption = true;
    rig.restart_agent();
    rig.generation -= 1;
    let seen = traffic(&hosts, &mut || {
        rig.apply(DOCUMENT);
        rig.until("secure", |s| {
            !exposed(s, "fail_mode") && s.state == SessionState::InSync
        });
        std::thread::sleep(Duration::from_millis(300));
    });
    let mode = rig.sandbox.vsctl(["get", "bridge", "br0", "fail_mode"]).unwrap();
    assert_eq!((mode.trim(), seen.leaked), ("secure", 0));
}

#[test]
fn a_fail_mode_that_somebody_changes_is_repaired_at_once() {
    if !need_root("a_fail_mode_that_somebody_changes_is_repaired_at_once") {
        return;
    }
    let (mut rig, _hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |config| {
        // Only what OVSDB says is quick enough.
        config.resync_interval = Duration::from_secs(600);
    });
    rig.apply(DOCUMENT);
    let mine = |rig: &Rig| -> Vec<String> {
        let ours = |f: &String| f.starts_with("cookie=0x5043") && !f.starts_with("cookie=0x50438");
        rig.flows().into_iter().filter(ours).collect()
    };
    let before = mine(&rig);
    for mode in ["standalone", "secure"] {
        let repaired = rig.target.status().drift_repaired;
        let began = Instant::now();
        rig.sandbox
            .vsctl(["set", "bridge", "br0", &format!("fail_mode={mode}")])
            .unwrap();
        rig.until("repaired", |s| {
            s.drift_repaired >= repaired + before.len() as u64
                && s.state == SessionState::InSync
                && exposed(s, "fail_mode") == (mode == "standalone")
        });
        println!("{mode}: in sync again {:?} after the command", began.elapsed());
        assert_eq!(mine(&rig), before);
    }
    rig.until("counted", |s| s.open_millis.contains_key("fail_mode"));
}

#[test]
fn caches_that_cannot_be_asked_about_are_not_known_to_follow() {
    if !need_root("caches_that_cannot_be_asked_about_are_not_known_to_follow") {
        return;
    }
    let (mut rig, _hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    rig.apply(DOCUMENT);
    let control = std::fs::read_dir(rig.sandbox.dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.to_string_lossy().contains("ovs-vswitchd") && path.extension().is_some_and(|e| e == "ctl")
        })
        .unwrap();
    // Another name in the same folder is found.
    let renamed = rig.sandbox.dir().join("another-name.ctl");
    std::fs::rename(&control, &renamed).unwrap();
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(DOCUMENT);
    // Another folder is not.
    let aside = rig.sandbox.dir().join("aside");
    std::fs::create_dir(&aside).unwrap();
    let away = aside.join("switch.ctl");
    std::fs::rename(&renamed, &away).unwrap();
    rig.restart_agent();
    rig.generation -= 1;
    rig.set(DOCUMENT);
    rig.until("told", |s| {
        s.confirmed == 1 && s.detail.contains("control_socket")
    });
    std::thread::sleep(Duration::from_secs(3));
    let status = rig.target.status();
    assert_eq!((status.confirmed, status.applied), (1, 0), "{status:#?}");
    assert_ne!(status.state, SessionState::InSync);
    let counted = rig.target.status().open_millis.clone();
    assert!(counted["caches"] >= 2000, "{counted:?}");
    // Named, it is asked.
    rig.config.control_socket = Some(away.clone());
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(DOCUMENT);
    std::fs::rename(&away, &control).unwrap();
}

#[test]
fn other_settings_leave_no_rows_behind() {
    if !need_root("other_settings_leave_no_rows_behind") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = (internet.tcp_echo(25).unwrap(), internet.tcp_echo(81).unwrap());
    let bridge = rig.bridge();
    let other = "table=0,priority=7,in_port=77,cookie=0x7777000000000001,actions=drop";
    rig.sandbox
        .ofctl(["-O", "OpenFlow15", "add-flow", &bridge, other])
        .unwrap();
    rig.apply(DOCUMENT);
    let compared = |rig: &Rig| -> Vec<String> {
        let is_compared = |flow: &String| {
            let cookie = flow
                .trim_start_matches("cookie=0x")
                .split(',')
                .next()
                .unwrap()
                .to_string();
            u64::from_str_radix(&cookie, 16).unwrap() & 1 << 47 == 0
        };
        rig.flows().into_iter().filter(is_compared).collect()
    };
    let rows = compared(&rig).len();
    let again = |rig: &mut Rig| {
        rig.restart_agent();
        rig.generation -= 1;
        rig.apply(DOCUMENT);
        rig.until("nothing left", |s| {
            s.left_over_rows == 0 && s.state == SessionState::InSync
        });
        assert_eq!(compared(rig).len(), rows);
        assert!(rig.flows().iter().any(|f| f.starts_with("cookie=0x7777")));
        assert!(!connects(web, v4(9, 25)));
        assert!(connects(web, v4(9, 81)));
    };
    rig.config.cookie = 0x1234;
    again(&mut rig);
    assert!(!rig.flows().iter().any(|f| f.starts_with("cookie=0x5043")));
    rig.config.cookie = 0x5043;
    rig.config.first_table = 3;
    rig.sandbox
        .ofctl([
            "-O",
            "OpenFlow15",
            "add-flow",
            &bridge,
            "table=0,priority=8,cookie=0x7777000000000002,actions=goto_table:3",
        ])
        .unwrap();
    rig.restart_agent();
    rig.generation -= 1;
    // The tables overlap: everything at once.
    let seen = traffic(&hosts, &mut || {
        rig.apply(DOCUMENT);
        std::thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(
        (seen.leaked, seen.sent - seen.arrived),
        (0, 0),
        "{} sent",
        seen.sent
    );
    assert_eq!(compared(&rig).len(), rows + 1);
    assert!(!connects(web, v4(9, 25)));
}

#[test]
fn a_port_that_the_agent_has_not_seen_is_closed() {
    if !need_root("a_port_that_the_agent_has_not_seen_is_closed") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    // Frames, not connections: what is sent to a port with another number is not what is tried here.
    let passes = |host: &NetnsHost, n: u8, port: u16| -> bool {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, n], [2, 0, 0, 0, 0, 9])
            .ipv4([192, 0, 2, n], [192, 0, 2, 9], 64)
            .udp(4000, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"a frame of this test").unwrap();
        let capture = internet.capture().unwrap();
        host.send_frame(&frame).unwrap();
        capture
            .until(Duration::from_millis(700), |seen| seen == frame)
            .unwrap()
            .is_some()
    };
    let receives = |host: &NetnsHost, n: u8| -> bool {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, n])
            .ipv4([192, 0, 2, 9], [192, 0, 2, n], 64)
            .udp(4000, 81);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"a frame of this test").unwrap();
        let capture = host.capture().unwrap();
        internet.send_frame(&frame).unwrap();
        capture
            .until(Duration::from_millis(700), |seen| seen == frame)
            .unwrap()
            .is_some()
    };
    rig.apply(DOCUMENT);
    assert_eq!(
        rig.target.status().exposures,
        [],
        "nothing is open, nothing is said to be"
    );
    assert_eq!([80, 81].map(|port| passes(web, 1, port)), [false, true]);
    assert!(receives(web, 1));
    rig.stop_agent();
    rig.sandbox.unplug("web1").unwrap();
    rig.sandbox.plug("web1").unwrap();
    assert_eq!(
        [80, 81].map(|port| passes(web, 1, port)),
        [false, false],
        "nothing passes"
    );
    assert!(!receives(web, 1), "nor the other way");
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(DOCUMENT);
    assert_eq!([80, 81].map(|port| passes(web, 1, port)), [false, true]);
    assert!(receives(web, 1));
    let stray = rig
        .sandbox
        .add_endpoint(EndpointSpec::numbered("stray", 4))
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    rig.until("in sync", |s| s.state == SessionState::InSync);
    assert!(passes(&stray, 4, 80), "an unmanaged port that the agent has seen");
}
