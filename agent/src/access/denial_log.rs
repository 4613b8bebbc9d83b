//! Log of denied requests.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_policy::text;
use tokio::sync::mpsc;

use super::Role;
use crate::metrics;

/// Longest method and reason that are kept, in bytes: both come from outside.
pub(super) const LONGEST: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Name of the caller; the address it called from when it is unauthenticated.
    pub caller: String,
    /// Role of the caller; `None` when it is unauthenticated.
    pub role: Option<Role>,
    /// The method: `portcullis.v1.PolicyService/Plan`; `TLS` when the handshake failed.
    pub method: String,
    /// Why it was refused.
    pub why: String,
    /// How many refusals before this one were left out, since there were too many to tell.
    pub missed: u64,
    /// How many refusals it stands for.
    pub count: u64,
}

impl Denial {
    /// A refusal; what is too long is cut off.
    pub fn new(
        caller: impl Into<String>,
        role: Option<Role>,
        method: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        let short = |text: String| text::plain(&text::cut(&text, LONGEST)).into_owned();
        Denial {
            caller: short(caller.into()),
            role,
            method: short(method.into()),
            why: short(why.into()),
            missed: 0,
            count: 1,
        }
    }
}

/// Records refusals, while the caller waits: it must be quick and never wait itself.
pub trait DenialLog: std::fmt::Debug + Send + Sync {
    fn denied(&self, denial: Denial);
}

/// Passes refusals on; when they are not taken fast enough, it drops them and counts them.
#[derive(Debug)]
struct Passing {
    to: mpsc::Sender<Denial>,
    missed: AtomicU64,
}

impl DenialLog for Passing {
    fn denied(&self, mut denial: Denial) {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        denial.missed = missed;
        if self.to.try_send(denial).is_err() {
            self.missed.fetch_add(missed + 1, Ordering::Relaxed);
            metrics::denial_dropped();
        }
    }
}

/// A denial log, and where its refusals arrive; at most `room` wait there.
pub fn denial_log(room: usize) -> (std::sync::Arc<dyn DenialLog>, mpsc::Receiver<Denial>) {
    let (to, from) = mpsc::channel(room.max(1));
    let missed = AtomicU64::new(0);
    (std::sync::Arc::new(Passing { to, missed }), from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(n: usize) -> Denial {
        Denial::new(format!("uid {n}"), None, "m", "why")
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let (denial_log, mut from) = denial_log(2);
        (0..10).for_each(|n| denial_log.denied(denial(n)));
        assert_eq!(from.try_recv().unwrap(), denial(0));
        assert_eq!(from.try_recv().unwrap(), denial(1));
        assert!(from.try_recv().is_err());
        denial_log.denied(denial(10));
        assert_eq!(
            from.try_recv().unwrap(),
            Denial {
                missed: 8,
                ..denial(10)
            }
        );
        denial_log.denied(denial(11));
        assert_eq!(from.try_recv().unwrap(), denial(11));
        drop(from);
        denial_log.denied(denial(12));
    }

    #[test]
    fn what_comes_from_outside_is_cut() {
        let long = "ä".repeat(1000);
        let denial = Denial::new("x", None, long.clone(), long);
        assert!(denial.method.len() <= LONGEST && denial.why.len() <= LONGEST);
    }
}
