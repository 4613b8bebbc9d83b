//! Looks at an Open vSwitch: what its database says, and which bridge a configuration means.

use std::sync::Arc;
use std::time::Duration;

use portcullis_ovsdb::{Bridge, Datapath, Session, SessionConfig, Switch};

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
    /// A bridge of the userspace datapath without DPDK.
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
    let bridge = match &config.bridge {
        Some(name) => switch.bridges.get(name).ok_or_else(|| {
            let names: Vec<&str> = switch.bridges.keys().map(String::as_str).collect();
            NotFound::Bridge(format!("there is no bridge {name}; there are: {}", list(&names)))
        })?,
        None => only_one(switch)?,
    };
    match fitness(switch, bridge) {
        Fitness::Fit => Ok(bridge),
        Fitness::NoDpdk => Err(NotFound::NoDpdk {
            address: config.ovsdb.clone(),
        }),
        Fitness::Datapath(kind) => Err(NotFound::Bridge(format!(
            "bridge {} has datapath_type `{kind}`: `netdev` and `system` are programmed",
            bridge.name
        ))),
    }
}

/// The bridge that is meant where the configuration names none. Bridges of the kernel's datapath have to be named: a host has
/// several, and one of them often carries its own connection.
fn only_one(switch: &Switch) -> Result<&Bridge, NotFound> {
    let of = |datapath: Datapath| -> Vec<&Bridge> {
        let bridges = switch.bridges.values();
        bridges.filter(|b| b.datapath() == datapath).collect()
    };
    let names = |bridges: &[&Bridge]| list(&bridges.iter().map(|b| b.name.as_str()).collect::<Vec<_>>());
    match of(Datapath::Userspace).as_slice() {
        [one] => Ok(one),
        [] => {
            let kernel = of(Datapath::Kernel);
            let mut why = "there is no bridge with datapath_type=netdev".to_string();
            if !kernel.is_empty() {
                why += &format!(
                    "; to program one of the kernel's datapath, set `bridge` to its name: {}",
                    names(&kernel)
                );
            }
            Err(NotFound::Bridge(why))
        }
        several => Err(NotFound::Bridge(format!(
            "there are several netdev bridges: set `bridge` to one of {}",
            names(several)
        ))),
    }
}

/// Whether Portcullis can program a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// Its datapath is one that is programmed, and runs.
    Fit,
    /// Not while Open vSwitch runs without DPDK, which the userspace datapath is used with.
    NoDpdk,
    /// Not on this datapath, such as `dummy`.
    Datapath(String),
}

/// Whether Portcullis can program a bridge.
pub fn fitness(switch: &Switch, bridge: &Bridge) -> Fitness {
    match bridge.datapath() {
        Datapath::Userspace if switch.dpdk_initialized != Some(true) => Fitness::NoDpdk,
        Datapath::Userspace | Datapath::Kernel => Fitness::Fit,
        Datapath::Other(kind) => Fitness::Datapath(kind),
    }
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
