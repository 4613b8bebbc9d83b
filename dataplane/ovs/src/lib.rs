//! Backend for Open vSwitch with DPDK.
