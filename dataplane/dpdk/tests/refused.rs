//! DPDK that does not start says why, and the process goes on: one test, as a process has one try.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_dpdk::{Eal, EalError, EalOptions};
use std::error::Error;

#[test]
fn what_dpdk_refuses_is_told_in_its_words() {
    let mut options = EalOptions::without_hardware(64);
    options.extra = vec!["--help".to_owned()];
    let unknown = Eal::init(&options).unwrap_err();
    assert!(matches!(unknown, EalError::Options(_)), "{unknown}");
    assert!(
        unknown.source().unwrap().to_string().contains("--help"),
        "{unknown}"
    );

    // Options that are refused before DPDK sees them cost nothing: this is still the first try.
    options.extra = vec!["--iova-mode=sideways".to_owned()];
    let refused = Eal::init(&options).unwrap_err();
    let EalError::Init { said, .. } = &refused else {
        panic!("{refused}");
    };
    assert!(said.iter().any(|line| line.contains("iova")), "{said:?}");
    assert!(refused.to_string().contains("DPDK says"), "{refused}");
    assert!(refused.source().is_some());
}
