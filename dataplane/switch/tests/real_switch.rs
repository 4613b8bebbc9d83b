//! The embedded switch on DPDK, with real packets in network namespaces, programmed by the agent's own backend.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

#[path = "../../p4runtime/tests/device/mod.rs"]
mod device;
mod nic;

use device::{PortMatching, Which, corpus_over};

const SWITCH: Which = Which::Embedded(env!("CARGO_BIN_EXE_portcullis-switch"));

#[test]
fn every_frame_goes_where_the_policy_says() {
    for case in device::documents() {
        corpus_over(
            SWITCH,
            "every_frame_goes_where_the_policy_says",
            case,
            PortMatching::Range,
        );
    }
}

#[test]
fn ports_without_ranges_say_the_same() {
    corpus_over(
        SWITCH,
        "ports_without_ranges_say_the_same",
        "whole",
        PortMatching::Ternary,
    );
}

#[test]
fn a_story_with_restarts() {
    device::a_story_with_restarts(SWITCH);
}

#[test]
fn fragments_cross() {
    device::fragments_cross(SWITCH);
}

#[test]
fn a_dead_agent_keeps_nothing_open() {
    device::a_dead_agent_keeps_nothing_open(SWITCH);
}

#[test]
fn a_thousand_changes_under_traffic() {
    device::a_thousand_changes_under_traffic(SWITCH);
}
