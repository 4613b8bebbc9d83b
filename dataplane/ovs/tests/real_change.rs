//! Under continuous traffic policy changes 1,000 times: what is denied never passes, what is allowed is not lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::time::{Duration, Instant};

use portcullis_testbed::stream::{Outcome, two_streams};
use portcullis_testbed::{SandboxOptions, need_root};
use rig::{Rig, v4};

const CHANGES: u64 = 1000;
const ALLOWED: u16 = 7000;
const DENIED: u16 = 25;

/// The two flows keep their verdicts; everything around them changes: other ports of the same class, another
/// profile, endpoints that come and go.
fn document(round: u64) -> String {
    let port = 10000 + (round % 500) * 2;
    let extra = if round.is_multiple_of(3) {
        "    profiles: [extra]\n"
    } else {
        ""
    };
    let other = if round.is_multiple_of(2) {
        "  other:\n    attachments: [{interface: other}]\n    macs: [\"02:00:00:00:00:05\"]\n"
    } else {
        ""
    };
    format!(
        r#"
version: portcullis/v1
baseline:
  - {{name: denied, action: deny, direction: egress, protocol: udp, ports: [{DENIED}]}}
  - {{name: churn, action: deny, direction: egress, protocol: udp, ports: ["{port}-{}"]}}
profiles:
  extra:
    rules:
      - {{name: more, action: deny, direction: egress, protocol: tcp, ports: [{port}]}}
endpoints:
  web1:
    attachments: [{{interface: web1}}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
{extra}{other}"#,
        port + 100
    )
}

#[test]
fn a_thousand_changes_under_traffic() {
    if !need_root("a_thousand_changes_under_traffic") {
        return;
    }
    let hosts = [("web1", 1), ("other", 5), ("internet", 9)];
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &hosts, |_| {});
    let [web, _, internet] = hosts.as_slice() else {
        panic!("three hosts")
    };
    rig.apply(&document(0));
    // Neighbours are known before counting begins.
    let traffic = |during: &mut dyn FnMut()| -> Outcome {
        let to = (internet, v4(9, 0).ip());
        two_streams(web, to, [ALLOWED, DENIED], during).unwrap()
    };
    traffic(&mut || std::thread::sleep(Duration::from_millis(500)));

    let began = Instant::now();
    let changed = traffic(&mut || {
        for round in 1..=CHANGES {
            let intent = rig.set(&document(round));
            rig.realized();
            if round.is_multiple_of(100) {
                rig.agrees(&intent);
            }
        }
    });
    println!(
        "{CHANGES} changes in {:?}: sent {} arrived {} leaked {}",
        began.elapsed(),
        changed.sent,
        changed.arrived,
        changed.leaked
    );
    assert!(changed.sent > 1000, "there was traffic");
    assert_eq!(changed.leaked, 0, "a denied datagram passed");
    assert_eq!(changed.arrived, changed.sent, "an allowed datagram was lost");
}
