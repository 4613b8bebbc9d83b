//! Our P4 program on BMv2, with real packets in network namespaces.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

mod device;

use device::vendor::{corpus_over_a_vendors_switch, servers_behind_one_port};
use device::{PortMatching, Which, corpus_over};
use portcullis_compiler::model::PacketKind;

const BMV2: Which = Which::Bmv2;

macro_rules! corpus_tests {
    ($($name:ident: $case:literal, $matching:ident;)*) => {
        $(
            #[test]
            fn $name() {
                corpus_over(BMV2, stringify!($name), $case, PortMatching::$matching);
            }
        )*
    };
}

corpus_tests! {
    every_frame_goes_where_the_policy_says_open: "open", Range;
    every_frame_goes_where_the_policy_says_guarded: "guarded", Range;
    every_frame_goes_where_the_policy_says_blocked: "blocked", Range;
    every_frame_goes_where_the_policy_says_closed: "closed", Range;
    every_frame_goes_where_the_policy_says_shut: "shut", Range;
    every_frame_goes_where_the_policy_says_whole: "whole", Range;
    ports_without_ranges_say_the_same_open: "open", Ternary;
    ports_without_ranges_say_the_same_guarded: "guarded", Ternary;
    ports_without_ranges_say_the_same_blocked: "blocked", Ternary;
    ports_without_ranges_say_the_same_closed: "closed", Ternary;
    ports_without_ranges_say_the_same_shut: "shut", Ternary;
    ports_without_ranges_say_the_same_whole: "whole", Ternary;
}

macro_rules! vendor_tests {
    ($($name:ident: $case:literal, $accept:expr;)*) => {
        $(
            #[test]
            fn $name() {
                corpus_over_a_vendors_switch(stringify!($name), $case, &$accept);
            }
        )*
    };
}

vendor_tests! {
    a_vendors_switch_denies_no_more_than_the_policy_blocked: "blocked", [];
    a_vendors_switch_denies_no_more_than_the_policy_closed: "closed", [];
    a_vendors_switch_denies_what_it_says_blocked: "blocked", PacketKind::OBSCURE;
    a_vendors_switch_denies_what_it_says_closed: "closed", PacketKind::OBSCURE;
    a_vendors_switch_denies_what_it_says_shut: "shut", [PacketKind::LaterFragments, PacketKind::IpOptions];
    a_vendors_switch_denies_what_it_says_whole: "whole", [];
}

#[test]
fn a_vendors_switch_knows_servers_behind_one_port_by_their_addresses() {
    servers_behind_one_port("a_vendors_switch_knows_servers_behind_one_port_by_their_addresses");
}

#[test]
fn no_document_is_left_out() {
    assert_eq!(
        device::documents(),
        ["open", "guarded", "blocked", "closed", "shut", "whole"]
    );
}

#[test]
fn a_story_with_restarts() {
    device::a_story_with_restarts(BMV2);
}

#[test]
fn a_thousand_changes_under_traffic() {
    device::a_thousand_changes_under_traffic(BMV2);
}
