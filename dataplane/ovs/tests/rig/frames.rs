//! Numbered frames between hosts: who hears them, and which MACs the switch learned.

use std::time::{Duration, Instant};

use portcullis_testbed::{Capture, NetnsHost, SandboxOptions, etherparse};

use portcullis_ovs::tables::Table;

use super::{Rig, number};

pub type Mac = [u8; 6];

/// A MAC that nothing has.
pub const NOBODY: Mac = [2, 0xaa, 0, 0, 0, 1];
/// The router behind the first uplink.
pub const GATEWAY: Mac = [2, 0x99, 0, 0, 0, 1];
/// Longer than any frame takes.
pub const SOON: Duration = Duration::from_millis(400);

/// `web1` is managed and guarded, `free1` declares a MAC and is not guarded, `quiet1` declares none and is denied
/// everything; `away` has no port here. The other hosts are unmanaged.
pub const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
profiles:
  shut:
    rules: [{name: all, action: deny, direction: ingress, protocol: udp}]
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1]
  free1:
    attachments: [{interface: free1}]
    macs: ["02:00:00:00:00:03"]
    source_guard: false
  quiet1:
    attachments: [{interface: quiet1}]
    profiles: [shut]
  away:
    attachments: [{interface: away}]
    macs: ["02:00:00:00:00:77"]
"#;

pub const HOSTS: [(&str, u8); 6] = [
    ("web1", 1),
    ("free1", 3),
    ("quiet1", 4),
    ("stray", 5),
    ("internet", 9),
    ("internet2", 10),
];

pub fn mac(n: u8) -> Mac {
    [2, 0, 0, 0, 0, n]
}

/// Hosts that send numbered frames.
pub struct World {
    pub rig: Rig,
    pub hosts: Vec<NetnsHost>,
    sent: u32,
}

impl World {
    pub fn start(hosts: &[(&str, u8)], tune: impl FnOnce(&Rig)) -> World {
        Self::on(SandboxOptions::default(), hosts, tune)
    }

    pub fn on(options: SandboxOptions, hosts: &[(&str, u8)], tune: impl FnOnce(&Rig)) -> World {
        let (rig, hosts) = Rig::start(options, hosts, |config| {
            config.uplinks = vec!["internet*".to_string()];
        });
        for host in &hosts {
            silence(host);
        }
        tune(&rig);
        World { rig, hosts, sent: 0 }
    }

    pub fn host(&self, name: &str) -> &NetnsHost {
        self.hosts.iter().find(|h| h.name() == name).unwrap()
    }

    /// An UDP packet of 192.0.2.1 to 192.0.2.99.
    pub fn frame(&mut self, src: Mac, dst: Mac) -> Vec<u8> {
        self.sent += 1;
        let builder = etherparse::PacketBuilder::ethernet2(src, dst)
            .ipv4([192, 0, 2, 1], [192, 0, 2, 99], 64)
            .udp(4000, 5000);
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.sent.to_be_bytes()).unwrap();
        frame
    }

    /// Sends a frame; the hosts at which it arrives.
    pub fn send_frame(&self, from: &str, frame: &[u8]) -> Vec<&str> {
        let others: Vec<&NetnsHost> = self.hosts.iter().filter(|h| h.name() != from).collect();
        let ears: Vec<Capture> = others.iter().map(|h| h.capture().unwrap()).collect();
        self.host(from).send_frame(frame).unwrap();
        let end = &frame[frame.len() - 4..];
        // All listen at once: what has come meanwhile waits in their sockets.
        let deadline = Instant::now() + SOON;
        let heard = |ear: &Capture| {
            let left = deadline.saturating_duration_since(Instant::now());
            ear.until(left, |f| f.ends_with(end)).unwrap().is_some()
        };
        let ears = others.iter().zip(&ears);
        ears.filter(|(_, ear)| heard(ear))
            .map(|(host, _)| host.name())
            .collect()
    }

    pub fn send(&mut self, from: &str, src: Mac, dst: Mac) -> Vec<String> {
        let frame = self.frame(src, dst);
        self.send_frame(from, &frame)
            .into_iter()
            .map(str::to_string)
            .collect()
    }

    /// Like `send`, then waits until the switch has learned from the frame. A frame that takes a cached flow teaches
    /// nothing by itself: the revalidators learn for it, once in `max-revalidator` (500 ms, ovs-vswitchd.conf.db(5)).
    /// The pass under way may have been at this flow before the frame was; the next one has not.
    pub fn teach(&mut self, from: &str, src: Mac, dst: Mac) -> Vec<String> {
        let heard = self.send(from, src, dst);
        for _pass in 0..2 {
            self.rig.sandbox.appctl(["revalidator/wait"]).unwrap();
        }
        heard
    }

    /// MACs that the switch learned, as `ovs-ofctl` prints their rows.
    pub fn learned(&self) -> Vec<String> {
        let args = [
            "-O",
            "OpenFlow15",
            "--no-stats",
            "dump-flows",
            &self.rig.bridge(),
            &format!("table={}", number(Table::L2)),
        ];
        let text = self.rig.sandbox.ofctl(args).unwrap();
        text.lines()
            .filter(|l| l.contains("hard_timeout=300"))
            .map(str::to_string)
            .collect()
    }
}

/// The host's kernel says nothing of its own.
pub fn silence(host: &NetnsHost) {
    host.inside("silencing the host", || {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1")
    })
    .unwrap();
    let flush = ["-n", host.namespace(), "address", "flush", "dev", "eth0"];
    assert!(
        std::process::Command::new("ip")
            .args(flush)
            .status()
            .unwrap()
            .success()
    );
}
