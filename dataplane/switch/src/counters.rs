//! Per-worker counters, so that workers share no cache line.
//!
//! A worker is the only one that writes to its counters, with plain loads and stores; readers add them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_fastpath::{DropReason, PORTS, Tally};
use portcullis_nic::Offloads;

/// Number of row counters of a switch.
pub const SLOTS: usize = (1 << 20) + (1 << 17);
const REASONS: usize = DropReason::ALL.len();

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub packets: u64,
    /// Bytes, from the destination MAC to the end of the frame without its checksum.
    pub bytes: u64,
}

/// One of two counters side by side.
#[derive(Debug, Default)]
struct Pair {
    packets: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct PortCells {
    received: Pair,
    sent: Pair,
    unsent: AtomicU64,
    too_long: AtomicU64,
    crowded: AtomicU64,
    drops: [AtomicU64; REASONS],
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    rows: Box<[Pair]>,
    ports: Box<[PortCells]>,
}

/// Counters of one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCount {
    /// Frames taken from the device.
    pub received: Count,
    /// Frames given to the device.
    pub sent: Count,
    /// Copies that the device had no room for.
    pub unsent: u64,
    /// Copies that are longer than the port's MTU allows.
    pub too_long: u64,
    /// Frames received here that the worker of their flow had no room for.
    pub crowded: u64,
    /// Frames received here and dropped, by [`DropReason::ALL`]; of a flood, copies.
    pub drops: [u64; REASONS],
}

fn more(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Counters {
    pub fn new() -> Arc<Counters> {
        Arc::new(Counters {
            rows: (0..SLOTS).map(|_| Pair::default()).collect(),
            ports: (0..PORTS).map(|_| PortCells::default()).collect(),
        })
    }

    /// Counts frames that a port received.
    pub fn received(&self, port: u16, packets: u64, bytes: u64) {
        if let Some(cells) = self.ports.get(usize::from(port)) {
            more(&cells.received.packets, packets);
            more(&cells.received.bytes, bytes);
        }
    }

    /// Counts copies that a port sent.
    pub fn sent(&self, port: u16, packets: u64, bytes: u64) {
        if let Some(cells) = self.ports.get(usize::from(port)) {
            more(&cells.sent.packets, packets);
            more(&cells.sent.bytes, bytes);
        }
    }

    /// Counts copies that a port had no room for.
    pub fn unsent(&self, port: u16, packets: u64) {
        if let Some(cells) = self.ports.get(usize::from(port)) {
            more(&cells.unsent, packets);
        }
    }

    /// Counts a copy that is longer than a port sends.
    pub fn too_long(&self, port: u16) {
        if let Some(cells) = self.ports.get(usize::from(port)) {
            more(&cells.too_long, 1);
        }
    }

    /// Counts frames of a port whose worker had no room for them.
    pub fn crowded(&self, port: u16, packets: u64, bytes: u64) {
        self.received(port, packets, bytes);
        if let Some(cells) = self.ports.get(usize::from(port)) {
            more(&cells.crowded, packets);
        }
    }

    fn row(&self, slot: u32) -> Count {
        self.rows
            .get(slot as usize)
            .map_or(Count::default(), |pair| Count {
                packets: pair.packets.load(Ordering::Relaxed),
                bytes: pair.bytes.load(Ordering::Relaxed),
            })
    }
}

/// The counters as the fast path writes them.
#[derive(Debug)]
pub struct Book<'a>(pub &'a Counters);

impl Tally for Book<'_> {
    #[inline(always)]
    fn hit(&mut self, slot: u32, bytes: u32) {
        if let Some(pair) = self.0.rows.get(slot as usize) {
            more(&pair.packets, 1);
            more(&pair.bytes, u64::from(bytes));
        }
    }

    fn dropped(&mut self, in_port: u16, why: DropReason) {
        let cells = self.0.ports.get(usize::from(in_port));
        if let Some(cell) = cells.and_then(|c| c.drops.get(why as usize)) {
            more(cell, 1);
        }
    }
}

/// The counters of all workers.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    workers: Vec<Arc<Counters>>,
    nics: Option<Arc<dyn Offloads>>,
}

impl Sums {
    pub fn new(workers: Vec<Arc<Counters>>) -> Sums {
        Sums { workers, nics: None }
    }

    /// Adds what NICs drop.
    #[must_use]
    pub fn with_nics(self, nics: Option<Arc<dyn Offloads>>) -> Sums {
        Sums { nics, ..self }
    }

    /// Hits of one row: the sum over all workers, and what NICs have dropped and counted in its place.
    pub fn row(&self, slot: u32) -> Count {
        let workers = self.row_of_workers(slot);
        let nics = self
            .nics
            .as_ref()
            .map_or_else(Default::default, |nics| nics.count(slot));
        Count {
            packets: workers.packets.wrapping_add(nics.packets),
            bytes: workers.bytes.wrapping_add(nics.bytes),
        }
    }

    /// Hits of one row in the workers alone.
    pub fn row_of_workers(&self, slot: u32) -> Count {
        self.workers.iter().fold(Count::default(), |sum, worker| {
            let count = worker.row(slot);
            Count {
                packets: sum.packets.wrapping_add(count.packets),
                bytes: sum.bytes.wrapping_add(count.bytes),
            }
        })
    }

    /// Counters of one port: the sum over all workers.
    pub fn port(&self, port: u16) -> PortCount {
        let mut sum = PortCount::default();
        for cells in self.workers.iter().filter_map(|w| w.ports.get(usize::from(port))) {
            let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
            sum.received.packets += read(&cells.received.packets);
            sum.received.bytes += read(&cells.received.bytes);
            sum.sent.packets += read(&cells.sent.packets);
            sum.sent.bytes += read(&cells.sent.bytes);
            sum.unsent += read(&cells.unsent);
            sum.too_long += read(&cells.too_long);
            sum.crowded += read(&cells.crowded);
            for (sum, cell) in sum.drops.iter_mut().zip(&cells.drops) {
                *sum += read(cell);
            }
        }
        sum
    }
}
