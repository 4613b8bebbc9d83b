//! `forward`: a frame for one receiver, or for many.

use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, Field, Instruction, Match};

use super::{Contract, Effect, Exit, Forwarding, Miss, Pipeline, Priority, Table};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// Bit of a MAC that says "group address" (IEEE 802).
const GROUP: u128 = 0x0100_0000_0000;
/// Groups that no bridge forwards (IEEE 802.1D, 7.12.6; Cisco's likewise), unless the bridge's `forward-bpdu` says so, and
/// then to uplinks only. From server ports `guard` drops them.
pub(crate) const RESERVED_GROUPS: [(u128, u128); 2] = [
    (0x0180_c200_0000, 0xffff_ffff_fff0),
    (0x0100_0ccc_cccc, 0xffff_ffff_fffe),
];

/// Contract of `forward`, which tells frames for one receiver from frames for many.
pub const TABLE: Contract = Contract {
    name: "forward",
    does: "one receiver or many; drops unicast IP in group frames of servers",
    layer: Layer::Dispatch,
    keys: &[
        Field::EthDst,
        Field::EthType,
        Field::Ipv4Dst,
        Field::Ipv6Dst,
        regs::SENDER,
    ],
    priorities: &[
        RESERVED,
        TO_MANY,
        UNICAST_INSIDE,
        UNICAST_INSIDE_POLICED,
        GROUP_OTHER,
        TO_ONE,
    ],
    effects: &[
        Effect::Drop,
        Effect::Resubmit(Table::L2),
        Effect::Resubmit(Table::Flood),
        Effect::Goto(Table::Deliver),
    ],
    miss: Miss::Row(TO_ONE),
    is_counted: false,
};

const RESERVED: Priority = Priority::new(
    "reserved",
    210,
    "groups that no bridge forwards: dropped, or to uplinks with the bridge's `forward-bpdu`",
);
const TO_MANY: Priority = Priority::new("to-many", 200, "IP to a group address in a group frame");
const UNICAST_INSIDE: Priority = Priority::new(
    "unicast-inside",
    150,
    "other IP in a group frame of an uplink: to uplinks, not to servers",
);
const UNICAST_INSIDE_POLICED: Priority = Priority::new(
    "unicast-inside-server",
    140,
    "other IP in a group frame of a server: dropped",
);
const GROUP_OTHER: Priority = Priority::new("group-other", 100, "other group frames");
const TO_ONE: Priority = Priority::new("to-one", 1, "every other frame: its receiver by `l2`");

/// The rows of this table.
pub fn rows(forwarding: Forwarding, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let group = || Match::new().masked(Field::EthDst, GROUP, GROUP);
    let v4 = || group().exact(Field::EthType, 0x0800u128);
    let v6 = || group().exact(Field::EthType, 0x86ddu128);
    let from_uplink = |m: Match| m.masked(regs::SENDER, 0u128, regs::POLICED);
    let table = Table::Forward;
    let deliver = pipeline.number(Table::Deliver);
    let flood = Action::resubmit(pipeline.number(Table::Flood));
    // Uplinks are among the receivers, or what ends the pipeline sees to them.
    let many = || match forwarding.exit {
        Exit::Uplinks => vec![Instruction::ApplyActions(vec![flood.clone()])],
        Exit::Normal | Exit::Table(_) => then(vec![flood.clone()], deliver),
    };
    // No port is known for it, so that it goes to uplinks.
    let uplinks = || then(Vec::new(), deliver);
    let to_one = then(vec![Action::resubmit(pipeline.number(Table::L2))], deliver);
    let reserved = RESERVED_GROUPS.map(|(group, mask)| {
        let matching = Match::new().masked(Field::EthDst, group, mask);
        match forwarding.exit {
            Exit::Uplinks if !forwarding.link_control => writer.drop(table, RESERVED, matching),
            _ => writer.flow(table, RESERVED, matching, uplinks()),
        }
    });
    let others = vec![
        writer.flow(
            table,
            TO_MANY,
            v4().masked(Field::Ipv4Dst, 0xe000_0000u128, 0xf000_0000u128),
            many(),
        ),
        writer.flow(
            table,
            TO_MANY,
            v4().exact(Field::Ipv4Dst, 0xffff_ffffu128),
            many(),
        ),
        writer.flow(
            table,
            TO_MANY,
            v6().masked(Field::Ipv6Dst, 0xffu128 << 120, 0xffu128 << 120),
            many(),
        ),
        writer.flow(table, UNICAST_INSIDE, from_uplink(v4()), uplinks()),
        writer.flow(table, UNICAST_INSIDE, from_uplink(v6()), uplinks()),
        writer.drop(table, UNICAST_INSIDE_POLICED, v4()),
        writer.drop(table, UNICAST_INSIDE_POLICED, v6()),
        writer.flow(table, GROUP_OTHER, group(), many()),
        writer.flow(table, TO_ONE, Match::new(), to_one),
    ];
    reserved.into_iter().chain(others).collect()
}
