//! A packet that outlives DPDK keeps its memory: one test, as a process has one DPDK.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_dpdk::{Eal, EalOptions, Mempool};

#[test]
fn a_packet_that_outlives_dpdk_can_still_be_read_and_freed() {
    let eal = Eal::init(&EalOptions::without_hardware(64)).unwrap();
    let pool = Mempool::new(&eal, "frames", 64, 0, 2048).unwrap();
    let mut packet = pool.alloc().unwrap();
    packet.set_data(b"the last one").unwrap();
    drop((eal, pool));
    packet.append(b" out").unwrap();
    assert_eq!(packet.data(), b"the last one out");
    drop(packet);
}
