//! Tests of a binary in a virtual machine with Debian's kernel (`hack/guest`): for what needs modules that this kernel may lack.

use std::process::{Command, Stdio};

use crate::KERNEL_DATAPATH;

const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/guest");
/// Exit status of `hack/guest` where the guest did not run the command.
const NOT_RUN: i32 = 125;
/// Seconds for a run; more when tests may take long.
const SECONDS: [&str; 2] = ["600", "2400"];

/// Whether tests may take long (`hack/test --long`).
pub fn is_long() -> bool {
    std::env::var_os("PORTCULLIS_SOAK").is_some()
}

/// Runs tests of the calling binary in a guest with these kernel modules, one after the other, and returns what they printed. Sandboxes use
/// the kernel's datapath there. `None`, with a word on stdout, where this machine cannot run the guest. A test that fails there fails the
/// caller.
pub fn in_guest(test_name: &str, modules: &str, arguments: &[&str]) -> Option<String> {
    if !crate::need_root(test_name) {
        return None;
    }
    let there = Command::new(GUEST).arg("--check").status();
    if !there.is_ok_and(|status| status.success()) {
        println!("SKIPPED: needs QEMU and Debian's kernel (hack/guest says what is missing): {test_name}");
        return None;
    }
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("the test has no path: {error}"));
    let output = Command::new(GUEST)
        .args(["--modules", modules, "--timeout", SECONDS[usize::from(is_long())]])
        .args(["--env", KERNEL_DATAPATH, "--env", "PORTCULLIS_SOAK", "--"])
        .arg(program)
        .args(["--test-threads", "1", "--color", "never"])
        .args(arguments)
        .env(KERNEL_DATAPATH, "1")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.unwrap_or_else(|error| panic!("{GUEST}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    if output.status.code() == Some(NOT_RUN) {
        println!("SKIPPED: this machine cannot run the guest (see above): {test_name}");
        return None;
    }
    assert!(output.status.success(), "in the guest: {}", output.status);
    Some(said)
}
