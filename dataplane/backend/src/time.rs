//! Reads the clocks of the machine for a session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::clock::{Clock, Now};

/// The clocks of one session.
#[derive(Debug)]
pub struct Time {
    started: Instant,
    clock: Clock,
}

impl Default for Time {
    fn default() -> Self {
        Self::new()
    }
}

impl Time {
    /// The session starts now.
    #[must_use]
    pub fn new() -> Self {
        Time {
            started: Instant::now(),
            clock: Clock::default(),
        }
    }

    /// The time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Monotonic time for timers, and wall-clock time for ends of leases.
    pub fn now(&mut self) -> Now {
        let now = Now {
            uptime: self.started.elapsed(),
            // Before the epoch nothing ends: rows are written for the longest time there is.
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        self.clock.read(now)
    }

    /// A new intent came, with times by the clock of this moment.
    pub fn reset_clock(&mut self) {
        self.clock.reset();
    }

    /// The moment at a time since the start.
    pub fn instant(&self, uptime: Duration) -> Instant {
        self.started + uptime
    }
}
