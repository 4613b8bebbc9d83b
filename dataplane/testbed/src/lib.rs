//! Test support: a private Open vSwitch with DPDK, network namespaces and raw packets, a DNS server, and the conformance
//! suite that every backend's session passes.
//!
//! [`Sandbox`] drives `hack/sandbox`; [`NetnsHost`] is one endpoint plugged into it. Everything a sandbox makes is
//! removed when it is dropped, and also when the test is killed. Nothing here is part of the product.

#![deny(unsafe_code)]
#![allow(
    clippy::panic,
    reason = "only tests run this, and a broken testbed must fail them"
)]
#![allow(missing_docs, reason = "only tests of this repository use it")]

mod capture;
pub mod conformance;
pub mod device;
pub mod dns;
mod error;
mod gate;
mod guest;
pub mod model;
mod netns;
pub mod p4;
pub mod probe;
mod root;
mod sandbox;
pub mod stream;
#[allow(unsafe_code)]
mod sys;

pub use capture::Capture;
pub use error::{Result, TestbedError};
pub use etherparse;
pub use guest::{in_guest, is_long};
pub use netns::{EndpointSpec, NetnsHost};
pub use root::{missing_for_real_switch, need_root};
pub use sandbox::{KERNEL_DATAPATH, Sandbox, SandboxOptions};
