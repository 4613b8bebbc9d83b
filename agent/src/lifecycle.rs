//! Supervision of parts: each is fatal if it exits by itself, and has a time limit to stop.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, JoinError, JoinSet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The one that makes changes.
    Engine,
    /// The API at an address.
    Server(String),
    Target(String),
    /// The clock and the checks of unlocks.
    Unlocks,
    Metrics,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Engine => f.write_str("the engine"),
            Part::Server(address) => write!(f, "the API on {address}"),
            Part::Target(name) => write!(f, "target {name}"),
            Part::Unlocks => f.write_str("the clock of unlocks"),
            Part::Metrics => f.write_str("the metrics"),
        }
    }
}

/// Why a part ended.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A part that ended.
#[derive(Debug)]
pub struct Ended {
    pub part: Part,
    pub result: Result<(), Cause>,
}

/// The parts that run.
#[derive(Debug, Default)]
pub struct Parts {
    running: JoinSet<Ended>,
    known: Vec<(Part, AbortHandle)>,
}

impl Parts {
    /// Watches over a part.
    pub fn add<E: Into<Cause>>(
        &mut self,
        part: Part,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let named = part.clone();
        let abort = self.running.spawn(async move {
            Ended {
                part,
                result: work.await.map_err(Into::into),
            }
        });
        self.known.push((named, abort));
    }

    /// Returns when any part has ended.
    pub async fn ended(&mut self) -> Ended {
        loop {
            match self.running.join_next_with_id().await {
                Some(Ok((_, ended))) => {
                    self.known.retain(|(part, _)| *part != ended.part);
                    return ended;
                }
                Some(Err(error)) => return self.panicked(error),
                // Nothing runs: nothing can end.
                None => std::future::pending().await,
            }
        }
    }

    fn panicked(&mut self, error: JoinError) -> Ended {
        let at = self.known.iter().position(|(_, abort)| abort.id() == error.id());
        let part = at.map_or(Part::Engine, |at| self.known.remove(at).0);
        Ended {
            part,
            result: Err(error.into()),
        }
    }

    /// Waits until the parts of one sort have ended; those that have not in time are cut off and returned. A part
    /// that fails while it ends is logged.
    pub async fn drain(&mut self, sort: impl Fn(&Part) -> bool, limit: Duration) -> Vec<Part> {
        let deadline = tokio::time::Instant::now() + limit;
        while self.known.iter().any(|(part, _)| sort(part)) {
            match tokio::time::timeout_at(deadline, self.ended()).await {
                Ok(Ended {
                    part,
                    result: Err(error),
                }) => tracing::warn!(%part, %error, "failed while it ended"),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let (late, rest) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|(part, _)| sort(part));
        self.known = rest;
        let late: Vec<(Part, AbortHandle)> = late;
        late.into_iter()
            .map(|(part, abort)| {
                abort.abort();
                part
            })
            .collect()
    }
}

/// The signals that ask for an end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn take() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Notifies the service manager (`sd_notify`); without one, nothing happens.
pub mod manager {
    use std::time::Duration;

    use sd_notify::NotifyState;

    fn notify(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }

    pub fn ready(status: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    pub fn stopping(status: &str) {
        notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// A line for people.
    pub fn status(status: &str) {
        notify(&[NotifyState::Status(status)]);
    }

    /// The agent is alive.
    pub fn alive() {
        notify(&[NotifyState::Watchdog]);
    }

    /// How often the manager wants to hear that, when it does.
    pub fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick(result: Result<(), &'static str>) -> impl Future<Output = Result<(), &'static str>> {
        std::future::ready(result)
    }

    #[tokio::test]
    async fn a_part_that_ends_is_told_with_its_reason() {
        let mut parts = Parts::default();
        parts.add(Part::Metrics, std::future::pending::<Result<(), &str>>());
        parts.add(Part::Target("one".to_string()), quick(Err("gone")));
        let ended = parts.ended().await;
        assert_eq!(ended.part, Part::Target("one".to_string()));
        assert_eq!(ended.result.unwrap_err().to_string(), "gone");
        parts.add(Part::Engine, quick(Ok(())));
        assert_eq!(parts.ended().await.part, Part::Engine);
    }

    #[tokio::test]
    async fn a_panic_is_told_as_the_end_of_its_part() {
        let mut parts = Parts::default();
        parts.add(Part::Engine, std::future::pending::<Result<(), &str>>());
        parts.add(Part::Metrics, async {
            assert!(std::hint::black_box(false), "on purpose");
            Ok::<(), &str>(())
        });
        let ended = parts.ended().await;
        assert_eq!(ended.part, Part::Metrics);
        assert!(ended.result.unwrap_err().to_string().contains("panic"));
    }

    #[tokio::test]
    async fn what_does_not_end_in_time_is_cut_off() {
        let mut parts = Parts::default();
        parts.add(
            Part::Server("a".to_string()),
            std::future::pending::<Result<(), &str>>(),
        );
        parts.add(Part::Server("b".to_string()), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<(), &str>(())
        });
        parts.add(Part::Engine, quick(Ok(())));
        let late = parts
            .drain(|part| matches!(part, Part::Server(_)), Duration::from_millis(500))
            .await;
        assert_eq!(late, [Part::Server("a".to_string())]);
        assert!(parts.drain(|_| true, Duration::from_secs(1)).await.is_empty());
    }
}
