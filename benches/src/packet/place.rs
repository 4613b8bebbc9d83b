//! The switch under measurement, with two hosts at it, and the document.

use std::path::Path;
use std::sync::Arc;

use portcullis_policy::{Document, Endpoint, Name};
use portcullis_testbed::device::{Device, have_bmv2};
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions};
use serde_json::{Value, json};

use crate::change::PROFILES;
use crate::daemon::Place;
use crate::documents::Fleet;
use crate::{BenchError, Result};

/// The UDP port that the unlock opens: a troublesome one, blocked by default.
pub const PORT: u16 = 5060;
/// The endpoint with packets.
pub const ENDPOINT: &str = "customer";
/// The unlock program that opens the port.
pub const PROGRAM: &str = "calls";

/// Names of the two hosts.
const CUSTOMER: &str = "customer";
const INTERNET: &str = "internet";
/// Numbers of their ports on P4Runtime devices; the other endpoints are at ports from [`OTHERS`] on.
const PORTS: [(u32, &str); 2] = [(1, CUSTOMER), (2, INTERNET)];
const OTHERS: u32 = 10;

/// The switch that packets go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Open vSwitch with DPDK, every endpoint at a port of it.
    Ovs,
    /// The embedded switch; all endpoints but one have rows and no port.
    Embedded,
    /// BMv2 (`simple_switch_grpc`), with endpoints as on the embedded switch.
    Bmv2,
}

/// Whether BMv2 can be measured here.
pub fn bmv2_is_there() -> bool {
    have_bmv2()
}

/// A switch that runs, and all that an agent needs. Fields are dropped in this order: the device before its sandbox.
pub struct Started {
    _device: Option<Device>,
    /// What is measured, as it is shown.
    pub name: &'static str,
    /// Configuration and files of an agent.
    pub place: Place,
    pub document: Document,
    /// The host that sends.
    pub customer: NetnsHost,
    /// The host that receives, at an uplink.
    pub internet: NetnsHost,
    _sandbox: Sandbox,
}

impl Started {
    pub fn new(kind: Kind, endpoints: u32, agent: &Path) -> Result<Self> {
        let others = endpoints.saturating_sub(1);
        let is_ovs = kind == Kind::Ovs;
        let sandbox = Sandbox::start(SandboxOptions {
            dpdk: is_ovs,
            dummy: is_ovs,
            ..SandboxOptions::default()
        })?;
        let host = |name: &str, number| {
            let spec = EndpointSpec {
                // Unlike those of the fleet.
                mac: Some(format!("02:00:ff:00:00:{number:02x}")),
                unplugged: !is_ovs,
                ..EndpointSpec::numbered(name, number)
            };
            sandbox.add_endpoint(spec)
        };
        let (customer, internet) = (host(CUSTOMER, 1)?, host(INTERNET, 2)?);
        if is_ovs && others > 0 {
            sandbox.add_dummy_ports(1..=others)?;
        }
        let (device, name) = match kind {
            Kind::Ovs => (None, "Open vSwitch with DPDK"),
            Kind::Embedded => {
                let program = agent.with_file_name("portcullis-switch");
                let device = Device::embedded(&sandbox, &program, &PORTS)?;
                (Some(device), "the embedded switch")
            }
            Kind::Bmv2 => (Some(Device::bmv2(&sandbox, &PORTS)?), "BMv2"),
        };
        let target = match &device {
            None => format!(
                "name = \"sw\"\nkind = \"ovs\"\novsdb = \"unix:{}\"\nuplinks = [\"{INTERNET}\"]\n",
                sandbox.ovsdb_socket().display()
            ),
            Some(device) => {
                let kind = if kind == Kind::Embedded {
                    "embedded"
                } else {
                    "p4runtime"
                };
                format!(
                    "name = \"sw\"\nkind = \"{kind}\"\naddress = \"{}\"\nuplinks = [{}]\n",
                    device.address(),
                    PORTS[1].0
                )
            }
        };
        Ok(Started {
            place: Place::prepare(agent, sandbox.dir(), &target)?,
            document: document(kind, others, &customer)?,
            name,
            customer,
            internet,
            _device: device,
            _sandbox: sandbox,
        })
    }
}

/// The fleet of the other benches, and one endpoint more whose program opens a port that the baseline closes.
fn document(kind: Kind, others: u32, customer: &NetnsHost) -> Result<Document> {
    let mut document = Fleet::hosting(others, PROFILES, others).document()?;
    let at = |n: u32, interface: &str| match kind {
        Kind::Ovs => json!([{"interface": interface}]),
        Kind::Embedded | Kind::Bmv2 => json!([{"port": n, "target": "sw"}]),
    };
    if kind != Kind::Ovs {
        let names: Vec<Name> = document.endpoints.keys().cloned().collect();
        for (n, name) in (OTHERS..).zip(names) {
            if let Some(endpoint) = document.endpoints.get_mut(&name) {
                *endpoint = Arc::new(Endpoint {
                    attachments: serde_json::from_value(at(n, ""))?,
                    ..Endpoint::clone(endpoint)
                });
            }
        }
    }
    let mac = customer
        .mac()
        .map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let endpoint: Value = json!({
        "attachments": at(PORTS[0].0, CUSTOMER),
        "macs": mac.into_iter().collect::<Vec<_>>(),
        "addresses": customer.addresses(),
        "profiles": ["p000"],
    });
    document
        .endpoints
        .insert(ENDPOINT.parse()?, Arc::new(serde_json::from_value(endpoint)?));
    let mut baseline = Vec::clone(&document.baseline);
    baseline.push(serde_json::from_value(
        json!({"name": "sip", "action": "deny", "direction": "egress", "protocol": "udp", "ports": [PORT]}),
    )?);
    document.baseline = baseline.into();
    let program: Value = json!({
        "opens": [{"direction": "egress", "protocol": "udp", "ports": [PORT]}],
        "evidence": [{"name": "purpose", "type": "text", "min_length": 10}],
        "approval": "automatic",
        "lease": {"default": "24h"},
        "limits": {"per_endpoint": 1_000_000},
    });
    document
        .programs
        .insert(PROGRAM.parse()?, Arc::new(serde_json::from_value(program)?));
    document
        .validate()
        .map_err(|error| BenchError::Untrue(error.to_string()))?;
    Ok(document)
}
