//! Discovery: whether Open vSwitch with DPDK runs at an address, and which bridge to program.

use std::time::Duration;

use portcullis_ovsdb::{Bridge, Session, SessionConfig, Switch};

use crate::config::Config;
use crate::io::Link;

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The bridge to program, and versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name of the bridge.
    pub bridge: String,
    /// Version of Open vSwitch, when it says.
    pub ovs_version: String,
    /// Version of DPDK, when it says.
    pub dpdk_version: String,
}

/// Why there is nothing to program.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// The server cannot be reached.
    #[error("no OVSDB server at {address}: {why}")]
    NoDatabase { address: String, why: String },
    /// It does not behave.
    #[error("the OVSDB server at {address} cannot be used: {why}")]
    Unusable { address: String, why: String },
    /// Open vSwitch without DPDK.
    #[error(
        "Open vSwitch at {address} runs without DPDK: set other_config:dpdk-init=true and run ovs-vswitchd-dpdk"
    )]
    NoDpdk { address: String },
    /// No bridge, or several.
    #[error("{0}")]
    Bridge(String),
}

/// The bridge that a configuration means.
pub(crate) fn choose<'a>(switch: &'a Switch, config: &Config) -> Result<&'a Bridge, NotFound> {
    if switch.dpdk_initialized != Some(true) {
        return Err(NotFound::NoDpdk {
            address: config.ovsdb.clone(),
        });
    }
    let names: Vec<&str> = switch
        .bridges
        .values()
        .filter(|b| b.datapath_type == "netdev")
        .map(|b| b.name.as_str())
        .collect();
    let chosen = match (&config.bridge, names.as_slice()) {
        (Some(name), _) => match switch.bridges.get(name) {
            Some(bridge) if bridge.datapath_type == "netdev" => return Ok(bridge),
            Some(bridge) => format!(
                "bridge {name} has datapath_type `{}`: only the userspace datapath `netdev` is programmed",
                bridge.datapath_type
            ),
            None => format!("there is no bridge {name}; there are: {}", list(&names)),
        },
        (None, [one]) => match switch.bridges.get(*one) {
            Some(bridge) => return Ok(bridge),
            None => "the bridge has just gone".to_string(),
        },
        (None, []) => "there is no bridge with datapath_type=netdev".to_string(),
        (None, several) => format!(
            "there are several netdev bridges: set `bridge` to one of {}",
            list(several)
        ),
    };
    Err(NotFound::Bridge(chosen))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_string()
    } else {
        names.join(", ")
    }
}

/// Reads the database once and chooses the bridge.
pub async fn discover(config: &Config) -> Result<Found, NotFound> {
    let address = config.ovsdb.clone();
    let mut link = Link::connect(&address)
        .await
        .map_err(|error| NotFound::NoDatabase {
            address: address.clone(),
            why: error.to_string(),
        })?;
    let unusable = |why: String| NotFound::Unusable {
        address: address.clone(),
        why,
    };
    let mut session = Session::new(SessionConfig::default());
    session.connected(Duration::ZERO);
    let ask = async {
        loop {
            link.write(session.take_output());
            if let Some(switch) = session.switch() {
                let bridge = choose(switch, config)?;
                let said = |v: &Option<String>| v.clone().unwrap_or_else(|| "unknown".to_string());
                return Ok(Found {
                    bridge: bridge.name.clone(),
                    ovs_version: said(&switch.ovs_version),
                    dpdk_version: said(&switch.dpdk_version),
                });
            }
            let bytes = link.read().await.map_err(|e| unusable(e.to_string()))?.to_vec();
            session
                .received(&bytes, Duration::ZERO)
                .map_err(|e| unusable(e.to_string()))?;
        }
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err(unusable(format!("no answer within {PATIENCE:?}"))))
}
