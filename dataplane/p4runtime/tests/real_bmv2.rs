//! Our P4 program on BMv2, with real packets in network namespaces.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

mod device;

use device::{PortMatching, Which, corpus_over};

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
