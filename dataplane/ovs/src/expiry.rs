//! Timed rows: the switch closes what an unlock opened, also without the agent.
//!
//! What leads a port to a class is a *stack*. The lowest row is permanent and leads to what holds when every unlock has
//! ended; above it stands a row for each end, the higher the earlier, with a hard timeout, that leads to what holds until
//! then. When the top one ends, those below are what they were: ranks are counted from the bottom.
//!
//! The switch counts seconds from when a row was written, as sixteen bits, and ends never come late: a row is written with
//! the whole seconds that remain, an end further away than [`MAX`] is approached in several writes, and an end whose
//! moment has come is not written again. If the agent is away for longer than a row was written for, it closes early.
//!
//! Pure: the time is an argument, since the Unix epoch.

use std::time::Duration;

use portcullis_compiler::{ClassId, ScheduledTransition};
use portcullis_policy::Direction;

/// The longest hard timeout there is: 18 hours.
pub const MAX: u16 = u16::MAX;
/// An end further away than `MAX` is written again when a row has less left than this.
pub const ENOUGH: Duration = Duration::from_secs(MAX as u64 / 2);
/// Ends of one port and direction that are written as rows. With more of them, the last row ends for all that are later.
pub const ENDS: usize = 16;
/// Ranks there are, so that ends beyond [`ENDS`] renumber nothing when they are written at last.
pub const RANKS: u16 = 64;

/// A row may end so much before what is wanted: whole seconds, and the time that a message takes.
const EARLY: Duration = Duration::from_secs(2);
/// And so much after, by the time that a message takes.
const LATE: Duration = Duration::from_secs(1);
/// Clocks that are set, and switches that take their time, put an end off by less than this; more is somebody's doing.
const ASTRAY: Duration = Duration::from_secs(60);

/// One row of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedRow {
    /// Its place, from the bottom.
    pub rank: u16,
    /// The class it leads to.
    pub class: ClassId,
    /// When it ends, in seconds since the Unix epoch; the lowest one never does.
    pub until: Option<u64>,
}

/// What an endpoint's class of a direction is, until when, and in the end. Ends that change nothing here are left out.
fn ends(
    now: ClassId,
    transitions: &[ScheduledTransition],
    direction: Direction,
) -> (Vec<(u64, ClassId)>, ClassId) {
    let mut class = now;
    let mut ends = Vec::new();
    for transition in transitions {
        let next = transition.classes[direction];
        if next != class {
            ends.push((transition.at, class));
            class = next;
        }
    }
    (ends, class)
}

/// How many ends there are beyond those that are written as rows.
pub fn beyond(now: ClassId, transitions: &[ScheduledTransition], direction: Direction) -> usize {
    ends(now, transitions, direction).0.len().saturating_sub(ENDS)
}

/// The rows that lead to a class, from the top to the bottom.
///
/// With more than [`ENDS`] ends the later ones are not written yet: the lowest timed row ends for them, too, which is
/// early for them and late for none. Whoever writes stacks writes them when an earlier end has passed.
pub fn expiry_chain(
    now: ClassId,
    transitions: &[ScheduledTransition],
    direction: Direction,
) -> Vec<TimedRow> {
    let (ends, last) = ends(now, transitions, direction);
    let top = u16::try_from(ends.len()).map_or(RANKS, |count| count.min(RANKS));
    let timed = ends.into_iter().take(ENDS).zip((1..=top).rev());
    let mut rungs: Vec<TimedRow> = timed
        .map(|((until, class), rank)| TimedRow {
            rank,
            class,
            until: Some(until),
        })
        .collect();
    rungs.push(TimedRow {
        rank: 0,
        class: last,
        until: None,
    });
    rungs
}

/// The hard timeout with which a row is written now: never beyond its end; none when its moment has come, or nearly.
pub fn timeout(until: u64, wall: Duration) -> Option<u16> {
    let left = Duration::from_secs(until).checked_sub(wall)?.as_secs();
    let left = u16::try_from(left).unwrap_or(MAX);
    (left > 0).then_some(left)
}

/// Whether a row that is not there has ended by itself: its moment has come, or nearly.
pub fn is_due(until: u64, wall: Duration) -> bool {
    Duration::from_secs(until) <= wall + EARLY
}

/// Whether rows that were sent at one moment and confirmed at another may end too late: then they are read back.
pub fn is_slow(sent: Duration, confirmed: Duration) -> bool {
    confirmed.saturating_sub(sent) > LATE
}

/// When a row written now for this end is to be looked at again, because it ends before that.
pub fn refresh_at(until: u64, wall: Duration) -> Option<Duration> {
    let ends = wall + Duration::from_secs(u64::from(MAX));
    (Duration::from_secs(until) > ends).then(|| ends.saturating_sub(ENOUGH))
}

/// How long a row lasts, as the switch tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until somebody removes it.
    Permanent,
    /// Until a moment since the Unix epoch; written for the longest time there is, or a shorter one.
    Until {
        /// The moment at the earliest.
        ends: Duration,
        /// How much later it may be: the time that the read-back took.
        unsure: Duration,
        /// Whether no longer time could have been written.
        longest: bool,
    },
    /// As no row of ours: while packets come.
    Idle,
}

impl Lifetime {
    /// From the timeouts of a row and its age at some moment between two.
    pub fn new(hard: u16, idle: u16, age: Duration, [from, to]: [Duration; 2]) -> Self {
        match (hard, idle) {
            (_, 1..) => Lifetime::Idle,
            (0, 0) => Lifetime::Permanent,
            (hard, 0) => Lifetime::Until {
                ends: (from + Duration::from_secs(u64::from(hard))).saturating_sub(age),
                unsure: to.saturating_sub(from),
                longest: hard == MAX,
            },
        }
    }

    /// Whether it is what was written for this end, though it does not fit now: it had to run out before, or is off by as
    /// much as clocks and slow switches are.
    pub fn has_strayed(self, until: Option<u64>) -> bool {
        match (self, until) {
            (Lifetime::Until { ends, unsure, .. }, Some(until)) => {
                let wanted = Duration::from_secs(until);
                self.is_worn(Some(until)) || (ends <= wanted + ASTRAY && ends + unsure + ASTRAY >= wanted)
            }
            _ => false,
        }
    }

    /// The end in seconds, as a row has it that is not what is wanted; 0 is no end that anybody wants.
    pub fn until(self) -> Option<u64> {
        match self {
            Lifetime::Permanent => None,
            Lifetime::Until { ends, .. } => Some(ends.as_secs()),
            Lifetime::Idle => Some(0),
        }
    }

    /// Whether it is as good as the wanted end: at that moment, or earlier with enough time left.
    pub fn fits(self, until: Option<u64>, wall: Duration) -> bool {
        match (self, until) {
            (Lifetime::Permanent, None) => true,
            (
                Lifetime::Until {
                    ends,
                    unsure,
                    longest,
                },
                Some(until),
            ) => {
                let wanted = Duration::from_secs(until);
                let soon = ends + unsure + EARLY >= wanted;
                ends <= wanted + LATE && (soon || (longest && ends >= wall + ENOUGH))
            }
            _ => false,
        }
    }

    /// Whether it had to be written for less time than there was.
    fn is_worn(self, until: Option<u64>) -> bool {
        match (self, until) {
            (Lifetime::Until { ends, longest, .. }, Some(until)) => {
                longest && ends < Duration::from_secs(until)
            }
            _ => false,
        }
    }

    /// When a row that ends before what is wanted has to be written again.
    pub fn refresh_at(self, until: Option<u64>) -> Option<Duration> {
        match self {
            Lifetime::Until { ends, .. } if self.is_worn(until) => Some(ends.saturating_sub(ENOUGH)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
