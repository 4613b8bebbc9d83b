//! The configuration: `raw` as written in TOML, then resolved and checked, in [`Config`].

mod access;
mod checks;
mod embedded;
mod links;
mod oidc;
mod p4;
mod raw;
mod resolve;
mod role;
mod san;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_backend::OnGap;
use portcullis_compiler::model::PacketKind;
use portcullis_discovery::Places;
use portcullis_p4runtime::Room;
use portcullis_p4runtime::behind::Inner;

pub use access::{
    ANY_TENANT, AccessConfig, Account, NamedCertificate, Principal, Provisioner, Rate, Rates, Token, User,
};
pub use oidc::{Algorithm, KeySource, OidcConfig, OidcKeys};
pub use role::Role;
pub use san::{Pattern, San, is_plain};

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/portcullis/agent.toml";

/// The label that names an endpoint's tenant when nothing is configured.
pub const TENANT_LABEL: &str = "tenant";

/// A configuration with every setting, its default and its meaning; the file the project ships.
pub const EXAMPLE: &str = include_str!("../../config/agent.toml");

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {file}: {source}; write one (see --print-default-config) or name another with --config"
    )]
    Unreadable { file: PathBuf, source: std::io::Error },
    /// Not TOML, an unknown setting, or a value that is not one.
    #[error("{file}:{line}: {at}{problem}", file = .file.display(), at = at(.path))]
    Setting {
        file: PathBuf,
        /// Line of the file, from 1.
        line: usize,
        /// The setting: `target[0].bridge`; empty when the file is not TOML.
        path: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it was read from.
    pub file: PathBuf,
    pub api: ApiConfig,
    /// Who may do what; whoever comes in may do everything when absent.
    pub access: Option<AccessConfig>,
    /// How checks of unlocks are made.
    pub checks: portcullis_checks::CheckerConfig,
    /// How often hits are counted while some target has no room for every rule.
    pub count_every: Duration,
    pub store: PathBuf,
    pub audit: Audit,
    pub targets: TargetsConfig,
    /// Where metrics are served, when they are.
    pub metrics: Option<SocketAddr>,
    pub log: Log,
    /// What is too much.
    pub limits: Limits,
}

/// How much of the audit log is kept where, and how much room is kept free for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Entries that stay in the database; older ones go to archives. All of them when 0.
    pub entries: u64,
    /// The folder of archives; the database's when absent.
    pub archive: Option<PathBuf>,
    /// Bytes of the disk below which nothing is opened.
    pub free_disk: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            entries: 1_000_000,
            archive: None,
            free_disk: 64 << 20,
        }
    }
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    pub socket: PathBuf,
    pub socket_mode: u32,
    /// The group it belongs to; the process's when absent.
    pub socket_group: Option<String>,
    pub tcp: Option<Tcp>,
    /// How long calls may take to finish when the agent stops.
    pub drain: Duration,
}

/// The API on TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    pub listen: SocketAddr,
    /// TLS; absent only on loopback.
    pub tls: Option<ApiTls>,
}

/// Certificates of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authority of clients; absent only on loopback, or where tokens tell who calls.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// Files of lists of certificates that were revoked, PEM or DER.
    pub client_crls: Vec<PathBuf>,
}

/// Whether clients must show a certificate, where there is an authority for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// Every client needs one, also with a token.
    #[default]
    Required,
    /// Not if they show a token instead.
    Optional,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetsConfig {
    /// None is configured: look for the one datapath of this machine.
    Discover(Discovery),
    /// As configured; at least one.
    Configured(Vec<AnyTarget>),
}

/// How the datapath of an agent without a `[[target]]` is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Addresses of the servers that are asked.
    pub places: Places,
    /// Where it is kept which datapath was found.
    pub file: PathBuf,
    /// Whether the target may make changes that remove its rows for a moment.
    pub allow_interruption: bool,
}

/// A datapath of any sort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyTarget {
    /// An Open vSwitch bridge.
    Ovs(Box<portcullis_ovs::Config>),
    /// A device that speaks P4Runtime.
    P4Runtime(Box<P4Target>),
}

impl AnyTarget {
    pub fn name(&self) -> &str {
        match self {
            AnyTarget::Ovs(target) => &target.name,
            AnyTarget::P4Runtime(target) => &target.name,
        }
    }
}

/// Settings of one P4Runtime device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct P4Target {
    pub name: String,
    /// `HOST:PORT` of its server, or `unix:/PATH`.
    pub address: String,
    pub device_id: u64,
    /// The role; empty for the one that may do everything.
    pub role: String,
    /// Who has the highest is the primary.
    pub election_id: u128,
    /// What it shall run.
    pub program: P4Program,
    /// Kinds of packets that rows of a partial point may deny although the policy lets them pass.
    pub accept: BTreeSet<PacketKind>,
    /// What becomes of a change that leaves an endpoint with a gap.
    pub on_gap: OnGap,
    /// How much of its policy tables our rows may take.
    pub room: Room,
    /// Whether it forwards in hardware, as placement tells it.
    pub hardware: bool,
    /// Whether a foreign program is replaced by ours.
    pub overwrite_pipeline: bool,
    /// Targets that are cabled to a port, nearer to the endpoints: their `links` name it.
    pub behind: BTreeMap<u32, Vec<Inner>>,
    /// Ports that are no servers.
    pub uplinks: Vec<u32>,
    /// Ports of servers, with or without an endpoint.
    pub servers: Vec<u32>,
    /// TLS, when the device speaks it.
    pub tls: Option<portcullis_p4runtime::Tls>,
    /// How often rows are read back.
    pub resync_interval: Duration,
    /// The mark of this agent's rows.
    pub cookie: u16,
    /// The switch that is the device, when the agent looks after it.
    pub embedded: Option<Embedded>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// Its program; beside the agent's own, or on the PATH, when absent.
    pub program: Option<PathBuf>,
    pub socket: PathBuf,
    /// What follows the program's name.
    pub arguments: Vec<String>,
    /// Whether it goes on when the agent stops.
    pub outlives_agent: bool,
}

/// What a P4Runtime device shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum P4Program {
    /// Our own program; ports match as ranges, or as value and mask.
    Portcullis { range: bool },
    /// The same, with ports as ranges and the larger tables of the embedded switch.
    Embedded,
    /// What it runs, as this file says its tables are to be read; by names without one.
    Device(Option<PathBuf>),
}

impl TargetsConfig {
    /// Lets targets make changes that remove their rows for a moment.
    pub fn allow_interruption(&mut self) {
        match self {
            TargetsConfig::Discover(discovery) => discovery.allow_interruption = true,
            TargetsConfig::Configured(targets) => {
                for target in targets {
                    if let AnyTarget::Ovs(target) = target {
                        target.allow_interruption = true;
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes.
    pub message_bytes: usize,
    /// Largest request of a provisioner in bytes.
    pub provisioner_message_bytes: usize,
    /// Largest request of a tenant, a viewer, or a caller without a credential, in bytes.
    pub tenant_message_bytes: usize,
    /// How long a request may take to arrive.
    pub request_arrival: Duration,
    /// Calls at a time on one connection.
    pub calls_per_connection: usize,
    /// Connections by TCP at a time.
    pub connections: usize,
    /// Connections at a time from one address, or of one user on the socket other than root.
    pub connections_per_address: usize,
    /// How long a connection may take to its first call.
    pub first_call: Duration,
    /// How long a connection may be without a call.
    pub idle: Duration,
    /// Watch streams at a time.
    pub watchers: usize,
    /// Those of one caller.
    pub watchers_per_caller: usize,
    /// Those that only operators and orchestration may have.
    pub watchers_reserved: usize,
    pub queued_changes: usize,
    pub endpoints: usize,
    pub profiles: usize,
    pub programs: usize,
    /// Rules in the baseline, the mandatory list, or one profile.
    pub list_rules: usize,
    /// Combinations of port ranges and prefixes in the own rules of an endpoint.
    pub endpoint_matches: usize,
    /// The longest bypass, in seconds.
    pub bypass_seconds: u64,
    /// Bypasses at a time.
    pub bypasses: usize,
    /// Requests for unlocks and renewals that a tenant may make in an hour.
    pub tenant_requests: u32,
    /// Unlocks that a tenant may have under way.
    pub tenant_unlocks: u32,
    /// Rows that the unlocks of a tenant may take on a target.
    pub tenant_rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: 64 << 20,
            provisioner_message_bytes: 1 << 20,
            tenant_message_bytes: 64 << 10,
            request_arrival: Duration::from_secs(30),
            calls_per_connection: 64,
            connections: 1024,
            connections_per_address: 64,
            first_call: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            watchers: 64,
            watchers_per_caller: 8,
            watchers_reserved: 16,
            queued_changes: 256,
            endpoints: 100_000,
            profiles: 10_000,
            programs: 1000,
            list_rules: 100_000,
            endpoint_matches: 10_000,
            bypass_seconds: 3600,
            bypasses: 100,
            tenant_requests: 240,
            tenant_unlocks: 1000,
            tenant_rows: 50_000,
        }
    }
}

/// Reads and resolves a file.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_path_buf(),
        source,
    })?;
    parse(file, &text)
}

/// Resolves a text; `file` is only named in errors.
pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    raw::parse(text)
        .and_then(|raw| resolve::resolve(raw, file))
        .map_err(|problem| ConfigError::Setting {
            file: file.to_path_buf(),
            line: line_of(text, problem.offset),
            path: problem.path,
            problem: problem.problem,
        })
}

/// What is wrong, and where in the text.
#[derive(Debug)]
struct Problem {
    offset: usize,
    path: String,
    problem: String,
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
