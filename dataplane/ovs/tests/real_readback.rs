//! With thousands of rows, changes go on while the rows are read back. Prints how long changes took, with read-backs once a
//! second and without. `PORTCULLIS_READBACK_PORTS` sets the number of ports, 4 by default: each has about 3,000 rows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use portcullis_backend::SessionState;
use portcullis_testbed::{SandboxOptions, need_root};
use rig::Rig;

/// Rules of each port, whose policies share nothing.
const RULES: usize = 1500;
const CHANGES: u64 = 40;

/// Ports of the switch with a policy of their own.
fn ports() -> u32 {
    let setting = std::env::var("PORTCULLIS_READBACK_PORTS").ok();
    setting.map_or(4, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("PORTCULLIS_READBACK_PORTS is {text}: not a number"))
    })
}

fn document(ports: u32, round: u64) -> String {
    let mut yaml = String::from("version: portcullis/v1\nendpoints:\n");
    for port in 1..=ports {
        let mut seed = u64::from(port);
        let mut chosen = BTreeSet::new();
        while chosen.len() < RULES {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            chosen.insert(((seed >> 40) as u16) | 1);
        }
        let list: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        let _infallible = write!(
            yaml,
            "  e{port}:\n    attachments: [{{interface: dummy{port}}}]\n    rules:\n      - {{name: many, action: deny, \
             direction: egress, protocol: tcp, ports: [{}]}}\n",
            list.join(", ")
        );
    }
    // What changes: one more endpoint, with a rule that nobody else has.
    let _infallible = write!(
        yaml,
        "  changing:\n    attachments: [{{interface: dummy{}}}]\n    rules:\n      - {{name: one, action: deny, direction: \
         egress, protocol: udp, ports: [{}]}}\n",
        ports + 1,
        1000 + round
    );
    yaml
}

/// Makes changes; the microseconds until each was confirmed, in order of length.
fn changes(rig: &mut Rig, ports: u32, first: u64) -> Vec<u128> {
    let mut took = Vec::new();
    for round in first..first + CHANGES {
        let began = Instant::now();
        rig.set(&document(ports, round));
        let set = began.elapsed();
        while rig.target.status().confirmed < rig.generation {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{:#?}",
                rig.target.status()
            );
            std::thread::sleep(Duration::from_micros(500));
        }
        took.push((began.elapsed() - set).as_micros());
        std::thread::sleep(Duration::from_millis(20));
    }
    took.sort_unstable();
    took
}

/// Measures with read-backs so far apart; the rows that were there.
fn measured(interval: Duration) -> u64 {
    let ports = ports();
    let options = SandboxOptions {
        dummy: true,
        ..SandboxOptions::default()
    };
    let (mut rig, _hosts) = Rig::start(options, &[], |config| config.resync_interval = interval);
    rig.sandbox.add_dummy_ports(1..=ports + 1).unwrap();
    rig.set(&document(ports, 0));
    let end = Instant::now() + Duration::from_secs(300);
    while rig.target.status().applied < rig.generation {
        assert!(Instant::now() < end, "{:#?}", rig.target.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    let rows: u64 = rig.target.status().tables.iter().map(|t| t.rows).sum();
    let took = changes(&mut rig, ports, 1);
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    println!(
        "{rows} rows, read back every {interval:?}, {CHANGES} changes: to confirmed, in microseconds: p50 {} p90 {} p99 {} \
         max {}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
    rig.until("in sync", |s| s.state == SessionState::InSync);
    assert_eq!(rig.target.status().drift_repaired, 0);
    let ours = rig
        .flows()
        .iter()
        .filter(|f| f.starts_with("cookie=0x5043"))
        .count();
    assert_eq!(ours as u64, rows);
    rows
}

#[test]
fn changes_go_on_while_many_rows_are_read_back() {
    if !need_root("changes_go_on_while_many_rows_are_read_back") {
        return;
    }
    let rows = measured(Duration::from_secs(1));
    assert_eq!(measured(Duration::from_secs(3_600)), rows);
}
