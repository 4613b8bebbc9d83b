//! Pools of packet buffers.

use crate::burst::Burst;
use crate::eal::Eal;
use crate::errno::Errno;
use crate::mbuf::Mbuf;
use portcullis_dpdk_sys as sys;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Free bytes that DPDK keeps before the data of every packet, for [`Mbuf::prepend`].
pub const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM as u16;

/// Most packets that a pool keeps at hand for each worker.
pub const MAX_CACHE: u32 = sys::RTE_MEMPOOL_CACHE_MAX_SIZE;

const ANY_NODE: i32 = -1;

/// Why there is no pool.
#[derive(Debug, Error)]
pub enum PoolError {
    /// A pool of nothing.
    #[error("pool {name}: needs at least one packet buffer")]
    Empty {
        /// Name of the pool.
        name: String,
    },
    /// The cache is larger than DPDK allows, or so large that workers could starve each other.
    #[error("pool {name}: a cache of {cache} is too large, at most {most} fit this pool")]
    Cache {
        /// Name of the pool.
        name: String,
        /// What was asked for.
        cache: u32,
        /// Largest cache that this pool can have, in packets.
        most: u32,
    },
    /// Buffer and headroom together have 16 bits.
    #[error("pool {name}: {data_room} bytes for each packet are too many, at most {most} are possible")]
    DataRoom {
        /// Name of the pool.
        name: String,
        /// What was asked for.
        data_room: u16,
        /// Largest number of bytes, [`u16::MAX`] less the headroom.
        most: u16,
    },
    /// DPDK gave an error.
    #[error(
        "pool {name}: cannot allocate {count} packet buffers of {data_room} bytes (about {megabytes} MiB)"
    )]
    Create {
        /// Name of the pool.
        name: String,
        /// Packet buffers asked for.
        count: u32,
        /// Bytes for the data of each.
        data_room: u16,
        /// Memory needed, in MiB.
        megabytes: u64,
        /// What DPDK returned; most often it is out of memory.
        #[source]
        errno: Errno,
    },
}

/// A pool of packet buffers, all of one size. A clone is the same pool.
///
/// The last clone to go gives its memory back to DPDK as soon as every packet is back and no worker runs; until then it is
/// kept, and given to the next pool of the same measures.
#[derive(Debug, Clone)]
pub struct Mempool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    raw: Raw,
    eal: Eal,
}

/// What makes one pool as good as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measures {
    count: u32,
    cache: u32,
    data_room: u16,
    node: i32,
}

#[derive(Debug)]
struct Raw {
    pool: NonNull<sys::rte_mempool>,
    measures: Measures,
}

// SAFETY: DPDK's pools may be used by all threads at once.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Mempool {
    /// A pool of `count` packets with room for `data_room` bytes each (a frame, without [`HEADROOM`]), of which each worker
    /// keeps up to about `cache` at hand (0 to [`MAX_CACHE`], at most two thirds of `count`). On any NUMA node.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn new(eal: &Eal, name: &str, count: u32, cache: u32, data_room: u16) -> Result<Self, PoolError> {
        Self::on_node(eal, name, count, cache, data_room, None)
    }

    /// The same, in the memory of one NUMA node: that of the NIC, for speed.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn on_node(
        eal: &Eal,
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        node: Option<u32>,
    ) -> Result<Self, PoolError> {
        let measures = Measures {
            count,
            cache,
            data_room,
            node: node.and_then(|node| i32::try_from(node).ok()).unwrap_or(ANY_NODE),
        };
        check(name, measures)?;
        let raw = match eal.pools().take(measures) {
            Some(raw) => raw,
            None => create(name, measures)?,
        };
        let shared = Shared {
            name: name.to_owned(),
            raw,
            eal: eal.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Name of the pool, as in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Packet buffers in all, free or in use.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.shared.raw.measures.count
    }

    /// Packets that are not in use, those at hand for workers included. An estimate while others use the pool.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.shared.raw.available()
    }

    /// Packets in use: in a queue, in a device, or held by the program. An estimate while others use the pool.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.capacity() - self.available()
    }

    /// Bytes for the data of each packet, without [`HEADROOM`].
    #[must_use]
    pub fn data_room(&self) -> u16 {
        self.shared.raw.measures.data_room
    }

    /// An empty packet; `None` when all are in use.
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut one = [std::ptr::null_mut(); 1];
        // SAFETY: the pool is alive, and `one` has room for one pointer.
        let status = unsafe { sys::pc_alloc_bulk(self.raw(), one.as_mut_ptr(), 1) };
        if status != 0 {
            return None;
        }
        // SAFETY: the pool gave a packet that nobody else has.
        NonNull::new(one[0]).map(|packet| unsafe { Mbuf::from_raw(packet) })
    }

    /// Adds `count` empty packets to `burst`, all or none: `false` when it lacks the room, or the pool the packets.
    #[must_use]
    pub fn alloc_burst<const N: usize>(&self, burst: &mut Burst<N>, count: usize) -> bool {
        burst.fill_with(count, |room| {
            // A burst holds fewer packets than fit 32 bits: `fill_with` refuses more.
            let wanted = u32::try_from(room.len()).unwrap_or(u32::MAX);
            // SAFETY: the pool is alive, and `room` has room for that many pointers.
            unsafe { sys::pc_alloc_bulk(self.raw(), room.as_mut_ptr().cast(), wanted) == 0 }
        })
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.shared.raw.pool.as_ptr()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let raw = Raw {
            pool: self.raw.pool,
            measures: self.raw.measures,
        };
        self.eal.pools().retire(raw);
    }
}

impl Raw {
    fn available(&self) -> u32 {
        // SAFETY: the pool is alive, as it is in a `Mempool` or in `Pools`.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }.min(self.measures.count)
    }

    fn is_full(&self) -> bool {
        self.available() == self.measures.count
    }
}

/// Pools without an owner, which may have packets out, and the number of threads that have caches in pools.
///
/// A packet does not know its owner's pool: counting owners of a pool by its packets would cost an atomic operation for
/// each. So a pool is freed only when DPDK's own count proves that every packet is back. With a worker at work that count
/// is no proof, as packets on the way from its cache to the pool are counted twice; without any it is exact, since then
/// packets go to the pool's ring directly.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    workers: usize,
    retired: Vec<Raw>,
}

impl Pools {
    /// A thread is about to have caches.
    pub(crate) fn worker_starts(&mut self) {
        self.workers += 1;
    }

    /// A thread has caches no longer.
    pub(crate) fn worker_ended(&mut self) {
        self.workers = self.workers.saturating_sub(1);
        self.sweep();
    }

    fn retire(&mut self, raw: Raw) {
        self.retired.push(raw);
        self.sweep();
    }

    /// One of the same measures that looks full, to be used again. One that only looks full is none the worse for it: what
    /// is still out will come back to it.
    fn take(&mut self, measures: Measures) -> Option<Raw> {
        let index = self
            .retired
            .iter()
            .position(|raw| raw.measures == measures && raw.is_full())?;
        Some(self.retired.swap_remove(index))
    }

    /// Frees what can be freed. Whether nothing is left.
    pub(crate) fn sweep(&mut self) -> bool {
        if self.workers == 0 {
            self.retired.retain(|raw| {
                let free = raw.is_full();
                if free {
                    // SAFETY: no handle is left to take packets from it, every packet is back, and no thread has a cache
                    // in it, so that nothing uses it.
                    unsafe { sys::rte_mempool_free(raw.pool.as_ptr()) };
                }
                !free
            });
        }
        self.retired.is_empty()
    }
}

fn check(name: &str, measures: Measures) -> Result<(), PoolError> {
    let name = || name.to_owned();
    if measures.count == 0 {
        return Err(PoolError::Empty { name: name() });
    }
    // DPDK lets a cache grow to 1.5 times its size before it gives packets back.
    let most = (u64::from(measures.count) * 2 / 3).min(u64::from(MAX_CACHE)) as u32;
    if measures.cache > most {
        return Err(PoolError::Cache {
            name: name(),
            cache: measures.cache,
            most,
        });
    }
    let most = u16::MAX - HEADROOM;
    if measures.data_room > most {
        return Err(PoolError::DataRoom {
            name: name(),
            data_room: measures.data_room,
            most,
        });
    }
    Ok(())
}

fn create(name: &str, measures: Measures) -> Result<Raw, PoolError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let failed = |errno| PoolError::Create {
        name: name.to_owned(),
        count: measures.count,
        data_room: measures.data_room,
        megabytes: megabytes(measures),
        errno,
    };
    // DPDK's names are short and used once; a pool that is used again changes its name.
    let unique = format!("pool-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let unique = CString::new(unique).unwrap_or_default();
    // SAFETY: the name is a C string; DPDK is initialised, as there is an `Eal`.
    let pool = unsafe {
        sys::rte_pktmbuf_pool_create(
            unique.as_ptr(),
            measures.count,
            measures.cache,
            0,
            measures.data_room + HEADROOM,
            measures.node,
        )
    };
    let pool = NonNull::new(pool).ok_or_else(|| failed(Errno::last()))?;
    Ok(Raw { pool, measures })
}

/// Memory that such a pool needs: headers of DPDK's object and of the packet, and the data.
fn megabytes(measures: Measures) -> u64 {
    let each = 64 + 128 + u64::from(HEADROOM) + u64::from(measures.data_room);
    (u64::from(measures.count) * each).div_ceil(1 << 20)
}
