//! A mapping: which tables, match fields and actions of a foreign P4 program play which stage, field and verdict. TOML:
//!
//! ```toml
//! # Our rows have the priorities from one to the other: an operator's own rows stand above and below. Without them, from 1
//! # to 65535 in a table without a class, or to 2147483647, which is P4Runtime's highest.
//! priority_min = 1000
//! priority_max = 60000
//!
//! # The tables lack keys that a whole policy needs: they deny a part of what it denies, and nothing else, but for packets of these
//! # kinds.
//! partial = true
//! accept = ["later-fragments", "ip-options"]
//!
//! # What the parser shows of a packet; what is not stated is not relied on.
//! [parser]
//! ipv6_extension_headers = true
//! opaque_ethertypes = [0x8100, 0x88a8]
//!
//! [[table]]
//! table = "Ingress.acl"           # alias or full name
//! stage = "policy"
//! direction = "egress"            # what attached endpoints send
//!
//! [table.fields]                  # match field = what it is; fields that are not named are left out
//! "ig_md.port" = "port"
//! "lkp.ip_src" = "local_ipv4"
//!
//! [table.actions]
//! allow = { name = "permit" }
//! deny = { name = "drop" }
//! ```
//!
//! Without `[[table]]` the tables are found by name, without `fields` or `actions` those of a table are (see
//! [`model`](crate::model)). Fields and actions are named as `portcullis compile` knows them: the models it carries show
//! all of them.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_compiler::model::{ActionModel, Field, PacketKind, Role, Weight};
use portcullis_policy::Direction;
use serde::Deserialize;

use crate::model::MappingError;

/// The highest priority of P4Runtime: `int32 priority` in `TableEntry`.
pub const PRIORITY_MAX: u32 = i32::MAX as u32;

/// What the tables of a P4 program are to us.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub struct Mapping {
    /// The lowest priority of our rows; rows of others may stand below it.
    #[serde(default)]
    pub priority_min: Option<u32>,
    /// The highest priority of our rows: what the device takes, or less where rows of others stand above.
    #[serde(default)]
    pub priority_max: Option<u32>,
    /// Every combination of masks in a table costs each packet (see [`StageModel`](portcullis_compiler::StageModel)).
    #[serde(default)]
    pub few_masks: bool,
    /// The policy tables are partial points: they lack keys that a whole policy needs, and deny a part of what it denies.
    #[serde(default)]
    pub partial: bool,
    /// Kinds of packets that rows of a partial point may deny although the policy lets them pass.
    #[serde(default, deserialize_with = "accepted")]
    pub accept: BTreeSet<PacketKind>,
    /// What the parser shows.
    #[serde(default)]
    pub parser: Option<ParserFacts>,
    /// The tables that play a stage, by name when empty.
    #[serde(default, rename = "table")]
    pub tables: Vec<TableMapping>,
}

/// What a parser shows of a packet. What is not stated is not relied on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a section: [parser], with facts that are true or false"
)]
pub struct ParserFacts {
    /// Fragment offsets, not only "first" and "later".
    pub fragment_offset: bool,
    /// A header that is too short, by the mark.
    pub short_header: bool,
    /// Ports and flags of a first fragment whose header is not whole.
    pub begun_header: bool,
    /// The protocol of later IPv6 fragments.
    pub later_ipv6_protocol: bool,
    /// The protocol behind IPv6 extension headers (RFC 8200, section 4), not the number of the first one.
    pub ipv6_extension_headers: bool,
    /// Ports of SCTP packets, not only of TCP and UDP.
    pub sctp_ports: bool,
    /// What follows IPv4 options (RFC 791, section 3.1), by the header length.
    pub ipv4_options: bool,
    /// The number of the first IPv6 extension header as the protocol, and never another, where it does not find the one behind.
    pub ipv6_first_header: bool,
    /// There is a mark on what cannot be judged: a match field `unreadable`.
    pub unreadable: bool,
    /// EtherTypes that carry IP where the parser does not see it; when absent VLAN tags, MPLS and PPPoE sessions.
    pub opaque_ethertypes: Option<Vec<u16>>,
}

/// What one table of the P4Info is to Portcullis.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section: [[table]]")]
pub struct TableMapping {
    /// Its alias or full name.
    pub table: String,
    /// The stage it plays.
    pub stage: Role,
    /// The direction it serves; both when absent.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// What a row costs, against the size the P4Info gives.
    #[serde(default)]
    pub weight: Weight,
    /// Match fields, by name; by what they are called when absent.
    #[serde(default)]
    pub fields: Option<BTreeMap<String, Field>>,
    /// Actions; by what they are called when absent.
    #[serde(default)]
    pub actions: Option<ActionsMapping>,
}

/// Which action does what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section: [table.actions]")]
pub struct ActionsMapping {
    /// Lets pass; takes no parameters.
    #[serde(default)]
    pub allow: Option<ActionMapping>,
    /// Drops; takes no parameters.
    #[serde(default)]
    pub deny: Option<ActionMapping>,
    /// Lets a set of words decide.
    #[serde(default)]
    pub words: Option<ActionMapping>,
    /// Sets metadata for later stages.
    #[serde(default)]
    pub set: Option<ActionMapping>,
}

impl ActionsMapping {
    /// Those given, in order.
    pub(crate) fn given(&self) -> impl Iterator<Item = (ActionModel, &ActionMapping)> {
        let all = [
            (ActionModel::Allow, &self.allow),
            (ActionModel::Deny, &self.deny),
            (ActionModel::Words, &self.words),
            (ActionModel::Set, &self.set),
        ];
        all.into_iter()
            .filter_map(|(kind, given)| Some((kind, given.as_ref()?)))
    }
}

/// An action by name, with the parameters that are used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { name = \"drop\" }")]
pub struct ActionMapping {
    /// Its alias or full name.
    pub name: String,
    /// The parameter that takes what is set: the metadata, the word, or the set of words. Its only one when absent.
    #[serde(default)]
    pub parameter: Option<String>,
    /// Of `words`: the parameter that takes the verdict on ports without a word, 1 to allow and 0 to deny.
    #[serde(default)]
    pub otherwise: Option<String>,
}

/// Reads kinds of packets by the names that may be accepted.
fn accepted<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeSet<PacketKind>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    let kinds = names.iter().map(|name| name.parse());
    kinds
        .collect::<Result<_, String>>()
        .map_err(serde::de::Error::custom)
}

impl Mapping {
    /// Lets rows of a partial point deny packets of these kinds, too.
    pub fn accept_also(&mut self, kinds: impl IntoIterator<Item = PacketKind>) -> Result<(), MappingError> {
        self.accept.extend(kinds);
        self.check_accepted()
    }

    fn check_accepted(&self) -> Result<(), MappingError> {
        match self.partial || self.accept.is_empty() {
            true => Ok(()),
            false => Err(MappingError::Field {
                field: "accept".to_string(),
                why: "goes with partial = true in the mapping: whole tables deny nothing that the policy lets pass".to_string(),
            }),
        }
    }

    /// Reads a mapping from TOML.
    pub fn from_toml(text: &str) -> Result<Self, MappingError> {
        let mapping: Mapping =
            toml::from_str(text).map_err(|e| MappingError::Toml(e.to_string().trim().to_string()))?;
        mapping.check_accepted()?;
        match mapping.priority_max {
            Some(max) if max == 0 || max > PRIORITY_MAX => Err(MappingError::Field {
                field: "priority_max".to_string(),
                why: format!("is not between 1 and {PRIORITY_MAX}"),
            }),
            _ => Ok(mapping),
        }
    }
}
