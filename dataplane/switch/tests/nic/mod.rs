//! Rules on a real driver: `net_tap`, whose rules become filters of the kernel's flower classifier, in a virtual machine whose kernel has
//! one. Outside the guest these tests are ignored.

use std::process::{Command, Stdio};

use portcullis_testbed::{KERNEL_DATAPATH, need_root};

use crate::device::{self, PortMatching, Which, corpus_over, offloading};

const OFFLOADING: Which = Which::Offloading(env!("CARGO_BIN_EXE_portcullis-switch"));
const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/guest");
/// Exit status of hack/guest where the guest did not run the command.
const NOT_RUN: i32 = 125;
const MODULES: &str =
    "openvswitch,tun,sch_ingress,sch_multiq,cls_flower,cls_matchall,act_gact,act_mirred,act_skbedit,veth";

/// Whether tests may take long (`hack/test --long`).
fn is_long() -> bool {
    std::env::var_os("PORTCULLIS_SOAK").is_some()
}

#[test]
fn in_a_guest() {
    let test = "nic::in_a_guest";
    if !need_root(test) {
        return;
    }
    let there = Command::new(GUEST).arg("--check").status().unwrap();
    if !there.success() {
        println!("SKIPPED: needs QEMU and Debian's kernel (hack/guest says what is missing): {test}");
        return;
    }
    let seconds = if is_long() { "2400" } else { "600" };
    let output = Command::new(GUEST)
        .args(["--modules", MODULES, "--timeout", seconds])
        .args(["--env", KERNEL_DATAPATH, "--env", "PORTCULLIS_SOAK", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--test-threads",
            "1",
            "--color",
            "never",
            "--nocapture",
            "--ignored",
            "nic::",
        ])
        // The bridge of the sandbox is not used.
        .env(KERNEL_DATAPATH, "1")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    if output.status.code() == Some(NOT_RUN) {
        println!("SKIPPED: this machine cannot run the guest (see above): {test}");
        return;
    }
    assert!(output.status.success(), "in the guest: {}", output.status);
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
        true => &["whole", "blocked", "closed", "default_deny"],
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
