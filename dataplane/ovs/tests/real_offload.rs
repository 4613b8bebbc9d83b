//! Which cached flows are known by rule, and what carries them out, on a real bridge.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use portcullis_backend::{Carried, Offload, Outcome};
use portcullis_testbed::{NetnsHost, SandboxOptions, need_root};

use crate::rig::{PATIENCE, Rig, connects, v4};

const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
endpoints:
  web1: {attachments: [{interface: web1}]}
"#;

fn cached(rig: &Rig) -> Offload {
    let end = Instant::now() + PATIENCE;
    loop {
        // Not while the rows are being read back.
        match rig.runtime.block_on(rig.target.offload()) {
            Ok(offload) => return offload,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The flows of a rule.
fn of_rule(offload: &Offload, rule: &str) -> Carried {
    let mut sum = Carried::default();
    for found in offload.rules.iter().filter(|found| found.rule.rule == rule) {
        sum += found.flows;
    }
    sum
}

/// Connects to an open port and to a closed one, until their flows are cached; what is known of them.
fn after_connecting(rig: &Rig, web1: &NetnsHost) -> Offload {
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(connects(web1, v4(9, 80)));
        assert!(!connects(web1, v4(9, 25)));
        let offload = cached(rig);
        let seen = |rule| of_rule(&offload, rule).total() > 0;
        if seen("baseline/smtp") && seen("default/egress") {
            return offload;
        }
        assert!(Instant::now() < end, "{offload:#?}");
    }
}

#[test]
fn cached_flows_are_known_by_rule() {
    if !need_root("cached_flows_are_known_by_rule") {
        return;
    }
    let options = SandboxOptions::default();
    let kernel = options.kernel;
    let (mut rig, hosts) = Rig::start(options, &[("web1", 1), ("internet", 9)], |_| {});
    rig.apply(DOCUMENT);
    let _service = hosts[1].tcp_echo(80).unwrap();
    let offload = after_connecting(&rig, &hosts[0]);
    assert!(!offload.is_on && offload.unknown.is_empty(), "{offload:#?}");
    for rule in ["baseline/smtp", "default/egress"] {
        let flows = of_rule(&offload, rule);
        assert_eq!(flows.software, flows.total(), "{rule}: {flows:?}");
    }
    let checks = rig.runtime.block_on(rig.target.checkup()).unwrap();
    let how = |name: &str| {
        checks
            .iter()
            .find(|check| check.name == name)
            .map(|check| &check.outcome)
    };
    assert!(
        matches!(how("flow limit"), Some(Outcome::Fine(text)) if text.contains("flows are cached")),
        "{checks:#?}"
    );
    assert!(matches!(how("fail mode"), Some(Outcome::Fine(_))), "{checks:#?}");
    assert_eq!(how("polling cores").is_some(), !kernel, "{checks:#?}");
    if !kernel {
        return;
    }
    // The kernel's tc takes the flows in software: a pair of virtual interfaces has no hardware.
    let set = ["set", "Open_vSwitch", ".", "other_config:hw-offload=true"];
    rig.sandbox.vsctl(set).unwrap();
    rig.sandbox.restart_vswitchd().unwrap();
    rig.realized();
    let offload = after_connecting(&rig, &hosts[0]);
    assert!(offload.is_on && offload.unknown.is_empty(), "{offload:#?}");
    let denied = of_rule(&offload, "baseline/smtp");
    assert!(denied.tc > 0 && denied.hardware == 0, "{offload:#?}");
}
