//! The story of the demo on a real OVS-DPDK bridge: real connections over IPv4 and IPv6.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_testbed::probe::UdpOutcome;
use portcullis_testbed::{NetnsHost, SandboxOptions, need_root};
use rig::{Rig, connects, v4, v6};
use std::time::Duration;

const BASELINE: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25], reason: "spam"}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
  mail1:
    attachments: [{interface: mail1}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.2, "2001:db8::2"]
"#;

const WEB: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25], reason: "spam"}
profiles:
  web:
    default: {ingress: deny}
    rules:
      - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443]}
      - {name: rtp, action: allow, direction: ingress, protocol: udp, ports: ["10000-20000"]}
      - {name: out, action: allow, direction: egress, protocol: tcp, ports: [443]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    profiles: [web]
  mail1:
    attachments: [{interface: mail1}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.2, "2001:db8::2"]
    rules:
      - {name: unlock-smtp, action: allow, direction: egress, protocol: tcp, ports: [25]}
"#;

fn both(from: &NetnsHost, n: u8, port: u16) -> [bool; 2] {
    [connects(from, v4(n, port)), connects(from, v6(n, port))]
}

#[test]
fn blocked_by_default_provisioned_and_unblocked() {
    if !need_root("blocked_by_default_provisioned_and_unblocked") {
        return;
    }
    let (mut rig, hosts) = Rig::start(
        SandboxOptions::default(),
        &[("web1", 1), ("mail1", 2), ("internet", 9)],
        |_| {},
    );
    let [web, mail, internet] = hosts.as_slice() else {
        panic!("three hosts")
    };
    let _serving: Vec<_> = [25, 80, 443, 22]
        .map(|p| (internet.tcp_echo(p).unwrap(), web.tcp_echo(p).unwrap()))
        .into();
    let _udp = (
        web.udp_echo(10000).unwrap(),
        web.udp_echo(9999).unwrap(),
        internet.udp_echo(53).unwrap(),
    );

    rig.apply(BASELINE);
    for host in [web, mail] {
        assert_eq!(both(host, 9, 25), [false; 2], "{} reaches port 25", host.name());
        assert_eq!(
            both(host, 9, 80),
            [true; 2],
            "{} does not reach port 80",
            host.name()
        );
    }
    assert_eq!(both(internet, 1, 22), [true; 2], "ingress is open by default");
    assert_eq!(both(mail, 1, 80), [true; 2], "between endpoints");

    rig.apply(WEB);
    assert_eq!(both(internet, 1, 80), [true; 2]);
    assert_eq!(both(internet, 1, 443), [true; 2]);
    assert_eq!(both(internet, 1, 22), [false; 2]);
    assert_eq!(
        both(mail, 1, 22),
        [false; 2],
        "the receiver's policy holds between endpoints too"
    );
    assert_eq!(
        both(web, 9, 443),
        [true; 2],
        "replies to what egress rules allow come back"
    );
    assert_eq!(
        both(web, 9, 80),
        [true; 2],
        "and over TCP those to what is sent by default"
    );
    let unanswered = web
        .udp_ask(v4(9, 53), b"ping", Duration::from_millis(500))
        .unwrap();
    assert!(
        !matches!(unanswered, UdpOutcome::Answered(_)),
        "no rule names UDP: {unanswered:?}"
    );
    assert_eq!(both(web, 9, 25), [false; 2]);
    assert_eq!(both(mail, 9, 25), [true; 2]);
    let asked = |to| {
        internet
            .udp_ask(to, b"ping", Duration::from_millis(2500))
            .unwrap()
    };
    assert!(
        matches!(asked(v4(1, 10000)), UdpOutcome::Answered(_)),
        "{:?}",
        asked(v4(1, 10000))
    );
    assert!(matches!(asked(v6(1, 10000)), UdpOutcome::Answered(_)));
    assert!(!matches!(asked(v4(1, 9999)), UdpOutcome::Answered(_)));

    let hits = rig.runtime.block_on(rig.target.hits()).unwrap();
    let packets = |rule: &str, action: &str| -> u64 {
        hits.iter()
            .filter(|h| h.rule == rule && h.action == action)
            .map(|h| h.packets)
            .sum()
    };
    assert!(packets("baseline/smtp", "deny") > 0, "{hits:#?}");
    assert!(packets("profiles/web/http", "allow") > 0, "{hits:#?}");

    let before = rig.flows();
    rig.restart_agent();
    let yaml = WEB;
    rig.generation -= 1;
    rig.apply(yaml);
    assert_eq!(rig.flows(), before, "a restart of the agent changes no row");
    assert_eq!(rig.target.status().writes, [0, 0, 0]);
}
