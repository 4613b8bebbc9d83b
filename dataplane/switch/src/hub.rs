//! Snapshot exchange between the writer of tables and the workers, without locks.
//!
//! A worker looks at a number before each burst, and takes up the newest snapshot when it has changed; then it says so in a
//! place of its own. [`Hub::adopted`] tells when all have. Old snapshots are kept until no worker has them, so that none of
//! them is freed while frames wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portcullis_fastpath::Snapshot;

/// The generation one worker has, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerSlot {
    generation: AtomicU64,
    gone: std::sync::atomic::AtomicBool,
}

/// Publishes snapshots to workers and knows which of them each has.
#[derive(Debug)]
pub struct Hub {
    newest: ArcSwap<Snapshot>,
    generation: AtomicU64,
    slots: Box<[WorkerSlot]>,
    retired: Mutex<Vec<Arc<Snapshot>>>,
}

/// What one worker reads the newest snapshot through.
#[derive(Debug)]
pub struct View {
    hub: Arc<Hub>,
    slot: usize,
    held: Arc<Snapshot>,
}

impl Hub {
    /// A hub for `workers` workers.
    pub fn new(first: Arc<Snapshot>, workers: usize) -> Arc<Hub> {
        Arc::new(Hub {
            generation: AtomicU64::new(first.generation()),
            newest: ArcSwap::new(first),
            slots: (0..workers).map(|_| WorkerSlot::default()).collect(),
            retired: Mutex::default(),
        })
    }

    /// Makes `snapshot` the one that workers take up next.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation();
        let old = self.newest.swap(snapshot);
        self.generation.store(generation, Ordering::Release);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push(old);
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Whether every worker has taken up this generation or a later one.
    pub fn adopted(&self, generation: u64) -> bool {
        self.slots
            .iter()
            .all(|s| s.gone.load(Ordering::Acquire) || s.generation.load(Ordering::Acquire) >= generation)
    }

    /// The view of worker number `slot`.
    pub fn view(self: &Arc<Self>, slot: usize) -> View {
        let view = View {
            hub: Arc::clone(self),
            slot,
            held: self.newest.load_full(),
        };
        view.notify();
        view
    }
}

impl View {
    /// Takes up the newest snapshot and returns it.
    #[inline(always)]
    pub fn newest(&mut self) -> &Snapshot {
        if self.hub.generation.load(Ordering::Acquire) != self.held.generation() {
            self.held = self.hub.newest.load_full();
            self.notify();
        }
        &self.held
    }

    fn notify(&self) {
        if let Some(slot) = self.hub.slots.get(self.slot) {
            slot.generation.store(self.held.generation(), Ordering::Release);
        }
    }
}

impl std::ops::Drop for View {
    fn drop(&mut self) {
        // A worker that has ended forwards nothing: nobody waits for it.
        if let Some(slot) = self.hub.slots.get(self.slot) {
            slot.gone.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_fastpath::Tables;

    #[test]
    fn a_generation_is_adopted_when_every_worker_has_it() {
        let mut tables = Tables::default();
        let hub = Hub::new(tables.publish(), 2);
        let mut views = [hub.view(0), hub.view(1)];
        tables.set_group(1, &[1]).unwrap();
        let next = tables.publish();
        let generation = next.generation();
        hub.publish(next);
        assert!(!hub.adopted(generation));
        assert_eq!(views[0].newest().generation(), generation);
        assert!(!hub.adopted(generation));
        let [_, second] = views;
        drop(second);
        assert!(
            hub.adopted(generation),
            "nobody waits for a worker that has ended"
        );
    }
}
