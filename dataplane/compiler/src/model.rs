//! Stage models: the tables of a target and what they can match, as data.
//!
//! A model is a TOML file. The built-in ones are in `models/`; others are read with [`StageModel::from_toml`]. The
//! compiler lowers to what a model says and to nothing else.

use std::fmt;

use portcullis_policy::{Direction, TCP_FLAGS, View};
use serde::{Deserialize, Serialize};

use crate::restriction::Restriction;
use crate::row::ones;

mod partial;
mod read;
pub use partial::{PacketKind, PartialPoint};

/// What a key of a table matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Where the frame came in: the attachment.
    Port,
    /// VLAN id, 12 bits wide.
    Vlan,
    /// A MAC of the endpoint.
    Mac,
    /// The class, as `attach` or `deliver` gave it.
    Class,
    /// The overlay, as `attach` or `deliver` gave it: what the endpoint has beside its class.
    Overlay,
    /// EtherType behind the tags.
    EtherType,
    /// Whether it is IPv4: in the place of EtherType 0x0800.
    IsIpv4,
    /// Whether it is IPv6: in the place of EtherType 0x86dd.
    IsIpv6,
    /// Whether it is IP of either version. Rows of partial points name it for what they say of both.
    IsIp,
    /// The parser's mark on what cannot be judged.
    Unreadable,
    /// IP protocol, behind extension headers.
    Protocol,
    /// Whether it is a later fragment.
    Later,
    /// TCP flags, 12 bits from FIN (bit 0).
    TcpFlags,
    /// What the `remote` stage gave.
    RemoteId,
    /// The other side's IPv4 address.
    RemoteIpv4,
    /// The other side's IPv6 address.
    RemoteIpv6,
    /// The endpoint's IPv4 address.
    LocalIpv4,
    /// The endpoint's IPv6 address.
    LocalIpv6,
    /// Source port of TCP, UDP and SCTP.
    SrcPort,
    /// Destination port of TCP, UDP and SCTP.
    DstPort,
    /// ICMP or ICMPv6 type.
    IcmpType,
    /// ICMP or ICMPv6 code.
    IcmpCode,
    /// What the stage `src_code` gave.
    SrcCode,
    /// What the stage `dst_code` gave.
    DstCode,
    /// Which set of words.
    WordSet,
    /// `destination port >> 6`.
    PortBlock,
}

impl Field {
    /// Its width in bits where the packet or the policy fixes it; metadata is as wide as a model says.
    pub fn width(self) -> Option<u16> {
        Some(match self {
            Field::Vlan => 12,
            Field::Mac => 48,
            Field::EtherType | Field::SrcPort | Field::DstPort => 16,
            Field::Unreadable | Field::Later | Field::IsIpv4 | Field::IsIpv6 | Field::IsIp => 1,
            Field::Protocol | Field::IcmpType | Field::IcmpCode => 8,
            Field::TcpFlags => 12,
            Field::RemoteIpv4 | Field::LocalIpv4 => 32,
            Field::RemoteIpv6 | Field::LocalIpv6 => 128,
            Field::PortBlock => 10,
            _ => return None,
        })
    }
}

impl Field {
    /// Whether a key on it can have this many bits. Of IPv6 addresses the first 64 bits are enough for most rules, and of TCP
    /// flags the 8 from FIN to CWR for all.
    pub fn can_have(self, width: u16) -> bool {
        self.width().is_none_or(|whole| {
            width == whole
                || match self {
                    Field::RemoteIpv6 | Field::LocalIpv6 => width == 64,
                    Field::TcpFlags => (8..whole).contains(&width),
                    _ => false,
                }
        })
    }
}

impl Field {
    /// The low bits that a key of this width does not have: those behind the first ones of an IPv6 address.
    pub fn low_bits_missing(self, width: u16) -> u32 {
        match self {
            Field::RemoteIpv6 | Field::LocalIpv6 => u32::from(128u16.saturating_sub(width)),
            _ => 0,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How a key matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchKind {
    /// The value in all bits.
    Exact,
    /// The value's first bits; the longest prefix wins.
    Lpm,
    /// The value where the mask has ones.
    Ternary,
    /// From one value to another, both included.
    Range,
    /// The whole value, or anything.
    Optional,
}

impl fmt::Display for MatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Which logical stage a table plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Port and VLAN → the sender's egress class.
    Attach,
    /// Source MACs and addresses.
    Guard,
    /// Where the frame goes → the receiver's ingress class.
    Deliver,
    /// Longest prefix → remote id.
    Remote,
    /// Source port → code.
    SrcCode,
    /// Destination port → code.
    DstCode,
    /// Headers, class and remote id → the verdict.
    Policy,
    /// Block of 64 ports → word of verdicts.
    Words,
    /// Whatever else the target needs; the compiler writes nothing here.
    Other,
}

impl Role {
    /// Keys that some rows of the stage name whatever the policy is. `unreadable`: the parser marks what cannot be
    /// judged; without the mark, rows find it by ports and flags of zero.
    pub fn named(self, unreadable: bool) -> &'static [Field] {
        match self {
            Role::Policy if unreadable => {
                &[Field::EtherType, Field::Unreadable, Field::Protocol, Field::Later]
            }
            Role::Policy => &[
                Field::EtherType,
                Field::Protocol,
                Field::Later,
                Field::TcpFlags,
                Field::SrcPort,
                Field::DstPort,
            ],
            Role::Remote => &[
                Field::Class,
                Field::EtherType,
                Field::RemoteIpv4,
                Field::RemoteIpv6,
            ],
            Role::Words => &[Field::Class, Field::WordSet, Field::PortBlock],
            Role::SrcCode => &[Field::Later, Field::SrcPort],
            Role::DstCode => &[Field::Later, Field::DstPort],
            Role::Attach | Role::Guard | Role::Deliver | Role::Other => &[],
        }
    }

    /// Keys that every row of the stage names, so that they may be exact.
    pub fn always_named(self) -> &'static [Field] {
        match self {
            Role::Remote => &[Field::Class],
            Role::Words => &[Field::Class, Field::WordSet, Field::PortBlock],
            Role::Attach | Role::Guard | Role::Deliver => &[Field::Port, Field::Vlan, Field::Mac],
            // Rows that hold for every class leave the class open.
            Role::Policy | Role::SrcCode | Role::DstCode | Role::Other => &[],
        }
    }
}

/// What a row costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Every row costs one.
    #[default]
    Row,
    /// As many lines as a TCAM that matches four bits at a time (DirtCAM) takes for its ranges.
    RangeLines,
}

/// One key of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyModel {
    /// Part of the packet or metadata that it reads.
    pub field: Field,
    /// How it matches: `exact`, `ternary` and so on.
    #[serde(rename = "match")]
    pub kind: MatchKind,
    /// Its width in bits.
    pub width: u16,
}

/// What a row of a table can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionModel {
    /// Lets the packet pass.
    Allow,
    /// Drops the packet, without an answer.
    Deny,
    /// The destination port's bit in a set of words decides.
    Words,
    /// Set metadata for later stages.
    Set,
}

/// One table of a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableModel {
    /// Its name, as status and plans show it.
    pub name: String,
    /// The logical stage it plays.
    pub stage: Role,
    /// The direction it serves; both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Rows (or lines, by `weight`) it holds; absent when only memory bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Of these, as many may be ours; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// Of these, as many are kept free when rules are left to nearer targets, for endpoints and unlocks that come.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserve: u64,
    /// What a row costs.
    #[serde(default)]
    pub weight: Weight,
    /// Its keys; empty for a table the compiler writes nothing to.
    #[serde(default)]
    pub keys: Vec<KeyModel>,
    /// What its rows can do.
    #[serde(default)]
    pub actions: Vec<ActionModel>,
    /// Whether its rows count.
    #[serde(default)]
    pub counters: bool,
    /// Whether its rows can expire by themselves.
    #[serde(default)]
    pub expires: bool,
    /// What the P4 program demands of its rows.
    #[serde(skip)]
    pub restrictions: Vec<Restriction>,
}

/// A reserve of nothing is not written.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl TableModel {
    /// The key on a field.
    pub fn key(&self, field: Field) -> Option<&KeyModel> {
        self.keys.iter().find(|k| k.field == field)
    }

    /// Whether it serves a direction.
    pub fn serves(&self, direction: Direction) -> bool {
        self.direction.is_none_or(|d| d == direction)
    }
}

/// What a target's tables can match and do, as the compiler needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StageModel {
    /// Name of the model, for example `ovs`.
    pub name: String,
    /// What it is, for people.
    pub summary: String,
    /// What its parser shows of a packet.
    pub view: View,
    /// Its parser marks what cannot be judged, and rows can match the mark ([`FrameMatch::Unreadable`]).
    ///
    /// [`FrameMatch::Unreadable`]: crate::FrameMatch::Unreadable
    pub unreadable: bool,
    /// Its parser finds what follows IPv4 options (RFC 791, section 3.1).
    pub ipv4_options: bool,
    /// Its parser shows the number of the first IPv6 extension header as the protocol, where there is one, and never another. Of use
    /// where it does not find the protocol behind them.
    pub ipv6_first_header: bool,
    /// Its policy stages deny a part of what the policy denies, and leave the rest to others.
    pub partial: Option<PartialPoint>,
    /// The lowest priority of rows of policy stages, 1 unless rows of others have their place below ours.
    pub priority_min: u32,
    /// The highest priority a row may have.
    pub priority_max: u32,
    /// Every combination of masks in a table costs each packet (tuple space search, as in Open vSwitch), so that
    /// prefixes go through the `remote` stage unless that takes many more rows.
    pub few_masks: bool,
    /// EtherTypes that carry IP where its parser does not see it.
    pub opaque_ethertypes: Vec<u16>,
    /// The tables in pipeline order.
    pub tables: Vec<TableModel>,
}

/// The TCP flags that every policy stage with a key for them shows.
pub fn shown_flags(tables: &[TableModel]) -> u16 {
    let policies = tables.iter().filter(|t| t.stage == Role::Policy);
    let widths = policies.filter_map(|t| t.key(Field::TcpFlags)).map(|k| k.width);
    widths
        .min()
        .map_or(TCP_FLAGS, |width| ones(width) as u16 & TCP_FLAGS)
}

/// A model that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Not the shape of a model.
    #[error("{0}")]
    Toml(String),
    /// A value that makes no sense.
    #[error("{field}: {why}")]
    Field {
        /// The field, as a path: `table.egress_policy.size`.
        field: String,
        /// What is wrong, and what would be right.
        why: String,
    },
}

impl StageModel {
    /// How many priorities rows of policy stages have.
    pub fn priorities(&self) -> u32 {
        self.priority_max
            .saturating_add(1)
            .saturating_sub(self.priority_min.max(1))
    }

    /// Checks what the shape alone does not tell.
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |field: String, why: &str| {
            Err(ModelError::Field {
                field,
                why: why.to_string(),
            })
        };
        if self.name.is_empty() {
            return wrong("name".into(), "is empty: give the model a name");
        }
        if self.priority_min == 0 || self.priority_min > self.priority_max {
            return wrong(
                "priority_min".into(),
                "is not between 1 and priority_max: our rows have the priorities from one to the other",
            );
        }
        if self.view.short_header && !self.unreadable {
            return wrong(
                "parser.short_header".into(),
                "is true although parser.unreadable is false: a header that is too short can only be told by that mark",
            );
        }
        if self.unreadable && !self.view.short_header {
            return wrong(
                "parser.unreadable".into(),
                "is true although parser.short_header is false: the mark has to be on headers that are too short, too",
            );
        }
        for (index, table) in self.tables.iter().enumerate() {
            let at = |field: &str| format!("table.{}.{field}", table.name);
            if self.tables.iter().take(index).any(|t| t.name == table.name) {
                return wrong(at("name"), "is used twice: table names are unique");
            }
            if table.size == Some(0) {
                return wrong(at("size"), "is 0: leave it out when only memory bounds the table");
            }
            for (n, key) in table.keys.iter().enumerate() {
                let at = at(&format!("keys.{}", key.field));
                if table.keys.iter().take(n).any(|k| k.field == key.field) {
                    return wrong(at, "is there twice");
                }
                if key.width == 0 || key.width > 128 {
                    return wrong(at + ".width", "is not between 1 and 128 bits");
                }
                if !key.field.can_have(key.width) {
                    return wrong(at + ".width", "is not the width of this field in a packet");
                }
            }
            self.check_rows(table, &at)?;
        }
        for direction in Direction::BOTH {
            let policy = self
                .tables
                .iter()
                .filter(|t| t.stage == Role::Policy && t.serves(direction));
            if policy.count() > 1 {
                return wrong(
                    "table".into(),
                    &format!("more than one `policy` stage serves {direction}"),
                );
            }
        }
        if !self.tables.iter().any(|t| t.stage == Role::Policy) {
            return wrong("table".into(), "no table plays the stage `policy`");
        }
        Ok(())
    }

    /// Checks that a table has every key that rows of its stage name: a row whose key is not there would match more
    /// than it means. And that keys which rows leave open can be left open.
    fn check_rows(&self, table: &TableModel, at: &dyn Fn(&str) -> String) -> Result<(), ModelError> {
        if table.keys.is_empty() && !matches!(table.stage, Role::Policy | Role::Remote | Role::Words) {
            // The compiler writes nothing here.
            return Ok(());
        }
        let has = |field: &Field| table.key(*field).is_some();
        let versions = [Field::IsIpv4, Field::IsIpv6];
        let named: &[Field] = match (&self.partial, table.stage) {
            (Some(_), Role::Policy) if versions.iter().all(has) => &[Field::Protocol],
            (Some(_), Role::Policy) => &[Field::EtherType, Field::Protocol],
            _ => table.stage.named(self.unreadable),
        };
        if let Some(field) = named.iter().find(|f| table.key(**f).is_none()) {
            return Err(ModelError::Field {
                field: at("keys"),
                why: format!("lack `{field}`, which rows of this stage name"),
            });
        }
        if table.stage == Role::Policy
            && table.key(Field::Class).is_none()
            && table.key(Field::Port).is_none()
        {
            return Err(ModelError::Field {
                field: at("keys"),
                why: "have neither `class` nor `port`: rows of one port would hold for all".to_string(),
            });
        }
        let open =
            |k: &&KeyModel| k.kind == MatchKind::Exact && !table.stage.always_named().contains(&k.field);
        match table.keys.iter().find(open) {
            None => Ok(()),
            Some(key) => Err(ModelError::Field {
                field: at(&format!("keys.{}.match", key.field)),
                why: "is `exact`, and some rows leave this key open: use `optional` or `ternary`".to_string(),
            }),
        }
    }

    /// The table that plays a stage for a direction.
    pub fn table(&self, role: Role, direction: Direction) -> Option<&TableModel> {
        self.tables
            .iter()
            .find(|t| t.stage == role && t.serves(direction))
    }

    /// Open vSwitch: masked ports, class and remote id in registers, fragments without offsets, later IPv6
    /// fragments without their protocol, and headers that are too short shown as zeros.
    pub fn ovs() -> Self {
        Self::built_in("ovs").unwrap_or_else(Self::blank)
    }

    /// What stands in for a built-in model that does not parse; a test shows that all do.
    fn blank() -> Self {
        StageModel {
            name: String::new(),
            summary: String::new(),
            view: View::FULL,
            unreadable: true,
            ipv4_options: true,
            ipv6_first_header: false,
            partial: None,
            priority_min: 1,
            priority_max: 0,
            few_masks: false,
            opaque_ethertypes: Vec::new(),
            tables: Vec::new(),
        }
    }

    fn built_in(name: &str) -> Option<Self> {
        let (_, text) = BUILT_IN.iter().find(|(n, _)| *n == name)?;
        Self::from_toml(text).ok()
    }

    /// The built-in model with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::built_in(name)
    }

    /// The names of the built-in models.
    pub fn names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// The text of a built-in model: a pattern for one of your own.
    pub fn source(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
    }
}

const BUILT_IN: [(&str, &str); 5] = [
    ("ovs", include_str!("../models/ovs.toml")),
    ("p4-range", include_str!("../models/p4-range.toml")),
    ("p4-ternary", include_str!("../models/p4-ternary.toml")),
    ("acl-ternary", include_str!("../models/acl-ternary.toml")),
    ("exact-bitmap", include_str!("../models/exact-bitmap.toml")),
];

#[cfg(test)]
mod tests;
