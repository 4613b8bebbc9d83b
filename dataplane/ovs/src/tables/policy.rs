//! `egress_policy`, `ingress_policy`: the compiled rows of a class, and those that hold for every class.

use portcullis_backend::delta::Layer;
use portcullis_compiler::row::Owner;
use portcullis_compiler::{CompileError, FrameMatch, PolicyRow, PortMatch, RemoteMatch, Unsupported};
use portcullis_openflow::{Field, Match};
use portcullis_policy::{Direction, Family, Protocol, Verdict};

use super::{Contract, Effect, Miss, Pipeline, Priority, Table, remote};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// The contract of the sender's policy.
pub const EGRESS: Contract = Contract {
    name: "egress_policy",
    does: "the sender's policy",
    layer: Layer::Policy,
    keys: &[
        regs::CLASS,
        regs::OVERLAY,
        regs::REMOTE,
        Field::EthType,
        Field::Ipv4Src,
        Field::Ipv4Dst,
        Field::Ipv6Src,
        Field::Ipv6Dst,
        Field::IpProto,
        Field::IpFrag,
        Field::TcpFlags,
        Field::TcpSrc,
        Field::TcpDst,
        Field::UdpSrc,
        Field::UdpDst,
        Field::SctpSrc,
        Field::SctpDst,
        Field::Icmpv4Type,
        Field::Icmpv4Code,
        Field::Icmpv6Type,
        Field::Icmpv6Code,
    ],
    priorities: &[FIXED, OVERLAYS, RULES],
    effects: &[Effect::Drop, Effect::Goto(remote::after(Direction::Egress))],
    miss: Miss::Drop,
    is_counted: true,
};

/// The contract of the receiver's policy.
pub const INGRESS: Contract = Contract {
    name: "ingress_policy",
    does: "the receiver's policy",
    keys: &[
        regs::CLASS,
        regs::OVERLAY,
        regs::REMOTE,
        Field::EthType,
        Field::Ipv4Src,
        Field::Ipv4Dst,
        Field::Ipv6Src,
        Field::Ipv6Dst,
        Field::IpProto,
        Field::IpFrag,
        Field::TcpFlags,
        Field::TcpSrc,
        Field::TcpDst,
        Field::UdpSrc,
        Field::UdpDst,
        Field::SctpSrc,
        Field::SctpDst,
        Field::Icmpv4Type,
        Field::Icmpv4Code,
        Field::Icmpv6Type,
        Field::Icmpv6Code,
    ],
    effects: &[Effect::Drop, Effect::Goto(remote::after(Direction::Ingress))],
    ..EGRESS
};

const FIXED_NUMBER: u16 = 60_074;
const FIXED: Priority = Priority::new(
    "fixed",
    FIXED_NUMBER,
    "rows of every class that denies anything: ARP passes; what may hide IP or its ports is dropped",
);
/// One sixteenth of the priorities below the fixed rows, as the compiler has it.
const OVERLAYS_LOWEST: u16 = FIXED_NUMBER - FIXED_NUMBER / 16;
const OVERLAYS: Priority = Priority::range(
    "overlays",
    OVERLAYS_LOWEST,
    FIXED_NUMBER - 1,
    "what an endpoint has beside its class: its own rules and unlocks, where they change a verdict",
);
const RULES: Priority = Priority::range(
    "rules",
    1,
    OVERLAYS_LOWEST - 1,
    "rows of one class, ordered by the compiler; the lowest one has the direction's default",
);

/// Bit of `ip_frag` that says "not the first fragment" (NXM_NX_IP_FRAG).
const LATER: u128 = 0x2;

/// A compiled row that this target has no match for. Leaving a part of it out would match more than was meant, and a
/// substitute less: each opens something, for an allow or for a deny. So it is an error, and the old rows stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: the rows of this class are not written; please report this")]
pub struct Unmatchable {
    table: Table,
    what: String,
}

impl From<Unmatchable> for CompileError {
    fn from(error: Unmatchable) -> Self {
        CompileError::Unsupported(Unsupported {
            target: "ovs".to_string(),
            rule: "a compiled row".to_string(),
            table: error.table.name().to_string(),
            why: error.to_string(),
        })
    }
}

/// The flow of a compiled row.
pub fn row(
    owner: Owner,
    direction: Direction,
    row: &PolicyRow,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Result<Flow, Unmatchable> {
    let table = Table::policy(direction);
    let lacks = |what: String| Unmatchable { table, what };
    let matching = matching(owner, direction, row).map_err(lacks)?;
    let range = match owner {
        Owner::Every => FIXED,
        Owner::Class(_) => RULES,
        Owner::Overlay(_) => OVERLAYS,
    };
    let priority = range
        .level(row.priority)
        .ok_or_else(|| lacks(format!("priority {} is not among `{}`", row.priority, range.name)))?;
    Ok(match row.action {
        Verdict::Deny => writer.drop(table, priority, matching),
        Verdict::Allow => {
            let next = pipeline.number(remote::after(direction));
            writer.flow(table, priority, matching, then(Vec::new(), next))
        }
    })
}

/// The match of a compiled row, or what it asks for that OpenFlow cannot match.
fn matching(owner: Owner, direction: Direction, row: &PolicyRow) -> Result<Match, String> {
    let key = &row.key;
    let mut m = match owner {
        Owner::Every => Match::new(),
        Owner::Class(class) => Match::new().exact(regs::CLASS, u128::from(class.0)),
        Owner::Overlay(class) => Match::new().exact(regs::OVERLAY, u128::from(class.0)),
    };
    m = match key.frame {
        FrameMatch::Any => m,
        FrameMatch::Arp => m.exact(Field::EthType, 0x0806u128),
        FrameMatch::Ip(Family::V4) => m.exact(Field::EthType, 0x0800u128),
        FrameMatch::Ip(Family::V6) => m.exact(Field::EthType, 0x86ddu128),
        FrameMatch::EtherType(t) => m.exact(Field::EthType, u128::from(t)),
        FrameMatch::AnyIp => return Err("OpenFlow has no match for IP of either version".to_string()),
        FrameMatch::Unreadable => {
            return Err("OpenFlow has no match for a header that cannot be read".to_string());
        }
    };
    if let Some(protocol) = key.protocol {
        m = m.exact(Field::IpProto, u128::from(protocol));
    }
    if let Some(later) = key.later {
        m = m.masked(Field::IpFrag, if later { LATER } else { 0 }, LATER);
    }
    if let Some((value, mask)) = key.flags {
        m = m.masked(Field::TcpFlags, u128::from(value), u128::from(mask));
    }
    m = match key.remote {
        RemoteMatch::Any => m,
        RemoteMatch::Id(id) => m.exact(regs::REMOTE, u128::from(id)),
        RemoteMatch::Prefix(prefix) => remote::address(m, &prefix, direction == Direction::Ingress),
    };
    if let Some(local) = &key.local {
        m = remote::address(m, local, direction == Direction::Egress);
    }
    let asked = key.src != PortMatch::Any || key.dst != PortMatch::Any;
    match key.protocol.and_then(|p| port_fields(p, key.frame)) {
        Some((src, dst)) => port(port(m, src, key.src)?, dst, key.dst),
        None if asked => Err(format!(
            "OpenFlow has no ports for protocol {:?} of {:?}",
            key.protocol, key.frame
        )),
        None => Ok(m),
    }
}

fn port_fields(protocol: u8, frame: FrameMatch) -> Option<(Field, Field)> {
    Some(match (protocol, frame) {
        (Protocol::TCP, _) => (Field::TcpSrc, Field::TcpDst),
        (Protocol::UDP, _) => (Field::UdpSrc, Field::UdpDst),
        (Protocol::SCTP, _) => (Field::SctpSrc, Field::SctpDst),
        (Protocol::ICMP, FrameMatch::Ip(Family::V4)) => (Field::Icmpv4Type, Field::Icmpv4Code),
        (Protocol::ICMPV6, FrameMatch::Ip(Family::V6)) => (Field::Icmpv6Type, Field::Icmpv6Code),
        _ => return None,
    })
}

fn port(m: Match, field: Field, port: PortMatch) -> Result<Match, String> {
    Ok(match port {
        PortMatch::Any => m,
        PortMatch::Masked {
            value,
            mask: u16::MAX,
        } => m.exact(field, u128::from(value)),
        PortMatch::Masked { value, mask } => m.masked(field, u128::from(value), u128::from(mask)),
        // The `ovs` model says that its table has neither; a row that has one is a fault of the compiler.
        PortMatch::Range { low, high } => {
            return Err(format!("OpenFlow has no match for the range {low}-{high}"));
        }
        PortMatch::Code { .. } => return Err("OpenFlow has no match for a port code".to_string()),
    })
}

#[cfg(test)]
mod tests {
    use portcullis_compiler::{RowCache, RowKey, StageModel};

    use super::*;
    use crate::config::FinalAction;

    const PIPELINE: Pipeline = Pipeline {
        first: 0,
        tag: 1,
        last: FinalAction::Normal,
        opaque: &[],
    };

    fn try_row(change: impl Fn(&mut PolicyRow)) -> Result<Flow, Unmatchable> {
        let mut compiled = RowCache::new(StageModel::ovs()).fixed()[0];
        compiled.key = RowKey {
            frame: FrameMatch::Ip(Family::V4),
            protocol: Some(Protocol::TCP),
            ..RowKey::ANY
        };
        compiled.action = Verdict::Deny;
        change(&mut compiled);
        row(
            Owner::Every,
            Direction::Egress,
            &compiled,
            &PIPELINE,
            &Writer { generation: 1 },
        )
    }

    #[test]
    fn what_cannot_be_matched_is_an_error_and_no_narrower_or_wider_row() {
        type Change = fn(&mut PolicyRow);
        let changes: [(&str, Change); 6] = [
            ("the range 25-465", |r| {
                r.key.dst = PortMatch::Range { low: 25, high: 465 }
            }),
            ("a port code", |r| {
                r.key.src = PortMatch::Code { value: 1, mask: 1 }
            }),
            ("cannot be read", |r| r.key.frame = FrameMatch::Unreadable),
            ("IP of either version", |r| r.key.frame = FrameMatch::AnyIp),
            ("no ports for protocol Some(47)", |r| {
                r.key.protocol = Some(47);
                r.key.dst = PortMatch::Masked {
                    value: 25,
                    mask: 0xffff,
                };
            }),
            ("priority 65536", |r| r.priority = 65_536),
        ];
        for (what, change) in changes {
            let error = try_row(change).unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
            let CompileError::Unsupported(told) = CompileError::from(error) else {
                panic!("it is told as what the target cannot do")
            };
            assert_eq!(told.table, "egress_policy");
        }
        assert!(try_row(|_| {}).is_ok());
    }
}
