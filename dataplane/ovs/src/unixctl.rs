//! ovs-vswitchd's control socket: the commands of ovs-appctl(8), as JSON-RPC 1.0 without framing (ovs-vswitchd(8)).

use std::io;
use std::path::{Path, PathBuf};

use portcullis_ovsdb::{Framer, ProtocolError};

use crate::io::Link;

/// Where the daemon can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Where {
    /// The folder of its control socket.
    pub(crate) folder: Option<PathBuf>,
    /// The socket itself, where the configuration names it.
    pub(crate) socket: Option<PathBuf>,
}

/// What to do where no control socket answers.
const REMEDY: &str = "set `control_socket` of this target to the socket that `ovs-appctl -t SOCKET version` reaches \
                      ovs-vswitchd by, and let the agent's user open it";

/// The control sockets in a folder: those with the usual name `ovs-vswitchd.PID.ctl` first, then the others, for a
/// daemon may have been started with another name.
fn sockets(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.ends_with(".ctl") {
            found.push((!name.starts_with("ovs-vswitchd"), path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

impl Where {
    /// The sockets to try, in this order, and where they were looked for.
    fn candidates(&self) -> io::Result<(Vec<PathBuf>, String)> {
        let missing = |text: String| io::Error::new(io::ErrorKind::NotFound, text);
        match (&self.socket, &self.folder) {
            (Some(socket), _) => Ok((vec![socket.clone()], socket.display().to_string())),
            (None, Some(folder)) => {
                let place = folder.display().to_string();
                let found = sockets(folder)
                    .map_err(|error| missing(format!("{place} cannot be listed ({error}): {REMEDY}")))?;
                Ok((found, place))
            }
            (None, None) => Err(missing(format!(
                "OVSDB is reached over TCP, and nothing says where ovs-vswitchd's control socket is: {REMEDY}"
            ))),
        }
    }
}

/// The longest answer: some 400,000 cached flows, twice as many as Open vSwitch caches unless it is set to.
const LONGEST: usize = 256 << 20;

/// A connection to one daemon.
pub(crate) struct Daemon {
    link: Link,
    framer: Framer,
    id: u64,
    /// Its release, such as `3.1.0`; empty where its answer has none.
    pub(crate) version: String,
    commands: String,
}

impl Daemon {
    /// Connects to the daemon that answers and has this command; a dead one's socket, or that of another daemon, may lie
    /// beside it.
    pub(crate) async fn connect(place: &Where, command: &str) -> io::Result<Self> {
        let (candidates, looked_at) = place.candidates()?;
        let mut last = "there is none".to_string();
        for path in candidates {
            match Self::open(&path, command).await {
                Ok(daemon) => return Ok(daemon),
                Err(error) => last = format!("{}: {error}", path.display()),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no control socket of ovs-vswitchd at {looked_at} ({last}): {REMEDY}"),
        ))
    }

    async fn open(path: &Path, command: &str) -> io::Result<Self> {
        let mut daemon = Daemon {
            link: Link::connect(&format!("unix:{}", path.display())).await?,
            framer: Framer::new(LONGEST),
            id: 0,
            version: String::new(),
            commands: String::new(),
        };
        daemon.commands = daemon.call("list-commands", &[]).await?;
        if !daemon.has(command) {
            return Err(io::Error::other(format!(
                "this daemon has no command `{command}`"
            )));
        }
        // `ovs-vswitchd (Open vSwitch) 3.1.0`, and lines about its libraries.
        let said = daemon.call("version", &[]).await?;
        let first = said.lines().next().and_then(|l| l.split(' ').next_back());
        daemon.version = first.unwrap_or("").to_string();
        Ok(daemon)
    }

    /// Whether `list-commands` names a command: lines of a command and its arguments.
    pub(crate) fn has(&self, command: &str) -> bool {
        let names = self.commands.lines().map(|line| line.split_whitespace().next());
        names.flatten().any(|name| name == command)
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn call(&mut self, command: &str, arguments: &[&str]) -> io::Result<String> {
        self.ask(command, arguments);
        self.answer().await
    }

    /// Asks; [`answer`](Self::answer) is next.
    pub(crate) fn ask(&mut self, command: &str, arguments: &[&str]) {
        self.id += 1;
        let message = serde_json::json!({"method": command, "params": arguments, "id": self.id});
        self.link.write(message.to_string().into_bytes());
    }

    /// The answer: JSON-RPC 1.0 without framing, as OVSDB's. May be cancelled without losing anything.
    pub(crate) async fn answer(&mut self) -> io::Result<String> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            let next = self.framer.next_value().map_err(|error| match error {
                ProtocolError::TooLong { .. } => invalid(format!(
                    "its answer is longer than {} MiB: it has too many cached flows to list",
                    LONGEST >> 20
                )),
                error => invalid(format!("its answer is no JSON-RPC: {error}")),
            })?;
            if let Some(mut answer) = next {
                let is_mine = answer.get("id").and_then(serde_json::Value::as_u64) == Some(self.id);
                let said = match answer.get_mut("result").map(serde_json::Value::take) {
                    Some(serde_json::Value::String(text)) => text,
                    _ => String::new(),
                };
                return match answer.get("error") {
                    _ if !is_mine => Err(invalid("an answer to something else".to_string())),
                    None | Some(serde_json::Value::Null) => Ok(said),
                    Some(error) => Err(invalid(format!("ovs-vswitchd refused: {error}"))),
                };
            }
            let bytes = self.link.read().await?.to_vec();
            self.framer.push(&bytes);
        }
    }
}
