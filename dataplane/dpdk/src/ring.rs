//! Single-producer, single-consumer ring of packets between two threads (`rte_ring`).

use crate::burst::Burst;
use crate::eal::Eal;
use crate::errno::Errno;
use portcullis_dpdk_sys as sys;
use std::cell::Cell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Each end is used by one thread at a time: it moves between threads, and is not shared.
type OneThread = PhantomData<Cell<()>>;

/// Why there is no ring.
#[derive(Debug, Error)]
#[error("cannot allocate a ring for {size} packets (the size must be a power of two)")]
pub struct RingError {
    /// What was asked for.
    pub size: u32,
    /// What DPDK returned: out of memory, or a size that is no power of two.
    #[source]
    pub errno: Errno,
}

/// DPDK's ring, until both ends are gone.
#[derive(Debug)]
struct Shared {
    ring: NonNull<sys::rte_ring>,
    // DPDK's memory goes after it.
    _eal: Eal,
}

// SAFETY: a ring with one producer and one consumer may be used by one thread on each end at once; the ends see to that.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The end where packets are put in.
#[derive(Debug)]
pub struct RingSender {
    shared: Arc<Shared>,
    one_thread: OneThread,
}

/// The end where packets are taken out, in the order in which they were put in.
#[derive(Debug)]
pub struct RingReceiver {
    shared: Arc<Shared>,
    one_thread: OneThread,
}

impl Eal {
    /// A ring with room for `size - 1` packets, `size` being a power of two. Packets that are left in it are freed with the
    /// second of its ends.
    ///
    /// # Errors
    /// When DPDK has no memory for it, or the size is no power of two.
    pub fn ring(&self, size: u32) -> Result<(RingSender, RingReceiver), RingError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = format!("ring-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let unique = CString::new(unique).unwrap_or_default();
        // SAFETY: the name is a C string; DPDK is initialised, as there is an `Eal`.
        let ring = unsafe { sys::pc_ring_create(unique.as_ptr(), size) };
        let ring = NonNull::new(ring).ok_or_else(|| RingError {
            size,
            errno: Errno::last(),
        })?;
        let shared = Arc::new(Shared {
            ring,
            _eal: self.clone(),
        });
        let sender = RingSender {
            shared: Arc::clone(&shared),
            one_thread: PhantomData,
        };
        let receiver = RingReceiver {
            shared,
            one_thread: PhantomData,
        };
        Ok((sender, receiver))
    }
}

impl RingSender {
    /// Puts in from the start of `burst` what there is room for; how many that were. The rest stays in the burst, in order.
    #[inline]
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let ring = self.shared.ring.as_ptr();
        // SAFETY: the ring is alive, and this thread is the only one that puts in; it owns as many packets as it says
        // from then on.
        unsafe { burst.take(|packets, count| sys::pc_ring_put(ring, packets, count)) }
    }
}

impl RingReceiver {
    /// Adds what is in the ring to `burst`, as far as it fits; how many that were.
    #[inline]
    pub fn receive<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let ring = self.shared.ring.as_ptr();
        // SAFETY: the ring is alive, and this thread is the only one that takes out; what is in it are packets that only
        // the ring owned, as `RingSender::send` put them in.
        unsafe { burst.fill(|packets, room| sys::pc_ring_take(ring, packets, room)) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut burst = Burst::<32>::new();
        loop {
            // SAFETY: both ends are gone, so that this thread alone uses the ring; what is in it are packets that only the
            // ring owned.
            let count =
                unsafe { burst.fill(|packets, room| sys::pc_ring_take(self.ring.as_ptr(), packets, room)) };
            if count == 0 {
                break;
            }
            burst.clear();
        }
        // SAFETY: nothing uses the ring any more, and it is empty.
        unsafe { sys::rte_ring_free(self.ring.as_ptr()) };
    }
}
