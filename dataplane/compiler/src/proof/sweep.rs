//! Ports and flags of one slice: a sweep along the destination ports, at every number where anything changes, with
//! one bit for each entry and row.
//!
//! Source ports and flags give a few masks of these bits; at each stop the first bit of "reaches here" and "in the
//! mask" is the entry, or the row, that decides.

use portcullis_policy::{TCP_FLAGS, Verdict};

use super::case::is_opening;
use super::ports::Run;

/// What a slice asks of TCP flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flags {
    Any,
    /// `flags & mask == value`.
    Masked(u16, u16),
    /// Anything but SYN without ACK.
    NotOpening,
}

impl Flags {
    fn hits(self, flags: u16) -> bool {
        match self {
            Flags::Any => true,
            Flags::Masked(value, mask) => flags & mask == value,
            Flags::NotOpening => !is_opening(flags),
        }
    }
}

/// What is common to a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// The last port, or type and code.
    pub last: u16,
    /// Whether packets have TCP flags.
    pub flags: bool,
    /// Zero ports and flags are denied, because a header that is too short looks the same.
    pub blank: bool,
    /// The flags that such a header shows as zeros.
    pub shown_flags: u16,
    /// The verdict where no entry matches.
    pub default: Verdict,
}

/// Where a sweep found rows and policy to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub src: u16,
    pub dst: u16,
    pub flags: u16,
    /// What the entries say.
    pub wanted: Verdict,
    /// What the rows say.
    pub got: Option<Verdict>,
}

/// What the entries of a slice mean for later fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    pub passes: bool,
    /// Some whole packet is denied.
    pub denies: bool,
    /// Some packet gets another verdict when it opens a connection.
    pub torn: bool,
}

/// Part of the pool of runs.
#[derive(Debug, Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    src: Part,
    dst: Part,
    flags: Flags,
    /// `None`: nothing is certain where this decides.
    says: Option<Verdict>,
    /// An entry that is about later fragments too.
    fragments: bool,
    priority: u32,
}

/// One mask: a source port and flags that stand for all that make it.
#[derive(Debug, Clone, Copy)]
struct Lane {
    src: u16,
    flags: u16,
    /// The first of its source port.
    first: bool,
}

/// The sweep of one slice after the other, in the same memory.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pool: Vec<Run>,
    entries: Vec<Item>,
    rows: Vec<Item>,
    /// For each row, where those of its priority end.
    ends: Vec<usize>,
    /// Words of bits for entries, and for entries and rows.
    entry_words: usize,
    words: usize,
    turns: Vec<u64>,
    here: Vec<u64>,
    /// Bits by source port, `words` for each.
    near: Vec<u64>,
    sources: Vec<u16>,
    lanes: Vec<Lane>,
    /// `words` for each lane.
    masks: Vec<u64>,
    flag_cells: FlagCells,
}

impl Sweep {
    /// Forgets the last slice.
    pub fn clear(&mut self) {
        self.pool.clear();
        self.entries.clear();
        self.rows.clear();
    }

    /// Adds an entry behind the others: its verdict, and whether it is about later fragments too; `src` and `dst` append the
    /// ports that it matches.
    pub fn entry(
        &mut self,
        (action, fragments): (Verdict, bool),
        flags: Flags,
        src: impl FnOnce(&mut Vec<Run>),
        dst: impl FnOnce(&mut Vec<Run>),
    ) {
        let item = self.item(Some(action), 0, flags, src, dst);
        self.entries.push(Item { fragments, ..item });
    }

    /// Adds a row: none of those before it has a lower priority.
    pub fn row(
        &mut self,
        says: Option<Verdict>,
        priority: u32,
        flags: Flags,
        src: impl FnOnce(&mut Vec<Run>),
        dst: impl FnOnce(&mut Vec<Run>),
    ) {
        let item = self.item(says, priority, flags, src, dst);
        self.rows.push(item);
    }

    fn item(
        &mut self,
        says: Option<Verdict>,
        priority: u32,
        flags: Flags,
        src: impl FnOnce(&mut Vec<Run>),
        dst: impl FnOnce(&mut Vec<Run>),
    ) -> Item {
        let from = self.pool.len();
        src(&mut self.pool);
        let middle = self.pool.len();
        dst(&mut self.pool);
        let to = self.pool.len();
        Item {
            src: Part { from, to: middle },
            dst: Part { from: middle, to },
            flags,
            says,
            fragments: true,
            priority,
        }
    }

    /// Compares entries and rows everywhere in a space. `differ` hears of each difference; its error ends the sweep.
    pub fn compare<E>(
        &mut self,
        space: Space,
        mut differ: impl FnMut(Spot) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        self.prepare(space);
        let mut turns = std::mem::take(&mut self.turns);
        let mut here = std::mem::take(&mut self.here);
        self.axis(|item| item.dst, space.last, &mut turns, &mut here);
        let mut outcome = Outcome::default();
        let mut rest = turns.as_slice();
        let mut at = Some(0);
        let mut result = Ok(());
        while let (Some(dst), Ok(())) = (at, &result) {
            while let Some((turn, behind)) = rest.split_first().filter(|(t, _)| position(**t) == Some(dst)) {
                flip(&mut here, *turn);
                rest = behind;
            }
            result = self.stop(space, dst, &here, &mut outcome, &mut differ);
            at = rest.first().and_then(|t| position(*t));
        }
        self.turns = turns;
        self.here = here;
        result.map(|()| outcome)
    }

    /// Everything that does not depend on the destination port.
    fn prepare(&mut self, space: Space) {
        if space.blank {
            let zero = |pool: &mut Vec<Run>| pool.push((0, 0));
            let flags = if space.flags {
                Flags::Masked(0, space.shown_flags)
            } else {
                Flags::Any
            };
            let item = self.item(Some(Verdict::Deny), 0, flags, zero, zero);
            // Of later fragments, zeros say nothing.
            let fragments = false;
            self.entries.insert(0, Item { fragments, ..item });
        }
        self.entry_words = self.entries.len().div_ceil(64).max(1);
        self.words = self.entry_words + self.rows.len().div_ceil(64).max(1);
        self.ends.clear();
        self.ends.resize(self.rows.len(), 0);
        let mut end = self.rows.len();
        for (index, item) in self.rows.iter().enumerate().rev() {
            if self
                .rows
                .get(index + 1)
                .is_some_and(|next| next.priority != item.priority)
            {
                end = index + 1;
            }
            if let Some(own) = self.ends.get_mut(index) {
                *own = end;
            }
        }
        self.sources(space.last);
        self.lanes(space.flags);
    }

    /// Entries and rows with the numbers of their bits.
    fn items(&self) -> impl Iterator<Item = (usize, &Item)> {
        let rows = self.entry_words * 64;
        self.entries.iter().enumerate().chain((rows..).zip(&self.rows))
    }

    /// Where bits change along one dimension, and those that are set at 0.
    fn axis(&self, part: impl Fn(&Item) -> Part, last: u16, turns: &mut Vec<u64>, base: &mut Vec<u64>) {
        turns.clear();
        base.clear();
        base.resize(self.words, 0);
        for (bit, item) in self.items() {
            let part = part(item);
            for (first, end) in self.pool.get(part.from..part.to).unwrap_or(&[]) {
                if *first == 0 {
                    flip(base, bit as u64);
                } else {
                    turns.push(u64::from(*first) << 32 | bit as u64);
                }
                if *end < last {
                    turns.push((u64::from(*end) + 1) << 32 | bit as u64);
                }
            }
        }
        turns.sort_unstable();
    }

    /// The bits of each source port, few of them twice.
    fn sources(&mut self, last: u16) {
        let mut turns = std::mem::take(&mut self.turns);
        let mut here = std::mem::take(&mut self.here);
        self.axis(|item| item.src, last, &mut turns, &mut here);
        self.near.clear();
        self.sources.clear();
        let mut rest = turns.as_slice();
        let mut at = Some(0);
        while let Some(src) = at {
            while let Some((turn, behind)) = rest.split_first().filter(|(t, _)| position(**t) == Some(src)) {
                flip(&mut here, *turn);
                rest = behind;
            }
            let mut recent = self.near.rchunks_exact(self.words).take(RECENT);
            if !recent.any(|known| known == here) {
                self.near.extend_from_slice(&here);
                self.sources.push(src);
            }
            at = rest.first().and_then(|t| position(*t));
        }
        self.turns = turns;
        self.here = here;
    }

    /// The masks that source ports and flags make together.
    fn lanes(&mut self, flags: bool) {
        self.lanes.clear();
        self.masks.clear();
        let mut cells = std::mem::take(&mut self.flag_cells);
        let (reps, bits) = cells.of(self, flags);
        for (src, near) in self.sources.iter().zip(self.near.chunks_exact(self.words)) {
            let begin = self.masks.len();
            for (flags, bits) in reps.iter().zip(bits.chunks_exact(self.words)) {
                let from = self.masks.len();
                self.masks.extend(near.iter().zip(bits).map(|(a, b)| a & b));
                let (before, new) = self.masks.split_at(from);
                if before
                    .get(begin..)
                    .is_some_and(|b| b.chunks_exact(self.words).any(|known| known == new))
                {
                    self.masks.truncate(from);
                } else {
                    self.lanes.push(Lane {
                        src: *src,
                        flags: *flags,
                        first: from == begin,
                    });
                }
            }
        }
        self.flag_cells = cells;
    }

    /// Compares at one destination port.
    fn stop<E>(
        &self,
        space: Space,
        dst: u16,
        here: &[u64],
        outcome: &mut Outcome,
        differ: &mut impl FnMut(Spot) -> Result<(), E>,
    ) -> Result<(), E> {
        let (entries_here, rows_here) = here.split_at(self.entry_words);
        let (mut opening, mut other) = (None, None);
        for (lane, mask) in self.lanes.iter().zip(self.masks.chunks_exact(self.words)) {
            let (entry_mask, row_mask) = mask.split_at(self.entry_words);
            let entry = first(entry_mask, entries_here, 0);
            let action = |entry: Option<usize>| {
                entry
                    .and_then(|i| self.entries.get(i))
                    .and_then(|e| e.says)
                    .unwrap_or(space.default)
            };
            let wanted = action(entry);
            outcome.denies |= wanted.denies();
            let got = self.decided(row_mask, rows_here);
            if got != Some(wanted) {
                let Lane { src, flags, .. } = *lane;
                differ(Spot {
                    src,
                    dst,
                    flags,
                    wanted,
                    got,
                })?;
            }
            let later = |entry: usize| self.entries.get(entry).is_none_or(|e| e.fragments);
            let mut plain = entry;
            while let Some(whole) = plain.filter(|entry| !later(*entry)) {
                plain = first(entry_mask, entries_here, whole + 1);
            }
            let plain = action(plain);
            outcome.passes |= plain.passes();
            if lane.first {
                (opening, other) = (None, None);
            }
            if is_opening(lane.flags) {
                opening = Some(plain);
            } else {
                other = Some(plain);
            }
            outcome.torn |= opening.is_some() && other.is_some() && opening != other;
        }
        Ok(())
    }

    /// What the first row says, if those that stand as high agree.
    fn decided(&self, mask: &[u64], here: &[u64]) -> Option<Verdict> {
        let winner = first(mask, here, 0)?;
        let says = self.rows.get(winner)?.says;
        let end = *self.ends.get(winner)?;
        let mut at = winner + 1;
        while at < end {
            let Some(next) = first(mask, here, at).filter(|n| *n < end) else {
                break;
            };
            if self.rows.get(next)?.says != says {
                return None;
            }
            at = next + 1;
        }
        says
    }
}

/// Source ports whose bits are compared with those of the next one.
const RECENT: usize = 16;
/// Flag questions that are remembered.
const KNOWN: usize = 64;

/// The port at which a turn happens.
fn position(turn: u64) -> Option<u16> {
    u16::try_from(turn >> 32).ok()
}

fn flip(bits: &mut [u64], turn: u64) {
    let bit = turn as u32;
    if let Some(word) = bits.get_mut(bit as usize / 64) {
        *word ^= 1 << (bit % 64);
    }
}

/// The first bit from `from` on that both have.
fn first(a: &[u64], b: &[u64], from: usize) -> Option<usize> {
    let skip = from / 64;
    let mut low = u64::MAX << (from % 64);
    for (index, (a, b)) in a.iter().zip(b).enumerate().skip(skip) {
        let both = a & b & low;
        if both != 0 {
            return Some(index * 64 + both.trailing_zeros() as usize);
        }
        low = u64::MAX;
    }
    None
}

/// Flags that stand for all that entries and rows can tell apart.
#[derive(Debug, Default)]
struct FlagCells {
    asked: Vec<Flags>,
    /// Flags for each way to answer what is asked.
    known: Vec<(Vec<Flags>, Vec<u16>)>,
    bits: Vec<u64>,
    none: Vec<u16>,
}

impl FlagCells {
    /// One value for each cell, and which items it hits.
    fn of(&mut self, sweep: &Sweep, flags: bool) -> (&[u16], &[u64]) {
        self.asked.clear();
        self.asked.push(Flags::NotOpening);
        for (_, item) in sweep.items() {
            if item.flags != Flags::Any && !self.asked.contains(&item.flags) {
                self.asked.push(item.flags);
            }
        }
        self.asked.sort_unstable();
        self.none.clear();
        self.none.push(0);
        let reps = if flags { self.find() } else { None };
        let reps = reps
            .and_then(|at| self.known.get(at))
            .map_or(self.none.as_slice(), |(_, reps)| reps);
        self.bits.clear();
        self.bits.resize(sweep.words * reps.len(), 0);
        for (rep, bits) in reps.iter().zip(self.bits.chunks_exact_mut(sweep.words)) {
            for (bit, item) in sweep.items() {
                if item.flags.hits(*rep) {
                    flip(bits, bit as u64);
                }
            }
        }
        (reps, &self.bits)
    }

    /// Where the values for what is asked are known.
    fn find(&mut self) -> Option<usize> {
        if let Some(at) = self.known.iter().position(|(asked, _)| *asked == self.asked) {
            return Some(at);
        }
        let mut seen = std::collections::HashSet::new();
        let answers = |flags: u16| -> Vec<bool> { self.asked.iter().map(|a| a.hits(flags)).collect() };
        let reps = (0..=TCP_FLAGS)
            .filter(|flags| seen.insert(answers(*flags)))
            .collect();
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.push((self.asked.clone(), reps));
        self.known.len().checked_sub(1)
    }
}
