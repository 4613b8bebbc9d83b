//! Class ids: counted up, and reused when none are left and no target has rows under them.

use imbl::OrdMap;

use super::ClassId;

/// There are more classes than ids. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "more distinct policies than the {limit} class ids ({unconfirmed} of them wait until every target is known to hold no \
     rows of theirs): let more endpoints share their rules, or wait for the targets"
)]
pub struct OutOfClasses {
    /// The highest number there is.
    pub limit: u32,
    /// Numbers that are in no use any more and that some target may still have rows of.
    pub unconfirmed: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Ids {
    /// The first that was never used.
    next: u32,
    limit: u32,
    /// None below this one is free.
    lowest: u32,
    /// Numbers out of use that a target may still have rows of, with the first generation without them.
    released: OrdMap<ClassId, u64>,
}

impl Ids {
    pub(super) fn new(next: u32, released: impl IntoIterator<Item = (ClassId, u64)>) -> Self {
        Ids {
            next: next.max(1),
            limit: u32::MAX - 1,
            lowest: 1,
            released: released.into_iter().collect(),
        }
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: u32) {
        // So that the first that was never used is always a number.
        self.limit = limit.min(u32::MAX - 1);
        self.lowest = 1;
    }

    pub(super) fn released(&self) -> &OrdMap<ClassId, u64> {
        &self.released
    }

    /// A number that nothing has.
    pub(super) fn take(&mut self, in_use: impl Fn(ClassId) -> bool) -> Result<ClassId, OutOfClasses> {
        if self.next <= self.limit {
            self.next += 1;
            return Ok(ClassId(self.next - 1));
        }
        let free = |id: &ClassId| !in_use(*id) && !self.released.contains_key(id);
        match (self.lowest..=self.limit).map(ClassId).find(free) {
            Some(id) => {
                self.lowest = id.0 + 1;
                Ok(id)
            }
            None => Err(OutOfClasses {
                limit: self.limit,
                unconfirmed: self.released.len(),
            }),
        }
    }

    pub(super) fn release(&mut self, id: ClassId, generation: u64) {
        self.released.insert(id, generation);
    }

    pub(super) fn confirm_gone(&mut self, id: ClassId) {
        if self.released.remove(&id).is_some() {
            self.lowest = self.lowest.min(id.0);
        }
    }
}
