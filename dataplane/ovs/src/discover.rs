//! Looks at an Open vSwitch: what its database says, and which bridge a configuration means.

use std::sync::Arc;
use std::time::Duration;

use portcullis_ovsdb::{Bridge, Session, SessionConfig, Switch};

use crate::config::Config;
use crate::io::Link;

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is nothing to program.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotFound {
    /// The server cannot be reached.
    #[error("no OVSDB server at {address}: {source}")]
    NoDatabase {
        address: String,
        source: Arc<std::io::Error>,
    },
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

/// Reads the database once: every bridge with its ports. Nothing is written.
pub async fn look(address: &str) -> Result<Switch, NotFound> {
    let mut link = Link::connect(address)
        .await
        .map_err(|error| NotFound::NoDatabase {
            address: address.to_string(),
            source: Arc::new(error),
        })?;
    let unusable = |why: String| NotFound::Unusable {
        address: address.to_string(),
        why,
    };
    let mut session = Session::new(SessionConfig::default());
    session.connected(Duration::ZERO);
    let ask = async {
        loop {
            link.write(session.take_output());
            if let Some(switch) = session.switch() {
                return Ok(switch.clone());
            }
            let bytes = link.read().await.map_err(|e| unusable(e.to_string()))?.to_vec();
            session
                .received(&bytes, Duration::ZERO)
                .map_err(|e| unusable(e.to_string()))?;
        }
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err(unusable(format!("no answer within {} s", PATIENCE.as_secs()))))
}
