//! The periods of a session, one of each for every kind of target, and the timers that follow them.
//!
//! Pure: a time is a [`Duration`] since the session's start, on a clock that never goes back, and is an argument.

use std::time::Duration;

use crate::backoff::Backoff;

/// How often a session looks at its timers and at the ends of unlocks, when it does not wait for a peer. An end counts as closed by
/// the agent within 1 s: a fifth of that passes before it is noticed.
pub const TICK: Duration = Duration::from_millis(200);

/// How often rows are read back and compared, unless the configuration says otherwise. Drift stays that long at most; a
/// read-back of 100,000 rows takes about a second of a core.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(10);

/// How long a question to the datapath may take. Above every pause of a target that is well, and below the patience of a
/// person at a terminal.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The wait after the first refusal. A closing that is refused once, by a switch that is busy, still happens within 1 s, unless
/// reading the rows back before it takes longer. What is new meanwhile does not wait.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait: each refusal in a row doubles it, five times.
const RETRY_DOUBLES: u32 = 5;

/// The first wait before another connection attempt, and the longest. A datapath that restarts is there again within seconds,
/// and one that is away for hours costs an attempt every 8 s.
const CONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(8));

/// When rows are read back, and when what was refused is tried again.
#[derive(Debug, Clone)]
pub struct Timers {
    resync_interval: Duration,
    resync_at: Duration,
    retry_at: Option<Duration>,
    refusals: u32,
}

impl Timers {
    /// Reads back once per `resync_interval`, the first time at once.
    #[must_use]
    pub fn new(resync_interval: Duration) -> Self {
        Timers {
            resync_interval,
            resync_at: Duration::ZERO,
            retry_at: None,
            refusals: 0,
        }
    }

    /// The rows are read now, because a connection begins: the next read-back is a whole interval away.
    pub fn connected(&mut self, now: Duration) {
        self.resync_at = now.saturating_add(self.resync_interval);
    }

    /// Whether it is time to read back; if so, the next time is an interval from now.
    #[must_use = "after `true` the rows have to be read back"]
    pub fn is_resync_due(&mut self, now: Duration) -> bool {
        let due = now >= self.resync_at;
        if due {
            self.connected(now);
        }
        due
    }

    /// Something was refused: the wait before it is tried again, 500 ms and twice as long with each refusal in a row, up to 16 s.
    pub fn refused(&mut self, now: Duration) -> Duration {
        let wait = RETRY_FIRST * 2_u32.pow(self.refusals.min(RETRY_DOUBLES));
        self.refusals = self.refusals.saturating_add(1);
        self.retry_at = Some(now.saturating_add(wait));
        wait
    }

    /// Whether it is time to try again what was refused; says so once for each refusal.
    #[must_use = "after `true` it has to be tried again"]
    pub fn is_retry_due(&mut self, now: Duration) -> bool {
        self.retry_at.take_if(|at| now >= *at).is_some()
    }

    /// Everything that was wanted is there: the next refusal is a first one.
    pub fn confirmed(&mut self) {
        self.refusals = 0;
    }
}

/// When a connection is tried next.
#[derive(Debug, Clone)]
pub struct Attempts {
    at: Duration,
    backoff: Backoff,
}

impl Attempts {
    /// The first one is due at once. Connections of one process differ in `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Attempts {
            at: Duration::ZERO,
            backoff: Backoff::new(CONNECT.0, CONNECT.1, seed),
        }
    }

    /// When the next one is due.
    pub fn at(&self) -> Duration {
        self.at
    }

    /// Whether one is due.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.at
    }

    /// One failed, or a connection ended: the next waits, longer each time.
    pub fn failed(&mut self, now: Duration) {
        self.at = now.saturating_add(self.backoff.next_wait());
    }

    /// The next one is due at this time, whatever failed before.
    pub fn due_at(&mut self, at: Duration) {
        self.at = at;
    }

    /// A connection reached its first full state: waits are short again.
    pub fn worked(&mut self) {
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_refusal_is_tried_again_once_and_later_each_time() {
        let mut timers = Timers::new(RESYNC_INTERVAL);
        let waits: Vec<u128> = (0..8).map(|_| timers.refused(at(0)).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 16_000, 16_000]);
        timers.confirmed();
        // A closing that is refused once is still closed by the agent within 1 s.
        let late = TICK + timers.refused(at(100)) + TICK;
        assert!(late < Duration::from_secs(1), "{late:?}");
        assert!(!timers.is_retry_due(at(599)));
        assert!(timers.is_retry_due(at(600)) && !timers.is_retry_due(at(700)));
    }

    #[test]
    fn rows_are_read_back_once_per_interval_and_not_just_after_a_connection() {
        let mut timers = Timers::new(at(1000));
        assert!(timers.is_resync_due(at(0)) && !timers.is_resync_due(at(999)));
        timers.connected(at(999));
        assert!(!timers.is_resync_due(at(1998)) && timers.is_resync_due(at(1999)));
        assert!(!Timers::new(Duration::MAX).is_retry_due(at(0)));
    }

    #[test]
    fn attempts_wait_longer_until_one_worked() {
        let mut attempts = Attempts::new(1);
        assert!(attempts.is_due(at(0)));
        for _ in 0..20 {
            attempts.failed(at(0));
        }
        assert!(attempts.at() >= CONNECT.1 / 2 && attempts.at() <= CONNECT.1);
        attempts.worked();
        attempts.failed(at(0));
        assert!(attempts.at() <= CONNECT.0 && !attempts.is_due(at(0)));
        attempts.due_at(at(0));
        assert!(attempts.is_due(at(0)));
    }
}
