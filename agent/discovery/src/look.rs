//! Looks around on this machine: the database of Open vSwitch, P4Runtime servers, the kernel's interfaces.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use portcullis_ovsdb::Switch;
use portcullis_p4runtime::{NoServer, Server};
use portcullis_policy::text::with_causes;

use crate::host::{Host, ipv4_defaults, ipv6_defaults, is_representor};

/// Addresses of the servers that are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `unix:PATH` or `tcp:HOST:PORT` of the OVSDB server.
    pub ovsdb: String,
    /// Addresses of P4Runtime servers, `HOST:PORT` or `unix:/PATH`; the embedded switch is one.
    pub servers: Vec<String>,
}

/// Socket of the embedded switch, when nothing else is configured.
pub const EMBEDDED_SOCKET: &str = "/run/portcullis-switch/p4runtime.sock";

/// Where P4Runtime servers usually are: the port that IANA gave to P4Runtime, which BMv2, Stratum and SONiC use; SONiC's socket; and
/// ports that older versions of Stratum and BMv2 had.
const USUAL_SERVERS: [&str; 4] = [
    "127.0.0.1:9559",
    "unix:/sock/p4rt.sock",
    "127.0.0.1:28000",
    "127.0.0.1:50051",
];

impl Default for Places {
    fn default() -> Self {
        let embedded = format!("unix:{EMBEDDED_SOCKET}");
        let usual = USUAL_SERVERS.iter().map(ToString::to_string);
        Places {
            ovsdb: portcullis_ovs::Config::DEFAULT_OVSDB.to_string(),
            servers: [embedded].into_iter().chain(usual).collect(),
        }
    }
}

/// What a look found.
#[derive(Debug)]
pub struct Findings {
    /// Addresses of the servers that were asked.
    pub places: Places,
    /// The interfaces of this machine, or network namespace.
    pub host: Host,
    /// The bridges of Open vSwitch, or why they are not known.
    pub ovs: Result<Switch, portcullis_ovs::NotFound>,
    /// Each server by its address.
    pub servers: Vec<(String, Result<Server, NoServer>)>,
}

/// A place where there is no datapath to be seen, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Absent {
    /// Address of a server, as it was given.
    pub address: String,
    /// What was met there instead.
    pub why: String,
    /// Whether nothing listens there, as is usual.
    pub nothing_listens: bool,
}

impl Findings {
    /// Places where there may be a datapath that could not be read.
    pub fn unread(&self) -> Vec<String> {
        let ovs = self.ovs.as_ref().err().filter(|error| !nothing_listens(*error));
        let silent = self.servers.iter().filter_map(|(_, seen)| match seen {
            Err(NoServer::Other(_)) | Ok(_) => None,
            Err(error) => (!nothing_listens(error)).then(|| with_causes(error)),
        });
        ovs.map(ToString::to_string).into_iter().chain(silent).collect()
    }

    /// The places without a datapath.
    pub fn absent(&self) -> Vec<Absent> {
        let mut absent = Vec::new();
        let address = &self.places.ovsdb;
        let ovs = match &self.ovs {
            Ok(switch) if switch.bridges.is_empty() => {
                Some((format!("Open vSwitch at {address} has no bridge"), false))
            }
            Ok(_) => None,
            Err(error) => Some((error.to_string(), nothing_listens(error))),
        };
        absent.extend(ovs.map(|(why, nothing_listens)| Absent {
            address: address.clone(),
            why,
            nothing_listens,
        }));
        let servers = self.servers.iter().filter_map(|(address, seen)| {
            let error = seen.as_ref().err()?;
            Some(Absent {
                address: address.clone(),
                why: with_causes(error),
                nothing_listens: nothing_listens(error),
            })
        });
        absent.extend(servers);
        absent
    }
}

/// Whether an error comes from an address where nothing listens.
fn nothing_listens(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.any(|cause| {
        let shared = cause.downcast_ref::<Arc<io::Error>>().map(AsRef::as_ref);
        let error = cause.downcast_ref::<io::Error>().or(shared);
        let kind = error.map(io::Error::kind);
        matches!(
            kind,
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        )
    })
}

/// Looks once. Every place has a few seconds to answer, all at the same time.
pub async fn look(places: &Places) -> Findings {
    let servers = places.servers.iter().map(|address| {
        let address = address.clone();
        tokio::spawn(async move {
            let seen = portcullis_p4runtime::look(&address).await;
            (address, seen)
        })
    });
    let servers: Vec<_> = servers.collect();
    let ovs = portcullis_ovs::look(&places.ovsdb).await;
    let mut seen = Vec::with_capacity(servers.len());
    for server in servers {
        match server.await {
            Ok(one) => seen.push(one),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is ending, and with it this look.
            Err(_) => {}
        }
    }
    Findings {
        places: places.clone(),
        host: host(),
        ovs,
        servers: seen,
    }
}

/// The interfaces of this machine, or of this network namespace.
fn host() -> Host {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut default_routes = ipv4_defaults(&text("/proc/net/route"));
    default_routes.extend(ipv6_defaults(&text("/proc/net/ipv6_route")));
    let cards = entries(Path::new("/sys/class/net"));
    Host {
        cards: cards
            .into_iter()
            .filter(|name| is_card(&Path::new("/sys/class/net").join(name)))
            .collect(),
        default_routes,
        pci: entries(Path::new("/sys/bus/pci/devices")),
    }
}

/// Whether a device is behind an interface, and it is not the host's end of one that a server has.
fn is_card(interface: &Path) -> bool {
    // Most drivers have no such name, and refuse to be asked.
    let name = std::fs::read_to_string(interface.join("phys_port_name")).unwrap_or_default();
    // A bond, a VLAN or the like of other interfaces leads where these do.
    let is_stacked = entries(interface).iter().any(|entry| entry.starts_with("lower_"));
    (interface.join("device").exists() || is_stacked) && !is_representor(&name)
}

/// The names in a folder; none where it cannot be read, as on a machine without PCI.
fn entries(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
