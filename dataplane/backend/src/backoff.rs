//! Waiting time before the next connection attempt.

use std::time::Duration;

/// Exponential waits between `min` and `max`, spread by a seeded (hence repeatable) jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    base: Duration,
    random: u64,
}

impl Backoff {
    /// Starts at `min` and doubles up to `max` (raised to `min` when smaller). Agents on many hosts should differ
    /// in `seed`.
    #[must_use]
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self {
            min,
            max: max.max(min),
            base: min,
            random: seed,
        }
    }

    /// The wait before the next attempt: at least half of the current step and at most all of it.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.base;
        self.base = self.base.saturating_mul(2).min(self.max);
        let half = step / 2;
        half + half.mul_f64(self.unit())
    }

    /// Back to `min`: a connection reached its first full state.
    pub fn reset(&mut self) {
        self.base = self.min;
    }

    /// SplitMix64, scaled to 0..1.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_within_its_bounds_and_repeats_with_its_seed() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        let waits: Vec<Duration> = (0..6).map(|_| backoff.next_wait()).collect();
        for (wait, step) in waits.iter().zip([100, 200, 400, 800, 1000, 1000]) {
            let step = Duration::from_millis(step);
            assert!(*wait >= step / 2 && *wait <= step, "{wait:?} of {step:?}");
        }
        let mut again = Backoff::new(min, max, 7);
        assert_eq!(waits, (0..6).map(|_| again.next_wait()).collect::<Vec<_>>());
        let mut other = Backoff::new(min, max, 8);
        assert_ne!(waits, (0..6).map(|_| other.next_wait()).collect::<Vec<_>>());
        backoff.reset();
        assert!(backoff.next_wait() <= min);
    }

    #[test]
    fn huge_bounds_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX, 1);
        for _ in 0..200 {
            backoff.next_wait();
        }
        assert!(backoff.next_wait() >= Duration::MAX / 4);
    }
}
