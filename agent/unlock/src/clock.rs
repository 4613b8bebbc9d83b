//! Times on two clocks, and deadlines that no clock change postpones.

use serde::{Deserialize, Serialize};

/// A moment, as both clocks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Milliseconds since the Unix epoch; jumps when the clock is set.
    pub wall_ms: i64,
    /// Milliseconds since the machine was started, suspended time included; never jumps.
    pub boot_ms: u64,
    /// Which start of the machine that is.
    pub boot: u128,
}

impl Moment {
    /// Seconds since the Unix epoch.
    pub fn seconds(&self) -> i64 {
        self.wall_ms.div_euclid(1000)
    }

    /// The moment `seconds` after this one, on both clocks.
    pub fn after(&self, seconds: u64) -> Deadline {
        let ms = seconds.saturating_mul(1000);
        Deadline {
            wall_ms: self.wall_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)),
            boot_ms: self.boot_ms.saturating_add(ms),
            boot: self.boot,
        }
    }
}

/// A moment to come, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Deadline {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Milliseconds since that start of the machine.
    pub boot_ms: u64,
    /// Random id of that start, the kernel's `boot_id`.
    pub boot: u128,
}

impl Deadline {
    /// Whether one of the clocks has reached it: for what must not last longer.
    pub fn has_come(&self, now: &Moment) -> bool {
        now.wall_ms >= self.wall_ms || now.boot != self.boot || now.boot_ms >= self.boot_ms
    }

    /// Whether both clocks have reached it: for what must not end earlier.
    pub fn has_surely_come(&self, now: &Moment) -> bool {
        now.wall_ms >= self.wall_ms && (now.boot != self.boot || now.boot_ms >= self.boot_ms)
    }

    /// Milliseconds until the first of the clocks reaches it.
    pub fn left_ms(&self, now: &Moment) -> u64 {
        if self.has_come(now) {
            return 0;
        }
        let wall = u64::try_from(self.wall_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
        wall.min(self.boot_ms - now.boot_ms)
    }

    /// When it comes by the wall clock at the latest, in seconds since the Unix epoch.
    pub fn seconds(&self) -> i64 {
        self.wall_ms.div_euclid(1000)
    }

    /// The same deadline after a restart of the machine: the time that was left at `seen`, on the clock that
    /// never jumps, is left now.
    pub fn resumed(self, seen: &Moment, now: &Moment) -> Self {
        if self.boot == now.boot {
            return self;
        }
        let left = match self.boot == seen.boot {
            true => self.boot_ms.saturating_sub(seen.boot_ms),
            // Nobody looked since then, so that all of it is left by that clock; the wall clock ends it.
            false => u64::MAX,
        };
        Deadline {
            wall_ms: self.wall_ms,
            boot_ms: now.boot_ms.saturating_add(left),
            boot: now.boot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: i64, boot_ms: u64, boot: u128) -> Moment {
        Moment {
            wall_ms,
            boot_ms,
            boot,
        }
    }

    #[test]
    fn whichever_clock_comes_first() {
        let end = at(1_000_000, 5_000, 1).after(10);
        assert!(!end.has_come(&at(1_009_999, 14_999, 1)));
        assert_eq!(end.left_ms(&at(1_004_000, 5_000, 1)), 6_000);
        assert_eq!(end.left_ms(&at(1_000_000, 14_000, 1)), 1_000);
        // Set forward, set back, and a machine that nobody resumed on.
        assert!(end.has_come(&at(1_010_000, 5_001, 1)));
        assert!(end.has_come(&at(0, 15_000, 1)));
        assert!(end.has_come(&at(0, 0, 2)));
        assert!(!end.has_surely_come(&at(9_000_000, 14_999, 1)));
        assert!(!end.has_surely_come(&at(0, 15_000, 1)));
        assert!(end.has_surely_come(&at(1_010_000, 15_000, 1)));
    }

    #[test]
    fn a_restart_of_the_machine_gives_no_time() {
        let end = at(1_000_000, 5_000, 1).after(10);
        let seen = at(1_004_000, 9_000, 1);
        // The wall clock was set back meanwhile: the other one still ends it.
        let now = at(900_000, 100, 2);
        let end = end.resumed(&seen, &now);
        assert_eq!(end.left_ms(&now), 6_000);
        assert!(end.has_come(&at(900_000, 6_100, 2)));
        let again = end.resumed(&seen, &at(900_001, 200, 2));
        assert_eq!(again, end, "a restart of the agent alone changes nothing");
    }
}
