//! Under continuous traffic policy changes 1,000 times: what is denied never passes, what is allowed is not lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_testbed::{NetnsHost, SandboxOptions, need_root};
use rig::{Rig, v4};

const CHANGES: u64 = 1000;
const ALLOWED: u16 = 7000;
const DENIED: u16 = 25;
/// Between two datagrams of a flow.
const PACE: Duration = Duration::from_micros(500);

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

/// Sends numbered datagrams to both ports until told to stop; returns how many of each.
fn send(web: &NetnsHost, stop: &AtomicBool, sent: &AtomicU64) -> u64 {
    let socket = web.udp_socket(0).unwrap();
    let mut n = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for port in [ALLOWED, DENIED] {
            socket.send_to(&n.to_be_bytes(), v4(9, port)).unwrap();
        }
        n += 1;
        sent.store(n, Ordering::Relaxed);
        std::thread::sleep(PACE);
    }
    n
}

struct Outcome {
    sent: u64,
    arrived: u64,
    leaked: usize,
}

fn traffic(web: &NetnsHost, internet: &NetnsHost, during: impl FnOnce()) -> Outcome {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let receivers = [ALLOWED, DENIED].map(|port| {
        let socket = internet.udp_socket(port).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    });
    std::thread::scope(|scope| {
        let [allowed, denied] = &receivers;
        let stop = &stop;
        let collect = |socket: &std::net::UdpSocket| {
            let mut seen = HashSet::new();
            let mut buffer = [0u8; 64];
            let mut quiet = 0;
            // Drained until nothing has come for a second after the sender stopped.
            while quiet < 5 || !stop.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(8) => {
                        quiet = 0;
                        seen.insert(u64::from_be_bytes(buffer[..8].try_into().unwrap()));
                    }
                    _ => quiet += 1,
                }
            }
            seen
        };
        let allowed = scope.spawn(move || collect(allowed));
        let denied = scope.spawn(move || collect(denied));
        let sender = scope.spawn(|| send(web, stop, &sent));
        during();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap();
        Outcome {
            sent,
            arrived: allowed.join().unwrap().len() as u64,
            leaked: denied.join().unwrap().len(),
        }
    })
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
    let _warm = traffic(web, internet, || std::thread::sleep(Duration::from_millis(500)));

    let began = Instant::now();
    let changed = traffic(web, internet, || {
        for round in 1..=CHANGES {
            rig.apply(&document(round));
        }
    });
    let took = began.elapsed();
    // The same time without a change: what this machine loses by itself.
    let quiet = traffic(web, internet, || {
        std::thread::sleep(took.min(Duration::from_secs(20)))
    });
    println!(
        "{CHANGES} changes in {took:?}: sent {} arrived {} leaked {}; without changes: sent {} arrived {} leaked {}",
        changed.sent, changed.arrived, changed.leaked, quiet.sent, quiet.arrived, quiet.leaked
    );
    assert!(changed.sent > 1000 && quiet.sent > 1000, "there was traffic");
    assert_eq!(changed.leaked + quiet.leaked, 0, "a denied datagram passed");
    let own = (quiet.sent - quiet.arrived) * changed.sent / quiet.sent;
    let lost = changed.sent - changed.arrived;
    assert!(
        lost <= own,
        "{lost} allowed datagrams lost, {own} would be without changes"
    );
}
