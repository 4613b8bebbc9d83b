//! `egress_remote`, `ingress_remote`: class and the other side's address → remote id, longest prefix first.

use ipnet::IpNet;
use portcullis_compiler::{ClassId, RemoteRow};
use portcullis_openflow::{Action, Field, Match};
use portcullis_policy::Direction;

use super::{Pipeline, Table};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// The class that nothing is denied to skips the policy.
const OPEN: u16 = 1000;
/// Prefixes: base + length.
const BASE: u16 = 100;
/// Addresses that no rule names.
const ELSEWHERE: u16 = 1;

/// Where a packet goes that a direction's policy lets pass.
pub(crate) fn after(direction: Direction) -> Table {
    match direction {
        Direction::Egress => Table::Forward,
        Direction::Ingress => Table::Output,
    }
}

/// Rows that are always there.
pub fn frame(direction: Direction, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let table = Table::remote(direction);
    let open = Match::new().exact(regs::CLASS, 0u128);
    vec![
        writer.flow(
            table,
            OPEN,
            open,
            then(Vec::new(), pipeline.number(after(direction))),
        ),
        writer.flow(
            table,
            ELSEWHERE,
            Match::new(),
            then(Vec::new(), pipeline.number(Table::policy(direction))),
        ),
    ]
}

/// An address match on the other side's field, or on the endpoint's own.
pub(crate) fn address(matching: Match, net: &IpNet, is_source: bool) -> Match {
    let (field, kind, value, mask) = match net {
        IpNet::V4(n) => (
            if is_source { Field::Ipv4Src } else { Field::Ipv4Dst },
            0x0800u128,
            u128::from(u32::from(n.network())),
            u128::from(u32::from(n.netmask())),
        ),
        IpNet::V6(n) => (
            if is_source { Field::Ipv6Src } else { Field::Ipv6Dst },
            0x86ddu128,
            u128::from(n.network()),
            u128::from(n.netmask()),
        ),
    };
    let matching = matching.exact(Field::EthType, kind);
    if mask == 0 {
        matching
    } else {
        matching.masked(field, value, mask)
    }
}

/// The row of one prefix of a class.
pub fn row(
    class: ClassId,
    direction: Direction,
    row: &RemoteRow,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Flow {
    let matching = Match::new().exact(regs::CLASS, u128::from(class.0));
    let matching = address(matching, &row.prefix, direction == Direction::Ingress);
    let priority = BASE + u16::from(row.prefix.prefix_len());
    let note = vec![Action::set(regs::REMOTE, u128::from(row.id))];
    writer.flow(
        Table::remote(direction),
        priority,
        matching,
        then(note, pipeline.number(Table::policy(direction))),
    )
}
