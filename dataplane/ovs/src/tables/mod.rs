//! The pipeline: its tables in order, one file each.
//!
//! Docs of it are printed, not kept by hand: [`describe()`], `docs/ovs-pipeline.md`, and the test that compares.

pub mod attach;
mod contract;
pub mod control;
pub mod deliver;
mod describe;
pub mod flood;
pub mod forward;
pub mod guard;
pub mod l2;
pub mod learn;
pub mod output;
pub mod policy;
pub mod remote;

use portcullis_backend::Footprint;
use portcullis_backend::delta::Layer;
use portcullis_openflow::Match;
use portcullis_policy::Direction;

use crate::config::FinalAction;
use crate::flow::{Flow, Writer};

use contract::MISSED;
pub use contract::{Contract, Effect, Level, Miss, Priority};
pub use describe::describe;

macro_rules! pipeline {
    ($($table:ident = $contract:path,)*) => {
        /// A table of the pipeline. Its number is its place in the list, from the pipeline's first table on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the contract of each table says what it does")]
        #[repr(u8)]
        pub enum Table {
            $($table,)*
        }

        impl Table {
            const ALL: &'static [Table] = &[$(Table::$table,)*];

            /// What the table holds and does.
            pub fn contract(self) -> &'static Contract {
                match self {
                    $(Table::$table => &$contract,)*
                }
            }
        }
    };
}

// In the order in which frames meet the tables: `goto_table` leads only to higher numbers. `learn` is looked up on the side.
pipeline! {
    Attach = attach::TABLE,
    Guard = guard::TABLE,
    EgressRemote = remote::EGRESS,
    EgressPolicy = policy::EGRESS,
    Forward = forward::TABLE,
    L2 = l2::TABLE,
    Flood = flood::TABLE,
    Deliver = deliver::TABLE,
    IngressRemote = remote::INGRESS,
    IngressPolicy = policy::INGRESS,
    Output = output::TABLE,
    Learn = learn::TABLE,
}

impl Table {
    /// Every table in pipeline order.
    pub fn all() -> impl Iterator<Item = Table> {
        Self::ALL.iter().copied()
    }

    /// The name in status, plans and the printed docs.
    pub fn name(self) -> &'static str {
        self.contract().name
    }

    /// Whether its rows belong to classes.
    pub fn layer(self) -> Layer {
        self.contract().layer
    }

    /// The remote stage of a direction.
    pub fn remote(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Table::EgressRemote,
            Direction::Ingress => Table::IngressRemote,
        }
    }

    /// The policy stage of a direction.
    pub fn policy(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Table::EgressPolicy,
            Direction::Ingress => Table::IngressPolicy,
        }
    }
}

/// EtherTypes that carry IP where the switch does not see it: VLAN tags beyond what is parsed, MPLS, PPPoE session. The
/// `ovs` stage model has the same.
pub const OPAQUE: [u16; 6] = [0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864];
/// EtherTypes of VLAN tags. They show as such only where the switch parses no further tag.
pub const TAG_TYPES: [u16; 2] = [0x8100, 0x88a8];

/// How frames leave that go to uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exit {
    /// By rows of the agent.
    #[default]
    Uplinks,
    /// By NORMAL, which alone balances over the interfaces of a bond.
    Normal,
    /// By a foreign pipeline that begins in this table.
    Table(u8),
}

/// What rows need to know of how the bridge forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// How frames leave that go to uplinks.
    pub exit: Exit,
    /// Whether frames to the groups of bridges go from one uplink to the others (`other_config:forward-bpdu`).
    pub link_control: bool,
    /// MACs that the switch learns at one server port.
    pub learned: u32,
    /// Whether another parser than that of the rows finds cached flows: the kernel's.
    pub two_parsers: bool,
}

/// What rows need to know of the whole: numbers, tag, the end of the pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Pipeline {
    /// Number of the first table; the others follow.
    pub first: u8,
    /// Tag of our cookies.
    pub tag: u16,
    /// What ends the pipeline for packets that no endpoint receives.
    pub last: FinalAction,
    /// EtherTypes that carry IP where the switch does not see it.
    pub opaque: &'static [u16],
}

impl Pipeline {
    /// The number of a table on the switch.
    pub fn number(&self, table: Table) -> u8 {
        self.first.saturating_add(table as u8)
    }

    /// What is recorded of it before its first row is written.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            tag: self.tag,
            tables: Table::all()
                .map(|table| (self.number(table), table.name().to_string()))
                .collect(),
        }
    }

    /// The table with a number on the switch.
    pub fn table(&self, number: u8) -> Option<Table> {
        Table::all().find(|t| self.number(*t) == number)
    }
}

/// Rows that are there whatever the policy: the frame of every table.
pub fn frame(forwarding: Forwarding, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let mut rows = vec![attach::unknown(writer)];
    rows.extend(control::rows(forwarding, writer));
    rows.extend(forward::rows(forwarding, pipeline, writer));
    rows.extend(deliver::frame(forwarding.exit, pipeline, writer));
    rows.extend(output::frame(writer));
    for direction in Direction::BOTH {
        rows.extend(remote::frame(direction, pipeline, writer));
    }
    // What no row of a table takes is dropped there, visibly.
    for table in Table::all().filter(|table| table.contract().miss == Miss::Drop) {
        rows.push(writer.drop(table, MISSED, Match::new()));
    }
    rows
}

#[cfg(test)]
mod model {
    #[test]
    fn the_stage_model_knows_the_same_opaque_types() {
        assert_eq!(
            portcullis_compiler::StageModel::ovs().opaque_ethertypes,
            super::OPAQUE
        );
    }

    #[test]
    fn the_stage_model_names_the_same_tables() {
        let model = portcullis_compiler::StageModel::ovs();
        let names: Vec<&str> = model.tables.iter().map(|t| t.name.as_str()).collect();
        let ours: Vec<String> = super::Table::all().map(|t| t.name().to_string()).collect();
        assert_eq!(names, ours);
    }
}
