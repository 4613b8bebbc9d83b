//! The real switch under measurement: a private Open vSwitch with DPDK, and dummy ports.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_backend::{TargetHandle, TargetStatus, launch};
use portcullis_ovs::{Config, OvsBackend, regs};
use portcullis_testbed::{Sandbox, SandboxOptions};
use tokio::task::JoinHandle;

use crate::offline::vlan;
use crate::{BenchError, Result};

/// Nothing that is waited for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The load of a quiet switch: clock ticks (10 ms) per [`LOOK`].
const QUIET: u64 = 1;
const LOOK: Duration = Duration::from_millis(400);
const LOOKS: usize = 50;

pub struct Switch {
    sandbox: Sandbox,
    ports: u32,
}

impl Switch {
    /// With ports `dummy1` to `dummyN`, spread over VLANs, and no flow at all.
    pub fn start(ports: u32) -> Result<Self> {
        let sandbox = Sandbox::start(SandboxOptions {
            dpdk: true,
            dummy: true,
            ..SandboxOptions::default()
        })?;
        let switch = Switch { sandbox, ports };
        switch.sandbox.add_dummy_ports(1..=ports)?;
        switch.tag_ports()?;
        switch.delete_flows()?;
        switch.settle()?;
        Ok(switch)
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// How many dummy ports there are.
    pub fn ports(&self) -> u32 {
        self.ports
    }

    /// The configuration of a target that is this bridge.
    pub fn config(&self) -> Config {
        Config::new("ovs", &format!("unix:{}", self.sandbox.ovsdb_socket().display()))
    }

    /// The same as the agent's configuration writes it.
    pub fn target(&self) -> String {
        let socket = self.sandbox.ovsdb_socket();
        format!(
            "name = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{}\"\n",
            socket.display()
        )
    }

    /// The bridge, as `ovs-ofctl` is told of it.
    pub fn bridge(&self) -> String {
        format!(
            "unix:{}",
            self.sandbox.mgmt_socket(self.sandbox.bridge()).display()
        )
    }

    /// RFC 7047 section 5.2.4: one transaction for each VLAN.
    fn tag_ports(&self) -> Result<()> {
        let numbers: Vec<u32> = (1..=self.ports).collect();
        for numbers in numbers.chunks(400) {
            let updates: Vec<serde_json::Value> = numbers.iter().map(|n| tag_update(*n)).collect();
            let mut transaction = vec![serde_json::Value::from("Open_vSwitch")];
            transaction.extend(updates);
            let mut command = Command::new("ovsdb-client");
            command
                .arg("transact")
                .arg(format!("unix:{}", self.sandbox.ovsdb_socket().display()))
                .arg(serde_json::Value::from(transaction).to_string());
            let answer = run(command)?;
            if answer.contains("\"error\"") {
                return Err(BenchError::Untrue(format!(
                    "OVSDB refused the VLAN tags: {answer}"
                )));
            }
        }
        // Waits until the switch has taken up the tags.
        self.sandbox.vsctl([
            "--timeout=900",
            "set",
            "Open_vSwitch",
            ".",
            "external_ids:tagged=true",
        ])?;
        Ok(())
    }

    pub fn delete_flows(&self) -> Result<()> {
        self.sandbox
            .ofctl(["-O", "OpenFlow15", "del-flows", &self.bridge()])?;
        Ok(())
    }

    /// Every flow as `ovs-ofctl` prints it, without counters, sorted; but not what the agent does not count as a row:
    /// flows that the switch learns, and the one that the agent wakes the switch with.
    pub fn flows(&self) -> Result<Vec<String>> {
        let bridge = self.bridge();
        let text = self
            .sandbox
            .ofctl(["-O", "OpenFlow15", "--no-stats", "dump-flows", &bridge])?;
        let mut flows: Vec<String> = lines(&text)
            .filter(|line| !is_learned(line))
            .map(str::to_string)
            .collect();
        flows.sort_unstable();
        Ok(flows)
    }

    /// How many flows there are, and the age of the youngest in seconds: a flow that is written again begins anew.
    pub fn youngest_flow(&self) -> Result<(usize, f64)> {
        let text = self
            .sandbox
            .ofctl(["-O", "OpenFlow15", "dump-flows", &self.bridge()])?;
        let ages = lines(&text).filter(|line| !is_learned(line)).filter_map(age);
        Ok(ages.fold((0, f64::INFINITY), |(count, youngest), age| {
            (count + 1, age.min(youngest))
        }))
    }

    /// Waits until ovs-vswitchd has nothing left to do, memory to free among it.
    pub fn settle(&self) -> Result<()> {
        let pid = self.sandbox.vswitchd_pid()?;
        for _ in 0..LOOKS {
            let before = ticks(pid)?;
            std::thread::sleep(LOOK);
            if ticks(pid)?.saturating_sub(before) <= QUIET {
                break;
            }
        }
        Ok(())
    }

    /// Time that `ovs-ofctl --bundle add-flows` takes for the flows of a file, its process included.
    pub fn add_flows(&self, file: &std::path::Path) -> Result<Duration> {
        let mut command = Command::new("ovs-ofctl");
        command
            .args(["-O", "OpenFlow15", "--bundle", "add-flows", &self.bridge()])
            .arg(file);
        let started = Instant::now();
        run(command)?;
        Ok(started.elapsed())
    }
}

fn tag_update(n: u32) -> serde_json::Value {
    serde_json::json!({
        "op": "update",
        "table": "Port",
        "where": [["name", "==", format!("dummy{n}")]],
        "row": {"tag": vlan(n)},
    })
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("OFPST"))
}

fn is_learned(line: &str) -> bool {
    let cookie = line
        .split_once("cookie=0x")
        .and_then(|(_, rest)| rest.split_once(','))
        .and_then(|(hex, _)| u64::from_str_radix(hex, 16).ok());
    cookie.is_some_and(|cookie| regs::is_learned(cookie, true))
}

fn age(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("duration=")?;
    rest.split_once('s')?.0.parse().ok()
}

/// Processor time a process has used, in clock ticks (proc(5), fields 14 and 15).
fn ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let used = after_name.split_whitespace().skip(11).take(2);
    Ok(used.filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(mut command: Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(BenchError::io(format!("run {name}")))?;
    if !output.status.success() {
        return Err(BenchError::Command {
            command: name,
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_string(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A backend in this process, at the switch.
pub struct Target {
    pub handle: TargetHandle,
    task: JoinHandle<()>,
}

impl Target {
    /// Starts it and waits until it has read what the switch holds.
    pub async fn start(switch: &Switch) -> Result<Self> {
        let (handle, task) = launch("ovs", OvsBackend::new(switch.config()));
        let target = Target { handle, task };
        target
            .until("connected", |status| {
                status.state == portcullis_backend::SessionState::Applying
            })
            .await?;
        Ok(target)
    }

    /// Waits for a status; when it was seen.
    pub async fn until(
        &self,
        what: &str,
        done: impl Fn(&TargetStatus) -> bool,
    ) -> Result<(Instant, Arc<TargetStatus>)> {
        until(&self.handle, what, done).await
    }

    /// Stops it; its rows stay.
    pub async fn stop(self) {
        self.handle.stop();
        // A task that was cut off has ended too.
        let _ended = tokio::time::timeout(PATIENCE, self.task).await;
    }
}

/// Waits for a status of a target; when it was seen.
pub(crate) async fn until(
    target: &TargetHandle,
    what: &str,
    done: impl Fn(&TargetStatus) -> bool,
) -> Result<(Instant, Arc<TargetStatus>)> {
    let mut watch = target.watch();
    let seen = tokio::time::timeout(PATIENCE, watch.wait_for(|status| done(status))).await;
    match seen {
        Ok(Ok(status)) => Ok((Instant::now(), Arc::clone(&status))),
        _ => Err(BenchError::Late {
            what: what.to_string(),
            limit: PATIENCE,
            seen: format!("{:?}", target.status()),
        }),
    }
}
