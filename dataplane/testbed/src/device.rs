//! P4Runtime devices in processes of their own, between the namespaces of a sandbox: BMv2 (`simple_switch_grpc`), when it
//! is on the PATH, and the embedded switch.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Result, TestbedError};
use crate::sandbox::Sandbox;

/// BMv2's P4Runtime server, looked up on the PATH.
pub const BMV2: &str = "simple_switch_grpc";
const SOCKET: &str = "p4runtime.sock";
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether BMv2 is on the PATH.
pub fn have_bmv2() -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|p| p.join(BMV2).is_file()))
}

/// Whether `test_name` can run against BMv2 here; says so when it cannot. BMv2 is in no Debian release, so that this is no
/// failure.
#[must_use]
pub fn need_bmv2(test_name: &str) -> bool {
    if !crate::need_root(test_name) {
        return false;
    }
    if !have_bmv2() {
        println!("SKIPPED: needs {BMV2} on the PATH: {test_name}");
        return false;
    }
    true
}

/// A running device. It ends with this value, and at the latest with the sandbox.
#[derive(Debug)]
pub struct Device {
    child: Child,
    socket: PathBuf,
    command: Vec<String>,
    log: PathBuf,
    /// Interfaces of endpoints, and the TAP interfaces of the switch that they are wired to.
    wires: Vec<(String, String)>,
}

impl Device {
    /// Starts BMv2 without a program, with these endpoints of a sandbox (which are not plugged into its bridge) as its
    /// ports.
    pub fn bmv2(sandbox: &Sandbox, ports: &[(u32, &str)]) -> Result<Self> {
        let mut command: Vec<String> = [BMV2, "--no-p4", "--device-id", "1"].map(str::to_string).to_vec();
        for (number, veth) in veths(sandbox, ports)? {
            command.extend(["-i".to_string(), format!("{number}@{veth}")]);
        }
        command.extend(["--", "--grpc-server-addr", &listen(sandbox)].map(str::to_string));
        Self::start(sandbox, command, "bmv2.log")
    }

    /// Starts the embedded switch likewise, which is this program.
    pub fn embedded(sandbox: &Sandbox, program: &Path, ports: &[(u32, &str)]) -> Result<Self> {
        Self::embedded_at(sandbox, program, &veths(sandbox, ports)?)
    }

    /// The same with these interfaces as its ports.
    pub fn embedded_at(sandbox: &Sandbox, program: &Path, ports: &[(u32, String)]) -> Result<Self> {
        let mut command = vec![program.display().to_string()];
        for (number, veth) in ports {
            command.extend(["--port".to_string(), format!("{number}=af_packet:{veth}")]);
        }
        command.extend(["--grpc", &listen(sandbox)].map(str::to_string));
        Self::start(sandbox, command, "switch.log")
    }

    /// The same with a TAP interface at each port, wired to the endpoint's interface. So the device of the port is one of DPDK, whose
    /// rules become filters of the kernel's classifier. `arguments` are for the switch.
    pub fn embedded_on_taps(
        sandbox: &Sandbox,
        program: &Path,
        ports: &[(u32, &str)],
        arguments: &[&str],
    ) -> Result<Self> {
        let namespace = sandbox.namespace()?;
        // The kernel would send router solicitations by its side of a TAP interface, as if an endpoint had.
        let sysctl = ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"];
        crate::sandbox::run(
            Command::new("ip")
                .args(["netns", "exec", &namespace])
                .args(sysctl),
        )?;
        let veths = veths(sandbox, ports)?;
        let mut command = vec![program.display().to_string()];
        for (number, _) in &veths {
            command.extend(["--port".to_string(), format!("{number}=tap:{}", tap(*number))]);
        }
        command.extend(["--grpc", &listen(sandbox)].map(str::to_string));
        command.extend(arguments.iter().map(ToString::to_string));
        let mut device = Self::start(sandbox, command, "switch.log")?;
        device.wires = veths
            .into_iter()
            .map(|(number, veth)| (veth, tap(number)))
            .collect();
        device.wire(sandbox)?;
        Ok(device)
    }

    fn wire(&self, sandbox: &Sandbox) -> Result<()> {
        let namespace = sandbox.namespace()?;
        let tc = |arguments: &str| {
            let mut command = Command::new("tc");
            crate::sandbox::run(command.args(["-n", &namespace]).args(arguments.split(' ')))
        };
        let redirect = |from: &str, to: &str| {
            let action = "matchall action mirred egress redirect dev";
            tc(&format!("filter add dev {from} parent ffff: {action} {to}"))
        };
        let end = Instant::now() + PATIENCE;
        for (veth, tap) in &self.wires {
            // The switch listens before it has ports; the driver makes the interface, and puts an ingress qdisc on it.
            while let Err(error) = redirect(tap, veth) {
                if Instant::now() > end {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            // That of a switch that is gone.
            let _none = tc(&format!("qdisc del dev {veth} ingress"));
            tc(&format!("qdisc add dev {veth} ingress"))?;
            redirect(veth, tap)?;
        }
        Ok(())
    }

    /// Packets that the kernel's classifier has dropped by rules of the port with this number, and how many rules there are.
    pub fn dropped_by_rules(&self, sandbox: &Sandbox, number: u32) -> Result<(usize, u64)> {
        let namespace = sandbox.namespace()?;
        let mut command = Command::new("tc");
        let show = ["-s", "filter", "show", "dev", &tap(number), "parent", "1:"];
        let text = crate::sandbox::run(command.args(["-n", &namespace]).args(show))?;
        let rules = text.matches("action drop").count();
        let packets = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_count = words.next() == Some("Sent");
            is_count.then(|| words.nth(2)?.parse::<u64>().ok())?
        });
        Ok((rules, packets.sum()))
    }

    fn start(sandbox: &Sandbox, program: Vec<String>, log: &str) -> Result<Self> {
        let mut command = ["ip", "netns", "exec", &sandbox.namespace()?]
            .map(str::to_string)
            .to_vec();
        command.extend(program);
        let log = sandbox.dir().join(log);
        let mut device = Device {
            child: in_sandbox(sandbox.dir(), &command, &log)?,
            socket: sandbox.dir().join(SOCKET),
            command,
            log,
            wires: Vec::new(),
        };
        device.listening()?;
        Ok(device)
    }

    /// Starts BMv2 without a program and without ports, for those who only fill tables; its socket and log lie in a folder.
    /// Needs no root. Ends with the thread that started it.
    pub fn alone(folder: &Path) -> Result<Self> {
        let socket = folder.join("p4runtime.sock");
        let listen = format!("unix:{}", socket.display());
        let command: Vec<String> = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            BMV2,
            "--no-p4",
            "--device-id",
            "1",
        ]
        .into_iter()
        .chain(["--", "--grpc-server-addr", &listen])
        .map(str::to_string)
        .collect();
        let log = folder.join("bmv2.log");
        let (program, arguments) = (Path::new("setpriv"), &command[1..]);
        let child = spawn(program, arguments, &log)?;
        let mut device = Device {
            child,
            socket,
            command,
            log,
            wires: Vec::new(),
        };
        device.listening()?;
        Ok(device)
    }

    /// Where its P4Runtime server listens.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }

    /// Ends it as a shutdown does, with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        let pid = self.pid().to_string();
        crate::sandbox::run(Command::new("kill").args(["-TERM", &pid]))?;
        let _status = self.child.wait();
        Ok(())
    }

    /// Takes the cable of one of its ports out, or puts it back.
    pub fn link(&self, sandbox: &Sandbox, name: &str, up: bool) -> Result<()> {
        let (namespace, veth) = (sandbox.namespace()?, sandbox.switch_side(name)?);
        let state = if up { "up" } else { "down" };
        crate::sandbox::run(Command::new("ip").args(["-n", &namespace, "link", "set", &veth, state]))
            .map(drop)
    }

    /// Starts it anew after it was killed: without a program, with empty tables.
    pub fn start_again(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.child = in_sandbox(sandbox.dir(), &self.command, &self.log)?;
        self.listening()?;
        self.wire(sandbox)
    }

    fn listening(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > end {
                let text = std::fs::read_to_string(&self.log).unwrap_or_default();
                return Err(TestbedError::Command {
                    command: self.command.join(" "),
                    status: ended.unwrap_or_default(),
                    stderr: text
                        .chars()
                        .rev()
                        .take(2000)
                        .collect::<Vec<_>>()
                        .into_iter()
                        .rev()
                        .collect(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The TAP interface of a port.
fn tap(number: u32) -> String {
    format!("pctap{number}")
}

fn listen(sandbox: &Sandbox) -> String {
    format!("unix:{}", sandbox.dir().join(SOCKET).display())
}

/// The interfaces of endpoints on the switch's side.
fn veths(sandbox: &Sandbox, ports: &[(u32, &str)]) -> Result<Vec<(u32, String)>> {
    let veth = |(number, name): &(u32, &str)| Ok((*number, sandbox.switch_side(name)?));
    ports.iter().map(veth).collect()
}

fn in_sandbox(dir: &Path, command: &[String], log: &Path) -> Result<Child> {
    let sandbox = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/sandbox"));
    let arguments = [&["run".to_string(), dir.display().to_string()], command].concat();
    spawn(sandbox, &arguments, log)
}

fn spawn(program: &Path, arguments: &[String], log: &Path) -> Result<Child> {
    let file = |source| TestbedError::File {
        path: log.to_path_buf(),
        source,
    };
    let output = File::create(log).map_err(file)?;
    let again = output.try_clone().map_err(file)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(again)
        .spawn()
        .map_err(|source| TestbedError::Spawn {
            command: arguments.join(" "),
            source,
        })
}
