//! Time in which packets may have passed that the policy denies, by cause.

use std::collections::BTreeMap;
use std::time::Duration;

/// Why packets may pass that the policy denies, as status and metrics name it.
pub mod cause {
    /// The datapath passes everything without the agent's rows, and has lost them.
    pub const FAIL_MODE: &str = "fail_mode";
    /// Rows were not as the agent had written them.
    pub const ROWS: &str = "rows";
    /// Rows are in force for new flows, and it is not known whether flows follow that the datapath has cached.
    pub const CACHES: &str = "caches";
    /// An unlock ended, and the target has not confirmed it.
    pub const LATE_END: &str = "late_end";
}

/// Windows that are open, and what those that are closed add up to.
#[derive(Debug, Default)]
pub struct Windows {
    open: BTreeMap<&'static str, Duration>,
    closed: BTreeMap<&'static str, Duration>,
}

impl Windows {
    /// A window may have been open since a moment on the clock that never goes back. One that is open stays so. Returns
    /// whether it was closed.
    pub fn opened(&mut self, cause: &'static str, since: Duration) -> bool {
        let news = !self.open.contains_key(cause);
        self.open.entry(cause).or_insert(since);
        news
    }

    /// Everything desired is in force: all are closed. Returns whether one was open.
    pub fn close(&mut self, now: Duration) -> bool {
        let any = !self.open.is_empty();
        for (cause, since) in std::mem::take(&mut self.open) {
            *self.closed.entry(cause).or_default() += now.saturating_sub(since);
        }
        any
    }

    /// Whether one may be open.
    pub fn is_open(&self, cause: &str) -> bool {
        self.open.contains_key(cause)
    }

    /// Milliseconds by cause. Of one that is open, the whole seconds that have passed: it does not change at every look.
    pub fn millis(&self, now: Duration) -> BTreeMap<String, u64> {
        let mut all = self.closed.clone();
        for (cause, since) in &self.open {
            let seconds = now.saturating_sub(*since).as_secs();
            if seconds > 0 {
                *all.entry(cause).or_default() += Duration::from_secs(seconds);
            }
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        all.into_iter()
            .map(|(cause, time)| (cause.to_string(), millis(time)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn windows_add_up_from_their_first_moment() {
        let mut windows = Windows::default();
        assert!(!windows.close(at(5)));
        assert!(windows.opened("a", at(10)) && !windows.opened("a", at(30)));
        assert!(windows.is_open("a") && !windows.is_open("b"));
        assert!(windows.close(at(50)));
        windows.opened("a", at(100));
        windows.close(at(101));
        assert_eq!(windows.millis(at(500)), BTreeMap::from([("a".to_string(), 41)]));
    }

    #[test]
    fn one_that_is_open_counts_and_never_falls() {
        let mut windows = Windows::default();
        windows.opened("a", at(0));
        let told: Vec<u64> = [0, 999, 1000, 2999]
            .map(|now| windows.millis(at(now)).get("a").copied().unwrap_or(0))
            .into();
        assert_eq!(told, [0, 0, 1000, 2000]);
        windows.close(at(2999));
        assert_eq!(windows.millis(at(9000))["a"], 2999);
    }
}
