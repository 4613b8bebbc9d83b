//! Changes of documents whose classes are encoded in one way before and in another one after: no packet meets a mix. The
//! documents are drawn so that the encoder changes its mind: prefixes, source ports, and a baseline that turns over.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use crate::rig;

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use portcullis_policy::Direction;
use rig::{Probe, Rig};

/// Two endpoints: `web` with these rules of its own, `mail` without any.
fn document(defaults: &str, baseline: &[String], own: &[String]) -> String {
    let list = |rules: &[String]| {
        let named = rules.iter().enumerate();
        named.fold(String::new(), |mut text, (n, rule)| {
            let _whole = write!(text, "{}{{name: r{n}, {rule}}}", if n == 0 { "" } else { ", " });
            text
        })
    };
    format!(
        r#"
version: portcullis/v1
defaults: {{{defaults}}}
baseline: [{}]
endpoints:
  web:
    attachments: [{{port: 1, target: tor}}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1]
    rules: [{}]
  mail:
    attachments: [{{port: 2, target: tor}}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.2]
"#,
        list(baseline),
        list(own)
    )
}

fn egress(remote: [u8; 4], source_port: u16, port: u16) -> Probe {
    Probe {
        endpoint: "web",
        direction: Direction::Egress,
        remote,
        protocol: 6,
        source_port,
        port,
    }
}

/// With two prefixes the cheapest way to write this class depends on the verdict of the baseline: prefixes as keys, or by
/// way of the `remote` stage. Both ways round: packets that both policies allow, and packets that both deny.
#[tokio::test]
async fn a_baseline_that_turns_over_beside_rules_with_two_prefixes_changes_nothing_else() {
    let mut rig = Rig::start().await;
    *rig.probes.lock().unwrap() = vec![
        egress([203, 0, 113, 153], 442, 2047),
        egress([203, 0, 113, 153], 46_300, 2047),
        egress([198, 51, 100, 9], 442, 2047),
        egress([198, 51, 100, 9], 46_300, 80),
        egress([5, 0, 0, 1], 442, 1024),
    ];
    for [prefixes, ports] in [["allow", "deny"], ["deny", "allow"]] {
        let own = [
            format!("action: {prefixes}, direction: egress, remote: [203.0.113.128/25, 0.0.0.0/9]"),
            format!("action: {ports}, direction: egress, protocol: tcp, source_ports: [\"46285-47308\"]"),
        ];
        for change in 0..6 {
            let action = ["allow", "deny"][change % 2];
            let baseline =
                format!("action: {action}, direction: egress, protocol: tcp, ports: [\"1024-2047\"]");
            rig.apply(&document("", &[baseline], &own)).await;
            rig.right();
        }
    }
}

/// Numbers that look random, and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

const PREFIXES: [&str; 4] = [
    "0.0.0.0/9",
    "203.0.113.0/24",
    "203.0.113.128/25",
    "198.51.100.0/24",
];
const RANGES: [&str; 5] = ["25", "1024-2047", "1500-9000", "46285-47308", "0-1023"];
const REMOTES: [[u8; 4]; 4] = [
    [5, 0, 0, 1],
    [203, 0, 113, 1],
    [203, 0, 113, 153],
    [198, 51, 100, 9],
];
const PORTS: [u16; 4] = [25, 442, 2047, 46_300];

/// Distinct members of a list, quoted.
fn some(random: &mut Random, of: &[&str], count: u64) -> String {
    let from = random.below(of.len() as u64);
    let picked = (0..count).map(|n| format!("\"{}\"", of[((from + n) % of.len() as u64) as usize]));
    picked.collect::<Vec<_>>().join(", ")
}

/// A rule of its own: prefixes, or source ports, or both.
fn own_rule(random: &mut Random, direction: Direction) -> String {
    let action = random.pick(&["allow", "deny"]);
    let mut rule = format!("action: {action}, direction: {direction}");
    let kind = random.below(3);
    if kind != 0 {
        let count = 2 + random.below(2);
        let _whole = write!(rule, ", remote: [{}]", some(random, &PREFIXES, count));
    }
    if kind != 1 {
        let _whole = write!(
            rule,
            ", protocol: tcp, source_ports: [{}]",
            some(random, &RANGES, 1)
        );
    }
    rule
}

/// A rule for everybody, without prefixes: the sort that is edited in place.
fn common_rule(random: &mut Random, direction: Direction) -> String {
    let (action, count) = (random.pick(&["allow", "deny"]), 1 + random.below(2));
    let ports = some(random, &RANGES, count);
    format!("action: {action}, direction: {direction}, protocol: tcp, ports: [{ports}]")
}

fn probes(direction: Direction) -> Vec<Probe> {
    let mut probes = Vec::new();
    for remote in REMOTES {
        for (source_port, port) in PORTS.iter().flat_map(|s| PORTS.map(|p| (*s, p))) {
            probes.push(Probe {
                endpoint: "web",
                direction,
                remote,
                protocol: 6,
                source_port,
                port,
            });
        }
    }
    probes
}

/// Rules for everybody that change beside rules of one endpoint. `PORTCULLIS_MIXES` for more. That the documents are such as
/// to make the encoder change its mind is asserted, too: otherwise they would show nothing.
#[tokio::test]
async fn whatever_changes_no_packet_meets_a_mix() {
    let count: u64 = std::env::var("PORTCULLIS_MIXES").map_or(48, |n| n.parse().unwrap());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut rig = Rig::start().await;
    let mut own: Vec<String> = Vec::new();
    let (mut direction, mut anew, mut kept) = (Direction::Egress, 0, 0);
    for change in 0..count {
        rig.server
            .faults()
            .reversed
            .store(change % 3 == 1, Ordering::Relaxed);
        let fresh = change % 8 == 0;
        if fresh {
            direction = Direction::BOTH[(change / 8 % 2) as usize];
            own = (0..2).map(|_| own_rule(&mut random, direction)).collect();
            *rig.probes.lock().unwrap() = probes(direction);
        }
        let count = 1 + random.below(2);
        let baseline: Vec<String> = (0..count).map(|_| common_rule(&mut random, direction)).collect();
        let before = rig.class("web", direction);
        let yaml = document("", &baseline, &own);
        rig.apply(&yaml).await;
        match (rig.class("web", direction) == before, fresh) {
            (true, false) => kept += 1,
            (false, false) => anew += 1,
            _ => {}
        }
        assert_eq!(
            rig.server.broken(),
            Vec::<String>::new(),
            "change {change} to {yaml}"
        );
        rig.right();
    }
    println!("{kept} of {count} changes edited the class in place, {anew} made it anew");
    assert!(kept > 0 && anew > 0, "{kept} {anew}");
}
