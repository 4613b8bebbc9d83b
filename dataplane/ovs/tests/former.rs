//! `first_table` or `cookie` changed: the rows written before go when the new ones are in force, and no others do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::memory;

use std::collections::BTreeSet;
use std::time::Duration;

use memory::{Agent, Switch, pipeline};
use portcullis_backend::SessionState;
use portcullis_openflow::{FlowMod, Match};
use portcullis_ovs::regs;
use portcullis_policy::Document;

const TAG: u16 = 0x5043;
const OTHER: u16 = 0x7777;

fn document() -> Document {
    let yaml = "version: portcullis/v1\nbaseline:\n  - {name: smtp, action: deny, direction: egress, protocol: tcp, \
                ports: [25]}\nendpoints:\n  web1: {attachments: [{interface: web1}]}\n";
    Document::from_yaml(yaml).unwrap()
}

/// A switch as an agent with other settings left it, with another agent's rows in two tables.
fn left_by(first: u8, tag: u16) -> Switch {
    let mut switch = Switch::at(Duration::from_secs(1_800_000_000));
    Agent::with(&document(), pipeline(first, tag), &[]).connect(&mut switch);
    for table_id in [0, 40] {
        switch.put(FlowMod {
            table_id,
            priority: 77,
            cookie: regs::cookie(OTHER, 1),
            match_: Match::new(),
            ..FlowMod::default()
        });
    }
    switch
}

fn tags(switch: &Switch) -> BTreeSet<(u8, u16)> {
    switch
        .cookies()
        .into_iter()
        .map(|(table, cookie)| (table, regs::tag(cookie)))
        .collect()
}

/// What is there when everything was written by one agent with these settings.
fn expected(first: u8, tag: u16) -> BTreeSet<(u8, u16)> {
    tags(&left_by(first, tag))
}

#[test]
fn rows_under_a_former_tag_are_written_again_and_none_is_left() {
    let mut switch = left_by(0, 0x1111);
    let count = switch.cookies().len();
    let mut agent = Agent::with(&document(), pipeline(0, TAG), &[pipeline(0, 0x1111).footprint()]);
    agent.connect(&mut switch);
    assert_eq!(agent.state(), SessionState::InSync);
    assert_eq!(tags(&switch), expected(0, TAG));
    assert_eq!(switch.cookies().len(), count);
    let [added, changed, deleted] = agent.writes();
    assert_eq!((added, deleted), (0, 0), "in their place");
    assert_eq!(changed as usize, count - 2);
    assert_eq!(
        (agent.left_over(), agent.removed.as_slice()),
        (0, [0].as_slice()),
        "and forgotten"
    );
}

#[test]
fn another_agents_tag_is_left_alone() {
    // The same rows, and nothing recorded: they are another agent's.
    let mut switch = left_by(0, 0x1111);
    let before = tags(&switch);
    Agent::with(&document(), pipeline(20, TAG), &[]).connect(&mut switch);
    assert!(tags(&switch).is_superset(&before));
    assert_eq!(opens(&switch), "closed");
}

fn opens(switch: &Switch) -> &'static str {
    if switch.opens(25).is_empty() {
        "closed"
    } else {
        "open"
    }
}

#[test]
fn rows_in_tables_that_are_no_longer_used_go_when_the_others_are_in_force() {
    for recorded in [vec![pipeline(0, TAG).footprint()], Vec::new()] {
        let mut switch = left_by(0, TAG);
        let old = switch.cookies().len() as u64 - 2;
        let mut agent = Agent::with(&document(), pipeline(100, TAG), &recorded);
        agent.connect(&mut switch);
        assert_eq!(agent.state(), SessionState::InSync);
        assert_eq!(agent.removed, [old], "in one step, after everything else");
        assert_eq!(tags(&switch), expected(100, TAG));
        assert_eq!(agent.left_over(), 0);
    }
}

#[test]
fn both_at_once() {
    let mut switch = left_by(0, 0x1111);
    let recorded = [pipeline(0, 0x1111).footprint(), pipeline(100, TAG).footprint()];
    let mut agent = Agent::with(&document(), pipeline(100, TAG), &recorded);
    agent.connect(&mut switch);
    assert_eq!(tags(&switch), expected(100, TAG));
    assert_eq!(agent.state(), SessionState::InSync);
}

#[test]
fn tables_that_moved_onto_each_other_are_replaced_in_one_bundle() {
    let mut switch = left_by(0, TAG);
    let before = switch.commits;
    let mut agent = Agent::with(&document(), pipeline(4, TAG), &[pipeline(0, TAG).footprint()]);
    agent.connect(&mut switch);
    assert_eq!(agent.state(), SessionState::InSync);
    assert_eq!(tags(&switch), expected(4, TAG));
    assert_eq!(agent.drift, 0);
    assert_eq!(agent.left_over(), 0);
    assert_eq!(switch.commits, before + 1);
    // A read-back finds everything in its place.
    agent.read_back(&mut switch);
    assert_eq!((agent.drift, agent.state()), (0, SessionState::InSync));
}
