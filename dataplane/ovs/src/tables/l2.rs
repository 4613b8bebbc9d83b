//! `l2`: destination MAC and VLAN → output port. Which row wins: a MAC that several ports declare, at the port that
//! used it last; a declared MAC; a MAC seen on an uplink; a MAC seen on a server port.

use portcullis_openflow::{Action, Field, Instruction, Match};
use portcullis_policy::MacAddr;

use super::Table;
use crate::flow::{Flow, Writer};
use crate::ports::SwitchPort;
use crate::regs;

/// Learned: a MAC that several ports declare.
pub(crate) const ROAMING: u16 = 12;
/// A declared MAC in a VLAN of its port.
const DECLARED: u16 = 10;
/// A declared MAC of a port that carries every VLAN, or many.
const DECLARED_ANY: u16 = 9;
/// Learned: a MAC seen on an uplink.
pub(crate) const UPLINK: u16 = 7;
/// Learned: a MAC seen on a server port.
pub(crate) const LEARNED: u16 = 5;

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
    let row = |priority, matching| {
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
