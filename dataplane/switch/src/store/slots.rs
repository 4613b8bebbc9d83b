//! Counters of rows: which are free, and what each showed when its row was written.

use std::collections::HashMap;

use portcullis_fastpath::NO_SLOT;
use portcullis_proto::p4::v1;

use crate::counters::{Count, SLOTS, Sums};

/// Counters in use. A freed one is used again once no worker counts in it.
#[derive(Debug, Default)]
pub(super) struct Slots {
    pub(super) free: Vec<u32>,
    pub(super) resting: Vec<u32>,
    pub(super) next: u32,
    /// Value of a counter when its row was written.
    pub(super) base: HashMap<u32, Count>,
}

impl Slots {
    pub(super) fn take(&mut self, sums: &Sums) -> Option<u32> {
        let slot = self.free.pop().or_else(|| {
            let next = self.next;
            ((next as usize) < SLOTS).then(|| {
                self.next += 1;
                next
            })
        })?;
        self.base.insert(slot, sums.row(slot));
        Some(slot)
    }

    /// Sets what the counter shows from now on.
    pub(super) fn set(&mut self, slot: u32, data: &v1::CounterData, sums: &Sums) {
        let now = sums.row(slot);
        let base = Count {
            packets: now.packets.wrapping_sub(data.packet_count as u64),
            bytes: now.bytes.wrapping_sub(data.byte_count as u64),
        };
        self.base.insert(slot, base);
    }

    pub(super) fn give(&mut self, slot: u32) {
        if slot != NO_SLOT {
            self.base.remove(&slot);
            self.resting.push(slot);
        }
    }
}
