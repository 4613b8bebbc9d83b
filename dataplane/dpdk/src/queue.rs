//! Receive and transmit queues of a started port.

use crate::burst::Burst;
use crate::port::Run;
use portcullis_dpdk_sys as sys;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

/// DPDK's queues are used by one thread at a time: they move between threads, and are not shared.
type OneThread = PhantomData<Cell<()>>;

/// A receive queue. Keeps its port started.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    queue: u16,
    run: Arc<Run>,
    one_thread: OneThread,
}

/// A send queue. Keeps its port started.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    queue: u16,
    run: Arc<Run>,
    one_thread: OneThread,
}

impl RxQueue {
    pub(crate) fn new(run: &Arc<Run>, queue: u16) -> Self {
        Self {
            port: run.core.port,
            queue,
            run: Arc::clone(run),
            one_thread: PhantomData,
        }
    }

    /// Adds what has arrived to `burst`, as far as it fits, without waiting; how many that were.
    #[inline]
    pub fn receive<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        // SAFETY: the port is started and has this queue, which only this thread polls; what DPDK writes is packets of
        // their own, as many as it says.
        unsafe { burst.fill(|packets, room| sys::pc_rx_burst(self.port, self.queue, packets, room)) }
    }

    /// DPDK's number of its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Name of its device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.run.core.info.name
    }

    /// Which queue of its port it is, from 0.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.queue
    }
}

impl TxQueue {
    pub(crate) fn new(run: &Arc<Run>, queue: u16) -> Self {
        Self {
            port: run.core.port,
            queue,
            run: Arc::clone(run),
            one_thread: PhantomData,
        }
    }

    /// Sends from the start of `burst` what the queue has room for, without waiting; how many that were. The rest stays
    /// in the burst, in order: to be sent again, or freed at once by [`Burst::clear`].
    #[inline]
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        // SAFETY: the port is started and has this queue, which only this thread uses; DPDK owns as many packets as it
        // says from then on.
        unsafe { burst.take(|packets, count| sys::pc_tx_burst(self.port, self.queue, packets, count)) }
    }

    /// DPDK's number of its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Name of its device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.run.core.info.name
    }

    /// Which queue of its port it is, from 0.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.queue
    }
}

/// Frees what waits in a queue of a port that is still started and whose [`RxQueue`] is gone.
pub(crate) fn discard_received(port: u16, queue: u16) {
    let mut burst = Burst::<32>::new();
    loop {
        // SAFETY: the port is started and has this queue, which nothing else polls; what DPDK writes is packets of their
        // own, as many as it says.
        let count = unsafe { burst.fill(|packets, room| sys::pc_rx_burst(port, queue, packets, room)) };
        if count == 0 {
            return;
        }
        burst.clear();
    }
}
