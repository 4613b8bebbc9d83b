//! Unlocks end on the real switch when no agent is there to close them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_backend::EnforcingRow;
use portcullis_ovs::tables::Table;
use portcullis_policy::{Direction, Document, Grant, GrantKind, Rule, Verdict};
use portcullis_testbed::probe::{TcpOutcome, tcp_echo};
use portcullis_testbed::{NetnsHost, SandboxOptions, need_root};
use rig::{Rig, connects, v4};

const BASE: &str = r#"
version: portcullis/v1
baseline:
  - {name: mail, action: deny, direction: egress, protocol: tcp, ports: [25, 587]}
  - {name: inside, action: deny, direction: ingress, protocol: tcp, ports: [2222]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
"#;

const HOSTS: [(&str, u8); 2] = [("web1", 1), ("internet", 9)];

/// No packet passes so long after the end: the switch looks for rows to expire about once a second, and its caches
/// follow within another.
const LATEST: Duration = Duration::from_secs(8);

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn opening(direction: Direction, port: u16) -> Rule {
    let yaml = format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: open, action: allow, direction: {direction}, protocol: tcp, \
         ports: [{port}]}}\n"
    );
    let rule = Document::from_yaml(&yaml).unwrap().baseline[0].clone();
    assert_eq!(rule.action, Verdict::Allow);
    rule
}

fn grant(number: u32, rules: Vec<Rule>, ends: u64) -> Grant {
    Grant {
        unlock: format!("u{number}").parse().unwrap(),
        program: "mail".parse().unwrap(),
        rules,
        kind: GrantKind::Unlock,
        ends,
    }
}

/// The base with SMTP open until `first`, submission and an inner port until `second`.
fn unlocked(first: u64, second: u64) -> Document {
    let mut document = Document::from_yaml(BASE).unwrap();
    let grants = vec![
        grant(1, vec![opening(Direction::Egress, 25)], first),
        grant(
            2,
            vec![opening(Direction::Egress, 587), opening(Direction::Ingress, 2222)],
            second,
        ),
    ];
    document.grants.insert("web1".parse().unwrap(), Arc::new(grants));
    document
}

fn open(from: &NetnsHost, n: u8, port: u16) -> TcpStream {
    match from
        .tcp_connect(v4(n, port), Duration::from_millis(2500))
        .unwrap()
    {
        TcpOutcome::Open(stream) => stream,
        other => panic!("{port} is {}", other.word()),
    }
}

/// Sends until nothing comes back any more.
fn until_cut(stream: &mut TcpStream, end: Duration) {
    let mut last = None;
    loop {
        let sent = wall();
        assert!(
            sent < end + LATEST,
            "a connection passes {:?} after its end",
            sent - end
        );
        if !tcp_echo(stream, b"still here", Duration::from_secs(1)).unwrap() {
            break;
        }
        last = Some(sent);
        std::thread::sleep(Duration::from_millis(50));
    }
    if let Some(last) = last {
        println!(
            "passed last {:.3} s after its end",
            last.as_secs_f64() - end.as_secs_f64()
        );
    }
}

/// The rows that decide about TCP to a port, as the backend finds them.
fn explained(rig: &Rig, port: u16) -> Vec<EnforcingRow> {
    let trace = rig::egress_tcp("web1", port);
    rig.runtime.block_on(rig.target.explain(trace)).unwrap()
}

/// Rows that end by themselves. Rows that teach MACs have a timeout in their actions.
fn timed(rig: &Rig) -> Vec<String> {
    let ends = |row: &String| {
        let (own, _) = row.split_once(" actions=").unwrap();
        own.contains("hard_timeout=")
    };
    rig.flows().into_iter().filter(ends).collect()
}

fn apply(rig: &mut Rig, document: &Document) {
    rig.set_document(document);
    rig.realized();
}

#[test]
fn a_dead_agents_unlocks_end_by_themselves() {
    if !need_root("a_dead_agents_unlocks_end_by_themselves") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = [25, 587, 80].map(|port| internet.tcp_echo(port).unwrap());
    let _inside = web.tcp_echo(2222).unwrap();
    rig.apply(BASE);
    assert!(connects(web, v4(9, 80)) && !connects(web, v4(9, 25)));

    let now = wall().as_secs();
    let (first, second) = (now + 8, now + 22);
    apply(&mut rig, &unlocked(first, second));
    rig.stop_agent();
    assert_eq!(
        timed(&rig).len(),
        5,
        "two ends by two ways to be tagged, and one of the other direction"
    );
    let mut smtp = open(web, 9, 25);
    let mut submission = open(web, 9, 587);
    let mut inner = open(internet, 1, 2222);
    for stream in [&mut smtp, &mut submission, &mut inner] {
        assert!(tcp_echo(stream, b"before the end", Duration::from_secs(2)).unwrap());
    }
    assert!(
        wall().as_secs() < first,
        "this machine is too slow to see anything"
    );

    let (first, second) = (Duration::from_secs(first), Duration::from_secs(second));
    until_cut(&mut smtp, first);
    assert!(!connects(web, v4(9, 25)), "a new connection after the end");
    if wall() + Duration::from_secs(7) < second {
        assert!(connects(web, v4(9, 587)) && connects(internet, v4(1, 2222)));
    }
    for stream in [&mut submission, &mut inner] {
        until_cut(stream, second);
    }
    for (from, to) in [(web, v4(9, 25)), (web, v4(9, 587)), (internet, v4(1, 2222))] {
        assert!(!connects(from, to), "{to} is open after its end");
    }
    assert!(connects(web, v4(9, 80)), "what the base policy allows");
    assert_eq!(timed(&rig), Vec::<String>::new());

    // The agent's next start finds what it wants: the classes that nothing leads to go, and no packet meets another verdict.
    rig.restart_agent();
    apply(&mut rig, &Document::from_yaml(BASE).unwrap());
    assert_eq!(rig.target.status().drift_repaired, 0);
    assert!(!connects(web, v4(9, 25)) && connects(web, v4(9, 80)));
}

#[test]
fn an_agent_that_comes_back_changes_no_row_and_closes_on_time() {
    if !need_root("an_agent_that_comes_back_changes_no_row_and_closes_on_time") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = [25, 587].map(|port| internet.tcp_echo(port).unwrap());
    rig.apply(BASE);
    let now = wall().as_secs();
    let (first, second) = (now + 10, now + 20);
    let document = unlocked(first, second);
    apply(&mut rig, &document);
    let rows = rig.flows();
    let again = |rig: &mut Rig| {
        rig.generation -= 1;
        apply(rig, &document);
        rig.target.status().writes
    };
    rig.restart_agent();
    let written = again(&mut rig);
    if wall().as_secs() + 2 < first {
        assert_eq!(written, [0; 3]);
        assert_eq!(rig.flows(), rows);
    }
    rig.stop_agent();
    let mut smtp = open(web, 9, 25);
    let mut submission = open(web, 9, 587);
    until_cut(&mut smtp, Duration::from_secs(first));
    // What is left of the stack is right, whether or not the agent knows yet that an unlock has ended.
    while wall() < Duration::from_secs(first) + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(100));
    }
    rig.restart_agent();
    let written = again(&mut rig);
    assert_eq!(written[0], 0, "nothing is opened again");
    assert_eq!(written[1], 0);
    // It closes the rest itself, and then the intent says the same.
    until_cut(&mut submission, Duration::from_secs(second));
    rig.set_document(&Document::from_yaml(BASE).unwrap());
    rig.realized();
    assert_eq!(timed(&rig), Vec::<String>::new());
    let status = rig.target.status();
    assert_eq!(status.drift_repaired, 0, "{status:#?}");
    assert!(!connects(web, v4(9, 25)) && !connects(web, v4(9, 587)));
}

#[test]
fn far_ends_are_written_for_as_long_as_rows_last() {
    if !need_root("far_ends_are_written_for_as_long_as_rows_last") {
        return;
    }
    let (mut rig, _hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let now = wall().as_secs();
    let document = unlocked(now + 3_000, now + 9_000_000);
    apply(&mut rig, &document);
    let rows = timed(&rig);
    assert_eq!(rows.len(), 5, "{rows:#?}");
    assert_eq!(
        rows.iter().filter(|r| r.contains("hard_timeout=65535,")).count(),
        3
    );
    // What decides now is the top of the stack; and what holds in the end is at its bottom.
    let attach = |rows: &[EnforcingRow]| -> Vec<String> {
        let of = rows.iter().filter(|r| r.table == "attach" && r.present);
        of.map(|r| r.row.clone()).collect()
    };
    let rows = attach(&explained(&rig, 25));
    assert!(
        rows.len() == 2
            && rows
                .iter()
                .all(|r| r.contains("priority=20549") && r.contains(" s left)")),
        "{rows:#?}"
    );
    let before = rig.flows();
    rig.restart_agent();
    rig.generation -= 1;
    apply(&mut rig, &document);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(rig.target.status().writes, [0; 3]);
    assert_eq!(rig.flows(), before);

    // A lease is renewed: two rows last longer, and nothing else is written.
    apply(&mut rig, &unlocked(now + 4_000, now + 9_000_000));
    assert_eq!(rig.target.status().writes, [0, 2, 0]);
    assert_eq!(rig.target.status().drift_repaired, 0);
    let renewed = |r: &&String| (3_500..=4_000).any(|s| r.contains(&format!("hard_timeout={s},")));
    assert_eq!(timed(&rig).iter().filter(renewed).count(), 2);

    // Somebody makes a row last for ever.
    let [deliver, remote] = [Table::Deliver, Table::IngressRemote].map(rig::number);
    let top =
        format!("table={deliver},priority=101,reg3=1,cookie=0x5043000000000001,actions=goto_table:{remote}");
    let in_deliver = format!("table={deliver},");
    let bridge = rig.bridge();
    let rows = timed(&rig);
    let deliver = rows.iter().find(|r| r.contains(&in_deliver)).unwrap();
    let port = deliver
        .split("reg3=")
        .nth(1)
        .unwrap()
        .split([' ', ','])
        .next()
        .unwrap();
    let top = top.replace("reg3=1", &format!("reg3={port}"));
    rig.sandbox
        .ofctl(["-O", "OpenFlow15", "add-flow", &bridge, &top])
        .unwrap();
    rig.until("repaired", |s| {
        s.drift_repaired == 1 && s.state == portcullis_backend::SessionState::InSync
    });
    let repaired = timed(&rig);
    assert!(
        repaired
            .iter()
            .any(|r| r.contains(&in_deliver) && r.contains("hard_timeout=65535,")),
        "{repaired:#?}"
    );
}
