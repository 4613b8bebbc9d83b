//! Waiting for the datapath's caches.
//!
//! A confirmed flow table is what new flows meet. Flows that the datapath has cached are checked against it by
//! the revalidators, a moment later. "Realized" means both, so after a change the driver waits for
//! `revalidator/wait` (ovs-vswitchd(8)) on the daemon's control socket. That answers when the pass under way ends,
//! and that pass may have begun before the change: only the end of a second one proves that every cached flow was
//! checked. Passes are 500 ms apart when nothing happens, so the driver *nudges* the switch while it waits.

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
    /// The caches follow what was written up to this request, or it cannot be known, and why.
    Done {
        /// The number of the request.
        request: u64,
        /// Why it cannot be known that the caches follow it.
        problem: Option<String>,
    },
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

/// One daemon's control connection.
struct Control {
    link: Link,
    framer: Framer,
    id: u64,
}

impl Control {
    /// Connects to the daemon that answers; a dead one's socket may lie beside it.
    async fn connect(folder: &Path) -> io::Result<Self> {
        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            format!("no ovs-vswitchd control socket in {}", folder.display()),
        );
        for path in sockets(folder)? {
            match Link::connect(&format!("unix:{}", path.display())).await {
                Ok(link) => {
                    return Ok(Control {
                        link,
                        framer: Framer::default(),
                        id: 0,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits for one pass to end, nudging until it does: a nudge that the switch handled before it knew of the
    /// waiting is lost.
    async fn wait(&mut self, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<()> {
        self.id += 1;
        let message = format!(r#"{{"method":"revalidator/wait","params":[],"id":{}}}"#, self.id);
        self.link.write(message.into_bytes());
        let mut pause = FIRST_NUDGE;
        loop {
            tokio::select! {
                answered = self.answer() => return answered,
                () = tokio::time::sleep(pause) => {
                    if progress.send(Progress::Nudge).is_err() {
                        return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the target is stopping"));
                    }
                    pause = NEXT_NUDGE;
                }
            }
        }
    }

    /// The answer: JSON-RPC 1.0 without framing, as OVSDB's. May be cancelled without losing anything.
    async fn answer(&mut self) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            if let Some(answer) = self.framer.next_value().map_err(|e| invalid(e.to_string()))? {
                let is_mine = answer.get("id").and_then(serde_json::Value::as_u64) == Some(self.id);
                return match answer.get("error") {
                    _ if !is_mine => Err(invalid("an answer to something else".to_string())),
                    None | Some(serde_json::Value::Null) => Ok(()),
                    Some(error) => Err(invalid(format!("revalidator/wait: {error}"))),
                };
            }
            let bytes = self.link.read().await?.to_vec();
            self.framer.push(&bytes);
        }
    }
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
        let mut result = pass(&folder, &mut control, &progress).await;
        if result.is_ok() {
            result = pass(&folder, &mut control, &progress).await;
        }
        let problem = result.err().map(|error| error.to_string());
        if progress.send(Progress::Done { request, problem }).is_err() {
            return;
        }
    }
}

/// Waits for one pass, over the connection there is or a new one.
async fn pass(
    folder: &Path,
    control: &mut Option<Control>,
    progress: &mpsc::UnboundedSender<Progress>,
) -> io::Result<()> {
    let attempt = async {
        // The connection may be one to a daemon that has been restarted since.
        if let Some(mut known) = control.take()
            && known.wait(progress).await.is_ok()
        {
            *control = Some(known);
            return Ok(());
        }
        let mut fresh = Control::connect(folder).await?;
        fresh.wait(progress).await?;
        *control = Some(fresh);
        Ok(())
    };
    let late = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("revalidator/wait took longer than {PATIENCE:?}"),
        )
    };
    tokio::time::timeout(PATIENCE, attempt)
        .await
        .map_err(|_| late())?
}
