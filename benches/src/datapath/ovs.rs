//! Open vSwitch with DPDK, programmed by the agent: one DPDK device is one endpoint, the others are at dummy ports.

use std::path::Path;
use std::time::Duration;

use super::embedded::program_by;
use super::scene::{OVS_PORTS, Scene};
use super::{Contender, Programmed, counted};
use crate::switch::Switch;
use crate::{BenchError, Result};

pub struct Ovs {
    switch: Switch,
    /// Rows that the agent wrote, and how long it took.
    pub programmed: Programmed,
    /// Its packet buffers, as it tells of them.
    pub buffers: String,
}

impl Ovs {
    /// Starts it in a sandbox, and programs it; the agent is gone then.
    pub async fn start(scene: Scene, file: &Path, agent: &Path) -> Result<Ovs> {
        let switch = Switch::start(scene.endpoints - 1)?;
        let sandbox = switch.sandbox();
        let [source, sink] = OVS_PORTS;
        let devices = [
            (
                source,
                format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display()),
            ),
            (sink, "net_null0,no-rx=1".to_string()),
        ];
        // The sink first: what comes out of the source finds it there.
        for (name, device) in devices.iter().rev() {
            let option = format!("options:dpdk-devargs=\"{device}\"");
            sandbox.vsctl([
                "add-port",
                sandbox.bridge(),
                name,
                "--",
                "set",
                "Interface",
                name,
                "type=dpdk",
                &option,
            ])?;
            let error = sandbox.vsctl(["get", "Interface", name, "error"])?;
            if error.trim() != "[]" {
                return Err(BenchError::Untrue(format!(
                    "Open vSwitch refuses {device}: {}",
                    error.trim()
                )));
            }
        }
        let programmed = program_by(agent, sandbox.dir(), &switch.target(), &scene.on_interfaces()?).await?;
        let info = sandbox.appctl(["netdev-dpdk/get-mempool-info", source])?;
        let size = info.lines().find_map(|line| line.trim().strip_prefix("size="));
        let buffers = size.unwrap_or("an unknown number of").to_string();
        Ok(Ovs {
            switch,
            programmed,
            buffers,
        })
    }

    /// Frames that it gave to the sink.
    fn sent(&self) -> Result<u64> {
        let [_, sink] = OVS_PORTS;
        let text =
            self.switch
                .sandbox()
                .ofctl(["-O", "OpenFlow15", "dump-ports", &self.switch.bridge(), sink])?;
        let sent = text.lines().find_map(|line| {
            let (_, rest) = line.trim().split_once("tx pkts=")?;
            rest.split(',').next()?.parse().ok()
        });
        sent.ok_or_else(|| BenchError::Untrue(format!("ovs-ofctl says nothing of {sink}: {text}")))
    }
}

impl Contender for Ovs {
    fn name(&self) -> &'static str {
        "Open vSwitch"
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.switch.sandbox().vswitchd_pid()?)
    }

    fn rate(&mut self, window: Duration) -> Result<f64> {
        counted(window, || self.sent())
    }
}
