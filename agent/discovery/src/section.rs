//! The `[[target]]` section for a datapath, as `agent.toml` takes it.

use serde::Serialize;

use crate::datapath::Datapath;

/// Name of the target that an agent without a `[[target]]` programs.
pub const LOCAL: &str = "local";

/// What a `[[target]]` says of a datapath, but for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    settings: Settings,
    /// What a person has to add, as comments.
    notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
struct Settings {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ovsdb: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapping: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uplinks: Option<Uplinks>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    servers: Vec<u32>,
}

/// Names of interfaces, or numbers of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Uplinks {
    Names(Vec<String>),
    Numbers(Vec<u32>),
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    #[serde(flatten)]
    settings: &'a Settings,
}

#[derive(Serialize)]
struct File<'a> {
    target: [Named<'a>; 1],
}

impl Section {
    pub(crate) fn ovs(ovsdb: &str, bridge: &str, uplinks: Vec<String>) -> Self {
        let notes = match uplinks.is_empty() {
            true => vec![
                "Add the ports that lead to the network, which are not policed: uplinks = [\"NAME\"]"
                    .to_string(),
            ],
            false => Vec::new(),
        };
        Section {
            settings: Settings {
                kind: "ovs",
                ovsdb: Some(ovsdb.to_string()),
                bridge: Some(bridge.to_string()),
                uplinks: (!uplinks.is_empty()).then_some(Uplinks::Names(uplinks)),
                ..Settings::default()
            },
            notes,
        }
    }

    pub(crate) fn embedded(address: &str, uplinks: Vec<u32>, servers: Vec<u32>) -> Self {
        let notes = match uplinks.is_empty() {
            true => vec![
                "Move the ports that lead to the network from servers to uplinks: uplinks = [NUMBER]"
                    .to_string(),
            ],
            false => Vec::new(),
        };
        Section {
            settings: Settings {
                kind: "embedded",
                address: Some(address.to_string()),
                uplinks: (!uplinks.is_empty()).then_some(Uplinks::Numbers(uplinks)),
                servers,
                ..Settings::default()
            },
            notes,
        }
    }

    pub(crate) fn p4runtime(address: &str, device_id: u64, program: &str, mapping: Option<&str>) -> Self {
        Section {
            settings: Settings {
                kind: "p4runtime",
                address: Some(address.to_string()),
                device_id: Some(device_id),
                program: Some(program.to_string()),
                mapping: mapping.map(str::to_string),
                ..Settings::default()
            },
            notes: vec![
                "Add its ports, which P4Runtime does not list: uplinks = [NUMBER, ...] and servers = [NUMBER, ...]".to_string(),
            ],
        }
    }

    /// The section as TOML, for a target of this name.
    pub fn toml(&self, name: &str) -> Result<String, toml::ser::Error> {
        let file = File {
            target: [Named {
                name,
                settings: &self.settings,
            }],
        };
        let notes = self.notes.iter().map(|note| format!("# {note}\n"));
        Ok(toml::to_string(&file)? + &notes.collect::<String>())
    }
}

/// The section of each datapath, in their order; two of one kind have names with numbers.
pub fn sections(datapaths: &[Datapath]) -> Result<Vec<Option<String>>, toml::ser::Error> {
    let name = |at: usize, datapath: &Datapath| {
        let kind = datapath.kind;
        let with = |d: &&Datapath| d.kind == kind && d.section.is_some();
        let before = datapaths.iter().take(at).filter(with).count();
        match datapaths.iter().filter(with).count() {
            0 | 1 => kind.as_str().to_string(),
            _ => format!("{}{}", kind.as_str(), before + 1),
        }
    };
    let section = |(at, datapath): (usize, &Datapath)| {
        let section = datapath.section.as_ref()?;
        Some(section.toml(&name(at, datapath)))
    };
    datapaths
        .iter()
        .enumerate()
        .map(|each| section(each).transpose())
        .collect()
}
