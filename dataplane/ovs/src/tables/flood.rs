//! `flood`: a copy for each receiver of a VLAN, each server port's through its own ingress policy.
//!
//! There are two sets for each VLAN: all receivers, and uplinks alone. Receivers are kept in parts of 64 by port number, so that a port that comes or goes rewrites one short row.
//! An index row per VLAN and set names the parts; ports that carry every VLAN have parts of their own. The switch does not
//! send a copy back to the port that the frame came from.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, FlowMod, Instruction, Match};

use super::{Contract, Effect, Exit, Level, Miss, Pipeline, Priority, Table};
use crate::flow::{Flow, Writer};
use crate::ports::{Role, SwitchPort};
use crate::regs;

/// Sends a frame to every uplink of its VLAN.
pub(crate) fn to_uplinks(pipeline: &Pipeline) -> Vec<Action> {
    vec![
        Action::set(regs::FLOOD, u128::from(TO_UPLINKS)),
        Action::resubmit(pipeline.number(Table::Flood)),
    ]
}

/// Ports of one part.
const PART: u32 = 64;
/// Receivers of one VLAN. OVS gives up on a packet after 4,096 table lookups (MAX_RESUBMITS) and each copy takes
/// four.
pub const MAX_RECEIVERS: usize = 1000;
/// Stands for "every VLAN" where a set has a VLAN.
const EVERY: u16 = 4096;
/// Bit of a set: uplinks alone.
const UPLINKS: u16 = 0x8000;
/// What the flood register holds at the begin of a flood to uplinks; all ones is the nudge's.
const TO_UPLINKS: u32 = 0xffff_0000;

/// Contract of `flood`, which copies frames to the receivers of a VLAN.
pub const TABLE: Contract = Contract {
    name: "flood",
    does: "a copy for each receiver of the VLAN, or for each uplink of it",
    layer: Layer::Dispatch,
    keys: &[regs::FLOOD, regs::VLAN],
    priorities: &[NUDGE, PARTS, INDEX, INDEX_ANY],
    effects: &[
        Effect::Drop,
        Effect::Set(regs::FLOOD),
        Effect::Resubmit(Table::Flood),
        Effect::Set(regs::OUT),
        Effect::Resubmit(Table::Deliver),
    ],
    miss: Miss::Drop,
    is_counted: false,
};

const NUDGE: Priority = Priority::new(
    "nudge",
    0x8000,
    "no frame: writing this row makes the switch check its cached flows",
);
const PARTS: Priority = Priority::new("parts", 20, "the ports of one part");
const INDEX: Priority = Priority::new("index", 10, "the parts of one VLAN");
const INDEX_ANY: Priority = Priority::new("index-any", 5, "the parts of ports that carry every VLAN");

/// A row that no frame matches. Writing it once more makes the switch check its cached flows.
pub(crate) fn nudge(pipeline: &Pipeline, generation: u64) -> FlowMod {
    FlowMod {
        table_id: pipeline.number(Table::Flood),
        priority: Level::from(NUDGE).number(),
        cookie: regs::nudge_cookie(pipeline.tag, generation),
        match_: Match::new().exact(regs::FLOOD, u128::from(u32::MAX)),
        ..FlowMod::default()
    }
}

/// The receivers of every set: a VLAN's, and those of every VLAN; once more for uplinks alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receivers {
    sets: BTreeMap<u16, BTreeSet<u32>>,
}

impl Receivers {
    /// Sorts ports into sets. Uplinks are among them where frames go to them by these rows.
    pub fn new<'a>(ports: impl Iterator<Item = &'a SwitchPort>, exit: Exit) -> Self {
        let mut sets: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
        for port in ports {
            let kinds: &[u16] = match (&port.role, exit) {
                (Role::ManagedPort(_), _) => &[0],
                (Role::Uplink, Exit::Uplinks) => &[0, UPLINKS],
                (Role::Uplink, _) => &[],
            };
            let vids = port.vlans.members().unwrap_or_else(|| vec![EVERY]);
            for set in kinds
                .iter()
                .flat_map(|kind| vids.iter().map(move |vid| kind | vid))
            {
                sets.entry(set).or_default().insert(port.number & 0xffff);
            }
        }
        Receivers { sets }
    }

    /// The VLANs with more receivers than a packet can reach, and how many.
    pub fn too_many(&self) -> Vec<(u16, usize)> {
        let every = self.sets.get(&EVERY).map_or(0, BTreeSet::len);
        let all = self.sets.iter().filter(|(set, _)| **set & UPLINKS == 0);
        let counted = all.map(|(vid, set)| {
            let more = if *vid == EVERY { 0 } else { every };
            (*vid, set.len() + more)
        });
        counted.filter(|(_, count)| *count > MAX_RECEIVERS).collect()
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
        let (kind, vid) = (set & UPLINKS, set & !UPLINKS);
        let mut actions = Vec::new();
        let sets: &[u16] = if vid == EVERY {
            &[set]
        } else {
            &[set, kind | EVERY]
        };
        for of in sets {
            for part in self.parts(*of).keys() {
                actions.push(Action::set(regs::FLOOD, u128::from(code(*of, *part))));
                actions.push(Action::resubmit(pipeline.number(Table::Flood)));
            }
        }
        actions.push(Action::set(regs::FLOOD, 0u128));
        let begin = if kind == UPLINKS { TO_UPLINKS } else { 0 };
        let begin = Match::new().exact(regs::FLOOD, u128::from(begin));
        let (priority, matching) = match vid {
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
