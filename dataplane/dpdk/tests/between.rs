//! Packets from one thread to another: in order, none twice, none lost, and those left behind are freed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::Burst;
use rig::{eal, pool};

#[test]
fn packets_arrive_in_order_and_come_back() {
    const ALL: u64 = 300_000;
    let pool = pool(2048);
    let (mut sender, mut receiver) = eal().ring(256).unwrap();
    let of = pool.clone();
    let worker = eal()
        .spawn_worker("sends", None, move || {
            let mut burst = Burst::<32>::new();
            let (mut sent, mut made) = (0, 0);
            while sent < ALL {
                if burst.is_empty() && of.alloc_burst(&mut burst, 32.min((ALL - made) as usize)) {
                    for packet in burst.iter_mut() {
                        packet.set_data(&u64::to_be_bytes(made)).unwrap();
                        made += 1;
                    }
                }
                let count = sender.send(&mut burst);
                sent += count as u64;
                if count == 0 {
                    std::thread::yield_now();
                }
            }
        })
        .unwrap();
    let mut burst = Burst::<32>::new();
    let mut received = 0u64;
    while received < ALL {
        if receiver.receive(&mut burst) == 0 {
            std::thread::yield_now();
        }
        for packet in burst.drain() {
            assert_eq!(packet.data(), received.to_be_bytes());
            received += 1;
        }
    }
    worker.join().unwrap();
    assert_eq!(receiver.receive(&mut burst), 0);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_full_ring_leaves_the_rest_with_the_sender_and_frees_what_is_in_it() {
    let pool = pool(512);
    let (mut sender, receiver) = eal().ring(64).unwrap();
    let mut burst = Burst::<32>::new();
    let mut sent = 0;
    for _ in 0..3 {
        assert!(pool.alloc_burst(&mut burst, 32));
        sent += sender.send(&mut burst);
        burst.clear();
    }
    assert_eq!(sent, 63);
    assert_eq!(pool.in_use(), 63);
    drop(receiver);
    assert_eq!(pool.in_use(), 63);
    drop(sender);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_size_that_is_no_power_of_two_is_refused() {
    let error = eal().ring(100).unwrap_err();
    assert!(error.to_string().contains("100 packets"), "{error}");
}
