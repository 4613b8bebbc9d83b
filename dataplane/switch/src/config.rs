//! Configuration of the switch: a TOML file and the command line, which takes precedence.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use portcullis_nic::{Drivers, FactsError, Kind, OffloadSettings, When};

use serde::Deserialize;

use crate::ports::{PortError, PortSpec};

/// The TOML file as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    ports: Vec<String>,
    grpc: Option<String>,
    device_id: Option<u64>,
    cores: Option<Vec<usize>>,
    spread: Option<Spread>,
    busy: Option<bool>,
    hugepages: Option<bool>,
    memory_mb: Option<u32>,
    mbufs: Option<u32>,
    mtu: Option<u16>,
    #[serde(default)]
    offload: OffloadSettings,
}

/// What is configured of rules on NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffloadConfig {
    /// Whether there are any.
    pub on: bool,
    /// Frames that a NIC may drop beyond the policy.
    pub accept: BTreeSet<Kind>,
    /// Rules that each port may have at most; absent: as many as it takes.
    pub rules: Option<usize>,
    /// What is known of drivers.
    pub drivers: Drivers,
}

/// Settings of the command line; a setting that is absent is taken from the file or is the default.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the fields of `Config`")]
pub struct Overrides {
    pub ports: Vec<String>,
    pub grpc: Option<String>,
    pub device_id: Option<u64>,
    pub cores: Vec<usize>,
    pub spread: Option<Spread>,
    pub busy: bool,
    pub hugepages: bool,
    pub memory_mb: Option<u32>,
    pub mbufs: Option<u32>,
    pub mtu: Option<u16>,
    pub offload: OffloadSettings,
}

/// Whether a worker passes frames of a port with one receive queue on to all workers, by flow (software RSS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// When there are more workers than receive queues, so that some workers would be idle.
    #[default]
    Auto,
    /// For every port with one queue, when there are several workers.
    On,
    /// Never: each queue belongs to one worker.
    Off,
}

/// Where the P4Runtime server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Path of a Unix socket.
    Unix(PathBuf),
    /// An address and port of this machine.
    Tcp(std::net::SocketAddr),
}

/// Settings of a switch, from the command line and the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Ports of the switch; at least one.
    pub ports: Vec<PortSpec>,
    /// Where the P4Runtime server listens for controllers.
    pub listen: Listen,
    /// Device id in P4Runtime.
    pub device_id: u64,
    /// CPU cores, one worker on each; when empty, one worker on any core.
    pub cores: Vec<usize>,
    /// Whether frames of a port with one queue are spread over the workers.
    pub spread: Spread,
    /// Workers poll without sleeping, each of its core at 100 %.
    pub busy: bool,
    /// Keep DPDK's memory in huge pages, which network cards need.
    pub hugepages: bool,
    /// DPDK's memory, in MiB.
    pub memory_mb: u32,
    /// Packet buffers, shared by all ports.
    pub mbufs: u32,
    /// MTU of every port in bytes; absent leaves each port's own.
    pub mtu: Option<u16>,
    /// Rules on the NICs of ports.
    pub offload: OffloadConfig,
}

/// Where the P4Runtime server listens unless `grpc` is set.
pub const DEFAULT_GRPC: &str = "unix:/run/portcullis-switch/p4runtime.sock";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not TOML, or has a wrong setting.
    #[error("{path}: {source}")]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Drivers(#[from] FactsError),
    /// A setting with a value that cannot be used.
    #[error("{field}: {why}")]
    Field { field: &'static str, why: String },
}

fn field<T>(field: &'static str, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Field {
        field,
        why: why.into(),
    })
}

/// Reads a file; settings of the command line take precedence.
pub fn load(path: Option<&Path>, over: Overrides) -> Result<Config, ConfigError> {
    let raw = match path {
        None => Raw::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.to_path_buf(),
                source,
            })?;
            toml::from_str(&text).map_err(|source| ConfigError::Parse {
                path: path.to_path_buf(),
                source: Box::new(source),
            })?
        }
    };
    resolve(raw, over)
}

fn resolve(raw: Raw, over: Overrides) -> Result<Config, ConfigError> {
    let written = if over.ports.is_empty() {
        raw.ports
    } else {
        over.ports
    };
    if written.is_empty() {
        return field(
            "ports",
            "a switch has at least one: --port NUMBER=KIND:WHAT, like --port 1=af_packet:eth0",
        );
    }
    let mut ports: Vec<PortSpec> = Vec::new();
    for text in written {
        let port: PortSpec = text.parse()?;
        if ports.iter().any(|p| p.number == port.number) {
            return Err(PortError::Twice(port.number).into());
        }
        ports.push(port);
    }
    let cores = if over.cores.is_empty() {
        raw.cores.unwrap_or_default()
    } else {
        over.cores
    };
    if cores.len() > 32 {
        return field("cores", format!("{} workers, and 32 are the most", cores.len()));
    }
    let hugepages = over.hugepages || raw.hugepages.unwrap_or(false);
    let mbufs = over.mbufs.or(raw.mbufs).unwrap_or(32_767);
    if !(1024..=1 << 22).contains(&mbufs) {
        return field(
            "mbufs",
            format!("{mbufs} packet buffers: 1,024 to 4,194,304 can be had"),
        );
    }
    // A buffer takes 2.4 KiB with what belongs to it; the rest is DPDK's, which does not use all that it has.
    let needed = 32 + mbufs / 400;
    let memory_mb = over.memory_mb.or(raw.memory_mb).unwrap_or(96 + mbufs / 256);
    if memory_mb < needed {
        return field(
            "memory_mb",
            format!("{mbufs} packet buffers take about {needed} MiB, and {memory_mb} are given"),
        );
    }
    let mtu = over.mtu.or(raw.mtu);
    if mtu.is_some_and(|mtu| !(576..=9000).contains(&mtu)) {
        return field("mtu", "576 to 9,000 bytes");
    }
    let offload = offload(raw.offload.overridden(over.offload))?;
    Ok(Config {
        ports,
        listen: listen(over.grpc.or(raw.grpc).as_deref().unwrap_or(DEFAULT_GRPC))?,
        device_id: over.device_id.or(raw.device_id).unwrap_or(1),
        cores,
        spread: over.spread.or(raw.spread).unwrap_or_default(),
        busy: over.busy || raw.busy.unwrap_or(false),
        hugepages,
        memory_mb,
        mbufs,
        mtu,
        offload,
    })
}

fn offload(settings: OffloadSettings) -> Result<OffloadConfig, ConfigError> {
    let mut drivers = Drivers::built_in()?;
    for (driver, facts) in settings.parsers {
        drivers.state(driver, facts);
    }
    Ok(OffloadConfig {
        on: settings.when.unwrap_or_default() == When::Auto,
        accept: settings.accept.unwrap_or_default(),
        rules: settings.rules,
        drivers,
    })
}

fn listen(text: &str) -> Result<Listen, ConfigError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    match text.parse::<std::net::SocketAddr>() {
        // Whoever reaches it may program the switch, and it has no TLS of its own.
        Ok(address) if !address.ip().is_loopback() => field(
            "grpc",
            format!(
                "{address} can be reached from elsewhere, and this server has no TLS: use unix:PATH or 127.0.0.1:PORT"
            ),
        ),
        Ok(address) => Ok(Listen::Tcp(address)),
        Err(_) => field(
            "grpc",
            format!("\"{text}\" is neither unix:PATH nor ADDRESS:PORT"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Config, String> {
        let raw = toml::from_str(toml).map_err(|e| e.to_string())?;
        resolve(raw, Overrides::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_file_is_resolved_and_the_command_line_wins() {
        let config = read("ports = ['1=null', '2=ring']\ncores = [0, 1]\n").unwrap();
        assert_eq!(
            (config.ports.len(), config.cores.len(), config.device_id),
            (2, 2, 1)
        );
        assert_eq!(
            config.listen,
            Listen::Unix("/run/portcullis-switch/p4runtime.sock".into())
        );
        let raw = toml::from_str("ports = ['1=null']\nmbufs = 2048\n").unwrap();
        let over = Overrides {
            ports: vec!["7=ring".to_string()],
            grpc: Some("127.0.0.1:9559".to_string()),
            ..Overrides::default()
        };
        let config = resolve(raw, over).unwrap();
        assert_eq!((config.ports[0].number, config.mbufs), (7, 2048));
        assert_eq!(config.listen, Listen::Tcp("127.0.0.1:9559".parse().unwrap()));
    }

    #[test]
    fn the_file_that_is_shipped_says_what_holds_without_it() {
        let shipped = read(include_str!("../config/switch.toml")).unwrap();
        let bare = read("ports = ['1=af_packet:eth1', '2=tap:vm0']").unwrap();
        assert_eq!(shipped, bare);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        for (toml, words) in [
            ("", "ports: a switch has at least one"),
            ("ports = ['1=null', '1=ring']", "two ports with number 1"),
            ("port = ['1=null']", "unknown field `port`"),
            ("ports = ['1=null']\ngrpc = '0.0.0.0:9559'", "no TLS"),
            ("ports = ['1=null']\ngrpc = 'here'", "neither unix:PATH"),
            ("ports = ['1=null']\nmbufs = 1", "mbufs: 1 packet buffers"),
            ("ports = ['1=null']\nmemory_mb = 8", "memory_mb"),
            ("ports = ['1=null']\nmtu = 100", "mtu: 576"),
            (
                "ports = ['1=null']\n[offload]\naccept = ['fragments']",
                "unknown variant `fragments`",
            ),
            (
                "ports = ['1=null']\n[offload.parsers.mlx5_pci]\nfragments = 'never'",
                "unknown field `fragments`",
            ),
        ] {
            let error = read(toml).unwrap_err();
            assert!(error.contains(words), "{toml}: {error}");
        }
    }
}
