//! Tests over a real bridge once more, on the kernel's datapath: in a virtual machine, for few kernels of test machines have it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_testbed::{in_guest, is_long};

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
    let filters = if is_long() { LONG } else { SHORT };
    let Some(said) = in_guest("the_policy_holds_through_the_kernel", "openvswitch", filters) else {
        return;
    };
    for filter in filters {
        assert!(
            said.contains(&format!("test {filter}")),
            "no test is called {filter}"
        );
    }
}
