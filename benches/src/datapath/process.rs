//! A process that is measured: stopped while it is not its turn, and gone with this one.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{BenchError, Result};

/// Characters of a log that an error shows.
const LOG_SHOWN: usize = 2_000;

/// A running process; killed when it is dropped, and when this process dies.
pub struct Process {
    pub child: Child,
    name: String,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts a program that logs to a file; `package` has it.
    pub fn start(
        program: &Path,
        arguments: &[String],
        log: &Path,
        package: &str,
        out: Stdio,
    ) -> Result<Process> {
        let name = program.display().to_string();
        let file = File::create(log).map_err(BenchError::io(format!("create {}", log.display())))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(file)
            .spawn()
            .map_err(BenchError::io(format!("start {name} ({package})")))?;
        Ok(Process {
            child,
            name,
            log: log.to_path_buf(),
        })
    }

    /// An error that says why it does not do what it should.
    pub fn failed(&mut self, what: &str) -> BenchError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let skip = text.chars().count().saturating_sub(LOG_SHOWN);
        let end: String = text.chars().skip(skip).collect();
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("it ended with {status}"),
            Ok(None) => "it runs".to_string(),
            Err(error) => error.to_string(),
        };
        BenchError::Untrue(format!("{}: {what}; {state}; its log: {end}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Stops a process, or lets it go on.
pub fn signal(pid: u32, signal: &str) -> Result<()> {
    let mut command = Command::new("kill");
    command.args([format!("-{signal}"), pid.to_string()]);
    crate::switch::run(command).map(drop)
}
