//! Tests over a real bridge once more, on the kernel's datapath: in a virtual machine, for few kernels of test machines have it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};

use portcullis_testbed::{KERNEL_DATAPATH, need_root};

const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/guest");

/// Exit status of hack/guest where the guest did not run the command.
const NOT_RUN: i32 = 125;

/// Part of the corpus and one story of unlocks; all of these when tests may take long (`hack/test --long`).
const SHORT: &[&str] = &[
    "real_corpus::every_frame",
    "real_cut_short::",
    "real_offload::",
    "real_story::",
];
const LONG: &[&str] = &[
    "real_change::",
    "real_closed::",
    "real_corpus::",
    "real_cut_short::",
    "real_expiry::",
    "real_forward::",
    "real_offload::",
    "real_rules::",
    "real_story::",
];

#[test]
fn the_policy_holds_through_the_kernel() {
    let test = "the_policy_holds_through_the_kernel";
    if !need_root(test) {
        return;
    }
    let there = Command::new(GUEST).arg("--check").status().unwrap();
    if !there.success() {
        println!("SKIPPED: needs QEMU and Debian's kernel (hack/guest says what is missing): {test}");
        return;
    }
    let (filters, seconds) = match std::env::var_os("PORTCULLIS_SOAK") {
        Some(_) => (LONG, "2400"),
        None => (SHORT, "600"),
    };
    let output = Command::new(GUEST)
        .args(["--modules", "openvswitch", "--timeout", seconds])
        .args(["--env", KERNEL_DATAPATH, "--env", "PORTCULLIS_SOAK", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--test-threads", "1", "--color", "never"])
        .args(filters)
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
    for filter in filters {
        assert!(
            said.contains(&format!("test {filter}")),
            "no test is called {filter}"
        );
    }
}
