//! All tables of a target, read as `Compilation::rows` tells them: by field, value and mask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portcullis_compiler::compilation::{Compilation, Placed, UNMANAGED_PORTS};
use portcullis_compiler::model::{Field, Role, StageModel};
use portcullis_compiler::row::{FieldMatch, RowAction};
use portcullis_compiler::{ClassId, Intent};
use portcullis_policy::{Direction, Packet, Policy, Protocol, Verdict};

use super::ShownFields;

/// The rows of a target, by table.
pub struct Pipeline {
    model: StageModel,
    tables: BTreeMap<String, Vec<Placed>>,
    /// The class below each overlay.
    below: BTreeMap<ClassId, ClassId>,
}

/// A verdict and the rule that a hit names.
pub type Told = (Verdict, Option<String>);

/// What the stages know of a packet; an address that the packet does not have reads as zeros.
type Fields = BTreeMap<Field, u128>;

impl Pipeline {
    pub fn from_compilation(compilation: &Compilation) -> Self {
        let mut tables: BTreeMap<String, Vec<Placed>> = BTreeMap::new();
        for placed in compilation.rows() {
            tables.entry(placed.row.table.clone()).or_default().push(placed);
        }
        let overlays = compilation.classes.values().filter(|c| c.program.overlay);
        Pipeline {
            model: compilation.model.clone(),
            tables,
            below: overlays
                .map(|c| (c.class.id, c.class.base.as_ref().unwrap().id))
                .collect(),
        }
    }

    /// What the tables say about a packet of a class, or of a port where there are no classes. `None` when no row
    /// matches, or two of equal priority disagree.
    pub fn judge(
        &self,
        direction: Direction,
        class: ClassId,
        port: &str,
        shown: &ShownFields,
    ) -> Option<Told> {
        let mut fields = fields(shown);
        let (class, overlay) = match self.below.get(&class) {
            Some(base) => (*base, class),
            None => (class, ClassId::OPEN),
        };
        fields.insert(Field::Class, class.0.into());
        fields.insert(Field::Overlay, overlay.0.into());
        for field in [Field::RemoteId, Field::SrcCode, Field::DstCode] {
            fields.insert(field, 0);
        }
        for role in [Role::Remote, Role::SrcCode, Role::DstCode] {
            if let Some(placed) = self.best(role, direction, port, &fields)? {
                let RowAction::Set { field, value } = placed.row.action else {
                    return None;
                };
                fields.insert(field, value.into());
            }
        }
        let placed = self.best(Role::Policy, direction, port, &fields)??;
        match placed.row.action {
            RowAction::Verdict(action) => Some((action, placed.rule.clone())),
            RowAction::Words { set, otherwise } => {
                let dst = *fields.get(&Field::DstPort)?;
                fields.insert(Field::WordSet, set.into());
                fields.insert(Field::PortBlock, dst >> 6);
                Some(match self.best(Role::Words, direction, port, &fields)? {
                    None => (otherwise, None),
                    Some(word) => {
                        let RowAction::Word(bits) = word.row.action else {
                            return None;
                        };
                        let allowed = bits >> (dst & 63) & 1 == 1;
                        (if allowed { Verdict::Allow } else { Verdict::Deny }, None)
                    }
                })
            }
            _ => None,
        }
    }

    /// The row of highest priority; the outer `None` when there are two that differ.
    fn best(&self, role: Role, direction: Direction, port: &str, fields: &Fields) -> Option<Option<&Placed>> {
        let Some(table) = self.model.table(role, direction) else {
            return Some(None);
        };
        let rows = self.tables.get(&table.name).map_or(&[][..], Vec::as_slice);
        let hits: Vec<&Placed> = rows.iter().filter(|p| hits(p, port, fields)).collect();
        let Some(top) = hits.iter().map(|p| p.row.priority).max() else {
            return Some(None);
        };
        let mut best = hits.into_iter().filter(|p| p.row.priority == top);
        let first = best.next();
        let agree = best.all(|p| first.is_some_and(|f| f.row.action == p.row.action));
        agree.then_some(first)
    }
}

fn hits(placed: &Placed, port: &str, fields: &Fields) -> bool {
    placed
        .row
        .keys
        .iter()
        .all(|(field, wanted)| match (wanted, fields.get(field)) {
            (FieldMatch::Attachment(name), _) => name == port,
            (FieldMatch::Masked { value, mask }, Some(n)) => n & mask == *value,
            (FieldMatch::Range { low, high }, Some(n)) => low <= n && n <= high,
            (_, None) => false,
        })
}

fn fields(shown: &ShownFields) -> Fields {
    let mut fields = Fields::from([
        (Field::EtherType, shown.ether_type.into()),
        (Field::Unreadable, shown.unreadable.into()),
        (Field::Protocol, shown.protocol.into()),
        (Field::Later, shown.later.into()),
        (Field::TcpFlags, shown.flags.into()),
    ]);
    let icmp = matches!(
        (shown.protocol, shown.ether_type),
        (Protocol::ICMP, 0x0800) | (Protocol::ICMPV6, 0x86dd)
    );
    let (src, dst) = (u128::from(shown.src), u128::from(shown.dst));
    // A parser that finds no ports leaves zeros.
    let (ports, kinds) = if icmp {
        ((0, 0), (src, dst))
    } else {
        ((src, dst), (0, 0))
    };
    fields.extend([(Field::SrcPort, ports.0), (Field::DstPort, ports.1)]);
    fields.extend([(Field::IcmpType, kinds.0), (Field::IcmpCode, kinds.1)]);
    let sides = [
        (shown.remote, Field::RemoteIpv4, Field::RemoteIpv6),
        (shown.local, Field::LocalIpv4, Field::LocalIpv6),
    ];
    for (address, v4, v6) in sides {
        let (four, six) = match address {
            Some(IpAddr::V4(a)) => (u32::from(a).into(), 0),
            Some(IpAddr::V6(a)) => (0, u128::from(a)),
            None => (0, 0),
        };
        fields.extend([(v4, four), (v6, six)]);
    }
    fields
}

/// Server ports without an endpoint, as rows of tables without a class name them here.
pub fn unmanaged() -> BTreeSet<String> {
    BTreeSet::from([UNMANAGED_PORTS.to_owned()])
}

/// A port that leads to the rest of the network: no row of a table without a class is about it.
pub const UPLINK: &str = "an uplink";

/// One port of a target, and what must hold for it.
pub struct Case {
    pub policy: Policy,
    pub class: ClassId,
    /// Its attachment's name, [`UNMANAGED_PORTS`] or [`UPLINK`].
    pub port: String,
    /// Nothing is denied to it, so that no row need match.
    pub open: bool,
}

impl Case {
    /// Whether a hit on a packet may name this rule: the one that decides. A row of an overlay, or of the class below, may
    /// name another one that says the same of the packet.
    pub fn may_name(&self, compilation: &Compilation, packet: &Packet, rule: &str) -> bool {
        let (action, by) = self.policy.judge(packet, compilation.model.view);
        if self.policy.origin(by) == rule {
            return true;
        }
        let compiled = compilation.classes.get(&self.class).filter(|c| c.program.overlay);
        let base = compiled.and_then(|c| c.class.base.as_ref());
        base.is_some_and(|base| {
            let agrees = |policy: &Policy| {
                let (said, by) = policy.judge(packet, compilation.model.view);
                policy.origin(by) == rule && said == action
            };
            let entries = [&self.policy, &base.policy].into_iter().flat_map(|p| &p.entries);
            let alone = entries.map(|entry| Policy {
                entries: vec![entry.clone()],
                // What does not match has the other verdict.
                default: Verdict::from_passes(action.denies()),
                ..self.policy.clone()
            });
            agrees(&base.policy) || alone.into_iter().any(|policy| agrees(&policy))
        })
    }
}

/// Every port whose policy a compilation has rows for, in both directions, and one without an endpoint.
pub fn ports(intent: &Intent, compilation: &Compilation) -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in Direction::BOTH {
        let Some(table) = compilation.model.table(Role::Policy, direction) else {
            continue;
        };
        let by_class = table.key(Field::Class).is_some();
        let unmanaged = intent.unmanaged[direction];
        let endpoints = intent.endpoints.iter().flat_map(|(_, e)| {
            let class = e.classes[direction];
            e.attachments.iter().map(move |a| (class, a.to_string()))
        });
        let others = [
            (unmanaged, UNMANAGED_PORTS.to_string()),
            (ClassId::OPEN, UPLINK.to_string()),
        ];
        for (class, port) in endpoints.chain(others) {
            // Frames of an open class meet no policy table that knows classes.
            let open = class == ClassId::OPEN;
            if (open && by_class) || (!open && compilation.compiled().all(|(id, _)| *id != class)) {
                continue;
            }
            let policy = match intent.classes.get(&class) {
                Some(class) => class.policy.clone(),
                None => Policy::constant(direction, Verdict::Allow),
            };
            cases.push(Case {
                policy,
                class,
                port,
                open,
            });
        }
    }
    cases
}
