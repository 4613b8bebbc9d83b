//! `learn`: whether the switch learns the source MAC of a frame, and for which row of `l2`.
//!
//! A frame from a server port is sent here with its source looked up in `l2` as if it were the destination: `out` holds the port that has
//! the MAC, or 0. So a MAC that another port has, an uplink among them, is not learned. What is learned is known with
//! its VLAN, ages, and is counted per port. It goes with the row that teaches it, which goes with the port.

use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, Bits, Field, Instruction, Learn, LearnSpec, Match};
use portcullis_policy::MacAddr;

use super::{Contract, Effect, Forwarding, Level, Miss, Pipeline, Priority, Table, l2};
use crate::flow::{Flow, Writer};
use crate::ports::{ManagedPort, SwitchPort};
use crate::regs;

/// Seconds after the last frame from a MAC at which it is forgotten, as with `mac-aging-time`.
pub const MAC_AGE: u16 = 300;
/// MACs that one uplink teaches at most.
pub const UPLINK_MACS: u32 = 4096;

/// Contract of `learn`, which decides what the switch learns; frames pass it on the side.
pub const TABLE: Contract = Contract {
    name: "learn",
    does: "whether the switch learns the source; frames pass on the side",
    layer: Layer::Dispatch,
    keys: &[Field::InPort, Field::EthSrc, regs::OUT, regs::SENDER],
    priorities: &[OWN, WITHHELD, FREE],
    effects: &[Effect::Drop, Effect::Learn(Table::L2)],
    miss: Miss::Drop,
    is_counted: false,
};

const OWN: Priority = Priority::new(
    "own",
    40,
    "a MAC that this port declares: learned if other ports declare it too; and a shared MAC at an uplink",
);
const WITHHELD: Priority = Priority::new("withheld", 30, "a MAC that is learned from no server port");
const FREE: Priority = Priority::new(
    "free",
    20,
    "a MAC that nothing has, or that this port or another one of its attachment has; any MAC of an uplink",
);

fn learn(priority: Priority, cookie: u64, limit: u32, pipeline: &Pipeline) -> Action {
    Action::Learn(Box::new(Learn {
        idle_timeout: 0,
        hard_timeout: MAC_AGE,
        priority: Level::from(priority).number(),
        cookie,
        flags: Learn::DELETE_LEARNED,
        table_id: pipeline.number(Table::L2),
        fin_idle: 0,
        fin_hard: 0,
        limit,
        specs: vec![
            LearnSpec::MatchField {
                src: Bits::from_field(regs::VLAN),
                dst: Bits::from_field(regs::VLAN),
                n_bits: 32,
            },
            LearnSpec::MatchField {
                src: Bits::from_field(Field::EthSrc),
                dst: Bits::from_field(Field::EthDst),
                n_bits: 48,
            },
            LearnSpec::LoadField {
                src: Bits::from_field(Field::InPort16),
                dst: Bits::from_field(regs::OUT),
                n_bits: 16,
            },
        ],
    }))
}

fn teaching(priority: Priority, matching: Match, action: Action, writer: &Writer) -> Flow {
    let actions = vec![Instruction::ApplyActions(vec![action])];
    writer.flow(Table::Learn, priority, matching, actions)
}

/// The row of an uplink: a frame from it teaches, whatever was known of its source. Declared MACs stand above it.
pub fn uplink(port: &SwitchPort, pipeline: &Pipeline, writer: &Writer) -> Option<Flow> {
    let from = Match::new().exact(Field::InPort, u128::from(port.number));
    let cookie = regs::learned_cookie(pipeline.tag, port.number);
    let action = learn(l2::UPLINK, cookie, UPLINK_MACS, pipeline);
    port.up.then(|| teaching(FREE, from, action, writer))
}

/// The row of a MAC that endpoints share: another host may have it now, behind an uplink.
pub fn shared(mac: MacAddr, pipeline: &Pipeline, writer: &Writer) -> Flow {
    let matching = Match::new()
        .exact(Field::EthSrc, u128::from(mac.to_u64()))
        .masked(regs::SENDER, 0u128, regs::POLICED);
    let cookie = regs::roaming_cookie(pipeline.tag, 0);
    teaching(OWN, matching, learn(l2::ROAMING, cookie, 0, pipeline), writer)
}

/// Sends a frame from an uplink here.
pub(crate) fn ask_of_uplink(pipeline: &Pipeline) -> Action {
    Action::resubmit(pipeline.number(Table::Learn))
}

/// Sends a frame from a server port here. Nothing that happens to it stays with it.
pub(crate) fn ask(pipeline: &Pipeline) -> Action {
    Action::Clone(vec![
        Action::Move {
            src: Bits::from_field(Field::EthSrc),
            dst: Bits::from_field(Field::EthDst),
            n_bits: 48,
        },
        Action::resubmit(pipeline.number(Table::L2)),
        Action::resubmit(pipeline.number(Table::Learn)),
    ])
}

/// The rows of one server port.
pub fn rows(
    port: &SwitchPort,
    policed: &ManagedPort,
    forwarding: Forwarding,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Vec<Flow> {
    let from = Match::new().exact(Field::InPort, u128::from(port.number));
    let by = |mac: &MacAddr| from.clone().exact(Field::EthSrc, u128::from(mac.to_u64()));
    let mut rows = Vec::new();
    if !port.up {
        return rows;
    }
    for mac in &policed.roaming {
        let cookie = regs::roaming_cookie(pipeline.tag, port.number);
        let action = learn(l2::ROAMING, cookie, 0, pipeline);
        rows.push(teaching(OWN, by(mac), action, writer));
    }
    // To the switch, a limit of 0 is none.
    if policed.learns() && forwarding.learned > 0 {
        let own = policed.macs.iter().filter(|mac| !policed.roaming.contains(mac));
        rows.extend(own.map(|mac| writer.drop(Table::Learn, OWN, by(mac))));
        let cookie = regs::learned_cookie(pipeline.tag, port.number);
        let siblings = policed.siblings.iter().map(|number| regs::out(*number));
        for known in [0, regs::out(port.number)].into_iter().chain(siblings) {
            let action = learn(l2::LEARNED, cookie, forwarding.learned, pipeline);
            let matching = from.clone().exact(regs::OUT, known);
            rows.push(teaching(FREE, matching, action, writer));
        }
    }
    rows
}

/// The row of a MAC that is not learned from any server port: a reserved one, or one that an endpoint declares which
/// has no port here.
pub fn withheld(mac: MacAddr, writer: &Writer) -> Flow {
    let matching = Match::new()
        .exact(Field::EthSrc, u128::from(mac.to_u64()))
        .masked(regs::SENDER, regs::POLICED, regs::POLICED);
    writer.drop(Table::Learn, WITHHELD, matching)
}
