//! `deliver`: output port → the receiver's class. This row, or the stack of them, alone moves a receiver to
//! another class. Uplinks are not policed: frames to them go out.

use portcullis_backend::Overlays;
use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, Field, Instruction, Match, port};

use super::attach::TAGGED;
use super::{Contract, Effect, Exit, Miss, Pipeline, Priority, Table, flood};
use crate::expiry::{RANKS, TimedRow};
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// Contract of `deliver`, which leads frames to the policy of their receiver.
pub const TABLE: Contract = Contract {
    name: "deliver",
    does: "receiver's class; what has no known port goes to uplinks",
    layer: Layer::Dispatch,
    keys: &[regs::OUT, regs::SENDER, regs::VLAN, Field::VlanVid],
    priorities: &[KNOWN, UNKNOWN_NO_VLAN, UNKNOWN_TAGGED, UNKNOWN_UNTAGGED, UNKNOWN],
    effects: &[
        Effect::Drop,
        Effect::Set(regs::CLASS),
        Effect::Set(regs::OVERLAY),
        Effect::Set(regs::REMOTE),
        Effect::Goto(Table::IngressRemote),
        Effect::Goto(Table::Output),
        Effect::Set(regs::FLOOD),
        Effect::Resubmit(Table::Flood),
        // Where NORMAL forwards to uplinks.
        Effect::Set(regs::OUT),
        Effect::Resubmit(Table::Deliver),
        Effect::PushVlan,
        Effect::Set(Field::VlanVid),
        Effect::Set(Field::InPort16),
        Effect::Normal,
        // Where a foreign pipeline does: it expects registers of zero.
        Effect::Set(regs::VLAN),
        Effect::Set(regs::SENDER),
        Effect::Foreign,
    ],
    miss: Miss::Drop,
    is_counted: false,
};

const KNOWN_LOWEST: u16 = 100;
const KNOWN: Priority = Priority::range(
    "known",
    KNOWN_LOWEST,
    KNOWN_LOWEST + RANKS,
    "frames to a known port; a port's timed rows stand above its permanent one",
);
const UNKNOWN_NO_VLAN: Priority = Priority::new(
    "unknown-no-vlan",
    4,
    "frames of servers to no known port, of no VLAN; only where NORMAL forwards to uplinks",
);
const UNKNOWN_TAGGED: Priority = Priority::new(
    "unknown-tagged",
    3,
    "the same, with a tag; only where NORMAL forwards to uplinks",
);
const UNKNOWN_UNTAGGED: Priority = Priority::new(
    "unknown-untagged",
    2,
    "the same, of a VLAN and without its tag; only where NORMAL forwards to uplinks",
);
const UNKNOWN: Priority = Priority::new("unknown", 1, "other frames to no known port");

/// Where a frame goes for which no port of the bridge is known.
pub fn frame(exit: Exit, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let unknown = || Match::new().exact(regs::OUT, 0u128);
    let row = |priority: Priority, matching, actions| {
        let list = vec![Instruction::ApplyActions(actions)];
        writer.flow(Table::Deliver, priority, matching, list)
    };
    match exit {
        Exit::Uplinks => vec![row(UNKNOWN, unknown(), flood::to_uplinks(pipeline))],
        Exit::Table(number) => vec![writer.flow(Table::Deliver, UNKNOWN, unknown(), foreign(number))],
        Exit::Normal => {
            let policed = || unknown().masked(regs::SENDER, regs::POLICED, regs::POLICED);
            let tagged = policed().masked(Field::VlanVid, TAGGED, TAGGED);
            let no_vlan = policed().exact(regs::VLAN, 0u128);
            let untagged = policed().exact(Field::VlanVid, 0u128);
            let mut push = super::output::push_tag();
            push.extend(from_nowhere());
            vec![
                row(UNKNOWN_NO_VLAN, no_vlan, from_nowhere()),
                row(UNKNOWN_TAGGED, tagged, from_nowhere()),
                row(UNKNOWN_UNTAGGED, untagged, push),
                row(UNKNOWN, unknown(), vec![Action::output(port::NORMAL)]),
            ]
        }
    }
}

/// NORMAL learns no MAC of a frame without an ingress port, and takes its VLAN from its tag: so it cannot learn the MAC
/// of a server, and deliver to it past the receiver's policy.
fn from_nowhere() -> Vec<Action> {
    vec![
        Action::set(Field::InPort16, u128::from(u16::MAX)),
        Action::output(port::NORMAL),
    ]
}

/// A foreign pipeline expects registers as a packet brings them: zero.
fn foreign(number: u8) -> Vec<Instruction> {
    let clear = regs::ALL.iter().map(|r| Action::set(r.field, 0u128)).collect();
    vec![Instruction::ApplyActions(clear), Instruction::GotoTable(number)]
}

/// One row of a policed port's stack.
pub fn row(
    port: u32,
    timed_row: TimedRow,
    overlays: &Overlays,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Flow {
    let matching = Match::new().exact(regs::OUT, regs::out(port));
    let lead = overlays.lead(timed_row.class);
    let mut actions: Vec<Action> = regs::lead(lead, false).collect();
    actions.push(Action::set(regs::REMOTE, 0u128));
    let row = writer.flow(
        Table::Deliver,
        KNOWN.above(timed_row.rank),
        matching,
        then(actions, pipeline.number(Table::IngressRemote)),
    );
    writer.until(row, timed_row.until)
}

/// The row of an uplink.
pub fn uplink(number: u32, exit: Exit, pipeline: &Pipeline, writer: &Writer) -> Flow {
    let matching = Match::new().exact(regs::OUT, regs::out(number));
    let list = match exit {
        Exit::Uplinks => then(Vec::new(), pipeline.number(Table::Output)),
        Exit::Table(number) => foreign(number),
        // By the rows for frames without a known port.
        Exit::Normal => vec![Instruction::ApplyActions(vec![
            Action::set(regs::OUT, 0u128),
            Action::resubmit(pipeline.number(Table::Deliver)),
        ])],
    };
    writer.flow(Table::Deliver, KNOWN, matching, list)
}
