//! P4Runtime servers: the embedded switch, and devices.

use portcullis_compiler::StageModel;
use portcullis_compiler::model::Role;
use portcullis_p4runtime::device::OWN;
use portcullis_p4runtime::{Mapping, P4Info, SeenDevice, Server, from_p4info, pipelines};
use portcullis_proto::p4::config::v1::match_field::{Match, MatchType};
use portcullis_proto::switch::Port;

use crate::datapath::{Datapath, DatapathKind, PortSeen};
use crate::host::Host;
use crate::section::Section;
use crate::uplinks::{Behind, PortGroup, uplinks};

/// What a server at an address is and can hold.
pub fn server(address: &str, server: &Server, host: &Host) -> Datapath {
    match &server.ports {
        Some(ports) => embedded(address, server, ports, host),
        None => device(address, server),
    }
}

fn versions(server: &Server) -> std::collections::BTreeMap<String, String> {
    let version = ("p4runtime".to_string(), server.version.clone());
    [version]
        .into_iter()
        .filter(|(_, version)| !version.is_empty())
        .collect()
}

fn embedded(address: &str, server: &Server, ports: &[Port], host: &Host) -> Datapath {
    let behind = |port: &Port| match port.kind.as_str() {
        "af_packet" => Behind::Interface(port.device.clone()),
        "pci" | "device" => Behind::devargs(&port.device),
        _ => Behind::Other,
    };
    let group = |port: &Port| PortGroup {
        members: vec![(port.number.to_string(), behind(port))],
    };
    let groups: Vec<PortGroup> = ports.iter().map(group).collect();
    let identified = uplinks(&groups, host);
    let names = identified.clone().unwrap_or_default();
    let is_uplink = |port: &Port| names.contains(&port.number.to_string());
    let seen = ports.iter().map(|port| PortSeen {
        name: port.number.to_string(),
        kind: match port.device.as_str() {
            "" => port.kind.clone(),
            device => format!("{}:{device}", port.kind),
        },
        uplink: is_uplink(port),
    });
    let numbers = |uplink: bool| -> Vec<u32> {
        let these = ports.iter().filter(|port| is_uplink(port) == uplink);
        these.map(|port| port.number).collect()
    };
    let unfit = unfit(address, server);
    Datapath {
        kind: DatapathKind::Embedded,
        name: address.to_string(),
        address: address.to_string(),
        versions: versions(server),
        ports: Some(seen.collect()),
        holds: match &unfit {
            None => "every policy".to_string(),
            Some(why) => format!("nothing: {why}"),
        },
        section: unfit
            .is_none()
            .then(|| Section::embedded(address, numbers(true), numbers(false))),
        needs_target: unfit.or_else(|| identified.err()),
    }
}

/// Why a target of kind "embedded" cannot be made of a switch.
fn unfit(address: &str, server: &Server) -> Option<String> {
    if !address.starts_with("unix:/") {
        let why = "it listens on TCP, and the agent takes an embedded switch on a Unix socket: start it with --grpc unix:PATH";
        return Some(why.to_string());
    }
    match &server.device {
        Ok(device) if device.id == 1 => None,
        Ok(device) => Some(format!(
            "its device id is {}, and 1 is what the agent takes",
            device.id
        )),
        Err(why) => Some(format!("it has no device 1: {why}")),
    }
}

fn device(address: &str, server: &Server) -> Datapath {
    let (holds, section) = match &server.device {
        Err(why) => (format!("not known: {why}"), None),
        Ok(device) => held(address, device),
    };
    Datapath {
        kind: DatapathKind::P4runtime,
        name: address.to_string(),
        address: address.to_string(),
        versions: versions(server),
        ports: None,
        holds,
        needs_target: Some(
            "P4Runtime does not say what ports a device has, and which of them is an uplink".to_string(),
        ),
        section,
    }
}

/// What a device can hold with the program that it runs, and how it is configured.
fn held(address: &str, device: &SeenDevice) -> (String, Option<Section>) {
    if device.id == 0 {
        let why = "nothing: its device id is 0, which a [[target]] cannot have: start it with another one, such as \
                   --device-id 1 of BMv2";
        return (why.to_string(), None);
    }
    let section =
        |program: &str, mapping: Option<&str>| Some(Section::p4runtime(address, device.id, program, mapping));
    let Some(info) = &device.program else {
        let holds = "every policy, with the P4 program of Portcullis on it; it runs none now".to_string();
        return (holds, section("portcullis", None));
    };
    let name = info.pkg_info.as_ref().map_or("", |package| package.name.as_str());
    if name == OWN {
        let program = match has_ranges(info) {
            true => "portcullis",
            false => "portcullis-ternary",
        };
        return (
            format!("every policy{}", room(info, None)),
            section(program, None),
        );
    }
    let fitting = |mapping: Option<&'static str>| {
        let read = mapping
            .and_then(pipelines::source)
            .map(Mapping::from_toml)
            .transpose()
            .ok()?;
        let model = from_p4info(info, "device", read.as_ref()).ok()?;
        Some((mapping, model))
    };
    let mut candidates = pipelines::names().map(Some).chain([None]);
    match candidates.find_map(fitting) {
        Some((mapping, model)) => {
            let part = match model.partial {
                Some(_) => "a part of each policy",
                None => "every policy",
            };
            let by = mapping.map_or_else(String::new, |name| format!(", read by mapping `{name}`"));
            (
                format!("{part}{}{by}", room(info, Some(&model))),
                section("device", mapping),
            )
        }
        None => {
            let why = from_p4info(info, "device", None)
                .err()
                .map(|error| error.to_string());
            let why = why.unwrap_or_default();
            let first = why.lines().next().unwrap_or_default();
            let first = first.split(';').next().unwrap_or_default();
            let holds = format!("nothing without a mapping: {first}; see docs/p4runtime.md");
            (holds, None)
        }
    }
}

/// The room of the tables that hold policies.
fn room(info: &P4Info, model: Option<&StageModel>) -> String {
    let drawn;
    let model = match model {
        Some(model) => model,
        None => match from_p4info(info, "device", None) {
            Ok(model) => {
                drawn = model;
                &drawn
            }
            Err(_) => return String::new(),
        },
    };
    let policies = model.tables.iter().filter(|table| table.stage == Role::Policy);
    let sizes = policies.map(|table| match table.size {
        Some(size) => format!("{} takes {size} rows", table.name),
        None => table.name.clone(),
    });
    let sizes: Vec<String> = sizes.collect();
    match sizes.is_empty() {
        true => String::new(),
        false => format!(": {}", sizes.join(", ")),
    }
}

fn has_ranges(info: &P4Info) -> bool {
    let range = Some(Match::MatchType(MatchType::Range as i32));
    let mut fields = info.tables.iter().flat_map(|table| &table.match_fields);
    fields.any(|field| field.r#match == range)
}
