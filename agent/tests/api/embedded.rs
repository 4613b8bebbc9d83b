//! The agent and the embedded switch that it starts: real processes, real DPDK, no root and no huge pages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_proto::v1;

use crate::api::process::Process;
use crate::api::support::*;

const PATIENCE: Duration = Duration::from_secs(30);

const DOCUMENT: &str = "
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
endpoints:
  web1:
    attachments: [{port: 1, target: sw}]
    source_guard: false
";

/// Processes of the switch with this socket. They are ended when the test is, however it ends.
struct Switches(PathBuf);

impl Switches {
    fn pids(&self) -> Vec<u32> {
        let socket = format!("unix:{}", self.0.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            // A process may end while it is looked at.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            let is_switch = words.first().is_some_and(|w| w.ends_with(b"portcullis-switch"));
            if is_switch && words.contains(&socket.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }

    fn kill(&self) {
        for pid in self.pids() {
            let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            assert!(killed.unwrap().success());
        }
    }
}

impl Drop for Switches {
    fn drop(&mut self) {
        self.kill();
    }
}

fn configure(folder: &Path, more: &str) -> PathBuf {
    let (at, switch) = (folder.display(), switch_program());
    let text = format!(
        "[store]\npath = \"{at}/p.db\"\n[api]\nsocket = \"{at}/agent.sock\"\n[[target]]\nname = \"sw\"\nkind = \"embedded\"\n\
         address = \"unix:{at}/switch.sock\"\nswitch = \"{}\"\nports = [\"1=ring\", \"9=ring\"]\nuplinks = [9]\n{more}\n",
        switch.display()
    );
    let file = folder.join("agent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

async fn status(client: &mut Client) -> v1::Target {
    let list = client.targets.list_targets(v1::ListTargetsRequest {}).await;
    list.unwrap().into_inner().targets.remove(0)
}

async fn until(client: &mut Client, what: &str, done: impl Fn(&v1::Target) -> bool) -> v1::Target {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = status(client).await;
        if done(&told) {
            return told;
        }
        assert!(Instant::now() < end, "not {what} in time: {told:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn in_sync(target: &v1::Target) -> bool {
    target.state == "InSync" && target.generation_applied == 1
}

#[tokio::test]
async fn the_switch_is_started_started_again_and_outlives_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let config = configure(folder.path(), "");
    let switches = Switches(folder.path().join("switch.sock"));
    let mut agent = Process::start(&config, &[]);
    let mut client = Client::unix(&socket).await;
    client.apply(DOCUMENT).await.unwrap();
    let told = until(&mut client, "realized", in_sync).await;
    assert!(told.rows_added > 0 && told.endpoints_realized == 1, "{told:#?}");
    let first = switches.pids();
    assert_eq!(first.len(), 1);
    // Killed, it is started again and given everything.
    switches.kill();
    until(&mut client, "lost", |t| t.disconnects > 0).await;
    until(&mut client, "refilled", in_sync).await;
    let second = switches.pids();
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    // The agent goes; the switch stays, and the next agent writes nothing.
    agent.signal("TERM");
    assert!(agent.ended(PATIENCE).await.success());
    assert_eq!(switches.pids(), second);
    let _again = Process::start(&config, &[]);
    let mut client = Client::unix(&socket).await;
    let told = until(&mut client, "realized", in_sync).await;
    assert_eq!((told.rows_added, told.rows_changed, told.rows_deleted), (0, 0, 0));
    assert_eq!(switches.pids(), second, "the switch that runs is taken as it is");
}

#[tokio::test]
async fn a_switch_may_end_with_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path(), "outlives_agent = false");
    let switches = Switches(folder.path().join("switch.sock"));
    let mut agent = Process::start(&config, &[]);
    let mut client = Client::unix(&folder.path().join("agent.sock")).await;
    client.apply(DOCUMENT).await.unwrap();
    until(&mut client, "realized", in_sync).await;
    agent.signal("TERM");
    assert!(agent.ended(PATIENCE).await.success());
    let end = Instant::now() + PATIENCE;
    while !switches.pids().is_empty() {
        assert!(Instant::now() < end, "the switch is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_switch_without_a_program_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path(), "");
    let text = std::fs::read_to_string(&config).unwrap();
    let elsewhere = text.replace(
        &switch_program().display().to_string(),
        "/nowhere/portcullis-switch",
    );
    std::fs::write(&config, elsewhere).unwrap();
    let mut agent = Process::start(&config, &[]);
    assert_eq!(agent.child.wait().unwrap().code(), Some(1));
    let log = agent.log();
    assert!(
        log.contains("target sw") && log.contains("/nowhere/portcullis-switch cannot be used as `switch`"),
        "{log}"
    );
}
