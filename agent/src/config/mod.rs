//! The configuration: `raw` as written in TOML, then resolved and checked, in [`Config`].

mod raw;
mod resolve;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/portcullis/agent.toml";

/// A configuration with every setting, its default and its meaning; the file the project ships.
pub const EXAMPLE: &str = include_str!("../../config/agent.toml");

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {file}: {source}; write one (see --print-default-config) or name another with --config"
    )]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown setting, or a value that is not one.
    #[error("{file}:{line}: {at}{problem}", file = .file.display(), at = at(.path))]
    Setting {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
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

/// The resolved configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The API.
    pub api: Api,
    /// The database.
    pub store: PathBuf,
    /// The datapaths.
    pub targets: Targets,
    /// Where metrics are served, when they are.
    pub metrics: Option<SocketAddr>,
    /// Logging.
    pub log: Log,
    /// What is too much.
    pub limits: Limits,
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its permission bits.
    pub socket_mode: u32,
    /// The group it belongs to; the process's when absent.
    pub socket_group: Option<String>,
    /// TCP, when wanted.
    pub tcp: Option<Tcp>,
    /// How long calls may take to finish when the agent stops.
    pub drain: Duration,
}

/// The API on TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// The address.
    pub listen: SocketAddr,
    /// TLS; absent only on loopback.
    pub tls: Option<Tls>,
}

/// Certificates of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authority of clients; absent only on loopback.
    pub client_ca: Option<PathBuf>,
}

/// The datapaths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Look for what is there, with these settings.
    Discover(Target),
    /// As configured; at least one.
    Configured(Vec<Target>),
}

/// One Open vSwitch bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `unix:PATH` or `tcp:HOST:PORT`.
    pub ovsdb: String,
    /// The bridge; the only netdev one when absent.
    pub bridge: Option<String>,
    /// Patterns of ports that are not policed.
    pub uplinks: Vec<String>,
    /// The first table.
    pub first_table: u8,
    /// What happens to what passes.
    pub final_action: FinalAction,
    /// How often rows are read back.
    pub resync_interval: Duration,
    /// Folder of the management socket; the OVSDB socket's when absent.
    pub mgmt_dir: Option<PathBuf>,
    /// Upper 16 bits of the cookie.
    pub cookie: u16,
}

/// What happens to packets that the policy lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalAction {
    /// The bridge forwards by itself.
    Normal,
    /// A pipeline of others continues in this table.
    GotoTable(u8),
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Levels by module.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
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
    /// Calls at a time on one connection.
    pub calls_per_connection: usize,
    /// Watch streams at a time.
    pub watchers: usize,
    /// Changes waiting.
    pub queued_changes: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Profiles.
    pub profiles: usize,
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
        .and_then(resolve::resolve)
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
