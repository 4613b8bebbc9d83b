//! A burst: packets that are received, processed and sent together.

use crate::mbuf::Mbuf;
use portcullis_dpdk_sys as sys;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// Up to `N` packets, in order; a slice of [`Mbuf`]. Dropping it, or [`Burst::clear`], frees all of them with one call.
///
/// A worker keeps its bursts and uses them again: one to receive into, one for each port to send to, one for what is
/// dropped.
pub struct Burst<const N: usize = 32> {
    /// The first `len` are packets.
    packets: [MaybeUninit<Mbuf>; N],
    len: usize,
}

impl<const N: usize> Burst<N> {
    /// A burst without packets; nothing is allocated.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            packets: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }

    /// Whether no packet fits any more.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == N
    }

    /// Packets that still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        N - self.len
    }

    /// Adds a packet at the end.
    ///
    /// # Errors
    /// The packet, when the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Mbuf) -> Result<(), Mbuf> {
        match self.packets.get_mut(self.len) {
            Some(slot) => {
                slot.write(packet);
                self.len += 1;
                Ok(())
            }
            None => Err(packet),
        }
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was among the first `len`, and is no longer.
        Some(unsafe { self.packets[self.len].assume_init_read() })
    }

    /// Takes all packets, in order. Those not taken from the iterator are freed with it.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_, N> {
        let end = std::mem::take(&mut self.len);
        Drain {
            burst: self,
            next: 0,
            end,
        }
    }

    /// Frees all packets, with one call.
    #[inline]
    pub fn clear(&mut self) {
        let end = std::mem::take(&mut self.len);
        self.free(0, end);
    }

    /// Lets `fill` write up to `room()` packets behind those that are there; it says how many it wrote.
    ///
    /// # Safety
    /// `fill` returns a number of packets that it wrote, from the start, and that nobody else owns.
    #[inline]
    pub(crate) unsafe fn fill(&mut self, fill: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16) -> usize {
        let free = &mut self.packets[self.len..];
        let room = u16::try_from(free.len()).unwrap_or(u16::MAX);
        let count = usize::from(fill(free.as_mut_ptr().cast(), room).min(room));
        self.len += count;
        count
    }

    /// Lets `fill` write exactly `count` packets behind those that are there; whether it did.
    #[inline]
    pub(crate) fn fill_with(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [MaybeUninit<Mbuf>]) -> bool,
    ) -> bool {
        let Some(free) = self.packets[self.len..].get_mut(..count) else {
            return false;
        };
        let filled = fill(free);
        if filled {
            self.len += count;
        }
        filled
    }

    /// Lets `take` take packets from the start, for good; it says how many it took. The rest moves up.
    ///
    /// # Safety
    /// `take` returns the number of packets, from the start, that are no longer the burst's.
    #[inline]
    pub(crate) unsafe fn take(&mut self, take: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16) -> usize {
        let count = u16::try_from(self.len).unwrap_or(u16::MAX);
        let taken = usize::from(take(self.packets.as_mut_ptr().cast(), count).min(count));
        let rest = self.len - taken;
        if rest > 0 && taken > 0 {
            let start = self.packets.as_mut_ptr();
            // SAFETY: both ranges are within the first `len`. What is overwritten was taken or is moved itself.
            unsafe { std::ptr::copy(start.add(taken), start, rest) };
        }
        self.len = rest;
        taken
    }

    /// Frees this many packets from the start. The rest moves up.
    pub(crate) fn free_first(&mut self, count: usize) {
        let count = u16::try_from(count.min(self.len)).unwrap_or(u16::MAX);
        // SAFETY: the packets are freed, and were this burst's.
        unsafe {
            self.take(|packets, _| {
                sys::rte_pktmbuf_free_bulk(packets, u32::from(count));
                count
            });
        }
    }

    /// Frees the packets from `start` to `end`, which are no longer counted in `len`.
    fn free(&mut self, start: usize, end: usize) {
        let packets = &mut self.packets[start..end];
        if !packets.is_empty() {
            let count = u32::try_from(packets.len()).unwrap_or(u32::MAX);
            // SAFETY: a packet is a pointer to it (`repr(transparent)`); these are packets, owned here, and forgotten.
            unsafe { sys::rte_pktmbuf_free_bulk(packets.as_mut_ptr().cast(), count) };
        }
    }
}

impl<const N: usize> Deref for Burst<N> {
    type Target = [Mbuf];

    #[inline]
    fn deref(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are packets.
        unsafe { std::slice::from_raw_parts(self.packets.as_ptr().cast(), self.len) }
    }
}

impl<const N: usize> DerefMut for Burst<N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        // SAFETY: the first `len` are packets.
        unsafe { std::slice::from_raw_parts_mut(self.packets.as_mut_ptr().cast(), self.len) }
    }
}

impl<const N: usize> Drop for Burst<N> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Debug for Burst<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The packets of a burst, on their way out of it.
#[derive(Debug)]
pub struct Drain<'a, const N: usize> {
    /// Its `len` is 0.
    burst: &'a mut Burst<N>,
    /// From here to `end` are packets.
    next: usize,
    end: usize,
}

impl<const N: usize> Iterator for Drain<'_, N> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.end {
            return None;
        }
        let index = self.next;
        self.next += 1;
        // SAFETY: it was between `next` and `end`, and is no longer.
        Some(unsafe { self.burst.packets[index].assume_init_read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl<const N: usize> ExactSizeIterator for Drain<'_, N> {}

impl<const N: usize> Drop for Drain<'_, N> {
    fn drop(&mut self) {
        self.burst.free(self.next, self.end);
    }
}
