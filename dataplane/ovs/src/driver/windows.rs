//! Time in which packets may have passed without the agent's rows, by cause.

use std::collections::BTreeMap;
use std::time::Duration;

/// Windows that are open, and what those that are closed add up to.
#[derive(Debug, Default)]
pub(super) struct Windows {
    open: BTreeMap<&'static str, Duration>,
    closed: BTreeMap<&'static str, Duration>,
}

impl Windows {
    /// A window may have been open since a moment on the clock that never goes back. One that is open stays so.
    pub(super) fn opened(&mut self, cause: &'static str, since: Duration) {
        self.open.entry(cause).or_insert(since);
    }

    /// Everything desired is in force: all are closed. Returns whether one was open.
    pub(super) fn close(&mut self, now: Duration) -> bool {
        let any = !self.open.is_empty();
        for (cause, since) in std::mem::take(&mut self.open) {
            *self.closed.entry(cause).or_default() += now.saturating_sub(since);
        }
        any
    }

    /// Whether one may be open.
    pub(super) fn is_open(&self, cause: &str) -> bool {
        self.open.contains_key(cause)
    }

    /// Milliseconds by cause, of those that are closed.
    pub(super) fn millis(&self) -> BTreeMap<String, u64> {
        let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.closed
            .iter()
            .map(|(cause, time)| ((*cause).to_string(), millis(time)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_add_up_from_their_first_moment() {
        let at = Duration::from_millis;
        let mut windows = Windows::default();
        assert!(!windows.close(at(5)));
        windows.opened("a", at(10));
        windows.opened("a", at(30));
        assert!(windows.is_open("a") && !windows.is_open("b"));
        assert!(windows.close(at(50)));
        windows.opened("a", at(100));
        windows.close(at(101));
        assert_eq!(windows.millis(), BTreeMap::from([("a".to_string(), 41)]));
    }
}
