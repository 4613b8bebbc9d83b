//! A plain Python client, in an environment of its own that goes with the value.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_p4runtime::UPDATES;
use portcullis_proto::P4RUNTIME_DESCRIPTORS;
use serde::Deserialize;

use crate::{BenchError, Result};

const SCRIPT: &str = include_str!("write.py");
/// What it needs of PyPI. The stubs in the package `p4runtime` (1.6.0) are older than the fast protobuf takes.
const PACKAGES: [&str; 2] = ["grpcio", "protobuf"];

/// A Python with gRPC.
pub struct Python {
    folder: tempfile::TempDir,
    pub versions: String,
}

/// What the client tells.
#[derive(Debug, Deserialize)]
struct Measured {
    seconds: f64,
    rows: usize,
    protobuf: String,
}

/// Runs a command to its end; what it printed, or in a few words why not.
fn said(program: &Path, arguments: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
    Err(format!("{}: {}: {last}", program.display(), output.status))
}

impl Python {
    /// Makes the environment; in words why there is none, when there is none.
    pub fn prepare() -> std::result::Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let path = |name: &str| folder.path().join(name);
        let environment = path("venv");
        let place = environment.to_string_lossy().into_owned();
        said(Path::new("python3"), &["-m", "venv", &place])?;
        let python = environment.join("bin/python");
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        said(&python, &[&install[..], &PACKAGES].concat())?;
        let freeze = said(&python, &["-m", "pip", "freeze", "--disable-pip-version-check"])?;
        let named = |line: &&str| PACKAGES.iter().any(|p| line.starts_with(&format!("{p}==")));
        let versions = freeze.lines().filter(named).collect::<Vec<_>>();
        let versions = versions.join(", ").replace("==", " ");
        let files = [
            ("write.py", SCRIPT.as_bytes()),
            ("p4runtime.fds", P4RUNTIME_DESCRIPTORS),
        ];
        for (name, content) in files {
            std::fs::write(path(name), content).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(Python { folder, versions })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Keeps the entries that are to be written.
    pub fn keep(&self, lines: &str) -> Result<()> {
        std::fs::write(self.path("entries"), lines).map_err(BenchError::io("write the entries"))
    }

    /// Writes the entries that were kept, with so many requests on their way; how long that took.
    pub async fn write(
        &self,
        address: &str,
        election_id: u128,
        in_flight: usize,
        rows: usize,
    ) -> Result<Duration> {
        let mut command = tokio::process::Command::new(self.path("venv/bin/python"));
        command
            .arg(self.path("write.py"))
            .arg(self.path("p4runtime.fds"))
            .args([address, "1", &election_id.to_string()])
            .args([UPDATES, in_flight].map(|n| n.to_string()))
            .arg(self.path("entries"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command
            .output()
            .await
            .map_err(BenchError::io("run the Python client"))?;
        if !output.status.success() {
            return Err(BenchError::Command {
                command: "write.py".to_string(),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_string(),
            });
        }
        let measured: Measured = serde_json::from_slice(&output.stdout)?;
        if measured.rows != rows || measured.protobuf != "upb" {
            return Err(BenchError::Untrue(format!(
                "the Python client wrote {} of {rows} rows, its protobuf is {} and not the fast one (upb)",
                measured.rows, measured.protobuf
            )));
        }
        Ok(Duration::from_secs_f64(measured.seconds))
    }
}
