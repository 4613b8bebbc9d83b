//! `forward`: a frame for one receiver, or for many.

use portcullis_openflow::{Action, Field, Instruction, Match};

use super::{Pipeline, Table};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// Bit of a MAC that says "group address" (IEEE 802).
const GROUP: u128 = 0x0100_0000_0000;
/// Groups that no bridge forwards (IEEE 802.1D, 7.12.6; Cisco's likewise): NORMAL knows what to do.
const RESERVED: u16 = 210;
const RESERVED_GROUPS: [(u128, u128); 2] = [
    (0x0180_c200_0000, 0xffff_ffff_fff0),
    (0x0100_0ccc_cccc, 0xffff_ffff_fffe),
];
/// Group frames with a group address, or without IP.
const TO_MANY: u16 = 200;
/// Group frames with a unicast address, from a sender that is not policed: not for endpoints.
const UNICAST_INSIDE: u16 = 150;
const UNICAST_INSIDE_POLICED: u16 = 140;
const GROUP_OTHER: u16 = 100;
const TO_ONE: u16 = 1;

/// The rows of this table; they never change.
pub fn rows(pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let group = || Match::new().masked(Field::EthDst, GROUP, GROUP);
    let v4 = || group().exact(Field::EthType, 0x0800u128);
    let v6 = || group().exact(Field::EthType, 0x86ddu128);
    let unpoliced = |m: Match| m.exact(regs::POLICED, 0u128);
    let table = Table::Forward;
    let many = || {
        let mut list = pipeline.finish();
        let flood = Action::resubmit(pipeline.number(Table::Flood));
        match list.first_mut() {
            Some(Instruction::ApplyActions(actions)) => actions.insert(0, flood),
            _ => list.insert(0, Instruction::ApplyActions(vec![flood])),
        }
        list
    };
    let to_one = then(
        vec![Action::resubmit(pipeline.number(Table::L2))],
        pipeline.number(Table::Deliver),
    );
    let reserved = RESERVED_GROUPS.map(|(group, mask)| {
        writer.flow(
            table,
            RESERVED,
            Match::new().masked(Field::EthDst, group, mask),
            pipeline.finish(),
        )
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
        writer.flow(table, UNICAST_INSIDE, unpoliced(v4()), pipeline.finish()),
        writer.flow(table, UNICAST_INSIDE, unpoliced(v6()), pipeline.finish()),
        writer.drop(table, UNICAST_INSIDE_POLICED, v4()),
        writer.drop(table, UNICAST_INSIDE_POLICED, v6()),
        writer.flow(table, GROUP_OTHER, group(), many()),
        writer.flow(table, TO_ONE, Match::new(), to_one),
    ];
    reserved.into_iter().chain(others).collect()
}
