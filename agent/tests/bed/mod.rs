//! A switch with real packets between network namespaces, which is a bridge of a real ovs-vswitchd or the embedded switch,
//! and an agent for it. Each is a process of its own and may be killed without the others.
#![allow(dead_code, reason = "test binaries use what they need of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portcullis_testbed::device::Device;
use portcullis_testbed::probe::TcpOutcome;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ovs,
    Embedded,
}

/// The last host is behind the uplink, the others are servers.
pub struct Bed {
    /// The embedded switch. It ends before its sandbox.
    device: Option<Device>,
    pub sandbox: Sandbox,
    ports: Vec<(u32, &'static str)>,
}

impl Bed {
    /// With hosts by name and number.
    pub fn new(kind: Kind, names: &[(&'static str, u8)]) -> (Bed, Vec<NetnsHost>) {
        let options = SandboxOptions {
            dpdk: kind == Kind::Ovs,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::start(options).unwrap();
        let host = |(name, number): &(&str, u8)| {
            let spec = EndpointSpec {
                iface_id: Some(format!("id-{name}")),
                unplugged: kind == Kind::Embedded,
                ..EndpointSpec::numbered(name, *number)
            };
            sandbox.add_endpoint(spec).unwrap()
        };
        let hosts = names.iter().map(host).collect();
        let ports: Vec<_> = names.iter().map(|(name, n)| (u32::from(*n), *name)).collect();
        let device = (kind == Kind::Embedded).then(|| {
            let program = crate::support::switch_program();
            Device::embedded(&sandbox, &program, &ports).unwrap()
        });
        let bed = Bed {
            device,
            sandbox,
            ports,
        };
        (bed, hosts)
    }

    /// The switch, for the agent's configuration.
    pub fn target(&self) -> String {
        let (uplink, servers) = self.ports.split_last().unwrap();
        match &self.device {
            None => format!(
                "[[target]]\nname = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{}\"\nuplinks = [\"{}\"]\n",
                self.sandbox.ovsdb_socket().display(),
                uplink.1
            ),
            Some(device) => {
                let servers: Vec<u32> = servers.iter().map(|(number, _)| *number).collect();
                format!(
                    "[[target]]\nname = \"sw\"\nkind = \"embedded\"\naddress = \"{}\"\nuplinks = [{}]\n\
                     servers = {servers:?}\n",
                    device.address(),
                    uplink.0
                )
            }
        }
    }

    /// Where a server plugs in, for a document. The last one of several is what a manager of virtual machines calls it.
    pub fn attachment(&self, server: usize) -> String {
        let (number, name) = self.ports[server];
        match self.device {
            Some(_) => format!("port: {number}, target: sw"),
            None if server > 0 && server + 2 == self.ports.len() => format!("iface_id: id-{name}"),
            None => format!("interface: {name}"),
        }
    }

    /// Takes a server's port out of the bridge, or its cable out of the switch.
    pub fn unplug(&self, server: usize) {
        let name = self.ports[server].1;
        match &self.device {
            None => self.sandbox.unplug(name).unwrap(),
            Some(device) => device.link(&self.sandbox, name, false).unwrap(),
        }
    }

    pub fn plug(&self, server: usize) {
        let name = self.ports[server].1;
        match &self.device {
            None => self.sandbox.plug(name).unwrap(),
            Some(device) => device.link(&self.sandbox, name, true).unwrap(),
        }
    }

    /// Ends the switch, by SIGKILL or as it is ended at a shutdown. Its rows are lost.
    pub fn stop_switch(&mut self, kill: bool) {
        match &mut self.device {
            None if !kill => self.sandbox.stop_vswitchd().unwrap(),
            None => {
                let pid = self.sandbox.vswitchd_pid().unwrap().to_string();
                let killed = Command::new("kill").args(["-KILL", &pid]).status();
                assert!(killed.unwrap().success());
            }
            Some(device) if kill => device.kill(),
            Some(device) => device.stop().unwrap(),
        }
    }

    pub fn start_switch(&mut self) {
        match &mut self.device {
            // One that was killed has left files, which stopping it removes.
            None => self.sandbox.restart_vswitchd().unwrap(),
            Some(device) => device.start_again(&self.sandbox).unwrap(),
        }
    }

    /// Frames that this ovs-vswitchd has dropped by itself, and not by a row: while it reconfigures its upcalls it holds their
    /// lock, and a frame of no cached flow is dropped then (lib/dpif-netdev.c). Its threads count up to a second late.
    pub fn dropped_by_switch(&self) -> Option<u64> {
        if self.device.is_some() {
            return None;
        }
        let counters = [
            "datapath_drop_lock_error",
            "datapath_drop_upcall_error",
            "datapath_drop_invalid_port",
            "datapath_drop_recirc_error",
        ];
        let mut sum = 0;
        for counter in counters {
            let text = self.sandbox.appctl(["coverage/read-counter", counter]).ok()?;
            sum += text.trim().parse::<u64>().ok()?;
        }
        Some(sum)
    }

    /// Starts an agent whose database lies in a folder; where it listens.
    pub fn start_agent(&self, files: &Path, more: &str) -> (Agent, PathBuf) {
        let at = self.sandbox.dir();
        let socket = at.join("agent.sock");
        let text = format!(
            "{more}[store]\npath = \"{}/p.db\"\n[api]\nsocket = \"{}\"\n{}",
            files.display(),
            socket.display(),
            self.target()
        );
        let config = at.join("agent.toml");
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["agent", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        (Agent(child), socket)
    }

    fn log_file(&self) -> PathBuf {
        self.sandbox.dir().join("agent.log")
    }

    /// The end of the agent's log, for a failure.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// An agent; killed by SIGKILL when it is dropped.
pub struct Agent(Child);

impl Agent {
    pub fn new(child: Child) -> Self {
        Agent(child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a host reaches a TCP port of the host behind the uplink, 192.0.2.9.
pub fn connects(from: &NetnsHost, port: u16) -> bool {
    let to = SocketAddr::from(([192, 0, 2, 9], port));
    let outcome = tokio::task::block_in_place(|| from.tcp_connect(to, Duration::from_millis(2500)));
    matches!(outcome.unwrap(), TcpOutcome::Open(_))
}
