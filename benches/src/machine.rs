//! On which machine the figures were taken.

use std::process::Command;

use serde::Serialize;

/// The facts that figures depend on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub processor: String,
    /// How many of them the system has.
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Open vSwitch, and the DPDK it was built with.
    pub open_vswitch: String,
    pub portcullis: String,
    /// Load averages over 1, 5 and 15 minutes at the start.
    pub load: String,
    /// File system of the folder where databases lie: commits wait for it.
    pub filesystem: String,
}

impl Machine {
    pub fn look() -> Self {
        let memory = field("/proc/meminfo", "MemTotal");
        Machine {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory
                .split(' ')
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            kernel: read("/proc/sys/kernel/osrelease"),
            open_vswitch: open_vswitch(),
            portcullis: env!("CARGO_PKG_VERSION").to_string(),
            load: load(),
            filesystem: said("stat", &["-f", "-c", "%T", "/tmp"]),
        }
    }

    /// Name and value of each fact.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("processor", format!("{} × {}", self.cores, self.processor)),
            ("memory", format!("{} MiB", self.memory_mib)),
            ("kernel", self.kernel.clone()),
            ("Open vSwitch", self.open_vswitch.clone()),
            ("Portcullis", self.portcullis.clone()),
            ("load at the start", self.load.clone()),
            ("databases on", self.filesystem.clone()),
        ]
    }
}

/// The load averages now.
pub fn load() -> String {
    read("/proc/loadavg")
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first value of `name: value` in a file of `/proc`.
pub(crate) fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_string())
    });
    line.unwrap_or_else(|| "unknown".to_string())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".to_string(), |text| text.trim().to_string())
}

/// What a command prints, in one line.
fn said(command: &str, arguments: &[&str]) -> String {
    match Command::new(command).args(arguments).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .collect::<Vec<_>>()
            .join("; "),
        _ => "unknown".to_string(),
    }
}

fn open_vswitch() -> String {
    const DPDK_BUILD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
    match said(DPDK_BUILD, &["--version"]) {
        found if found != "unknown" => found,
        _ => said("ovs-vswitchd", &["--version"]),
    }
}
