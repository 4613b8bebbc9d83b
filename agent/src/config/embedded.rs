//! The embedded switch: a P4Runtime device that the agent starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use portcullis_backend::OnGap;
use portcullis_discovery::EMBEDDED_SOCKET;
use toml::Spanned;

use super::resolve::{Result, foreign, refuse, resync};
use super::{Embedded, P4Program, P4Target, p4, raw};

pub(super) fn target(path: &str, raw: raw::Target) -> Result<P4Target> {
    let at = |field: &str| format!("{path}.{field}");
    foreign(path, "ovs", &of_ovs(&raw))?;
    foreign(path, "p4runtime", &of_p4runtime(&raw))?;
    let socket = match &raw.address {
        None => PathBuf::from(EMBEDDED_SOCKET),
        Some(address) => match address.get_ref().strip_prefix("unix:") {
            Some(file) if file.starts_with('/') => PathBuf::from(file),
            _ => {
                let problem = format!("`{}` is no socket: write unix:/PATH", address.get_ref());
                return refuse(address, at("address"), problem);
            }
        },
    };
    let numbers = numbers(path, &raw.ports)?;
    let (uplinks, servers) = p4::ports(path, &raw.uplinks, &raw.servers)?;
    for (field, list) in [("uplinks", &uplinks), ("servers", &servers)] {
        let stranger = list
            .iter()
            .position(|n| !numbers.is_empty() && !numbers.contains(n));
        if let Some(index) = stranger {
            let span = match field {
                "uplinks" => raw.uplinks.get(index).map(Spanned::span),
                _ => raw.servers.get(index).map(Spanned::span),
            };
            return refuse(
                &Spanned::new(span.unwrap_or(0..0), ()),
                format!("{path}.{field}[{index}]"),
                "is none of the numbers in `ports`",
            );
        }
    }
    // Without a list every port that is no uplink is a server's.
    let servers = if servers.is_empty() {
        numbers.iter().copied().filter(|n| !uplinks.contains(n)).collect()
    } else {
        servers
    };
    let arguments = arguments(&raw, &socket);
    Ok(P4Target {
        accept: BTreeSet::new(),
        on_gap: OnGap::Refuse,
        room: super::p4::room(path, &raw)?,
        hardware: raw.hardware.is_some_and(Spanned::into_inner),
        address: format!("unix:{}", socket.display()),
        device_id: 1,
        role: String::new(),
        election_id: 1,
        program: P4Program::Embedded,
        overwrite_pipeline: false,
        behind: BTreeMap::new(),
        uplinks,
        servers,
        tls: None,
        resync_interval: resync(path, raw.resync_interval)?,
        cookie: raw.cookie.unwrap_or(portcullis_p4runtime::Config::DEFAULT_TAG),
        embedded: (!numbers.is_empty()).then(|| Embedded {
            program: raw.switch.map(Spanned::into_inner),
            socket,
            arguments,
            outlives_agent: raw.outlives_agent.is_none_or(Spanned::into_inner),
        }),
        name: raw.name.into_inner(),
    })
}

/// The numbers of ports. What else is wrong with a port the switch says itself.
fn numbers(path: &str, ports: &[Spanned<String>]) -> Result<Vec<u32>> {
    let mut numbers: Vec<u32> = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let number = port.get_ref().split_once('=').and_then(|(n, _)| n.parse().ok());
        let Some(number) = number else {
            let problem = format!(
                "`{}` is no port: write NUMBER=KIND:WHAT, like 1=af_packet:eth0 (see portcullis-switch --help)",
                port.get_ref()
            );
            return refuse(port, format!("{path}.ports[{index}]"), problem);
        };
        if numbers.contains(&number) {
            return refuse(
                port,
                format!("{path}.ports[{index}]"),
                format!("is the second port with number {number}"),
            );
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn arguments(raw: &raw::Target, socket: &std::path::Path) -> Vec<String> {
    let mut arguments = vec!["--grpc".to_string(), format!("unix:{}", socket.display())];
    for port in &raw.ports {
        arguments.extend(["--port".to_string(), port.get_ref().clone()]);
    }
    if !raw.cores.is_empty() {
        let cores: Vec<String> = raw.cores.iter().map(|c| c.get_ref().to_string()).collect();
        arguments.extend(["--cores".to_string(), cores.join(",")]);
    }
    for (flag, setting) in [("--busy", &raw.busy), ("--hugepages", &raw.hugepages)] {
        if setting.as_ref().is_some_and(|s| *s.get_ref()) {
            arguments.push(flag.to_string());
        }
    }
    if let Some(buffers) = &raw.buffers {
        arguments.extend(["--mbufs".to_string(), buffers.get_ref().to_string()]);
    }
    if let Some(metrics) = &raw.switch_metrics {
        arguments.extend(["--metrics".to_string(), metrics.get_ref().to_string()]);
    }
    if let Some(offload) = &raw.offload {
        arguments.extend(offload.get_ref().arguments());
    }
    arguments
}

type Settings = Vec<(&'static str, Option<std::ops::Range<usize>>)>;

pub(super) fn of_ovs(raw: &raw::Target) -> Settings {
    vec![
        ("ovsdb", raw.ovsdb.as_ref().map(Spanned::span)),
        ("bridge", raw.bridge.as_ref().map(Spanned::span)),
        ("first_table", raw.first_table.as_ref().map(Spanned::span)),
        ("final", raw.final_action.as_ref().map(Spanned::span)),
        ("learned_macs", raw.learned_macs.as_ref().map(Spanned::span)),
        ("mgmt_dir", raw.mgmt_dir.as_ref().map(Spanned::span)),
        ("control_socket", raw.control_socket.as_ref().map(Spanned::span)),
        ("fail_mode", raw.fail_mode.as_ref().map(Spanned::span)),
    ]
}

fn of_p4runtime(raw: &raw::Target) -> Settings {
    vec![
        ("device_id", raw.device_id.as_ref().map(Spanned::span)),
        ("role", raw.role.as_ref().map(Spanned::span)),
        ("election_id", raw.election_id.as_ref().map(Spanned::span)),
        ("program", raw.program.as_ref().map(Spanned::span)),
        ("mapping", raw.mapping.as_ref().map(Spanned::span)),
        ("accept", raw.accept.first().map(Spanned::span)),
        ("on_gap", raw.on_gap.as_ref().map(Spanned::span)),
        (
            "overwrite_pipeline",
            raw.overwrite_pipeline.as_ref().map(Spanned::span),
        ),
        ("tls", raw.tls.as_ref().map(Spanned::span)),
    ]
}

/// Refuses settings of the embedded switch in a target of another kind.
pub(super) fn foreign_to_others(path: &str, raw: &raw::Target) -> Result<()> {
    let settings: Settings = vec![
        ("ports", raw.ports.first().map(Spanned::span)),
        ("switch", raw.switch.as_ref().map(Spanned::span)),
        ("cores", raw.cores.first().map(Spanned::span)),
        ("busy", raw.busy.as_ref().map(Spanned::span)),
        ("hugepages", raw.hugepages.as_ref().map(Spanned::span)),
        ("buffers", raw.buffers.as_ref().map(Spanned::span)),
        ("switch_metrics", raw.switch_metrics.as_ref().map(Spanned::span)),
        ("outlives_agent", raw.outlives_agent.as_ref().map(Spanned::span)),
        ("offload", raw.offload.as_ref().map(Spanned::span)),
    ];
    foreign(path, "embedded", &settings)
}
