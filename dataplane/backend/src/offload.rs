//! What carries out each rule, hardware or software: by the flows that a datapath has cached, or by the rules on the NICs of an
//! embedded switch.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::handle::Hit;

/// A number for each of those that can carry out a flow which a datapath has cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Carried {
    /// The NIC, in whole.
    pub hardware: u64,
    /// The NIC finds the flow, and software acts.
    pub partly: u64,
    /// The kernel's traffic control (tc), in software: no NIC took the flow.
    pub tc: u64,
    /// The switch itself, in software.
    pub software: u64,
}

impl Carried {
    /// How many there are, whatever carries them out.
    pub fn total(self) -> u64 {
        [self.partly, self.tc, self.software]
            .into_iter()
            .fold(self.hardware, u64::saturating_add)
    }
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, other: Self) {
        self.hardware = self.hardware.saturating_add(other.hardware);
        self.partly = self.partly.saturating_add(other.partly);
        self.tc = self.tc.saturating_add(other.tc);
        self.software = self.software.saturating_add(other.software);
    }
}

/// Cached flows of a rule, or ports where it denies something ([`Unit`]). A flow that several rules decide about, such as one of each direction, counts for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleOffload {
    /// The rule. Its packets and bytes are those of the flows that are cached now.
    pub rule: Hit,
    /// Flows that are cached now, by what carries them out.
    pub flows: Carried,
    /// Packets that met these flows since they were cached.
    pub packets: Carried,
    /// Why not all of it is in hardware, as far as that is known.
    pub why: BTreeSet<String>,
    /// Whether hits of the rule include every packet that hardware drops of it.
    pub is_counted: bool,
}

/// What is counted by what carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// Flows that the datapath has cached.
    #[default]
    CachedFlows,
    /// Ports at which a row of the rule denies something.
    Ports,
}

/// How the NIC of a port of the embedded switch stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nic {
    /// Number of the port.
    pub port: u32,
    /// The driver, by DPDK's name.
    pub driver: String,
    /// Why nothing is offloaded; empty where rules can be.
    pub off: String,
    /// What rules the NIC takes, in words.
    pub takes: String,
    /// Rules that are on it.
    pub installed: u64,
    /// Rules that would be on it if it took them all.
    pub wanted: u64,
    /// Whether it has no room for more, or may have no more.
    pub is_full: bool,
    /// What is wrong; empty where nothing is.
    pub fault: String,
    /// Rules created, destroyed, refused and replaced since the switch started, and times that the port lost them.
    pub moves: NicMoves,
}

/// How often rules of a NIC came and went.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NicMoves {
    pub created: u64,
    pub destroyed: u64,
    pub refused: u64,
    pub replaced: u64,
    pub resets: u64,
}

/// What of a target is carried out in hardware.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offload {
    /// Whether `flows` are flows of a cache, or rules at ports.
    pub unit: Unit,
    /// Whether the switch is set to offload.
    pub is_on: bool,
    /// Each rule of the policy here; one without flows has no traffic now.
    pub rules: Vec<RuleOffload>,
    /// Every flow that enters by a port of this target.
    pub flows: Carried,
    /// Flows for which no rule is known, by reason.
    pub unknown: BTreeMap<String, u64>,
    /// The NICs of an embedded switch, by port.
    pub nics: Vec<Nic>,
}
