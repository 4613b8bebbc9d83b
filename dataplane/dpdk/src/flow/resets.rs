//! How often a port has reset: the device reports it, and its rules are gone then.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_dpdk_sys as sys;

use crate::port::Run;

/// Resets of a port, counted from the moment it is made.
#[derive(Debug)]
pub struct Resets {
    /// On the heap, where the callback finds it until it is unregistered.
    count: Arc<AtomicU64>,
    /// Keeps the port open.
    run: Arc<Run>,
}

impl Resets {
    /// Begins to count. Where the device cannot report resets, the count stays 0.
    pub(super) fn new(run: Arc<Run>) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        // SAFETY: the port is open; the callback only adds to the counter, which lives until it is unregistered below.
        let status = unsafe {
            sys::rte_eth_dev_callback_register(
                run.core.port,
                sys::RTE_ETH_EVENT_INTR_RESET,
                Some(has_reset),
                Arc::as_ptr(&count).cast_mut().cast(),
            )
        };
        if status != 0 {
            tracing::warn!(target: "dpdk", port = run.core.info.name, status, "resets of the port will not be noticed");
        }
        Self { count, run }
    }

    /// How often the port has reset.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

impl Drop for Resets {
    fn drop(&mut self) {
        loop {
            // SAFETY: the port is open; these are the arguments that it was registered with.
            let status = unsafe {
                sys::rte_eth_dev_callback_unregister(
                    self.run.core.port,
                    sys::RTE_ETH_EVENT_INTR_RESET,
                    Some(has_reset),
                    Arc::as_ptr(&self.count).cast_mut().cast(),
                )
            };
            // It runs at this moment.
            if status != -libc::EAGAIN {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Called by DPDK, on its interrupt thread or on that of a driver.
unsafe extern "C" fn has_reset(
    _port: u16,
    _event: sys::rte_eth_event_type,
    count: *mut c_void,
    _: *mut c_void,
) -> i32 {
    // SAFETY: it is the counter that was registered, which is there until this is unregistered.
    unsafe { &*count.cast::<AtomicU64>() }.fetch_add(1, Ordering::Release);
    0
}
