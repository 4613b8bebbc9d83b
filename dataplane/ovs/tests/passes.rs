//! The read-back in pieces: it finds what a read-back at once finds, and no change waits for more than a piece.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::memory;

use std::collections::BTreeSet;
use std::time::Duration;

use memory::{Agent, Switch};
use portcullis_backend::SessionState;
use portcullis_openflow::{FlowMod, Instruction, Match};
use portcullis_ovs::regs;
use portcullis_ovs::tables::Table;
use portcullis_policy::Document;

/// Denies ports that have little in common: a row for nearly each.
fn document(ports: usize, seed: u64) -> Document {
    let mut seed = seed;
    let mut chosen = BTreeSet::new();
    while chosen.len() < ports {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        chosen.insert((seed >> 40) as u16 | 1);
    }
    let list: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    let yaml = format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: many, action: deny, direction: egress, protocol: tcp, ports: [{}]}}\n\
         endpoints:\n  web1: {{attachments: [{{interface: web1}}]}}\n",
        list.join(", ")
    );
    Document::from_yaml(&yaml).unwrap()
}

fn filled(document: &Document) -> (Agent, Switch) {
    let mut switch = Switch::at(Duration::from_secs(1_800_000_000));
    let mut agent = Agent::new(document);
    agent.connect(&mut switch);
    assert_eq!(agent.state(), SessionState::InSync);
    (agent, switch)
}

#[test]
fn what_others_did_is_found_in_pieces() {
    let (mut agent, mut switch) = filled(&document(3000, 1));
    let rows = switch.cookies();
    assert!(rows.len() > 2100, "several pieces: {}", rows.len());
    agent.read_back(&mut switch);
    assert_eq!((agent.drift, agent.writes()[1..].to_vec()), (0, vec![0, 0]));
    let table = Table::EgressPolicy as u8;
    switch.disturb(table, |number, row| {
        if number % 100 == 1 {
            row.instructions = vec![Instruction::GotoTable(200)];
        }
        number % 100 != 0
    });
    switch.put(FlowMod {
        table_id: table,
        priority: 9,
        cookie: regs::cookie(0x5043, 3),
        match_: Match::new(),
        ..FlowMod::default()
    });
    let foreign = FlowMod {
        table_id: table,
        priority: 10,
        cookie: 7,
        match_: Match::new(),
        ..FlowMod::default()
    };
    switch.put(foreign.clone());
    let before = agent.writes();
    agent.read_back(&mut switch);
    let after = agent.writes();
    let done: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    assert_eq!(agent.drift as u64, done.iter().sum::<u64>());
    assert!(done[0] > 20 && done[1] > 20 && done[2] == 1, "{done:?}");
    assert_eq!((agent.state(), agent.foreign()), (SessionState::InSync, 1));
    let mut expected = rows;
    expected.push((table, foreign.cookie));
    expected.sort_unstable();
    let mut found = switch.cookies();
    found.sort_unstable();
    assert_eq!(found, expected);
    agent.read_back(&mut switch);
    assert_eq!(agent.writes(), after);
}

#[test]
fn a_change_waits_for_one_piece_and_is_no_drift() {
    for pieces in [1, 2, 3, 5, 8, 11] {
        let (mut agent, mut switch) = filled(&document(3000, 1));
        let sent = agent.change_while_reading(&mut switch, pieces, &document(3000, 2));
        let first = sent.iter().position(|kind| *kind == "commit").unwrap();
        let reads = sent[..first].iter().filter(|kind| **kind == "read").count();
        assert!(reads <= 4, "after {pieces} pieces: {sent:?}");
        assert!(sent[first..].contains(&"read"), "the pass went on: {sent:?}");
        assert_eq!(
            (agent.drift, agent.state()),
            (0, SessionState::InSync),
            "{pieces}"
        );
        agent.read_back(&mut switch);
        assert_eq!(
            (agent.drift, agent.state()),
            (0, SessionState::InSync),
            "{pieces}"
        );
    }
}
