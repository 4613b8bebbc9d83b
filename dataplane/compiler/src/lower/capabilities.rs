//! Capabilities of a model's policy stage, computed once.

use ipnet::IpNet;
use portcullis_policy::{Direction, Entry, Family, FlagMatch, Policy, Protocol};

use crate::class_rows::Unsupported;
use crate::model::{ActionModel, Field, MatchKind, Role, StageModel};

/// How a table matches a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MatchSupport {
    /// The table has no such key.
    Missing,
    /// The whole value, or (with `optional`) anything.
    Exact,
    Masked,
    Range,
}

/// Priorities that have no room for a nested table of every prefix length: it takes 29 million.
const SMALL: u32 = (1 << 25) - 1;

/// What a direction's tables can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub src: MatchSupport,
    pub dst: MatchSupport,
    pub icmp: MatchSupport,
    pub flags: bool,
    pub later: bool,
    /// The `remote` stage, and remote ids it has room for.
    pub ids: Option<u32>,
    /// Remote prefixes as keys.
    pub remote: bool,
    /// Local prefixes as keys.
    pub local: bool,
    /// The longest IPv6 prefix that keys for remote and local addresses match.
    longest: [u16; 2],
    /// Bits of source and destination codes.
    pub codes: Option<(u16, u16)>,
    /// Sets of words a class may have.
    pub words: Option<u16>,
    /// There are too few priorities for every prefix length.
    pub small: bool,
    /// Combinations of masks are scarce (tuple space search).
    pub few_masks: bool,
}

fn kind(model: &StageModel, direction: Direction, field: Field) -> MatchSupport {
    let key = model.table(Role::Policy, direction).and_then(|t| t.key(field));
    match key.map(|k| k.kind) {
        None => MatchSupport::Missing,
        Some(MatchKind::Exact | MatchKind::Optional) => MatchSupport::Exact,
        Some(MatchKind::Ternary | MatchKind::Lpm) => MatchSupport::Masked,
        Some(MatchKind::Range) => MatchSupport::Range,
    }
}

/// Whether some IPv6 prefix is longer than this.
fn longer(prefixes: &[IpNet], longest: u16) -> bool {
    let mut v6 = prefixes.iter().filter(|p| matches!(p, IpNet::V6(_)));
    v6.any(|p| u16::from(p.prefix_len()) > longest)
}

/// What both can do.
fn both(a: MatchSupport, b: MatchSupport) -> MatchSupport {
    if a == b {
        a
    } else if a == MatchSupport::Missing || b == MatchSupport::Missing {
        MatchSupport::Missing
    } else {
        MatchSupport::Exact
    }
}

/// The highest number of this many bits.
fn room(width: u16) -> u32 {
    u32::MAX
        .checked_shr(u32::from(32u16.saturating_sub(width)))
        .unwrap_or(u32::MAX)
}

impl Capabilities {
    /// Of a direction; `None` when no table enforces it.
    pub fn new(model: &StageModel, direction: Direction) -> Option<Self> {
        let policy = model.table(Role::Policy, direction)?;
        let masked = |field| kind(model, direction, field) == MatchSupport::Masked;
        let has = |field| policy.key(field).is_some();
        let width = |field| policy.key(field).map_or(0, |k| k.width);
        let ids = model.table(Role::Remote, direction).is_some() && has(Field::RemoteId);
        let codes = [(Role::SrcCode, Field::SrcCode), (Role::DstCode, Field::DstCode)]
            .iter()
            .all(|(role, field)| model.table(*role, direction).is_some() && masked(*field));
        let words = model
            .table(Role::Words, direction)
            .filter(|_| policy.actions.contains(&ActionModel::Words))
            .and_then(|t| t.key(Field::WordSet))
            .map(|k| u16::try_from(room(k.width)).unwrap_or(u16::MAX));
        Some(Capabilities {
            src: kind(model, direction, Field::SrcPort),
            dst: kind(model, direction, Field::DstPort),
            icmp: both(
                kind(model, direction, Field::IcmpType),
                kind(model, direction, Field::IcmpCode),
            ),
            flags: masked(Field::TcpFlags),
            later: has(Field::Later),
            ids: ids.then(|| room(width(Field::RemoteId))),
            remote: masked(Field::RemoteIpv4) && masked(Field::RemoteIpv6),
            local: masked(Field::LocalIpv4) && masked(Field::LocalIpv6),
            longest: [
                model
                    .table(Role::Remote, direction)
                    .and_then(|t| t.key(Field::RemoteIpv6))
                    .map_or(128, |k| k.width)
                    .min(policy.key(Field::RemoteIpv6).map_or(128, |k| k.width)),
                policy.key(Field::LocalIpv6).map_or(128, |k| k.width),
            ],
            codes: codes.then(|| (width(Field::SrcCode), width(Field::DstCode))),
            words,
            small: model.priorities() <= SMALL,
            few_masks: model.few_masks,
        })
    }
}

impl Capabilities {
    /// What of a policy the tables cannot match at all: the first rule, and why.
    pub fn lacks(&self, policy: &Policy, model: &StageModel) -> Option<Unsupported> {
        let table = model
            .table(Role::Policy, policy.direction)
            .map_or_else(String::new, |t| t.name.clone());
        let refuse = |entry: &Entry, what: &str, field: Field| Unsupported {
            target: model.name.clone(),
            rule: entry.origin.to_string(),
            table: table.clone(),
            why: format!("it cannot match {what} (no usable key `{field}`)"),
        };
        policy.entries.iter().find_map(|e| {
            let m = &e.matcher;
            let ported = policy.five_tuple || m.protocol != Protocol::Any;
            Some(match m {
                _ if self.src == MatchSupport::Missing && ported && !m.src_ports.is_all() => {
                    refuse(e, "source ports", Field::SrcPort)
                }
                _ if self.dst == MatchSupport::Missing && ported && !m.dst_ports.is_all() => {
                    refuse(e, "destination ports", Field::DstPort)
                }
                _ if self.icmp == MatchSupport::Missing && m.icmp.is_some() => {
                    refuse(e, "ICMP types and codes", Field::IcmpType)
                }
                _ if !self.flags && m.flags == FlagMatch::NotOpening => refuse(
                    e,
                    "TCP flags, which tell replies from new connections",
                    Field::TcpFlags,
                ),
                _ if self.ids.is_none() && !self.remote && !m.remote.is_empty() => {
                    refuse(e, "remote prefixes", Field::RemoteIpv4)
                }
                _ if !self.local && !m.local.is_empty() => refuse(e, "local prefixes", Field::LocalIpv4),
                _ if longer(&m.remote, self.longest[0]) => {
                    refuse(e, "IPv6 prefixes longer than its key", Field::RemoteIpv6)
                }
                _ if longer(&m.local, self.longest[1]) => {
                    refuse(e, "IPv6 prefixes longer than its key", Field::LocalIpv6)
                }
                _ => return None,
            })
        })
    }

    /// Whether the target does not see the protocol of later fragments of this IP version.
    pub fn blind(model: &StageModel, family: Family) -> bool {
        family == Family::V6 && !model.view.later_v6_protocol
    }
}
