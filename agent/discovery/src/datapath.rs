//! A datapath that was found: what it is, what it can hold, and whether an agent programs it unasked.

use std::collections::BTreeMap;

use portcullis_policy::text::plain;
use serde::Serialize;

use crate::bridges::bridges;
use crate::look::Findings;
use crate::section::Section;
use crate::servers::server;

/// What sort a datapath is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatapathKind {
    /// A bridge of Open vSwitch.
    Ovs,
    /// The embedded switch of Portcullis.
    Embedded,
    /// A device behind a P4Runtime server.
    P4runtime,
}

impl DatapathKind {
    /// The `kind` of a `[[target]]`.
    pub fn as_str(self) -> &'static str {
        match self {
            DatapathKind::Ovs => "ovs",
            DatapathKind::Embedded => "embedded",
            DatapathKind::P4runtime => "p4runtime",
        }
    }
}

/// A port of a datapath.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortSeen {
    /// Name of the interface, or number of the port.
    pub name: String,
    /// What sort it is, as the datapath says it: `dpdk`, `af_packet:eth0`.
    pub kind: String,
    /// Whether it was identified as the way to the network.
    pub uplink: bool,
}

/// A datapath on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Datapath {
    /// Its sort, which is the `kind` of a `[[target]]`.
    pub kind: DatapathKind,
    /// The bridge, or the address of the server: what people call it.
    pub name: String,
    /// Address of its OVSDB or P4Runtime server.
    pub address: String,
    /// Versions by name: `ovs`, `dpdk`, `p4runtime`.
    pub versions: BTreeMap<String, String>,
    /// Its ports; absent where the datapath does not list them.
    pub ports: Option<Vec<PortSeen>>,
    /// What of a policy it can hold, or why nothing.
    pub holds: String,
    /// Why an agent without a `[[target]]` does not program it, although it may be the only one; absent when it does.
    pub needs_target: Option<String>,
    /// The settings of a `[[target]]` for it; absent when Portcullis cannot program it.
    #[serde(skip)]
    pub section: Option<Section>,
}

impl Datapath {
    /// What it is, in a few words on one line.
    pub fn title(&self) -> String {
        let title = match self.kind {
            DatapathKind::Ovs => format!("Open vSwitch bridge {} at {}", self.name, self.address),
            DatapathKind::Embedded => format!("the embedded switch at {}", self.address),
            DatapathKind::P4runtime => format!("a P4Runtime server at {}", self.address),
        };
        plain(&title).into_owned()
    }

    /// Names of the ports that were identified as the way to the network.
    pub fn uplinks(&self) -> Vec<&str> {
        let ports = self.ports.iter().flatten().filter(|port| port.uplink);
        ports.map(|port| port.name.as_str()).collect()
    }
}

/// Every datapath of a look, bridges first.
pub fn datapaths(findings: &Findings) -> Vec<Datapath> {
    let mut all = match &findings.ovs {
        Ok(switch) => bridges(switch, &findings.places.ovsdb, &findings.host),
        Err(_) => Vec::new(),
    };
    for (address, seen) in &findings.servers {
        if let Ok(seen) = seen {
            all.push(server(address, seen, &findings.host));
        }
    }
    all
}
