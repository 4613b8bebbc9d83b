//! A packet buffer (`rte_mbuf`) with exactly one owner.

use crate::mempool::{HEADROOM, Mempool};
use portcullis_dpdk_sys as sys;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};
use thiserror::Error;

/// A packet buffer. Dropping it gives it back to its pool; many are better dropped as a [`Burst`](crate::Burst), at once.
///
/// The bytes may be shared with other packets ([`Mbuf::share`], and what arrives from `net_ring` after that). Nobody can
/// write them then: what would write gives [`MbufError::Shared`].
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: a packet may be used and freed by any thread, one at a time; what packets share is counted atomically.
unsafe impl Send for Mbuf {}

/// Why bytes of a packet cannot be changed.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum MbufError {
    /// Another packet has the same bytes.
    #[error("the bytes are shared with another packet: write to a copy")]
    Shared,
    /// The buffer is too small.
    #[error("{needed} bytes do not fit into {room}")]
    NoRoom {
        /// Bytes to be added.
        needed: usize,
        /// Bytes that would fit.
        room: usize,
    },
    /// More bytes shall go than there are in that segment.
    #[error("{wanted} bytes cannot be cut from {length}")]
    TooShort {
        /// Bytes to be removed.
        wanted: usize,
        /// Bytes in the segment.
        length: usize,
    },
    /// The packet spreads over several buffers.
    #[error("the packet has {0} segments; only one is supported here")]
    Chained(u16),
}

/// Flags of a packet whose bytes are in a buffer that is not its own.
const ELSEWHERE: u64 = sys::PC_MBUF_F_INDIRECT | sys::PC_MBUF_F_EXTERNAL;

/// A segment of a packet: pointer to a live buffer of DPDK.
#[derive(Clone, Copy)]
struct Segment(NonNull<sys::rte_mbuf>);

impl Segment {
    /// The field at `offset`, one of the `PC_MBUF_…` for which `T` has the width that shim.c asserts.
    #[inline]
    fn field<T>(self, offset: sys::pc_mbuf_layout) -> *mut T {
        // SAFETY: the C compiler found `offset` inside this struct.
        unsafe { self.0.as_ptr().cast::<u8>().add(offset as usize).cast() }
    }

    #[inline]
    fn get<T: Copy>(self, offset: sys::pc_mbuf_layout) -> T {
        // SAFETY: the segment is alive and its owner is here, so that nobody writes the field; it is aligned.
        unsafe { *self.field::<T>(offset) }
    }

    /// For owners: the packet is borrowed mutably.
    fn set<T>(self, offset: sys::pc_mbuf_layout, value: T) {
        // SAFETY: the segment is alive and its owner, who alone may write the field, is here; it is aligned.
        unsafe { *self.field::<T>(offset) = value }
    }

    #[inline]
    fn data_off(self) -> u16 {
        self.get(sys::PC_MBUF_DATA_OFF)
    }

    #[inline]
    fn data_len(self) -> u16 {
        self.get(sys::PC_MBUF_DATA_LEN)
    }

    fn tail_room(self) -> usize {
        let used = usize::from(self.data_off()) + usize::from(self.data_len());
        usize::from(self.get::<u16>(sys::PC_MBUF_BUF_LEN)).saturating_sub(used)
    }

    fn next(self) -> Option<Self> {
        NonNull::new(self.get::<*mut sys::rte_mbuf>(sys::PC_MBUF_NEXT)).map(Self)
    }

    /// Where byte `offset` of the buffer is.
    #[inline]
    fn at(self, offset: usize) -> *mut u8 {
        let buffer: *mut u8 = self.get(sys::PC_MBUF_BUF_ADDR);
        // SAFETY: callers stay within the buffer, `buf_len` bytes at `buf_addr`.
        unsafe { buffer.add(offset) }
    }

    #[inline]
    fn bytes<'a>(self) -> &'a [u8] {
        let length = usize::from(self.data_len());
        // SAFETY: the data is within the buffer, which lives as long as the packet that `'a` borrows; nobody writes it
        // meanwhile, as writers need it to be theirs alone (`is_ours`).
        unsafe { std::slice::from_raw_parts(self.at(usize::from(self.data_off())), length) }
    }

    /// Whether no other packet has the bytes, so that its owner may write them.
    fn is_ours(self) -> bool {
        let flags = self.get::<u64>(sys::PC_MBUF_OL_FLAGS);
        // Acquire, so that what another owner read before it let go is over. DPDK lets go with release.
        let alone = |count: *mut u16| {
            // SAFETY: `count` is aligned and alive, and DPDK changes it atomically as well.
            unsafe { AtomicU16::from_ptr(count) }.load(Ordering::Acquire) == 1
        };
        if flags & ELSEWHERE == 0 {
            return alone(self.field(sys::PC_MBUF_REFCNT));
        }
        let shared: *mut u8 = self.get(sys::PC_MBUF_SHINFO);
        if flags & sys::PC_MBUF_F_INDIRECT != 0 || shared.is_null() {
            return false;
        }
        // SAFETY: a buffer that belongs to no pool has its count there as long as a packet has it.
        alone(unsafe { shared.add(sys::PC_SHINFO_REFCNT as usize) }.cast())
    }
}

impl Mbuf {
    /// # Safety
    /// `packet` is the first segment of a live packet that nothing else frees or changes.
    pub(crate) unsafe fn from_raw(packet: NonNull<sys::rte_mbuf>) -> Self {
        Self(packet)
    }

    #[inline]
    fn first(&self) -> Segment {
        Segment(self.0)
    }

    fn last(&self) -> Segment {
        let mut segment = self.first();
        while let Some(next) = segment.next() {
            segment = next;
        }
        segment
    }

    /// Bytes in all segments.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.first().get::<u32>(sys::PC_MBUF_PKT_LEN) as usize
    }

    /// Whether it has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all bytes are in one segment, so that [`Mbuf::data`] is the whole packet.
    #[inline]
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.first().get::<u16>(sys::PC_MBUF_NB_SEGS) == 1
    }

    /// The bytes of the first segment.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.first().bytes()
    }

    /// The bytes of the first segment, to be written.
    ///
    /// # Errors
    /// [`MbufError::Shared`].
    #[inline]
    pub fn data_mut(&mut self) -> Result<&mut [u8], MbufError> {
        let first = self.first();
        if !first.is_ours() {
            return Err(MbufError::Shared);
        }
        let (start, length) = (usize::from(first.data_off()), usize::from(first.data_len()));
        // SAFETY: the data is within the buffer, which is this packet's alone, and the packet is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(first.at(start), length) })
    }

    /// The bytes of each segment, in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::successors(Some(self.first()), |segment| segment.next()).map(Segment::bytes)
    }

    /// A copy of all bytes, of every segment.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.segments()
            .for_each(|segment| bytes.extend_from_slice(segment));
        bytes
    }

    /// DPDK's number of the port that it was received from ([`Device::id`](crate::Device::id)). `net_ring` leaves what it
    /// was before; a queue knows its port in any case ([`RxQueue::port`](crate::RxQueue::port)).
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.first().get(sys::PC_MBUF_PORT)
    }

    /// Whether no other packet shares the bytes, so that they can be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        std::iter::successors(Some(self.first()), |segment| segment.next()).all(Segment::is_ours)
    }

    /// Makes `bytes` the whole packet.
    ///
    /// # Errors
    /// [`MbufError::NoRoom`], [`MbufError::Shared`], and [`MbufError::Chained`] with more than one segment. The packet is
    /// as before then.
    pub fn set_data(&mut self, bytes: &[u8]) -> Result<(), MbufError> {
        let first = self.first();
        self.must_be_one_segment()?;
        if !first.is_ours() {
            return Err(MbufError::Shared);
        }
        let size = usize::from(first.get::<u16>(sys::PC_MBUF_BUF_LEN));
        let start = usize::from(HEADROOM).min(size);
        let room = size - start;
        let length = u16::try_from(bytes.len())
            .ok()
            .filter(|length| usize::from(*length) <= room)
            .ok_or(MbufError::NoRoom {
                needed: bytes.len(),
                room,
            })?;
        // SAFETY: `start + length` is within the buffer, which is this packet's alone; `bytes` are elsewhere, as a borrow
        // of this packet's bytes would exclude the mutable one.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), first.at(start), bytes.len()) };
        first.set(sys::PC_MBUF_DATA_OFF, start as u16);
        first.set(sys::PC_MBUF_DATA_LEN, length);
        first.set(sys::PC_MBUF_PKT_LEN, u32::from(length));
        Ok(())
    }

    /// Adds `bytes` at the end, in the last segment.
    ///
    /// # Errors
    /// [`MbufError::NoRoom`] and [`MbufError::Shared`]. The packet is as before then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), MbufError> {
        let last = self.last();
        if !last.is_ours() {
            return Err(MbufError::Shared);
        }
        let room = last.tail_room();
        if bytes.len() > room {
            let needed = bytes.len();
            return Err(MbufError::NoRoom { needed, room });
        }
        let length = last.data_len();
        let end = usize::from(last.data_off()) + usize::from(length);
        // SAFETY: `end + bytes.len()` is within the buffer, which is this packet's alone; `bytes` are elsewhere.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), last.at(end), bytes.len()) };
        // `room` fits 16 bits, and so does what fits the room.
        last.set(sys::PC_MBUF_DATA_LEN, length + bytes.len() as u16);
        self.set_len(self.len() + bytes.len());
        Ok(())
    }

    /// Adds `bytes` at the start, in the headroom: [`HEADROOM`] bytes in a new packet.
    ///
    /// # Errors
    /// [`MbufError::NoRoom`] and [`MbufError::Shared`]. The packet is as before then.
    pub fn prepend(&mut self, bytes: &[u8]) -> Result<(), MbufError> {
        let first = self.first();
        if !first.is_ours() {
            return Err(MbufError::Shared);
        }
        let room = usize::from(first.data_off());
        if bytes.len() > room {
            let needed = bytes.len();
            return Err(MbufError::NoRoom { needed, room });
        }
        let start = room - bytes.len();
        // SAFETY: `start + bytes.len()` is within the buffer, which is this packet's alone; `bytes` are elsewhere.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), first.at(start), bytes.len()) };
        first.set(sys::PC_MBUF_DATA_OFF, start as u16);
        first.set(sys::PC_MBUF_DATA_LEN, first.data_len() + bytes.len() as u16);
        self.set_len(self.len() + bytes.len());
        Ok(())
    }

    /// The room behind the bytes of a packet in one segment that is its owner's alone; none in any other.
    pub(crate) fn tail(&mut self) -> (*mut u8, usize) {
        let first = self.first();
        let end = usize::from(first.data_off()) + usize::from(first.data_len());
        let room = if self.is_contiguous() && first.is_ours() {
            first.tail_room()
        } else {
            0
        };
        (first.at(end), room)
    }

    /// Counts bytes that were written to the room of [`tail`](Self::tail).
    ///
    /// # Safety
    /// `count` bytes were written from the start of that room, and it has that many.
    pub(crate) unsafe fn filled(&mut self, count: u16) {
        let first = self.first();
        first.set(sys::PC_MBUF_DATA_LEN, first.data_len() + count);
        self.set_len(self.len() + usize::from(count));
    }

    /// Removes `count` bytes from the end, all of them in the last segment.
    ///
    /// # Errors
    /// [`MbufError::TooShort`]. The packet is as before then.
    pub fn trim(&mut self, count: usize) -> Result<(), MbufError> {
        let last = self.last();
        last.set(sys::PC_MBUF_DATA_LEN, shorter(last, count)?);
        self.set_len(self.len() - count);
        Ok(())
    }

    /// Removes `count` bytes from the start, all of them in the first segment.
    ///
    /// # Errors
    /// [`MbufError::TooShort`]. The packet is as before then.
    pub fn trim_start(&mut self, count: usize) -> Result<(), MbufError> {
        let first = self.first();
        let length = shorter(first, count)?;
        // `count` is at most the segment's length, which has 16 bits.
        first.set(sys::PC_MBUF_DATA_OFF, first.data_off() + count as u16);
        first.set(sys::PC_MBUF_DATA_LEN, length);
        self.set_len(self.len() - count);
        Ok(())
    }

    /// Another packet with the same bytes, which takes an empty packet of `pool` and copies nothing: for one frame that
    /// leaves through several ports. While both live neither can be written. `None` when the pool has no packet left.
    #[must_use]
    pub fn share(&self, pool: &Mempool) -> Option<Self> {
        // SAFETY: packet and pool are alive. DPDK changes only the counts of this packet, atomically.
        let shared = unsafe { sys::rte_pktmbuf_clone(self.0.as_ptr(), pool.raw()) };
        NonNull::new(shared).map(Self)
    }

    /// Another packet with the same bytes, copied to packets of `pool`. `None` when it has too few left.
    #[must_use]
    pub fn copy(&self, pool: &Mempool) -> Option<Self> {
        if self.is_empty() {
            // DPDK does not copy nothing.
            return pool.alloc();
        }
        // SAFETY: packet and pool are alive. DPDK only reads this packet.
        let copy = unsafe { sys::rte_pktmbuf_copy(self.0.as_ptr(), pool.raw(), 0, u32::MAX) };
        NonNull::new(copy).map(Self)
    }

    /// Asks the processor to fetch the first bytes, to be read soon.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.first().at(usize::from(self.first().data_off())).cast());
        }
    }

    fn must_be_one_segment(&self) -> Result<(), MbufError> {
        match self.first().get(sys::PC_MBUF_NB_SEGS) {
            1 => Ok(()),
            count => Err(MbufError::Chained(count)),
        }
    }

    fn set_len(&mut self, length: usize) {
        // DPDK's limit of 65,535 segments of 64 KiB fits 32 bits.
        self.first().set(sys::PC_MBUF_PKT_LEN, length as u32);
    }
}

/// The length of `segment` without `count` bytes.
fn shorter(segment: Segment, count: usize) -> Result<u16, MbufError> {
    let length = segment.data_len();
    let wanted = u16::try_from(count).ok();
    wanted
        .and_then(|count| length.checked_sub(count))
        .ok_or(MbufError::TooShort {
            wanted: count,
            length: usize::from(length),
        })
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: the packet is alive and this was its one owner.
        unsafe { sys::pc_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.first().get::<u16>(sys::PC_MBUF_NB_SEGS))
            .field("writable", &self.is_writable())
            .finish()
    }
}
