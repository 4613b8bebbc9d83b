//! `deliver`: output port → the receiver's class. This row alone moves a receiver to another class.

use portcullis_compiler::ClassId;
use portcullis_openflow::{Action, Match};

use super::{Pipeline, Table};
use crate::flow::{Flow, Writer, then};
use crate::regs;

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

/// The row of one policed port.
pub fn row(port: u32, ingress: ClassId, pipeline: &Pipeline, writer: &Writer) -> Flow {
    let matching = Match::new().exact(regs::OUT, u128::from(port));
    let actions = vec![
        Action::set(regs::CLASS, u128::from(ingress.0)),
        Action::set(regs::REMOTE, 0u128),
    ];
    writer.flow(
        Table::Deliver,
        KNOWN,
        matching,
        then(actions, pipeline.number(Table::IngressRemote)),
    )
}
