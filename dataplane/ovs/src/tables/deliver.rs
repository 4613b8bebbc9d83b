//! `deliver`: output port → the receiver's class. This row, or the stack of them, alone moves a receiver to
//! another class.

use portcullis_openflow::{Action, Match};

use super::{Pipeline, Table};
use crate::expiry::Rung;
use crate::flow::{Flow, Writer, then};
use crate::regs;

/// The lowest row of a port's stack; the others are above it.
const KNOWN: u16 = 100;
const NOT_OURS: u16 = 1;

/// No policed port has this MAC: the final action takes it.
pub fn frame(pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    vec![writer.flow(
        Table::Deliver,
        NOT_OURS,
        Match::new().exact(regs::OUT, 0u128),
        pipeline.finish(),
    )]
}

/// One row of a policed port's stack.
pub fn row(port: u32, rung: Rung, pipeline: &Pipeline, writer: &Writer) -> Flow {
    let matching = Match::new().exact(regs::OUT, u128::from(port));
    let actions = vec![
        Action::set(regs::CLASS, u128::from(rung.class.0)),
        Action::set(regs::REMOTE, 0u128),
    ];
    let row = writer.flow(
        Table::Deliver,
        KNOWN + rung.rank,
        matching,
        then(actions, pipeline.number(Table::IngressRemote)),
    );
    writer.until(row, rung.until)
}
