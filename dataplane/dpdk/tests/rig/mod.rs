//! One DPDK for each test binary, and names that are used once.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod netns;

use portcullis_dpdk::{Device, Eal, EalOptions, Mempool, PortConfig, Running};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// DPDK, without hugepages and hardware, initialised with the first test of a process that asks for it.
pub fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| Eal::init(&EalOptions::without_hardware(256)).unwrap())
}

/// A device name that no other test of this process uses.
pub fn unique(driver: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{driver}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Says aloud that `test` cannot run here, and counts it where `hack/test` looks.
pub fn skipped(test: &str, needs: &str) {
    println!("SKIPPED: needs {needs}: {test}");
    if let Some(path) = std::env::var_os("PORTCULLIS_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: needs {needs}").unwrap();
    }
}

/// A pool of its own.
pub fn pool(count: u32) -> Mempool {
    Mempool::new(eal(), &unique("pool"), count, 0, 2048).unwrap()
}

/// The port of `devargs`, running, with one queue each way.
pub fn running(devargs: &str, pool: &Mempool) -> Running {
    let device = Device::probe(eal(), devargs).unwrap();
    device.configure(&PortConfig::new(pool)).unwrap().start().unwrap()
}
