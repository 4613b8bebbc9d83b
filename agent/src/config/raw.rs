//! The configuration as written.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use portcullis_nic::OffloadSettings;
use serde::Deserialize;
use toml::Spanned;

use super::Role;
use super::value::{DurationText, FailModeText, Final, Mode};
use super::{Algorithm, ClientAuth, LogFormat, Problem};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub api: Api,
    pub access: Option<Access>,
    pub checks: Checks,
    pub placement: Placement,
    pub store: Store,
    pub audit: Audit,
    pub discovery: Discovery,
    pub target: Vec<Spanned<Target>>,
    pub metrics: Metrics,
    pub log: Log,
    pub limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub socket: Option<Spanned<PathBuf>>,
    pub socket_mode: Option<Mode>,
    pub socket_group: Option<String>,
    pub listen: Option<Spanned<SocketAddr>>,
    pub insecure: Option<Spanned<bool>>,
    pub drain: Option<DurationText>,
    pub tls: Option<Spanned<Tls>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
    pub client_auth: Option<Spanned<ClientAuth>>,
    #[serde(default)]
    pub client_crls: Vec<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Access {
    pub others: Option<Spanned<Role>>,
    pub tenant_label: Option<Spanned<String>>,
    pub user: Vec<Spanned<User>>,
    pub certificate: Vec<Spanned<NamedCertificate>>,
    pub token: Vec<Spanned<Token>>,
    pub rate: Rates,
    pub provisioner: Provisioner,
    pub oidc: Option<Oidc>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Oidc {
    pub issuer: Spanned<String>,
    pub audience: Spanned<String>,
    pub jwks: Spanned<String>,
    pub ca: Option<Spanned<PathBuf>>,
    pub algorithms: Option<Spanned<Vec<Algorithm>>>,
    pub leeway: Option<DurationText>,
    pub refresh: Option<Spanned<DurationText>>,
    pub refresh_at_most: Option<Spanned<DurationText>>,
    pub max_age: Option<Spanned<DurationText>>,
    pub role_claim: Option<Spanned<String>>,
    #[serde(default)]
    pub role: Vec<OidcRole>,
    pub tenant_claim: Option<Spanned<String>>,
    pub tenants: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OidcRole {
    pub value: String,
    pub role: Role,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Provisioner {
    pub profiles: Option<Vec<Spanned<String>>>,
    pub rules: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub uid: Option<Spanned<u32>>,
    pub user: Option<Spanned<String>>,
    pub group: Option<Spanned<String>>,
    pub role: Spanned<Role>,
    pub tenant: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedCertificate {
    pub san: Spanned<String>,
    pub role: Spanned<Role>,
    pub tenant: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub name: Spanned<String>,
    pub sha256: Spanned<String>,
    pub role: Spanned<Role>,
    pub tenant: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rates {
    pub operator: Option<Rate>,
    pub provisioner: Option<Rate>,
    pub tenant: Option<Rate>,
    pub viewer: Option<Rate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    pub requests_per_second: u32,
    pub burst: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Checks {
    pub resolvers: Vec<Spanned<String>>,
    pub timeout: Option<DurationText>,
    pub attempts: Option<Spanned<u32>>,
    pub total: Option<DurationText>,
    pub banner_timeout: Option<DurationText>,
    pub at_once: Option<Spanned<usize>>,
    pub loopback: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    pub path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Discovery {
    pub ovsdb: Option<Spanned<String>>,
    pub servers: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Audit {
    pub entries: Option<Spanned<u64>>,
    pub archive: Option<PathBuf>,
    pub free_disk_mib: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub name: Spanned<String>,
    pub kind: Spanned<String>,
    pub ovsdb: Option<Spanned<String>>,
    pub bridge: Option<Spanned<String>>,
    #[serde(default)]
    pub uplinks: Vec<Spanned<toml::Value>>,
    pub first_table: Option<Spanned<u8>>,
    #[serde(rename = "final")]
    pub final_action: Option<Spanned<Final>>,
    pub learned_macs: Option<Spanned<u32>>,
    pub resync_interval: Option<Spanned<DurationText>>,
    pub mgmt_dir: Option<Spanned<PathBuf>>,
    pub control_socket: Option<Spanned<PathBuf>>,
    pub fail_mode: Option<Spanned<FailModeText>>,
    pub cookie: Option<u16>,
    pub address: Option<Spanned<String>>,
    pub device_id: Option<Spanned<u64>>,
    pub role: Option<Spanned<String>>,
    pub election_id: Option<Spanned<u64>>,
    pub program: Option<Spanned<String>>,
    pub mapping: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub accept: Vec<Spanned<String>>,
    pub on_gap: Option<Spanned<String>>,
    pub max_rows: Option<Spanned<u64>>,
    pub reserve: Option<Spanned<u64>>,
    pub hardware: Option<Spanned<bool>>,
    pub overwrite_pipeline: Option<Spanned<bool>>,
    #[serde(default)]
    pub servers: Vec<Spanned<u32>>,
    pub tls: Option<Spanned<DeviceTls>>,
    #[serde(default)]
    pub links: Vec<Link>,
    #[serde(default)]
    pub ports: Vec<Spanned<String>>,
    pub switch: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub cores: Vec<Spanned<usize>>,
    pub busy: Option<Spanned<bool>>,
    pub hugepages: Option<Spanned<bool>>,
    pub buffers: Option<Spanned<u32>>,
    pub switch_metrics: Option<Spanned<SocketAddr>>,
    pub outlives_agent: Option<Spanned<bool>>,
    pub offload: Option<Spanned<OffloadSettings>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    pub to: Spanned<String>,
    pub port: Spanned<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceTls {
    pub ca: PathBuf,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub domain: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Placement {
    pub count_every: Option<Spanned<DurationText>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub format: LogFormat,
    pub filter: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub message_mib: Option<Spanned<NonZeroUsize>>,
    pub provisioner_message_kib: Option<NonZeroUsize>,
    pub tenant_message_kib: Option<NonZeroUsize>,
    pub request_arrival: Option<DurationText>,
    pub calls_per_connection: Option<NonZeroUsize>,
    pub connections: Option<NonZeroUsize>,
    pub connections_per_address: Option<NonZeroUsize>,
    pub first_call: Option<DurationText>,
    pub idle: Option<DurationText>,
    pub watchers: Option<NonZeroUsize>,
    pub watchers_per_caller: Option<NonZeroUsize>,
    pub watchers_reserved: Option<usize>,
    pub queued_changes: Option<NonZeroUsize>,
    pub endpoints: Option<NonZeroUsize>,
    pub profiles: Option<NonZeroUsize>,
    pub programs: Option<NonZeroUsize>,
    pub list_rules: Option<NonZeroUsize>,
    pub endpoint_matches: Option<NonZeroUsize>,
    pub bypass: Option<Spanned<portcullis_policy::Span>>,
    pub bypasses: Option<NonZeroUsize>,
    pub tenant_requests: Option<NonZeroU32>,
    pub tenant_unlocks: Option<NonZeroU32>,
    pub tenant_rows: Option<NonZeroUsize>,
}

pub(super) fn parse(text: &str) -> Result<Raw, Problem> {
    let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let reader = toml::Deserializer::parse(text).map_err(|error| Problem {
        offset: at(&error),
        path: String::new(),
        problem: error.message().to_string(),
    })?;
    serde_path_to_error::deserialize(reader).map_err(|error| {
        // Spans are read as a field of their own.
        let path = error
            .path()
            .to_string()
            .replace(".$__serde_spanned_private_value", "");
        let inner = error.into_inner();
        Problem {
            offset: at(&inner),
            path: if path == "." { String::new() } else { path },
            problem: inner.message().to_string(),
        }
    })
}
