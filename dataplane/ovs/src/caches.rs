//! Waiting for the datapath's caches.
//!
//! A confirmed flow table is what new flows meet. Flows that the datapath has cached are checked against it by
//! the revalidators, a moment later. "Realized" means both, so after a change the driver waits for
//! `revalidator/wait` (ovs-vswitchd(8)) on the daemon's control socket. That answers when the pass under way ends,
//! and that pass may have begun before the change: only the end of a second one proves that every cached flow was
//! checked. Passes are 500 ms apart when nothing happens, so the driver *nudges* the switch while it waits.
//!
//! Releases before 2.17.8, 3.0.5, 3.1.3 and 3.2.0 may update the wrong one of two overlapping cached flows in the
//! userspace datapath (`dpif_netdev_flow_put` found it by key, not by its id), and the right one keeps its old
//! verdict. There, the second pass is a `revalidator/purge`: every cached flow is forgotten and made anew.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_ovsdb::Framer;
use tokio::sync::mpsc;

use crate::io::Link;

/// The longest a pass may take; OVS aims at 500 ms between passes (`max-revalidator`).
const PATIENCE: Duration = Duration::from_secs(5);

/// The switch knows of the waiting by then, if it is idle.
const FIRST_NUDGE: Duration = Duration::from_micros(300);
/// And then again, until it answers.
const NEXT_NUDGE: Duration = Duration::from_millis(5);

/// What became of a request to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Time for a nudge: make the switch begin a pass.
    Nudge,
    /// Which daemon it is.
    Daemon {
        /// Its version, as it says.
        version: String,
        /// Whether its cached flows are forgotten after each change.
        purges: bool,
    },
    /// The caches follow what was written up to this request, or it cannot be known, and why.
    Done {
        /// The number of the request.
        request: u64,
        /// Why it cannot be known that the caches follow it.
        problem: Option<String>,
    },
}

/// What the datapath's caches are known to follow.
pub(crate) struct Caches {
    pub(crate) ask: mpsc::UnboundedSender<u64>,
    pub(crate) progress: mpsc::UnboundedReceiver<Progress>,
    /// Rows written when the last request was made.
    pub(crate) writes: [u64; 3],
    /// Number of the last request, and of the last that was answered.
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// The newest generation they follow.
    pub(crate) follow: u64,
    pub(crate) problem: Option<String>,
}

impl Caches {
    pub(crate) fn start(folder: Option<PathBuf>) -> Self {
        let (ask, requests) = mpsc::unbounded_channel();
        let (tell, progress) = mpsc::unbounded_channel();
        if let Some(folder) = folder {
            tokio::spawn(follow(folder, requests, tell));
        }
        Caches {
            ask,
            progress,
            writes: [0; 3],
            asked: 0,
            answered: 0,
            follow: 0,
            problem: None,
        }
    }

    /// The switch removed rows by itself: whether the caches follow is not known any more.
    pub(crate) fn ask_again(&mut self) {
        self.writes = [u64::MAX; 3];
    }

    /// The rows of a generation are confirmed, after so many writes. Tells whether the caches follow them.
    pub(crate) fn reached(&mut self, generation: u64, writes: [u64; 3]) -> bool {
        if self.writes != writes {
            self.writes = writes;
            self.asked += 1;
            if self.ask.send(self.asked).is_err() {
                // Nobody can be asked; the status says so.
                self.answered = self.asked;
                self.problem = Some("OVSDB is reached over TCP and `mgmt_dir` is not set".to_string());
            }
        }
        let caught_up = self.answered == self.asked;
        if caught_up {
            self.follow = generation;
        }
        caught_up
    }
}

/// The control sockets of vswitchd daemons in a folder: `ovs-vswitchd.PID.ctl`, whatever its build is called.
fn sockets(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.starts_with("ovs-vswitchd") && name.ends_with(".ctl") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a release has the fault described above. What cannot be read is taken for one that has it.
fn is_faulty(version: &str) -> bool {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (2, 17, patch) => patch < 8,
        (3, 0, patch) => patch < 5,
        (3, 1, patch) => patch < 3,
        (major, _, _) => major < 3,
    }
}

/// One daemon's control connection.
struct Control {
    link: Link,
    framer: Framer,
    id: u64,
    purges: bool,
}

impl Control {
    /// Connects to the daemon that answers; a dead one's socket may lie beside it.
    async fn connect(folder: &Path, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<Self> {
        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            format!("no ovs-vswitchd control socket in {}", folder.display()),
        );
        for path in sockets(folder)? {
            match Link::connect(&format!("unix:{}", path.display())).await {
                Ok(link) => {
                    let mut control = Control {
                        link,
                        framer: Framer::default(),
                        id: 0,
                        purges: true,
                    };
                    control.greet(progress).await?;
                    return Ok(control);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks which daemon it is: `ovs-vswitchd (Open vSwitch) 3.1.0`, and lines about its libraries.
    async fn greet(&mut self, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<()> {
        self.ask("version");
        let said = self.answer().await?;
        let version = said
            .lines()
            .next()
            .and_then(|l| l.split(' ').next_back())
            .unwrap_or("")
            .to_string();
        self.purges = is_faulty(&version);
        progress
            .send(Progress::Daemon {
                version,
                purges: self.purges,
            })
            .map_err(|_| stopping())
    }

    fn ask(&mut self, method: &str) {
        self.id += 1;
        let message = format!(r#"{{"method":"{method}","params":[],"id":{}}}"#, self.id);
        self.link.write(message.into_bytes());
    }

    /// Waits for one pass to end, nudging until it does: a nudge that the switch handled before it knew of the
    /// waiting is lost.
    async fn wait(&mut self, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<()> {
        self.ask("revalidator/wait");
        let mut pause = FIRST_NUDGE;
        loop {
            tokio::select! {
                answered = self.answer() => return answered.map(drop),
                () = tokio::time::sleep(pause) => {
                    progress.send(Progress::Nudge).map_err(|_| stopping())?;
                    pause = NEXT_NUDGE;
                }
            }
        }
    }

    /// Two passes, or one and a purge.
    async fn settle(&mut self, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<()> {
        self.wait(progress).await?;
        if self.purges {
            self.ask("revalidator/purge");
            return self.answer().await.map(drop);
        }
        self.wait(progress).await
    }

    /// The answer: JSON-RPC 1.0 without framing, as OVSDB's. May be cancelled without losing anything.
    async fn answer(&mut self) -> io::Result<String> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            if let Some(answer) = self.framer.next_value().map_err(|e| invalid(e.to_string()))? {
                let is_mine = answer.get("id").and_then(serde_json::Value::as_u64) == Some(self.id);
                let said = || {
                    answer
                        .get("result")
                        .and_then(serde_json::Value::as_str)
                        .unwrap_or("")
                        .to_string()
                };
                return match answer.get("error") {
                    _ if !is_mine => Err(invalid("an answer to something else".to_string())),
                    None | Some(serde_json::Value::Null) => Ok(said()),
                    Some(error) => Err(invalid(format!("ovs-vswitchd refused: {error}"))),
                };
            }
            let bytes = self.link.read().await?.to_vec();
            self.framer.push(&bytes);
        }
    }
}

fn stopping() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the target is stopping")
}

/// Waits for each request it is given and reports back; only the newest of those that queued up counts.
pub(crate) async fn follow(
    folder: PathBuf,
    mut requests: mpsc::UnboundedReceiver<u64>,
    progress: mpsc::UnboundedSender<Progress>,
) {
    let mut control: Option<Control> = None;
    while let Some(mut request) = requests.recv().await {
        while let Ok(newer) = requests.try_recv() {
            request = newer;
        }
        let result = settle(&folder, &mut control, &progress).await;
        let problem = result.err().map(|error| error.to_string());
        if progress.send(Progress::Done { request, problem }).is_err() {
            return;
        }
    }
}

/// Settles once, over the connection there is or a new one.
async fn settle(
    folder: &Path,
    control: &mut Option<Control>,
    progress: &mpsc::UnboundedSender<Progress>,
) -> io::Result<()> {
    let attempt = async {
        // The connection may be one to a daemon that has been restarted since.
        if let Some(mut known) = control.take()
            && known.settle(progress).await.is_ok()
        {
            *control = Some(known);
            return Ok(());
        }
        let mut fresh = Control::connect(folder, progress).await?;
        fresh.settle(progress).await?;
        *control = Some(fresh);
        Ok(())
    };
    let late = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer from ovs-vswitchd within {PATIENCE:?}"),
        )
    };
    tokio::time::timeout(PATIENCE, attempt)
        .await
        .map_err(|_| late())?
}

#[cfg(test)]
mod tests {
    use super::is_faulty;

    #[test]
    fn releases_with_the_fault() {
        for (version, faulty) in [
            ("3.1.0", true),
            ("3.1.2", true),
            ("3.1.3", false),
            ("3.0.4", true),
            ("3.0.5", false),
            ("2.17.7", true),
            ("2.17.8", false),
            ("2.16.9", true),
            ("3.2.0", false),
            ("3.3.10", false),
            ("", true),
        ] {
            assert_eq!(is_faulty(version), faulty, "{version}");
        }
    }
}
