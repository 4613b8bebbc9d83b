//! From what is written to what holds: defaults, and what only several settings together can tell.

use std::path::PathBuf;
use std::time::Duration;

use portcullis_compiler::StageModel;
use portcullis_policy::Name;
use toml::Spanned;

use super::{Api, Config, FinalAction, Limits, Log, Problem, Target, Targets, Tcp, Tls, raw};

/// The highest table that flows can be in (Open vSwitch keeps 254 for itself, 255 means all).
const LAST_TABLE: u8 = 253;
/// Longest path of a Unix socket, in bytes (`sockaddr_un`, Linux).
const LONGEST_SOCKET: usize = 107;
/// Largest message, in MiB: lengths on the wire are 32 bits.
const LARGEST_MESSAGE: usize = 2048;

type Result<T> = std::result::Result<T, Problem>;

fn refuse<T, S>(at: &Spanned<S>, path: impl Into<String>, problem: impl Into<String>) -> Result<T> {
    Err(Problem {
        offset: at.span().start,
        path: path.into(),
        problem: problem.into(),
    })
}

pub(super) fn resolve(raw: raw::Raw) -> Result<Config> {
    Ok(Config {
        api: api(raw.api)?,
        store: raw
            .store
            .path
            .unwrap_or_else(|| "/var/lib/portcullis/portcullis.db".into()),
        targets: targets(raw.target)?,
        metrics: raw.metrics.listen,
        log: log(raw.log)?,
        limits: limits(raw.limits)?,
    })
}

fn api(raw: raw::Api) -> Result<Api> {
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
        .map(|listen| tcp(listen, raw.tls, insecure))
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
    Ok(Api {
        socket,
        socket_mode: raw.socket_mode.map_or(0o660, |m| m.0),
        socket_group: raw.socket_group,
        tcp,
        drain: raw.drain.map_or(Duration::from_secs(5), |d| d.0),
    })
}

fn tcp(listen: Spanned<std::net::SocketAddr>, tls: Option<Spanned<raw::Tls>>, insecure: bool) -> Result<Tcp> {
    let loopback = listen.get_ref().ip().is_loopback();
    let tls = match tls {
        Some(tls) if tls.get_ref().client_ca.is_none() && !loopback => {
            return refuse(
                &tls,
                "api.tls.client_ca",
                "is missing: without it anybody on the network could change the policy; only a loopback address may do without",
            );
        }
        Some(tls) => {
            let raw::Tls { cert, key, client_ca } = tls.into_inner();
            Some(Tls { cert, key, client_ca })
        }
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

/// What holds for a target that says nothing.
pub(super) fn default_target() -> Target {
    Target {
        name: "ovs".to_string(),
        ovsdb: portcullis_ovs::Config::DEFAULT_OVSDB.to_string(),
        bridge: None,
        uplinks: Vec::new(),
        first_table: 0,
        final_action: FinalAction::Normal,
        resync_interval: Duration::from_secs(10),
        mgmt_dir: None,
        cookie: portcullis_ovs::Config::DEFAULT_COOKIE,
    }
}

fn targets(raw: Vec<Spanned<raw::Target>>) -> Result<Targets> {
    if raw.is_empty() {
        return Ok(Targets::Discover(default_target()));
    }
    let mut targets: Vec<Target> = Vec::new();
    for (index, entry) in raw.into_iter().enumerate() {
        let (span, path) = (Spanned::new(entry.span(), ()), format!("target[{index}]"));
        let target = target(&path, entry.into_inner(), &targets)?;
        let same =
            |t: &&Target| t.ovsdb == target.ovsdb && t.bridge == target.bridge && t.cookie == target.cookie;
        if let Some(other) = targets.iter().find(same) {
            return refuse(
                &span,
                path,
                format!("is the same bridge as target `{}`: remove one", other.name),
            );
        }
        targets.push(target);
    }
    Ok(Targets::Configured(targets))
}

fn target(path: &str, raw: raw::Target, earlier: &[Target]) -> Result<Target> {
    let at = |field: &str| format!("{path}.{field}");
    if let Err(error) = raw.name.get_ref().parse::<Name>() {
        return refuse(&raw.name, at("name"), error.to_string());
    }
    if earlier.iter().any(|t| t.name == *raw.name.get_ref()) {
        let problem = format!(
            "`{}` is the name of another target already: rename one",
            raw.name.get_ref()
        );
        return refuse(&raw.name, at("name"), problem);
    }
    if raw.kind.get_ref() != "ovs" {
        let problem = format!("`{}` is not in this version: write \"ovs\"", raw.kind.get_ref());
        return refuse(&raw.kind, at("kind"), problem);
    }
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
    for (index, pattern) in raw.uplinks.iter().enumerate() {
        if pattern.get_ref().is_empty() {
            return refuse(
                pattern,
                format!("{path}.uplinks[{index}]"),
                "is empty: write a port's name or a pattern with *",
            );
        }
    }
    let (first_table, final_action) = tables(path, raw.first_table, raw.final_action)?;
    let resync_interval = match raw.resync_interval {
        Some(span) if span.get_ref().0 < Duration::from_secs(1) => {
            return refuse(&span, at("resync_interval"), "is too short: 1s at least");
        }
        other => other.map_or(default.resync_interval, |s| s.into_inner().0),
    };
    Ok(Target {
        name: raw.name.into_inner(),
        ovsdb,
        bridge: raw.bridge.map(Spanned::into_inner),
        uplinks: raw.uplinks.into_iter().map(Spanned::into_inner).collect(),
        first_table,
        final_action,
        resync_interval,
        mgmt_dir: raw.mgmt_dir,
        cookie: raw.cookie.unwrap_or(default.cookie),
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
    Ok(Limits {
        message_bytes: or(raw.message_mib.map(Spanned::into_inner), 64) << 20,
        calls_per_connection: or(raw.calls_per_connection, 64),
        watchers: or(raw.watchers, 64),
        queued_changes: or(raw.queued_changes, 256),
        endpoints: or(raw.endpoints, 100_000),
        profiles: or(raw.profiles, 10_000),
    })
}
