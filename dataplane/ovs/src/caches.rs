//! Waiting for the datapath's caches.
//!
//! A confirmed flow table is what new flows meet. Flows that the datapath has cached are checked against it by
//! the revalidators, a moment later. "Realized" means both, so after each flip the driver waits until
//! `revalidator/wait` (ovs-vswitchd(8)) on the daemon's control socket answers that such a pass has ended.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_ovsdb::Framer;
use tokio::sync::mpsc;

use crate::io::Link;

/// The longest a pass may take; OVS aims at 500 ms between passes (`max-revalidator`).
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a request to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    /// The generation the request was for.
    pub(crate) generation: u64,
    /// Why it cannot be known that the caches follow it.
    pub(crate) problem: Option<String>,
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

    /// Asks and waits for the answer: JSON-RPC 1.0 without framing, as OVSDB's.
    async fn wait(&mut self) -> io::Result<()> {
        self.id += 1;
        let request = format!(r#"{{"method":"revalidator/wait","params":[],"id":{}}}"#, self.id);
        self.link.write(request.into_bytes());
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

/// Waits for each generation it is given and reports back; only the newest of those that queued up counts.
pub(crate) async fn follow(
    folder: PathBuf,
    mut requests: mpsc::UnboundedReceiver<u64>,
    passed: mpsc::UnboundedSender<Passed>,
) {
    let mut control: Option<Control> = None;
    while let Some(mut generation) = requests.recv().await {
        while let Ok(newer) = requests.try_recv() {
            generation = newer;
        }
        let problem = match tokio::time::timeout(PATIENCE, pass(&folder, &mut control)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("revalidator/wait was not answered within {PATIENCE:?}")),
        };
        if problem.is_some() {
            control = None;
        }
        if passed.send(Passed { generation, problem }).is_err() {
            return;
        }
    }
}

async fn pass(folder: &Path, control: &mut Option<Control>) -> io::Result<()> {
    // The connection may be one to a daemon that has been restarted since.
    if let Some(mut known) = control.take()
        && known.wait().await.is_ok()
    {
        *control = Some(known);
        return Ok(());
    }
    let mut fresh = Control::connect(folder).await?;
    fresh.wait().await?;
    *control = Some(fresh);
    Ok(())
}
