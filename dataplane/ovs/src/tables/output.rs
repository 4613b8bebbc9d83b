//! `output`: the frame as the port has it, tagged or not, and out. Only VLANs the port is in.
//!
//! A port without tags is sent none: the tag of its VLAN is removed, and what has another behind it goes no further.

use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, Bits, Field, Instruction, Match};

use super::attach::TAGGED;
use super::{Contract, Effect, Miss, Pipeline, Priority, Table};
use crate::flow::{Flow, Writer};
use crate::ports::{SwitchPort, Vlans};
use crate::regs;

/// Contract of `output`, which gives frames the tag of their port and sends them.
pub const TABLE: Contract = Contract {
    name: "output",
    does: "tag as the port has it, then output",
    layer: Layer::Dispatch,
    keys: &[regs::OUT, regs::VLAN, Field::VlanVid, Field::EthType],
    priorities: &[HIDDEN_TAG, BY_VLAN, ANY_VLAN, ANY_VLAN_UNTAGGED],
    effects: &[
        Effect::Drop,
        Effect::PopVlan,
        Effect::Set(regs::VLAN),
        Effect::Resubmit(Table::Output),
        Effect::PushVlan,
        Effect::Set(Field::VlanVid),
        Effect::Output,
    ],
    miss: Miss::Drop,
    is_counted: false,
};

const HIDDEN_TAG: Priority = Priority::new(
    "hidden-tag",
    30,
    "a tag that the switch does not parse, behind the one it removed: dropped",
);
const BY_VLAN: Priority = Priority::new("by-vlan", 20, "frames to a port, in one of its VLANs");
const ANY_VLAN: Priority = Priority::new("any-vlan", 10, "tagged frames to a port that carries every VLAN");
const ANY_VLAN_UNTAGGED: Priority = Priority::new(
    "any-vlan-untagged",
    5,
    "other frames to a port that carries every VLAN: a tag is added",
);
const ETHERTYPE_VLAN: u16 = 0x8100;
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

fn out(
    port: &SwitchPort,
    priority: Priority,
    matching: Match,
    mut actions: Vec<Action>,
    writer: &Writer,
) -> Flow {
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

fn untagged(port: &SwitchPort, priority: Priority, matching: Match, writer: &Writer, rows: &mut Vec<Flow>) {
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

fn tagged(port: &SwitchPort, priority: Priority, matching: Match, writer: &Writer, rows: &mut Vec<Flow>) {
    rows.push(out(port, priority, has_tag(&matching), Vec::new(), writer));
    rows.push(out(port, priority, no_tag(&matching), push_tag(), writer));
}
