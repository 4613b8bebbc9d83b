//! `egress_remote`, `ingress_remote`: class and the other side's address → remote id, longest prefix first.

use ipnet::IpNet;
use portcullis_backend::delta::Layer;
use portcullis_compiler::{ClassId, RemoteRow};
use portcullis_openflow::{Action, Field, Match};
use portcullis_policy::Direction;

use super::{Contract, Effect, Miss, Pipeline, Priority, Table};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// The contract of the sender's stage.
pub const EGRESS: Contract = Contract {
    name: "egress_remote",
    does: "remote id by longest prefix",
    layer: Layer::Policy,
    keys: &[regs::CLASS, Field::EthType, Field::Ipv4Dst, Field::Ipv6Dst],
    priorities: &[OPEN, PREFIX, ELSEWHERE],
    effects: &[
        Effect::Set(regs::REMOTE),
        Effect::Goto(Table::EgressPolicy),
        Effect::Goto(after(Direction::Egress)),
    ],
    miss: Miss::Row(ELSEWHERE),
    is_counted: false,
};

/// The contract of the receiver's stage.
pub const INGRESS: Contract = Contract {
    name: "ingress_remote",
    keys: &[regs::CLASS, Field::EthType, Field::Ipv4Src, Field::Ipv6Src],
    effects: &[
        Effect::Set(regs::REMOTE),
        Effect::Goto(Table::IngressPolicy),
        Effect::Goto(after(Direction::Ingress)),
    ],
    ..EGRESS
};

const OPEN: Priority = Priority::new(
    "open",
    1000,
    "class 0, to which nothing is denied: skips the policy",
);
const PREFIX: Priority = Priority::range(
    "prefix",
    100,
    228,
    "a prefix that a rule of the class names: 100 plus its length",
);
const ELSEWHERE: Priority = Priority::new("elsewhere", 1, "addresses that no rule of the class names");

/// Where a packet goes that a direction's policy lets pass.
pub(crate) const fn after(direction: Direction) -> Table {
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
    let priority = PREFIX.above(u16::from(row.prefix.prefix_len()));
    let note = vec![Action::set(regs::REMOTE, u128::from(row.id))];
    writer.flow(
        Table::remote(direction),
        priority,
        matching,
        then(note, pipeline.number(Table::policy(direction))),
    )
}
