//! `flood`: a copy for each policed receiver of a VLAN, each through its own ingress policy.
//!
//! Receivers are kept in parts of 64 by port number, so that a port that comes or goes rewrites one short row.
//! An index row per VLAN names the parts; ports that carry every VLAN have parts of their own.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_openflow::{Action, Instruction, Match};

use super::{Pipeline, Table};
use crate::flow::{Flow, Writer};
use crate::ports::SwitchPort;
use crate::regs;

/// Ports of one part.
const PART: u32 = 64;
/// Receivers of one VLAN. OVS gives up on a packet after 4,096 table lookups (MAX_RESUBMITS) and each copy takes
/// four.
pub const MAX_RECEIVERS: usize = 1000;
/// Stands for "every VLAN" where a set has a VLAN.
const EVERY: u16 = 4096;

const PARTS: u16 = 20;
const INDEX: u16 = 10;
const INDEX_ANY: u16 = 5;

/// The receivers of every set: a VLAN's, and those of every VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receivers {
    sets: BTreeMap<u16, BTreeSet<u32>>,
}

impl Receivers {
    /// Sorts policed ports into sets.
    pub fn of<'a>(ports: impl Iterator<Item = &'a SwitchPort>) -> Self {
        let mut sets: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
        for port in ports {
            match port.vlans.members() {
                None => {
                    sets.entry(EVERY).or_default().insert(port.number);
                }
                Some(vids) => {
                    for vid in vids {
                        sets.entry(vid).or_default().insert(port.number);
                    }
                }
            }
        }
        Receivers { sets }
    }

    /// The VLANs with more receivers than a packet can reach, and how many.
    pub fn too_many(&self) -> Vec<(u16, usize)> {
        let every = self.sets.get(&EVERY).map_or(0, BTreeSet::len);
        self.sets
            .iter()
            .map(|(vid, set)| {
                (
                    *vid,
                    if *vid == EVERY {
                        set.len()
                    } else {
                        set.len() + every
                    },
                )
            })
            .filter(|(_, count)| *count > MAX_RECEIVERS)
            .collect()
    }

    fn parts(&self, set: u16) -> BTreeMap<u32, Vec<u32>> {
        let mut parts: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for port in self.sets.get(&set).into_iter().flatten() {
            parts.entry(port / PART).or_default().push(*port);
        }
        parts
    }

    /// The units of this table: `(set, part)` and its row; the index of a set has part `u32::MAX`.
    pub fn rows(&self, pipeline: &Pipeline, writer: &Writer) -> Vec<((u16, u32), Flow)> {
        let mut rows = Vec::new();
        for set in self.sets.keys() {
            for (part, ports) in self.parts(*set) {
                rows.push(((*set, part), self.part(*set, part, &ports, pipeline, writer)));
            }
            rows.push(((*set, u32::MAX), self.index(*set, pipeline, writer)));
        }
        rows
    }

    fn part(&self, set: u16, part: u32, ports: &[u32], pipeline: &Pipeline, writer: &Writer) -> Flow {
        let copy = |port: &u32| {
            Action::Clone(vec![
                Action::set(regs::OUT, u128::from(*port)),
                Action::resubmit(pipeline.number(Table::Deliver)),
            ])
        };
        let matching = Match::new().exact(regs::FLOOD, u128::from(code(set, part)));
        let copies = Instruction::ApplyActions(ports.iter().map(copy).collect());
        writer.flow(Table::Flood, PARTS, matching, vec![copies])
    }

    fn index(&self, set: u16, pipeline: &Pipeline, writer: &Writer) -> Flow {
        let mut actions = Vec::new();
        let sets: &[u16] = if set == EVERY { &[EVERY] } else { &[set, EVERY] };
        for of in sets {
            for part in self.parts(*of).keys() {
                actions.push(Action::set(regs::FLOOD, u128::from(code(*of, *part))));
                actions.push(Action::resubmit(pipeline.number(Table::Flood)));
            }
        }
        actions.push(Action::set(regs::FLOOD, 0u128));
        let begin = Match::new().exact(regs::FLOOD, 0u128);
        let (priority, matching) = match set {
            EVERY => (INDEX_ANY, begin),
            vid => (INDEX, begin.exact(regs::VLAN, u128::from(vid))),
        };
        writer.flow(
            Table::Flood,
            priority,
            matching,
            vec![Instruction::ApplyActions(actions)],
        )
    }
}

/// What the flood register holds for a part.
fn code(set: u16, part: u32) -> u32 {
    (u32::from(set) << 16) | (part + 1)
}
