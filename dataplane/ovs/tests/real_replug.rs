//! Changes that overlap: a policy that returns while its undoing is in flight, and ports that leave and come back under traffic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::process::Command;
use std::time::Duration;

use portcullis_testbed::stream::two_streams;
use portcullis_testbed::{SandboxOptions, need_root};
use rig::{Rig, connects, v4};

const ALLOWED: u16 = 7000;
const DENIED: u16 = 25;

fn document(denied: &str) -> String {
    format!(
        r#"
version: portcullis/v1
baseline:
  - {{name: tcp, action: deny, direction: egress, protocol: tcp, ports: [{denied}]}}
  - {{name: udp, action: deny, direction: egress, protocol: udp, ports: [{DENIED}]}}
endpoints:
  web1:
    attachments: [{{interface: web1}}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
"#
    )
}

/// Stops the switch's process for a while, so that answers stay out.
fn frozen(pid: u32, during: impl FnOnce()) {
    let signal = |name: &str| {
        let sent = Command::new("kill")
            .args([name, &pid.to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    };
    signal("-STOP");
    during();
    signal("-CONT");
}

#[test]
fn a_denied_port_that_was_allowed_for_a_moment_is_closed_when_status_says_so() {
    if !need_root("a_denied_port_that_was_allowed_for_a_moment_is_closed_when_status_says_so") {
        return;
    }
    let hosts = [("web1", 1), ("internet", 9)];
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &hosts, |config| {
        // No read-back comes to the rescue.
        config.resync_interval = Duration::from_secs(3600);
    });
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _mail = internet.tcp_echo(25).unwrap();
    let mut intent = rig.apply(&document("25"));
    assert!(!connects(web, v4(9, 25)));
    for _ in 0..5 {
        frozen(rig.sandbox.vswitchd_pid().unwrap(), || {
            rig.set(&document("80"));
            std::thread::sleep(Duration::from_millis(50));
            intent = rig.set(&document("25"));
            std::thread::sleep(Duration::from_millis(50));
        });
        rig.realized();
        rig.agrees(&intent);
        assert!(
            !connects(web, v4(9, 25)),
            "status says realized, and the denied port is open"
        );
    }
}

#[test]
fn a_port_that_is_plugged_in_again_keeps_its_policy_under_traffic() {
    if !need_root("a_port_that_is_plugged_in_again_keeps_its_policy_under_traffic") {
        return;
    }
    let hosts = [("web1", 1), ("internet", 9)];
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &hosts, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    rig.apply(&document("25"));
    let to = (internet, v4(9, 0).ip());
    let outcome = two_streams(web, to, [ALLOWED, DENIED], || {
        for round in 0..8 {
            rig.sandbox.unplug("web1").unwrap();
            // A policy change meets the port while it is away, or just back.
            if round % 2 == 0 {
                rig.set(&document(if round % 4 == 0 { "25, 465" } else { "25" }));
            }
            rig.sandbox.plug("web1").unwrap();
            if round % 2 == 1 {
                rig.set(&document(if round % 4 == 1 { "25, 587" } else { "25" }));
            }
            rig.realized();
        }
    })
    .unwrap();
    assert_eq!(outcome.leaked, 0, "a denied datagram passed");
    let after = two_streams(web, to, [ALLOWED, DENIED], || {
        std::thread::sleep(Duration::from_millis(500));
    })
    .unwrap();
    assert!(after.sent > 100 && after.arrived == after.sent, "{after:?}");
    assert_eq!(after.leaked, 0, "a denied datagram passed");
}
