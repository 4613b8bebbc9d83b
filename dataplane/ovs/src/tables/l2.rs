//! `l2`: destination MAC → output port, for policed ports. Declared MACs win over learned ones.

use portcullis_openflow::{Action, Field, Instruction, Match};
use portcullis_policy::MacAddr;

use super::Table;
use crate::flow::{Flow, Writer};
use crate::regs;

/// Priority of declared MACs.
const DECLARED: u16 = 10;
/// Priority of the rows that `attach` lets the switch learn.
pub(crate) const LEARNED: u16 = 5;

/// The row of one declared MAC.
pub fn row(mac: MacAddr, port: u32, writer: &Writer) -> Flow {
    let matching = Match::new().exact(Field::EthDst, u128::from(mac.to_u64()));
    let note = Instruction::ApplyActions(vec![Action::set(regs::OUT, u128::from(port))]);
    writer.flow(Table::L2, DECLARED, matching, vec![note])
}
