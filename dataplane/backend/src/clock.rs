//! The clock by which unlocks end. Pure: what both clocks of the machine show is an argument.

use std::time::Duration;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the session's start, never going back: how long the other side has been silent.
    pub uptime: Duration,
    /// Since the Unix epoch: when rows end.
    pub wall: Duration,
}

/// The time since the Unix epoch. It does not go back while an intent holds: no clock that is set prolongs a lease. It
/// is read anew with the next intent: the agent counts leases by the time since boot, and gives an intent without a lease when it
/// ends. Rows that end by themselves while the agent is away follow the clock of the last intent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// The latest time it showed, and when. Absent until the first look after an intent came.
    shown: Option<Now>,
}

impl Clock {
    /// A new intent came.
    pub fn reset(&mut self) {
        self.shown = None;
    }

    /// The time, when the machine's clocks show `now`.
    pub fn read(&mut self, now: Now) -> Now {
        let least = self.shown.map_or(Duration::ZERO, |shown| {
            shown.wall.saturating_add(now.uptime.saturating_sub(shown.uptime))
        });
        let now = Now {
            wall: now.wall.max(least),
            ..now
        };
        self.shown = Some(now);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_go_back_until_the_next_intent() {
        let mut clock = Clock::default();
        let read = |clock: &mut Clock, uptime, wall| {
            let now = Now {
                uptime: Duration::from_secs(uptime),
                wall: Duration::from_secs(wall),
            };
            clock.read(now).wall.as_secs()
        };
        assert_eq!(read(&mut clock, 1, 1000), 1000);
        assert_eq!(read(&mut clock, 3, 400), 1002, "set back by 602 s");
        assert_eq!(read(&mut clock, 4, 2000), 2000, "set forward");
        assert_eq!(read(&mut clock, 5, 1004), 2001);
        clock.reset();
        assert_eq!(read(&mut clock, 6, 1005), 1005);
    }
}
