//! `l2`: destination MAC and VLAN → output port. Which row wins: a MAC that several ports declare, at the port that
//! used it last; a declared MAC; a MAC seen on an uplink; a MAC seen on a server port.

use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, Field, Instruction, Match};
use portcullis_policy::MacAddr;

use super::{Contract, Effect, Miss, Priority, Table};
use crate::flow::{Flow, Writer};
use crate::ports::SwitchPort;
use crate::regs;

/// The table's contract. Rows that the switch learns keep to it, too.
pub const TABLE: Contract = Contract {
    name: "l2",
    does: "output port of a declared or learned MAC",
    layer: Layer::Dispatch,
    keys: &[regs::VLAN, Field::EthDst],
    priorities: &[ROAMING, DECLARED, DECLARED_ANY, UPLINK, LEARNED],
    effects: &[Effect::Set(regs::OUT)],
    miss: Miss::Return,
    is_counted: false,
};

pub(crate) const ROAMING: Priority = Priority::new(
    "roaming",
    12,
    "learned: a MAC that several ports declare, at the port that used it last",
);
const DECLARED: Priority = Priority::new("declared", 10, "a declared MAC in a VLAN of its port");
const DECLARED_ANY: Priority = Priority::new(
    "declared-any",
    9,
    "a declared MAC of a port that carries many VLANs or every one",
);
pub(crate) const UPLINK: Priority = Priority::new("uplink", 7, "learned: a MAC seen on an uplink");
pub(crate) const LEARNED: Priority = Priority::new("learned", 5, "learned: a MAC seen on a server port");

/// A port in more VLANs has rows for all VLANs: one for each would be too many.
const FEW_VLANS: usize = 16;

/// The VLANs that a port's declared MACs are known in; `None` for every one.
pub(crate) fn vlans(port: &SwitchPort) -> Option<Vec<u16>> {
    port.vlans.members().filter(|vids| vids.len() <= FEW_VLANS)
}

/// The rows of one declared MAC.
pub fn rows(mac: MacAddr, port: &SwitchPort, writer: &Writer) -> Vec<Flow> {
    let matching = Match::new().exact(Field::EthDst, u128::from(mac.to_u64()));
    let out = Action::set(regs::OUT, regs::out(port.number));
    let row = |priority: Priority, matching| {
        writer.flow(
            Table::L2,
            priority,
            matching,
            vec![Instruction::ApplyActions(vec![out.clone()])],
        )
    };
    match vlans(port) {
        None => vec![row(DECLARED_ANY, matching)],
        Some(vids) => {
            let of = |vid: u16| matching.clone().exact(regs::VLAN, u128::from(vid));
            vids.into_iter().map(|vid| row(DECLARED, of(vid))).collect()
        }
    }
}
