//! What is sent through `net_ring` is received, byte for byte, and every packet comes back to its pool.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::{Burst, Device, PortConfig};
use rig::{eal, pool, running, unique};

#[test]
fn a_million_packets_leave_the_pool_as_full_as_before() {
    let pool = pool(2048);
    let mut port = running(&unique("net_ring"), &pool);
    let (mut sent, mut received) = (0_u64, 0_u64);
    let mut out = Burst::<32>::new();
    let mut back = Burst::<32>::new();
    while received < 1_000_000 {
        assert!(pool.alloc_burst(&mut out, 32));
        for packet in out.iter_mut() {
            packet.set_data(&sent.to_be_bytes()).unwrap();
            sent += 1;
        }
        assert_eq!(port.tx[0].send(&mut out), 32);
        assert_eq!(port.rx[0].receive(&mut back), 32);
        for packet in back.drain() {
            assert_eq!(packet.data(), received.to_be_bytes());
            received += 1;
        }
    }
    assert_eq!(sent, received);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn packets_left_in_a_ring_are_freed_with_its_port() {
    let pool = pool(512);
    let mut port = running(&unique("net_ring"), &pool);
    let mut burst = Burst::<32>::new();
    for _ in 0..4 {
        assert!(pool.alloc_burst(&mut burst, 32));
        assert_eq!(port.tx[0].send(&mut burst), 32);
    }
    assert_eq!(pool.in_use(), 128);
    drop(port);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_device_is_there_once_and_its_name_free_again_after_it() {
    let pool = pool(512);
    let name = unique("net_ring");
    let first = Device::probe(eal(), &name).unwrap();
    let again = Device::probe(eal(), &name).unwrap_err();
    assert!(again.to_string().contains("in use already"), "{again}");
    let port = first.configure(&PortConfig::new(&pool)).unwrap();
    drop(port);
    Device::probe(eal(), &name).unwrap();
}
