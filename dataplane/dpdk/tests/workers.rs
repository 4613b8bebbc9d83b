//! Threads that DPDK knows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod rig;

use portcullis_dpdk::{Burst, Mempool, WorkerError};
use rig::{eal, running, unique};
use std::sync::mpsc::channel;

#[test]
fn workers_move_packets_with_caches_and_the_pool_is_full_in_the_end() {
    let pool = Mempool::new(eal(), "cached", 4096, 256, 2048).unwrap();
    let running = running(&unique("net_ring"), &pool);
    let (mut rx, mut tx) = (running.rx, running.tx);
    const PACKETS: u64 = 500_000;
    let source = pool.clone();
    let sender = eal()
        .spawn_worker("sender", None, move || {
            let (mut burst, mut sent) = (Burst::<32>::new(), 0);
            while sent < PACKETS {
                // No more are made than shall be sent.
                if burst.is_empty() && !source.alloc_burst(&mut burst, 32) {
                    continue;
                }
                sent += tx[0].send(&mut burst) as u64;
            }
            sent
        })
        .unwrap();
    let receiver = eal()
        .spawn_worker("receiver", None, move || {
            let (mut burst, mut received) = (Burst::<32>::new(), 0);
            while received < PACKETS {
                received += rx[0].receive(&mut burst) as u64;
                burst.clear();
            }
            received
        })
        .unwrap();
    assert_ne!(sender.lcore(), receiver.lcore());
    // The main thread reads counters meanwhile.
    while !sender.is_finished() {
        assert!(running.port.stats().unwrap().tx_packets <= PACKETS);
    }
    assert_eq!(sender.join().unwrap(), receiver.join().unwrap());
    let stats = running.port.stats().unwrap();
    assert_eq!((stats.tx_packets, stats.rx_packets), (PACKETS, PACKETS));
    drop(running.port);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_panic_is_reported_and_the_thread_leaves_dpdk() {
    let mut lcores = Vec::new();
    // More than DPDK knows threads at once.
    for round in 0..200 {
        let worker = eal()
            .spawn_worker("doomed", None, move || {
                assert!(round > 500, "round {round}");
            })
            .unwrap();
        lcores.push(worker.lcore());
        let panic = worker.join().unwrap_err();
        assert_eq!(
            (panic.name.as_str(), panic.message.as_str()),
            ("doomed", format!("round {round}").as_str())
        );
    }
    assert_eq!(lcores.len(), 200);
}

#[test]
fn a_cpu_that_is_not_there_is_refused() {
    let error = eal().spawn_worker("far", Some(1023), || ()).unwrap_err();
    assert!(matches!(&error, WorkerError::Pin { core: 1023, .. }), "{error:?}");
    assert!(error.to_string().contains("CPU 1023"), "{error}");
    let error = eal().spawn_worker("farther", Some(1 << 40), || ()).unwrap_err();
    assert!(matches!(error, WorkerError::Pin { .. }), "{error:?}");
}

#[test]
fn what_a_worker_keeps_back_is_free_again_when_it_ends() {
    let pool = Mempool::new(eal(), "kept", 1024, 256, 2048).unwrap();
    let (handed, kept) = channel();
    let theirs = pool.clone();
    let worker = eal()
        .spawn_worker("keeper", None, move || {
            let mut packet = theirs.alloc().unwrap();
            packet.set_data(b"from afar").unwrap();
            handed.send(packet).unwrap();
            drop(theirs);
        })
        .unwrap();
    worker.join().unwrap();
    let packet = kept.recv().unwrap();
    assert_eq!(packet.data(), b"from afar");
    assert_eq!(pool.in_use(), 1);
    drop(packet);
    assert_eq!(pool.in_use(), 0);
    // Every packet can be had again, also those that were kept at hand for the worker.
    let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(all.len(), 1024);
}
