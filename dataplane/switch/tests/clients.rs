//! Controllers of other people against the server: p4runtime-shell and finsy, from PyPI.
//!
//! Each has an environment of its own, for they want different versions of protobuf. Without Python, its venv module or
//! PyPI they are left out, and that is said.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis_switch::counters::Book;
use rig::{Rig, tcp};
use tokio::process::Command;

/// What a subprocess may take; it is ended then.
const MINUTES: Duration = Duration::from_secs(110);

/// Runs a command to its end.
async fn run(command: &mut Command) -> Result<Output, String> {
    let what = format!("{:?}", command.as_std());
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(MINUTES, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what} took longer than {MINUTES:?}")),
    }
}

/// Runs a command that has to succeed.
async fn done(command: &mut Command) -> Result<(), String> {
    let what = format!("{:?}", command.as_std());
    let output = run(command).await?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let last: Vec<&str> = text.lines().rev().take(8).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(format!("{what}: {}:\n{}", output.status, last.join("\n")))
}

/// An environment with a package in it, as wheels: nothing is built.
async fn environment(folder: &Path, package: &str) -> Result<(), String> {
    done(Command::new("python3").args(["-m", "venv"]).arg(folder)).await?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ];
    done(Command::new(folder.join("bin/python")).args(pip).arg(package)).await
}

/// A switch with one worker, that has a frame at port 1 for ever.
struct Worker(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Worker {
    fn start(rig: &Rig) -> Worker {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut view, counters, stopped) = (rig.hub.view(0), Arc::clone(&rig.counters), Arc::clone(&stop));
        let work = move || {
            let (frame, mut list) = (tcp(0xb, 25), Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                view.newest().process(&frame, 1, &mut list, &mut Book(&counters));
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        Worker(stop, Some(std::thread::spawn(work)))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

async fn client(package: &str, script: &str, says: &str) {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("venv");
    if let Err(why) = environment(&python, package).await {
        println!("SKIPPED: {package} cannot be installed (python3, python3-venv and PyPI are needed): {why}");
        return;
    }
    let rig = Rig::start(1).await;
    let _worker = Worker::start(&rig);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = root.join("../../p4/compiled");
    let mut command = Command::new(python.join("bin/python"));
    let command = command
        .arg(root.join("tests/clients").join(script))
        .arg(rig.address.trim_start_matches("http://"))
        .arg(compiled.join("portcullis-range.p4info.txtpb"))
        .arg(compiled.join("portcullis-range.json"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = run(command).await.unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains(says), "{out}\n{err}");
    println!("{package}: {says}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4runtime_shell() {
    client("p4runtime-shell==0.0.6", "shell.py", "OK p4runtime-shell").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finsy() {
    client("finsy==0.30.0", "controller.py", "OK finsy").await;
}
