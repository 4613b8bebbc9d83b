//! Rules on a real driver: `net_tap`, whose rules become filters of the kernel's flower classifier, in a virtual machine whose kernel has
//! one. Outside the guest these tests are ignored.

use portcullis_testbed::{in_guest, is_long};

use crate::device::{self, PortMatching, Which, corpus_over, offloading};

const OFFLOADING: Which = Which::Offloading(env!("CARGO_BIN_EXE_portcullis-switch"));
const MODULES: &str =
    "openvswitch,tun,sch_ingress,sch_multiq,cls_flower,cls_matchall,act_gact,act_mirred,act_skbedit,veth";

#[test]
fn in_a_guest() {
    let Some(said) = in_guest("nic::in_a_guest", MODULES, &["--nocapture", "--ignored", "nic::"]) else {
        return;
    };
    assert!(
        said.contains("test result: ok. 6 passed"),
        "every test of the guest"
    );
}

#[test]
#[ignore = "runs in a guest: in_a_guest"]
fn every_frame_goes_where_the_policy_says() {
    // Those without rules for a NIC say nothing here.
    let cases: &[&str] = match is_long() {
        true => &["whole", "blocked", "closed"],
        false => &["blocked", "closed"],
    };
    for case in cases {
        corpus_over(
            OFFLOADING,
            "nic::every_frame_goes_where_the_policy_says",
            case,
            PortMatching::Range,
        );
    }
}

#[test]
#[ignore = "runs in a guest: in_a_guest"]
fn a_story_with_restarts() {
    if !is_long() {
        return;
    }
    device::a_story_with_restarts(OFFLOADING);
}

#[test]
#[ignore = "runs in a guest: in_a_guest"]
fn a_thousand_changes_under_traffic() {
    device::a_thousand_changes_under_traffic(OFFLOADING);
}

#[test]
#[ignore = "runs in a guest: in_a_guest"]
fn a_full_table_spills() {
    offloading::a_full_table_spills(OFFLOADING);
}

#[test]
#[ignore = "runs in a guest: in_a_guest"]
fn what_a_classifier_opens() {
    offloading::what_a_classifier_opens(OFFLOADING);
}

#[test]
#[ignore = "runs in a guest: in_a_guest"]
fn rules_follow_the_policy() {
    offloading::rules_follow_the_policy(OFFLOADING);
}
