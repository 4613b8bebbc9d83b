//! The life of DPDK in a process: one test, as there is one such life.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_dpdk::{Burst, Device, Eal, EalError, EalOptions, Mempool, PortConfig};
use std::thread;

/// The CPUs that the calling thread may run on.
fn cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is plain integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`; 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    assert_eq!(status, 0);
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: every CPU asked for is one of the set's bits.
    all.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Bytes of address space in use.
fn mapped() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn dpdk_starts_once_pins_nobody_and_ends_with_its_last_owner() {
    let before = cpus();
    let eal = Eal::init(&EalOptions::without_hardware(64)).unwrap();
    assert!(eal.version().starts_with("DPDK "), "{}", eal.version());
    assert_eq!(cpus(), before, "the caller was pinned");
    let later = thread::spawn(cpus).join().unwrap();
    assert_eq!(later, before, "a thread started later was pinned");

    let again = Eal::init(&EalOptions::without_hardware(64)).unwrap_err();
    assert!(matches!(again, EalError::Again), "{again}");

    let last = *before.last().unwrap();
    let pinned = eal.spawn_worker("pinned", Some(last), cpus).unwrap();
    assert_eq!(pinned.join().unwrap(), [last]);
    let free = eal.spawn_worker("free", None, cpus).unwrap();
    assert_eq!(free.join().unwrap(), before);
    assert_eq!(cpus(), before, "pinning a worker pinned the caller");

    // Each keeps DPDK alive; the port is the last to go, from another thread.
    let pool = Mempool::new(&eal, "frames", 512, 0, 2048).unwrap();
    let device = Device::probe(&eal, "net_ring0").unwrap();
    let mut running = device
        .configure(&PortConfig::new(&pool))
        .unwrap()
        .start()
        .unwrap();
    drop((eal, pool.clone()));
    let mut burst = Burst::<8>::new();
    assert!(pool.alloc_burst(&mut burst, 8));
    assert_eq!(running.tx[0].send(&mut burst), 8);
    assert_eq!(running.rx[0].receive(&mut burst), 8);
    drop((burst, pool));
    let (with_dpdk, mapped_with_dpdk) = (threads(), mapped());
    thread::spawn(move || drop(running)).join().unwrap();
    assert!(
        threads() < with_dpdk,
        "the thread that waits to end DPDK is still there"
    );
    assert!(
        mapped() + (64 << 20) <= mapped_with_dpdk,
        "DPDK's memory is still there"
    );

    let after = Eal::init(&EalOptions::without_hardware(64)).unwrap_err();
    assert!(matches!(after, EalError::Again), "{after}");
}
