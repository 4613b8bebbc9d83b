//! A stage model from TOML.

use std::collections::BTreeSet;

use portcullis_policy::View;
use serde::Deserialize;

use super::{ModelError, PacketKind, PartialPoint, StageModel, TableModel, shown_flags};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    summary: String,
    #[serde(default = "lowest")]
    priority_min: u32,
    priority_max: u32,
    #[serde(default)]
    few_masks: bool,
    #[serde(default)]
    partial: bool,
    #[serde(default)]
    accept: Vec<String>,
    parser: RawParser,
    #[serde(rename = "table")]
    tables: Vec<TableModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParser {
    fragment_offset: bool,
    short_header: bool,
    /// A fact that a model does not state is not relied on.
    #[serde(default)]
    begun_header: bool,
    later_ipv6_protocol: bool,
    #[serde(default)]
    ipv6_extension_headers: bool,
    #[serde(default)]
    sctp_ports: bool,
    #[serde(default)]
    ipv4_options: bool,
    #[serde(default)]
    ipv6_first_header: bool,
    unreadable: bool,
    #[serde(default)]
    opaque_ethertypes: Vec<u16>,
}

/// The lowest priority of P4Runtime and OpenFlow that a row with others below it can have.
fn lowest() -> u32 {
    1
}

impl StageModel {
    /// Reads and checks a model.
    pub fn from_toml(text: &str) -> Result<Self, ModelError> {
        let raw: Raw =
            toml::from_str(text).map_err(|e| ModelError::Toml(e.to_string().trim().to_string()))?;
        let accept = raw.accept.iter().map(|name| name.parse());
        let accept: Result<BTreeSet<PacketKind>, String> = accept.collect();
        let field = |why| ModelError::Field {
            field: "accept".to_string(),
            why,
        };
        let accept = accept.map_err(field)?;
        if !raw.partial && !accept.is_empty() {
            let why = "goes with partial = true: whole tables deny nothing that the policy lets pass";
            return Err(field(why.to_string()));
        }
        let model = StageModel {
            name: raw.name,
            summary: raw.summary,
            view: View {
                fragment_offset: raw.parser.fragment_offset,
                short_header: raw.parser.short_header,
                begun_header: raw.parser.begun_header,
                later_v6_protocol: raw.parser.later_ipv6_protocol,
                ipv6_extension_headers: raw.parser.ipv6_extension_headers,
                sctp_ports: raw.parser.sctp_ports,
                tcp_flags: shown_flags(&raw.tables),
            },
            unreadable: raw.parser.unreadable,
            ipv4_options: raw.parser.ipv4_options,
            ipv6_first_header: raw.parser.ipv6_first_header,
            partial: raw.partial.then_some(PartialPoint { accept }),
            priority_min: raw.priority_min,
            priority_max: raw.priority_max,
            few_masks: raw.few_masks,
            opaque_ethertypes: raw.parser.opaque_ethertypes,
            tables: raw.tables,
        };
        model.check()?;
        Ok(model)
    }
}
