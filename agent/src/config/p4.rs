//! Settings of P4Runtime targets.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_backend::OnGap;
use portcullis_compiler::model::PacketKind;
use portcullis_p4runtime::Room;
use toml::Spanned;

use super::resolve::{Result, foreign, refuse, resync};
use super::{P4Program, P4Target, raw};

pub(super) fn target(path: &str, raw: raw::Target) -> Result<P4Target> {
    let at = |field: &str| format!("{path}.{field}");
    foreign(path, "ovs", &super::embedded::of_ovs(&raw))?;
    super::embedded::foreign_to_others(path, &raw)?;
    let room = room(path, &raw)?;
    let Some(address) = raw.address else {
        return refuse(
            &raw.kind,
            at("address"),
            "is missing: write the HOST:PORT of the device's P4Runtime server",
        );
    };
    if !is_address(address.get_ref()) {
        let problem = format!(
            "`{}` is no address: write HOST:PORT or unix:/PATH",
            address.get_ref()
        );
        return refuse(&address, at("address"), problem);
    }
    let device_id = match &raw.device_id {
        Some(id) if *id.get_ref() == 0 => {
            return refuse(id, at("device_id"), "is 0: devices are numbered from 1");
        }
        other => other.as_ref().map_or(1, |id| *id.get_ref()),
    };
    let election_id = match &raw.election_id {
        Some(id) if *id.get_ref() == 0 => {
            return refuse(
                id,
                at("election_id"),
                "is 0, which no primary can have: 1 or more",
            );
        }
        other => other.as_ref().map_or(1, |id| *id.get_ref()),
    };
    let accept = accepted(path, &raw.accept, raw.mapping.is_some())?;
    let program = program(path, raw.program.as_ref(), raw.mapping)?;
    let on_gap = on_gap(path, raw.on_gap.as_ref(), &program)?;
    if let Some(overwrite) = &raw.overwrite_pipeline
        && *overwrite.get_ref()
        && matches!(program, P4Program::Device(_))
    {
        return refuse(
            overwrite,
            at("overwrite_pipeline"),
            "contradicts program = \"device\": that program is never replaced",
        );
    }
    let (uplinks, servers) = ports(path, &raw.uplinks, &raw.servers)?;
    Ok(P4Target {
        name: raw.name.into_inner(),
        address: address.into_inner(),
        device_id,
        role: raw.role.map(Spanned::into_inner).unwrap_or_default(),
        election_id: election_id.into(),
        program,
        accept,
        on_gap,
        room,
        hardware: raw.hardware.is_none_or(Spanned::into_inner),
        overwrite_pipeline: raw.overwrite_pipeline.is_some_and(Spanned::into_inner),
        behind: BTreeMap::new(),
        uplinks,
        servers,
        tls: raw.tls.map(|tls| device_tls(path, tls)).transpose()?,
        resync_interval: resync(path, raw.resync_interval)?,
        cookie: raw.cookie.unwrap_or(portcullis_p4runtime::Config::DEFAULT_TAG),
        embedded: None,
    })
}

/// Uplinks, and ports of servers: no port is both.
pub(super) fn ports(
    path: &str,
    raw_uplinks: &[Spanned<toml::Value>],
    raw_servers: &[Spanned<u32>],
) -> Result<(Vec<u32>, Vec<u32>)> {
    let mut uplinks = Vec::with_capacity(raw_uplinks.len());
    for (index, port) in raw_uplinks.iter().enumerate() {
        match port.get_ref().as_integer().map(u32::try_from) {
            Some(Ok(number)) => uplinks.push(number),
            _ => {
                return refuse(
                    port,
                    format!("{path}.uplinks[{index}]"),
                    "is no port: write its number, without quotes",
                );
            }
        }
    }
    let mut servers = Vec::with_capacity(raw_servers.len());
    for (index, port) in raw_servers.iter().enumerate() {
        if uplinks.contains(port.get_ref()) {
            return refuse(
                port,
                format!("{path}.servers[{index}]"),
                "is an uplink, too: it is one or the other",
            );
        }
        servers.push(*port.get_ref());
    }
    Ok((uplinks, servers))
}

pub(super) fn is_address(text: &str) -> bool {
    text.starts_with("unix:/")
        || text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

/// Kinds of packets that rows of a partial point may deny against the policy.
fn accepted(path: &str, names: &[Spanned<String>], is_mapped: bool) -> Result<BTreeSet<PacketKind>> {
    let mut kinds = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        let field = format!("{path}.accept[{index}]");
        match name.get_ref().parse() {
            Ok(_) if !is_mapped => return refuse(name, field, "goes with the mapping of a partial point"),
            Ok(kind) => drop(kinds.insert(kind)),
            Err(problem) => return refuse(name, field, problem),
        }
    }
    Ok(kinds)
}

/// How much of the policy tables may be used.
pub(super) fn room(path: &str, raw: &raw::Target) -> Result<Room> {
    let max_rows = raw.max_rows.as_ref().map(|rows| *rows.get_ref());
    if let (Some(0), Some(at)) = (max_rows, &raw.max_rows) {
        let problem = "is 0, so that no table could hold a row: 1 or more";
        return refuse(at, format!("{path}.max_rows"), problem);
    }
    if let (Some(most), Some(reserve)) = (max_rows, &raw.reserve)
        && *reserve.get_ref() >= most
    {
        let problem = format!("leaves nothing of the {most} rows of max_rows: write fewer");
        return refuse(reserve, format!("{path}.reserve"), problem);
    }
    Ok(Room {
        max_rows,
        reserve: raw.reserve.as_ref().map(|rows| *rows.get_ref()),
    })
}

/// What becomes of a change that leaves a gap: only programs that are not ours hold a part of a policy.
fn on_gap(path: &str, given: Option<&Spanned<String>>, program: &P4Program) -> Result<OnGap> {
    let Some(given) = given else {
        return Ok(OnGap::Refuse);
    };
    let field = format!("{path}.on_gap");
    match given.get_ref().as_str() {
        "refuse" => Ok(OnGap::Refuse),
        "report" if !matches!(program, P4Program::Device(_)) => refuse(
            given,
            field,
            "goes with program = \"device\": our own program holds every policy whole",
        ),
        "report" => Ok(OnGap::Report),
        other => refuse(
            given,
            field,
            format!("`{other}` is neither \"refuse\" nor \"report\""),
        ),
    }
}

fn program(
    path: &str,
    program: Option<&Spanned<String>>,
    mapping: Option<Spanned<std::path::PathBuf>>,
) -> Result<P4Program> {
    let name = program.map_or("portcullis", |p| p.get_ref().as_str());
    match (name, &mapping) {
        ("device", _) => Ok(P4Program::Device(mapping.map(Spanned::into_inner))),
        ("portcullis" | "portcullis-ternary", Some(mapping)) => refuse(
            mapping,
            format!("{path}.mapping"),
            "goes with program = \"device\": our own program needs none",
        ),
        ("portcullis", None) => Ok(P4Program::Portcullis { range: true }),
        ("portcullis-ternary", None) => Ok(P4Program::Portcullis { range: false }),
        (other, _) => {
            let problem = format!(
                "`{other}` is no program: write \"portcullis\", \"portcullis-ternary\" or \"device\""
            );
            match program {
                Some(at) => refuse(at, format!("{path}.program"), problem),
                None => refuse(&Spanned::new(0..0, ()), format!("{path}.program"), problem),
            }
        }
    }
}

fn device_tls(path: &str, tls: Spanned<raw::DeviceTls>) -> Result<portcullis_p4runtime::Tls> {
    let raw = tls.get_ref();
    match (&raw.cert, &raw.key) {
        (Some(_), None) => return refuse(&tls, format!("{path}.tls.key"), "is missing: cert goes with it"),
        (None, Some(_)) => return refuse(&tls, format!("{path}.tls.cert"), "is missing: key goes with it"),
        _ => {}
    }
    let raw = tls.into_inner();
    Ok(portcullis_p4runtime::Tls {
        ca: raw.ca,
        client: raw.cert.zip(raw.key),
        domain: raw.domain,
    })
}
