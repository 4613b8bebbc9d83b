//! Supervision of the embedded switch.
//!
//! A switch that runs already is taken over as it is, however it was started. The agent takes no traffic away: unless the
//! configuration says otherwise, the switch goes on when the agent stops, and the next agent finds it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::config::Embedded;

pub const PROGRAM: &str = "portcullis-switch";
/// Interval of the checks that a switch which the agent did not start still answers.
const LOOK: Duration = Duration::from_secs(1);
/// Waits between starts: the first, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A switch that ran as long began well.
const WELL: Duration = Duration::from_secs(60);

/// Why the switch cannot be looked after.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is no program.
    #[error(
        "{PROGRAM} is neither beside this program nor on the PATH: install it there, or set `switch` to where it is"
    )]
    Missing,
    /// The configured program is not there.
    #[error("{} cannot be used as `switch`", path.display())]
    Program {
        /// Where it should be.
        path: PathBuf,
        source: io::Error,
    },
}

/// Whether a server answers on a socket.
async fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_ok()
}

/// Looks after one switch.
#[derive(Debug)]
pub struct Supervisor {
    target: String,
    program: PathBuf,
    switch: Embedded,
}

impl Supervisor {
    /// For a target; its program has to be there.
    pub fn new(target: &str, switch: &Embedded) -> Result<Supervisor, KeepError> {
        let program = match &switch.program {
            Some(path) => {
                std::fs::metadata(path).map_err(|source| KeepError::Program {
                    path: path.clone(),
                    source,
                })?;
                path.clone()
            }
            None => find().ok_or(KeepError::Missing)?,
        };
        Ok(Supervisor {
            target: target.to_string(),
            program,
            switch: switch.clone(),
        })
    }

    /// Keeps the switch running until the target's session ends.
    pub async fn keep_while(self, session: JoinHandle<()>) {
        tokio::select! {
            ended = session => {
                // Who waits for this task is told of a panic, as if it had waited for the session.
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let mut wait = WAIT.0;
        loop {
            if answers(&self.switch.socket).await {
                tracing::info!(
                    target = self.target,
                    socket = %self.switch.socket.display(),
                    "the embedded switch runs already"
                );
                while answers(&self.switch.socket).await {
                    sleep(LOOK).await;
                }
                tracing::warn!(
                    target = self.target,
                    "the embedded switch does not answer any more"
                );
            }
            let began = Instant::now();
            match self.start() {
                Ok(mut child) => {
                    tracing::info!(
                        target = self.target,
                        program = %self.program.display(),
                        pid = child.id(),
                        "the embedded switch is started"
                    );
                    match child.wait().await {
                        Ok(status) => tracing::error!(
                            target = self.target,
                            %status,
                            again_in = ?wait,
                            "the embedded switch ended; what it said is above"
                        ),
                        Err(error) => tracing::error!(
                            target = self.target,
                            %error,
                            again_in = ?wait,
                            "the embedded switch cannot be waited for"
                        ),
                    }
                }
                Err(error) => tracing::error!(
                    target = self.target,
                    program = %self.program.display(),
                    %error,
                    again_in = ?wait,
                    "the embedded switch does not start"
                ),
            }
            if began.elapsed() > WELL {
                wait = WAIT.0;
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT.1);
        }
    }

    /// In a process group of its own: what ends the agent from a terminal shall not end the switch.
    fn start(&self) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.switch.arguments)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(!self.switch.outlives_agent)
            .spawn()
    }
}

/// Beside this program, else on the PATH.
fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.parent()?.join(PROGRAM);
    if beside.is_file() {
        return Some(beside);
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|p| p.join(PROGRAM))
        .find(|p| p.is_file())
}
