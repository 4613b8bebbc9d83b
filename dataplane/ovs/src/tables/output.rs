//! `output`: the frame as the port has it, tagged or not, and out. Only VLANs the port is in.
//!
//! A port without tags is sent none: the tag of its VLAN is removed, and what has another behind it goes no further.

use portcullis_openflow::{Action, Bits, Field, Instruction, Match};

use super::attach::TAGGED;
use super::{Pipeline, Table};
use crate::flow::{Flow, Writer};
use crate::ports::{SwitchPort, Vlans};
use crate::regs;

const BY_VLAN: u16 = 20;
const ANY_VLAN: u16 = 10;
const ANY_VLAN_UNTAGGED: u16 = 5;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// A tag that the switch does not parse, behind the one it removed.
const HIDDEN_TAG: u16 = 30;
/// Stands in the VLAN register of a frame whose tag was removed.
const REMOVED: u16 = 4097;

/// The rows that are there whatever the ports.
pub fn frame(writer: &Writer) -> Vec<Flow> {
    let removed = || Match::new().exact(regs::VLAN, u128::from(REMOVED));
    let hidden = super::TAG_TYPES.map(|kind| {
        let matching = removed().exact(Field::EthType, u128::from(kind));
        writer.drop(Table::Output, HIDDEN_TAG, matching)
    });
    hidden.to_vec()
}

/// The rows of one port.
pub fn rows(port: &SwitchPort, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let to = Match::new().exact(regs::OUT, regs::out(port.number));
    let in_vlan = |vid: u16| to.clone().exact(regs::VLAN, u128::from(vid));
    let mut rows = Vec::new();
    let native = port.vlans.native();
    match &port.vlans {
        Vlans::Access(vid) => {
            let remove = vec![
                Action::PopVlan,
                Action::set(regs::VLAN, u128::from(REMOVED)),
                Action::resubmit(pipeline.number(Table::Output)),
            ];
            let list = vec![Instruction::ApplyActions(remove)];
            rows.push(writer.flow(Table::Output, BY_VLAN, has_tag(&in_vlan(*vid)), list));
            for vid in [*vid, REMOVED] {
                rows.push(out(port, BY_VLAN, no_tag(&in_vlan(vid)), Vec::new(), writer));
            }
        }
        Vlans::Trunk {
            native_tagged, only, ..
        } => {
            if !port.vlans.takes_untagged() {
                // No native VLAN at all.
            } else if native != 0 && *native_tagged {
                tagged(port, BY_VLAN, in_vlan(native), writer, &mut rows);
            } else {
                untagged_native(port, in_vlan(native), native, writer, &mut rows);
            }
            match only {
                None => {
                    let has_tag = to.clone().masked(Field::VlanVid, TAGGED, TAGGED);
                    rows.push(out(port, ANY_VLAN, has_tag, Vec::new(), writer));
                    rows.push(out(port, ANY_VLAN_UNTAGGED, to, push_tag(), writer));
                }
                Some(vids) => {
                    for vid in vids.iter().filter(|v| **v != 0 && **v != native) {
                        tagged(port, BY_VLAN, in_vlan(*vid), writer, &mut rows);
                    }
                }
            }
        }
    }
    rows
}

fn out(port: &SwitchPort, priority: u16, matching: Match, mut actions: Vec<Action>, writer: &Writer) -> Flow {
    actions.push(Action::output(port.number));
    writer.flow(
        Table::Output,
        priority,
        matching,
        vec![Instruction::ApplyActions(actions)],
    )
}

pub(crate) fn push_tag() -> Vec<Action> {
    let note = Action::Move {
        src: Bits::from_field(regs::VLAN),
        dst: Bits::from_field(Field::VlanVid),
        n_bits: 12,
    };
    vec![Action::PushVlan(ETHERTYPE_VLAN), note]
}

fn has_tag(m: &Match) -> Match {
    m.clone().masked(Field::VlanVid, TAGGED, TAGGED)
}

fn no_tag(m: &Match) -> Match {
    m.clone().exact(Field::VlanVid, 0u128)
}

fn untagged(port: &SwitchPort, priority: u16, matching: Match, writer: &Writer, rows: &mut Vec<Flow>) {
    rows.push(out(
        port,
        priority,
        has_tag(&matching),
        vec![Action::PopVlan],
        writer,
    ));
    rows.push(out(port, priority, no_tag(&matching), Vec::new(), writer));
}

/// The native VLAN leaves without its tag; a frame of no VLAN keeps a priority tag if it has one.
fn untagged_native(port: &SwitchPort, matching: Match, native: u16, writer: &Writer, rows: &mut Vec<Flow>) {
    if native == 0 {
        rows.push(out(port, BY_VLAN, matching, Vec::new(), writer));
    } else {
        untagged(port, BY_VLAN, matching, writer, rows);
    }
}

fn tagged(port: &SwitchPort, priority: u16, matching: Match, writer: &Writer, rows: &mut Vec<Flow>) {
    rows.push(out(port, priority, has_tag(&matching), Vec::new(), writer));
    rows.push(out(port, priority, no_tag(&matching), push_tag(), writer));
}
