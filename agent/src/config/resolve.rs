//! Resolves the configuration: defaults, and checks that involve several settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_compiler::StageModel;
use portcullis_discovery::Places;
use portcullis_ovs::FinalAction;
use portcullis_policy::Name;
use toml::Spanned;

use super::links::Links;
use super::{
    AccessConfig, AnyTarget, ApiConfig, ApiTls, Audit, ClientAuth, Config, Discovery, Limits, Log, Problem,
    TargetsConfig, Tcp, access, checks, embedded, p4, raw,
};

/// The highest table that flows can be in (Open vSwitch keeps 254 for itself, 255 means all).
const LAST_TABLE: u8 = 253;
/// How often hits are counted for placement, unless the configuration says it.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// The file, beside the database, that keeps which datapath was found.
const DISCOVERED: &str = "discovered.toml";
/// Longest path of a Unix socket, in bytes (`sockaddr_un`, Linux).
const LONGEST_SOCKET: usize = 107;
/// Fewest entries of the audit log that stay in the database.
const LEAST_ENTRIES: u64 = 100;
/// Largest message, in MiB: lengths on the wire are 32 bits.
const LARGEST_MESSAGE: usize = 2048;

pub(super) type Result<T> = std::result::Result<T, Problem>;

pub(super) fn refuse<T, S>(
    at: &Spanned<S>,
    path: impl Into<String>,
    problem: impl Into<String>,
) -> Result<T> {
    Err(Problem {
        offset: at.span().start,
        path: path.into(),
        problem: problem.into(),
    })
}

pub(super) fn resolve(raw: raw::Raw, file: &Path) -> Result<Config> {
    let access = raw.access.map(access::access).transpose()?;
    let store = raw
        .store
        .path
        .unwrap_or_else(|| "/var/lib/portcullis/portcullis.db".into());
    let discovery = Discovery {
        places: places(raw.discovery)?,
        file: store.with_file_name(DISCOVERED),
        allow_interruption: false,
    };
    Ok(Config {
        file: file.to_path_buf(),
        api: api(raw.api, access.as_ref())?,
        access,
        checks: checks::checks(raw.checks)?,
        count_every: count_every(raw.placement)?,
        store,
        audit: audit(raw.audit)?,
        targets: targets(raw.target, discovery)?,
        metrics: raw.metrics.listen,
        log: log(raw.log)?,
        limits: limits(raw.limits)?,
    })
}

fn api(raw: raw::Api, access: Option<&AccessConfig>) -> Result<ApiConfig> {
    let socket = match raw.socket {
        None => PathBuf::from("/run/portcullis/agent.sock"),
        Some(path) if !path.get_ref().is_absolute() => {
            return refuse(&path, "api.socket", "is not an absolute path: begin with /");
        }
        Some(path) if path.get_ref().as_os_str().len() > LONGEST_SOCKET => {
            return refuse(
                &path,
                "api.socket",
                format!("is longer than the {LONGEST_SOCKET} bytes a socket's path can have"),
            );
        }
        Some(path) => path.into_inner(),
    };
    if raw.listen.is_none()
        && let Some(tls) = &raw.tls
    {
        return refuse(
            tls,
            "api.tls",
            "is only used with api.listen: set it or remove this section",
        );
    }
    let insecure = raw.insecure.as_ref().is_some_and(|i| *i.get_ref());
    let tcp = raw
        .listen
        .map(|listen| tcp(listen, raw.tls, insecure, access))
        .transpose()?;
    if insecure
        && let Some(at) = &raw.insecure
        && tcp.as_ref().is_none_or(|t| t.tls.is_some())
    {
        return refuse(
            at,
            "api.insecure",
            "contradicts the rest: it is for api.listen without [api.tls]",
        );
    }
    Ok(ApiConfig {
        socket,
        socket_mode: raw.socket_mode.map_or(0o660, |m| m.0),
        socket_group: raw.socket_group,
        tcp,
        drain: raw.drain.map_or(Duration::from_secs(5), |d| d.0),
    })
}

fn tcp(
    listen: Spanned<std::net::SocketAddr>,
    tls: Option<Spanned<raw::Tls>>,
    insecure: bool,
    access: Option<&AccessConfig>,
) -> Result<Tcp> {
    let loopback = listen.get_ref().ip().is_loopback();
    let tls = match tls {
        Some(tls) => Some(self::tls(tls, loopback, access)?),
        None if insecure && loopback => None,
        None if insecure => {
            return refuse(
                &listen,
                "api.listen",
                "is not a loopback address: insecure does not hold for it; set [api.tls]",
            );
        }
        None => {
            return refuse(
                &listen,
                "api.listen",
                "needs [api.tls] with cert, key and client_ca; on a loopback address, insecure = true does without",
            );
        }
    };
    Ok(Tcp {
        listen: listen.into_inner(),
        tls,
    })
}

fn tls(tls: Spanned<raw::Tls>, loopback: bool, access: Option<&AccessConfig>) -> Result<ApiTls> {
    let tokens = access.is_some_and(AccessConfig::has_tokens);
    if tls.get_ref().client_ca.is_none() {
        if let Some(crl) = tls.get_ref().client_crls.first() {
            return refuse(crl, "api.tls.client_crls", "goes with client_ca: set that, too");
        }
        if let Some(auth) = &tls.get_ref().client_auth {
            return refuse(auth, "api.tls.client_auth", "goes with client_ca: set that, too");
        }
        if !loopback && !tokens {
            return refuse(
                &tls,
                "api.tls.client_ca",
                "is missing: without it anybody on the network could change the policy; only a loopback address, or an agent with [[access.token]] or [access.oidc], may do without",
            );
        }
    }
    let raw::Tls {
        cert,
        key,
        client_ca,
        client_auth,
        client_crls,
    } = tls.into_inner();
    if let Some(auth) = &client_auth
        && *auth.get_ref() == ClientAuth::Optional
        && !loopback
        && !tokens
    {
        return refuse(
            auth,
            "api.tls.client_auth",
            "cannot be \"optional\" without [[access.token]] or [access.oidc]: nothing else would tell who calls",
        );
    }
    Ok(ApiTls {
        cert,
        key,
        client_ca,
        client_auth: client_auth.map_or(ClientAuth::default(), Spanned::into_inner),
        client_crls: client_crls.into_iter().map(Spanned::into_inner).collect(),
    })
}

/// What holds for a bridge that the configuration says nothing of.
pub(super) fn default_target() -> portcullis_ovs::Config {
    portcullis_ovs::Config::new("ovs", portcullis_ovs::Config::DEFAULT_OVSDB)
}

/// Where an agent without a `[[target]]` looks for a datapath.
fn places(raw: raw::Discovery) -> Result<Places> {
    let default = Places::default();
    let server = |(index, text): (usize, Spanned<String>)| match p4::is_address(text.get_ref()) {
        true => Ok(text.into_inner()),
        false => {
            let problem = format!(
                "`{}` is no address: write HOST:PORT or unix:/PATH",
                text.get_ref()
            );
            refuse(&text, format!("discovery.servers[{index}]"), problem)
        }
    };
    let servers = raw
        .servers
        .map(|list| list.into_iter().enumerate().map(server).collect());
    Ok(Places {
        ovsdb: match raw.ovsdb {
            None => default.ovsdb,
            Some(text) => ovsdb(text, "discovery.ovsdb".to_string())?,
        },
        servers: servers.transpose()?.unwrap_or(default.servers),
    })
}

fn targets(raw: Vec<Spanned<raw::Target>>, discovery: Discovery) -> Result<TargetsConfig> {
    if raw.is_empty() {
        return Ok(TargetsConfig::Discover(discovery));
    }
    let mut targets: Vec<AnyTarget> = Vec::new();
    let mut links = Links::default();
    for (index, entry) in raw.into_iter().enumerate() {
        let (span, path) = (Spanned::new(entry.span(), ()), format!("target[{index}]"));
        let mut entry = entry.into_inner();
        links.take(&path, &mut entry);
        let target = target(&path, entry, &targets)?;
        if let Some(other) = targets.iter().find(|t| same(t, &target)) {
            let what = match other {
                AnyTarget::Ovs(_) => "bridge",
                AnyTarget::P4Runtime(_) => "device",
            };
            return refuse(
                &span,
                path,
                format!("is the same {what} as target `{}`: remove one", other.name()),
            );
        }
        targets.push(target);
    }
    links.connect(&mut targets)?;
    Ok(TargetsConfig::Configured(targets))
}

/// Whether two targets are one datapath.
fn same(a: &AnyTarget, b: &AnyTarget) -> bool {
    match (a, b) {
        (AnyTarget::Ovs(a), AnyTarget::Ovs(b)) => {
            a.ovsdb == b.ovsdb && a.bridge == b.bridge && a.cookie == b.cookie
        }
        (AnyTarget::P4Runtime(a), AnyTarget::P4Runtime(b)) => {
            a.address == b.address && a.device_id == b.device_id && a.role == b.role
        }
        _ => false,
    }
}

fn target(path: &str, raw: raw::Target, earlier: &[AnyTarget]) -> Result<AnyTarget> {
    let at = |field: &str| format!("{path}.{field}");
    if let Err(error) = raw.name.get_ref().parse::<Name>() {
        return refuse(&raw.name, at("name"), error.to_string());
    }
    if earlier.iter().any(|t| t.name() == raw.name.get_ref()) {
        let problem = format!(
            "`{}` is the name of another target already: rename one",
            raw.name.get_ref()
        );
        return refuse(&raw.name, at("name"), problem);
    }
    match raw.kind.get_ref().as_str() {
        "ovs" => Ok(AnyTarget::Ovs(Box::new(ovs(path, raw)?))),
        "p4runtime" => Ok(AnyTarget::P4Runtime(Box::new(p4::target(path, raw)?))),
        "embedded" => Ok(AnyTarget::P4Runtime(Box::new(embedded::target(path, raw)?))),
        other => {
            let problem =
                format!("`{other}` is no kind of target: write \"ovs\", \"p4runtime\" or \"embedded\"");
            refuse(&raw.kind, at("kind"), problem)
        }
    }
}

/// How often rows are read back.
pub(super) fn resync(path: &str, span: Option<Spanned<super::value::DurationText>>) -> Result<Duration> {
    match span {
        Some(span) if span.get_ref().0 < Duration::from_secs(1) => refuse(
            &span,
            format!("{path}.resync_interval"),
            "is too short: 1s at least",
        ),
        other => Ok(other.map_or(default_target().resync_interval, |s| s.into_inner().0)),
    }
}

/// How often hits are counted, for placement.
fn count_every(raw: raw::Placement) -> Result<Duration> {
    match raw.count_every {
        Some(span) if span.get_ref().0 < Duration::from_secs(1) => {
            refuse(&span, "placement.count_every", "is too short: 1s at least")
        }
        other => Ok(other.map_or(COUNT_EVERY, |span| span.into_inner().0)),
    }
}

/// Settings of the other kind.
fn only_p4runtime(path: &str, raw: &raw::Target) -> Result<()> {
    let settings = [
        ("address", raw.address.as_ref().map(Spanned::span)),
        ("device_id", raw.device_id.as_ref().map(Spanned::span)),
        ("role", raw.role.as_ref().map(Spanned::span)),
        ("election_id", raw.election_id.as_ref().map(Spanned::span)),
        ("program", raw.program.as_ref().map(Spanned::span)),
        ("mapping", raw.mapping.as_ref().map(Spanned::span)),
        ("accept", raw.accept.first().map(Spanned::span)),
        ("on_gap", raw.on_gap.as_ref().map(Spanned::span)),
        ("max_rows", raw.max_rows.as_ref().map(Spanned::span)),
        ("reserve", raw.reserve.as_ref().map(Spanned::span)),
        ("hardware", raw.hardware.as_ref().map(Spanned::span)),
        (
            "overwrite_pipeline",
            raw.overwrite_pipeline.as_ref().map(Spanned::span),
        ),
        ("servers", raw.servers.first().map(Spanned::span)),
        ("tls", raw.tls.as_ref().map(Spanned::span)),
    ];
    foreign(path, "p4runtime", &settings)?;
    embedded::foreign_to_others(path, raw)
}

/// Refuses the first of these settings that is there: they are of another kind of target.
pub(super) fn foreign(
    path: &str,
    kind: &str,
    settings: &[(&str, Option<std::ops::Range<usize>>)],
) -> Result<()> {
    let first = settings
        .iter()
        .find_map(|(name, span)| span.clone().map(|s| (name, s)));
    match first {
        Some((name, span)) => refuse(
            &Spanned::new(span, ()),
            format!("{path}.{name}"),
            format!("is a setting of kind = \"{kind}\": remove it"),
        ),
        None => Ok(()),
    }
}

fn ovs(path: &str, raw: raw::Target) -> Result<portcullis_ovs::Config> {
    only_p4runtime(path, &raw)?;
    let at = |field: &str| format!("{path}.{field}");
    let default = default_target();
    let ovsdb = match raw.ovsdb {
        None => default.ovsdb,
        Some(text) => ovsdb(text, at("ovsdb"))?,
    };
    if let Some(bridge) = &raw.bridge
        && bridge.get_ref().is_empty()
    {
        return refuse(
            bridge,
            at("bridge"),
            "is empty: name a bridge or remove the setting",
        );
    }
    let mut uplinks = Vec::with_capacity(raw.uplinks.len());
    for (index, pattern) in raw.uplinks.iter().enumerate() {
        match pattern.get_ref().as_str() {
            Some(name) if !name.is_empty() => uplinks.push(name.to_string()),
            Some(_) => {
                return refuse(
                    pattern,
                    format!("{path}.uplinks[{index}]"),
                    "is empty: write a port's name or a pattern with *",
                );
            }
            None => {
                return refuse(
                    pattern,
                    format!("{path}.uplinks[{index}]"),
                    "is no name: write a port's name, or a pattern with *, in quotes",
                );
            }
        }
    }
    let (first_table, final_action) = tables(path, raw.first_table, raw.final_action)?;
    let resync_interval = resync(path, raw.resync_interval)?;
    Ok(portcullis_ovs::Config {
        name: raw.name.into_inner(),
        ovsdb,
        bridge: raw.bridge.map(Spanned::into_inner),
        uplinks,
        first_table,
        final_action,
        learned_macs: raw.learned_macs.map_or(default.learned_macs, Spanned::into_inner),
        resync_interval,
        mgmt_dir: raw.mgmt_dir.map(Spanned::into_inner),
        cookie: raw.cookie.unwrap_or(default.cookie),
        control_socket: raw.control_socket.map(Spanned::into_inner),
        other_tags: Vec::new(),
        fail_mode: raw.fail_mode.map(|mode| mode.into_inner().0).unwrap_or_default(),
        allow_interruption: false,
    })
}

fn ovsdb(text: Spanned<String>, path: String) -> Result<String> {
    let known = match text.get_ref().split_once(':') {
        Some(("unix", file)) => file.starts_with('/'),
        Some(("tcp", rest)) => rest
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0)),
        _ => false,
    };
    if known {
        return Ok(text.into_inner());
    }
    let problem = format!(
        "`{}` is not an OVSDB address: write \"unix:/PATH\" or \"tcp:HOST:PORT\"",
        text.get_ref()
    );
    refuse(&text, path, problem)
}

fn tables(
    path: &str,
    first: Option<Spanned<u8>>,
    last: Option<Spanned<super::value::Final>>,
) -> Result<(u8, FinalAction)> {
    let count = u8::try_from(StageModel::ovs().tables.len()).unwrap_or(u8::MAX);
    let first_table = first.as_ref().map_or(0, |f| *f.get_ref());
    let last_table = u16::from(first_table) + u16::from(count) - 1;
    if let Some(first) = &first
        && last_table > u16::from(LAST_TABLE)
    {
        let problem = format!("is too high: {count} tables are used and the last number is {LAST_TABLE}");
        return refuse(first, format!("{path}.first_table"), problem);
    }
    let final_action = last.as_ref().map_or(FinalAction::Normal, |f| f.get_ref().0);
    if let (FinalAction::GotoTable(table), Some(at)) = (final_action, &last)
        && (u16::from(table) <= last_table || table > LAST_TABLE)
    {
        let problem = format!(
            "table {table} cannot follow: this target uses tables {first_table} to {last_table}; write one from {} to {LAST_TABLE}",
            last_table + 1
        );
        return refuse(at, format!("{path}.final"), problem);
    }
    Ok((first_table, final_action))
}

fn audit(raw: raw::Audit) -> Result<Audit> {
    let default = Audit::default();
    if let Some(entries) = &raw.entries
        && (1..LEAST_ENTRIES).contains(entries.get_ref())
    {
        return refuse(
            entries,
            "audit.entries",
            format!("is too few: at least {LEAST_ENTRIES}, or 0 for all"),
        );
    }
    Ok(Audit {
        entries: raw.entries.map_or(default.entries, Spanned::into_inner),
        archive: raw.archive,
        free_disk: raw
            .free_disk_mib
            .map_or(default.free_disk, |mib| mib.saturating_mul(1 << 20)),
    })
}

fn log(raw: raw::Log) -> Result<Log> {
    let filter = match raw.filter {
        Some(text) => match text.get_ref().parse::<tracing_subscriber::filter::Targets>() {
            Err(error) => {
                let problem = format!("is not a filter ({error}): write a level, or module=level pairs");
                return refuse(&text, "log.filter", problem);
            }
            Ok(_) => text.into_inner(),
        },
        None => "info".to_string(),
    };
    Ok(Log {
        format: raw.format,
        filter,
    })
}

/// Seconds of the longest bypass that can be allowed.
const LONGEST_BYPASS: u64 = 86_400;

fn limits(raw: raw::Limits) -> Result<Limits> {
    let or = |value: Option<std::num::NonZeroUsize>, default: usize| {
        value.map_or(default, std::num::NonZeroUsize::get)
    };
    if let Some(mib) = &raw.message_mib
        && mib.get_ref().get() > LARGEST_MESSAGE
    {
        return refuse(
            mib,
            "limits.message_mib",
            format!("is too large: at most {LARGEST_MESSAGE}"),
        );
    }
    let default = Limits::default();
    let bypass = match &raw.bypass {
        None => default.bypass_seconds,
        Some(span) if (1..=LONGEST_BYPASS).contains(&span.get_ref().as_seconds()) => {
            span.get_ref().as_seconds()
        }
        Some(span) => return refuse(span, "limits.bypass", "is not within 1s to 24h"),
    };
    let watchers = or(raw.watchers, default.watchers);
    Ok(Limits {
        message_bytes: raw
            .message_mib
            .map_or(default.message_bytes, |mib| mib.into_inner().get() << 20),
        provisioner_message_bytes: or(
            raw.provisioner_message_kib,
            default.provisioner_message_bytes >> 10,
        )
        .saturating_mul(1 << 10),
        tenant_message_bytes: or(raw.tenant_message_kib, default.tenant_message_bytes >> 10)
            .saturating_mul(1 << 10),
        request_arrival: raw.request_arrival.map_or(default.request_arrival, |span| span.0),
        calls_per_connection: or(raw.calls_per_connection, default.calls_per_connection),
        connections: or(raw.connections, default.connections),
        connections_per_address: or(raw.connections_per_address, default.connections_per_address),
        first_call: raw.first_call.map_or(default.first_call, |span| span.0),
        idle: raw.idle.map_or(default.idle, |span| span.0),
        watchers,
        watchers_per_caller: or(raw.watchers_per_caller, default.watchers_per_caller),
        watchers_reserved: raw.watchers_reserved.unwrap_or(watchers / 4),
        queued_changes: or(raw.queued_changes, default.queued_changes),
        endpoints: or(raw.endpoints, default.endpoints),
        profiles: or(raw.profiles, default.profiles),
        programs: or(raw.programs, default.programs),
        list_rules: or(raw.list_rules, default.list_rules),
        endpoint_matches: or(raw.endpoint_matches, default.endpoint_matches),
        bypass_seconds: bypass,
        bypasses: or(raw.bypasses, default.bypasses),
        tenant_requests: raw
            .tenant_requests
            .map_or(default.tenant_requests, std::num::NonZeroU32::get),
        tenant_unlocks: raw
            .tenant_unlocks
            .map_or(default.tenant_unlocks, std::num::NonZeroU32::get),
        tenant_rows: or(raw.tenant_rows, default.tenant_rows),
    })
}
