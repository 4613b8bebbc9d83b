//! A private Open vSwitch, started and removed by `hack/sandbox`.

use crate::error::{Result, TestbedError};
use crate::gate::Pass;
use crate::netns::{EndpointSpec, NetnsHost};
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, process, thread};

/// Ports added by one transaction, which is one argument of a command: the kernel allows 128 KiB.
const PORTS_AT_ONCE: usize = 400;

/// With this variable in the environment, sandboxes are on the kernel's datapath.
pub const KERNEL_DATAPATH: &str = "PORTCULLIS_KERNEL_DATAPATH";

/// What kind of switch to start.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// DPDK ports: endpoints with real packets. Takes 256 MiB of hugepages while it runs.
    pub dpdk: bool,
    /// The kernel's datapath instead: endpoints with real packets, where the kernel has the module `openvswitch`. The default where
    /// the environment has [`KERNEL_DATAPATH`], so that tests of DPDK run over it unchanged.
    pub kernel: bool,
    /// Ports of `type=dummy`: thousands of them, without packets.
    pub dummy: bool,
    /// `other_config:vlan-limit`: VLAN tags the switch looks behind.
    pub vlan_limit: Option<u8>,
    /// Name of the bridge.
    pub bridge: String,
    /// Whether the bridge passes everything while it has no flows; otherwise it drops.
    pub standalone: bool,
    /// Longest sleep of an idle polling thread, in microseconds; 0 for benchmarks, which then take a whole core.
    pub pmd_sleep: u32,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        let kernel = std::env::var_os(KERNEL_DATAPATH).is_some();
        Self {
            dpdk: !kernel,
            kernel,
            dummy: false,
            vlan_limit: None,
            bridge: "br0".to_owned(),
            standalone: false,
            pmd_sleep: 100,
        }
    }
}

/// A private Open vSwitch. Dropping it removes all of it; so does the death of this process, however it dies.
///
/// Within one process one thread at a time holds sandboxes; [`start`](Self::start) waits for its turn.
pub struct Sandbox {
    dir: PathBuf,
    options: SandboxOptions,
    _folder: tempfile::TempDir,
    _pass: Pass,
}

impl Sandbox {
    /// Starts ovsdb-server and ovs-vswitchd and makes the bridge. Needs root; ask
    /// [`need_root`](crate::need_root) first.
    pub fn start(options: SandboxOptions) -> Result<Self> {
        let pass = Pass::enter();
        // Under /tmp, whatever TMPDIR says: socket paths have little room.
        let folder = tempfile::Builder::new()
            .prefix("pc-")
            .tempdir_in("/tmp")
            .map_err(|source| TestbedError::File {
                path: "/tmp".into(),
                source,
            })?;
        let dir = folder.path().to_owned();
        let mut arguments = vec!["--bridge".to_owned(), options.bridge.clone()];
        arguments.extend(["--pmd-sleep".to_owned(), options.pmd_sleep.to_string()]);
        arguments.extend(["--owner".to_owned(), process::id().to_string()]);
        if options.kernel {
            arguments.push("--kernel".to_owned());
        } else if options.dpdk {
            arguments.push("--dpdk".to_owned());
        }
        if options.dummy {
            arguments.push("--dummy".to_owned());
        }
        if options.standalone {
            arguments.push("--standalone".to_owned());
        }
        if let Some(limit) = options.vlan_limit {
            arguments.extend(["--vlan-limit".to_owned(), limit.to_string()]);
        }
        script("up", &dir, &arguments)?;
        Ok(Self {
            dir,
            options,
            _folder: folder,
            _pass: pass,
        })
    }

    /// The sandbox's folder: sockets, database, logs. Removed with it; tests may put files there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bridge it was made with.
    pub fn bridge(&self) -> &str {
        &self.options.bridge
    }

    /// The OVSDB server's Unix socket.
    pub fn ovsdb_socket(&self) -> PathBuf {
        self.dir.join("db.sock")
    }

    /// The OpenFlow management socket of `bridge`.
    pub fn mgmt_socket(&self, bridge: &str) -> PathBuf {
        self.dir.join(format!("{bridge}.mgmt"))
    }

    /// Name of the network namespace that the switch runs in.
    pub fn namespace(&self) -> Result<String> {
        let id = field(&self.dir.join("sandbox.conf"), "id")?;
        Ok(format!("pc{id}-ovs"))
    }

    /// The interface of an endpoint on the switch's side.
    pub fn switch_side(&self, name: &str) -> Result<String> {
        field(&self.dir.join("endpoints").join(name), "veth")
    }

    /// Lets the default route of the switch's namespace leave by an endpoint.
    pub fn default_route(&self, name: &str) -> Result<()> {
        let (namespace, veth) = (self.namespace()?, self.switch_side(name)?);
        run(std::process::Command::new("ip")
            .args(["-n", &namespace, "route", "replace", "default", "dev", &veth]))
        .map(drop)
    }

    /// Process id of ovs-vswitchd.
    pub fn vswitchd_pid(&self) -> Result<u32> {
        let path = self.dir.join("ovs-vswitchd.pid");
        let text = fs::read_to_string(&path).map_err(|source| TestbedError::File {
            path: path.clone(),
            source,
        })?;
        text.trim().parse().map_err(|error| TestbedError::File {
            path,
            source: std::io::Error::other(error),
        })
    }

    /// Runs `ovs-vsctl` against this switch; what it printed.
    pub fn vsctl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.tool("ovs-vsctl");
        command
            .arg(format!("--db=unix:{}", self.ovsdb_socket().display()))
            .arg("--timeout=60")
            .args(arguments);
        run(&mut command)
    }

    /// Runs `ovs-ofctl` against this switch (name the bridge as usual); what it printed.
    pub fn ofctl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.tool("ovs-ofctl");
        command.args(arguments);
        run(&mut command)
    }

    /// Runs `ovs-appctl` against ovs-vswitchd; what it printed.
    pub fn appctl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let suffix = format!(".{}.ctl", self.vswitchd_pid()?);
        let entries = fs::read_dir(&self.dir).map_err(|source| TestbedError::File {
            path: self.dir.clone(),
            source,
        })?;
        let socket = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.to_string_lossy().ends_with(&suffix))
            .ok_or_else(|| TestbedError::File {
                path: self.dir.join(format!("ovs-vswitchd*{suffix}")),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
        let mut command = self.tool("ovs-appctl");
        command.arg("--target").arg(socket).args(arguments);
        run(&mut command)
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, &self.dir);
        }
        command
    }

    /// Stops ovs-vswitchd; flows are lost, the database stays.
    pub fn stop_vswitchd(&self) -> Result<()> {
        script("stop-vswitchd", &self.dir, &[]).map(drop)
    }

    /// Starts ovs-vswitchd again and waits until its configuration is in force.
    pub fn start_vswitchd(&self) -> Result<()> {
        script("start-vswitchd", &self.dir, &[]).map(drop)
    }

    /// Stops and starts ovs-vswitchd.
    pub fn restart_vswitchd(&self) -> Result<()> {
        script("restart-vswitchd", &self.dir, &[]).map(drop)
    }

    /// Stops ovsdb-server; the switch goes on forwarding.
    pub fn stop_ovsdb(&self) -> Result<()> {
        script("stop-ovsdb", &self.dir, &[]).map(drop)
    }

    /// Starts ovsdb-server again, on the same database.
    pub fn start_ovsdb(&self) -> Result<()> {
        script("start-ovsdb", &self.dir, &[]).map(drop)
    }

    /// Makes a namespace with an `eth0` plugged into the switch through a DPDK port named `spec.name`.
    pub fn add_endpoint(&self, spec: EndpointSpec) -> Result<NetnsHost> {
        let mut arguments = vec![spec.name.clone()];
        arguments.extend(spec.arguments());
        let namespace = script("endpoint", &self.dir, &arguments)?;
        Ok(NetnsHost::new(&spec, namespace.trim().to_owned()))
    }

    /// Makes a cable from a port of the bridge to another switch, which uses the interface that is returned.
    pub fn cable(&self, name: &str) -> Result<String> {
        let interface = script("cable", &self.dir, &[name.to_owned()])?;
        Ok(interface.trim().to_owned())
    }

    /// Puts the endpoint's port (back) into the switch.
    pub fn plug(&self, name: &str) -> Result<()> {
        script("plug", &self.dir, &[name.to_owned()]).map(drop)
    }

    /// Deletes the endpoint's port from the switch; its namespace stays.
    pub fn unplug(&self, name: &str) -> Result<()> {
        script("unplug", &self.dir, &[name.to_owned()]).map(drop)
    }

    /// Deletes the endpoint: port, namespace and the processes in it.
    pub fn remove_endpoint(&self, name: &str) -> Result<()> {
        script("remove", &self.dir, &[name.to_owned()]).map(drop)
    }

    /// Adds ports `dummyN` of `type=dummy` for every N of `numbers`, and waits until the switch has them.
    /// The switch takes its time: 2,000 need some seconds, 4,000 half a minute, and it grows with the square.
    pub fn add_dummy_ports(&self, numbers: RangeInclusive<u32>) -> Result<()> {
        let numbers: Vec<u32> = numbers.collect();
        // Not with ovs-vsctl, whose time grows with the square of the ports: minutes for some thousands.
        for numbers in numbers.chunks(PORTS_AT_ONCE) {
            let mut command = self.tool("ovsdb-client");
            command
                .arg("transact")
                .arg(format!("unix:{}", self.ovsdb_socket().display()));
            command.arg(dummy_ports_transaction(self.bridge(), numbers));
            let answer = run(&mut command)?;
            assert!(!answer.contains("\"error\""), "OVSDB refused the ports: {answer}");
        }
        self.vsctl([
            "--timeout=900",
            "set",
            "Open_vSwitch",
            ".",
            "external_ids:waited=true",
        ])
        .map(drop)
    }

    /// The `ofport` of interface `name`; `None` while the switch has not given it one.
    pub fn ofport(&self, name: &str) -> Result<Option<u32>> {
        let answer = self.vsctl(["--if-exists", "get", "interface", name, "ofport"])?;
        Ok(answer.trim().parse().ok())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "end of {}:\n{}",
                self.dir.join("ovs-vswitchd.log").display(),
                self.log_tail()
            );
        }
        if let Err(error) = script("down", &self.dir, &[]) {
            if !thread::panicking() {
                panic!("the sandbox could not be removed: {error}");
            }
            eprintln!("the sandbox could not be removed: {error}");
        }
    }
}

impl Sandbox {
    fn log_tail(&self) -> String {
        let log =
            fs::read_to_string(self.dir.join("ovs-vswitchd.log")).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// A field of one of the sandbox's records.
fn field(file: &Path, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(file).map_err(|source| TestbedError::File {
        path: file.to_path_buf(),
        source,
    })?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_string));
    value.ok_or_else(|| TestbedError::File {
        path: file.to_path_buf(),
        source: std::io::Error::other(format!("it has no {name}")),
    })
}

/// RFC 7047 section 4.1.3: the transaction that makes the ports and puts them into the bridge.
fn dummy_ports_transaction(bridge: &str, numbers: &[u32]) -> String {
    let make = |n: &u32| {
        format!(
            r#"{{"op":"insert","table":"Interface","uuid-name":"i{n}","row":{{"name":"dummy{n}","type":"dummy"}}}},
            {{"op":"insert","table":"Port","uuid-name":"p{n}","row":{{"name":"dummy{n}","interfaces":["named-uuid","i{n}"]}}}},"#
        )
    };
    let made: String = numbers.iter().map(make).collect();
    let ports = numbers
        .iter()
        .map(|n| format!(r#"["named-uuid","p{n}"]"#))
        .collect::<Vec<_>>()
        .join(",");
    format!(
        r#"["Open_vSwitch",{made}
        {{"op":"mutate","table":"Bridge","where":[["name","==","{bridge}"]],
          "mutations":[["ports","insert",["set",[{ports}]]]]}}]"#
    )
}

fn script(command: &str, dir: &Path, arguments: &[String]) -> Result<String> {
    let mut sandbox = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/sandbox"));
    sandbox.arg(command).arg(dir).args(arguments);
    run(&mut sandbox)
}

/// Runs a command; what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let line = || {
        let text = format!("{command:?}");
        if text.len() > 500 {
            format!("{} …", text.chars().take(500).collect::<String>())
        } else {
            text
        }
    };
    let line = line();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => {
            return Err(TestbedError::Spawn {
                command: line,
                source,
            });
        }
    };
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(TestbedError::Command {
            command: line,
            status: output.status,
            stderr,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
