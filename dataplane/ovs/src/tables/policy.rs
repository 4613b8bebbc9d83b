//! `egress_policy`, `ingress_policy`: the compiled rows of a class, and those that hold for every class.

use portcullis_compiler::{ClassId, FrameMatch, PolicyRow, PortMatch, RemoteMatch};
use portcullis_openflow::{Field, Match};
use portcullis_policy::{Action, Direction, Family, Protocol};

use super::{Pipeline, Table, remote};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// Bit of `ip_frag` that says "not the first fragment" (NXM_NX_IP_FRAG).
const LATER: u128 = 0x2;

/// The flow of a compiled row; `None` for the class stands for every class that may deny something.
pub fn row(
    class: Option<ClassId>,
    direction: Direction,
    row: &PolicyRow,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Flow {
    let matching = matching(class, direction, row);
    let table = Table::policy(direction);
    // The model's `priority_max` is the highest that OpenFlow has.
    let priority = u16::try_from(row.priority).unwrap_or(u16::MAX);
    match row.action {
        Action::Deny => writer.drop(table, priority, matching),
        Action::Allow => {
            let next = pipeline.number(remote::after(direction));
            writer.flow(table, priority, matching, then(Vec::new(), next))
        }
    }
}

/// The match of a compiled row.
pub fn matching(class: Option<ClassId>, direction: Direction, row: &PolicyRow) -> Match {
    let key = &row.key;
    let mut m = Match::new();
    if let Some(class) = class {
        m = m.exact(regs::CLASS, u128::from(class.0));
    }
    m = match key.frame {
        FrameMatch::Any => m,
        FrameMatch::Arp => m.exact(Field::EthType, 0x0806u128),
        FrameMatch::Ip(Family::V4) => m.exact(Field::EthType, 0x0800u128),
        FrameMatch::Ip(Family::V6) => m.exact(Field::EthType, 0x86ddu128),
        FrameMatch::EtherType(t) => m.exact(Field::EthType, u128::from(t)),
        // The `ovs` model's parser has no such mark and the encoder makes no such row for it: one that is met by nothing.
        FrameMatch::Unreadable => m.exact(Field::EthType, 0x0600u128),
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
    if let Some((src, dst)) = key.protocol.and_then(|p| port_fields(p, key.frame)) {
        m = port(m, src, key.src);
        m = port(m, dst, key.dst);
    }
    m
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

fn port(m: Match, field: Field, port: PortMatch) -> Match {
    match port {
        PortMatch::Any => m,
        PortMatch::Masked {
            value,
            mask: u16::MAX,
        } => m.exact(field, u128::from(value)),
        PortMatch::Masked { value, mask } => m.masked(field, u128::from(value), u128::from(mask)),
        // The `ovs` model has masked ports and no code stage: the encoder makes neither for it. What is written here
        // matches less, never more.
        PortMatch::Range { low, .. } => m.exact(field, u128::from(low)),
        PortMatch::Code { .. } => m.exact(field, 0u128),
    }
}
