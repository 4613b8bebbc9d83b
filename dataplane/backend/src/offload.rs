//! What a query says about the flows that a datapath has cached: which rules they carry out, and whether in hardware.

use std::collections::BTreeMap;

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

/// Cached flows of a rule. A flow that several rules decide about, such as one of each direction, counts for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleOffload {
    /// The rule. Its packets and bytes are those of the flows that are cached now.
    pub rule: Hit,
    /// Flows that are cached now, by what carries them out.
    pub flows: Carried,
    /// Packets that met these flows since they were cached.
    pub packets: Carried,
}

/// Which of the flows that a datapath has cached are carried out in hardware.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offload {
    /// Whether the switch is set to offload.
    pub is_on: bool,
    /// Each rule of the policy here; one without flows has no traffic now.
    pub rules: Vec<RuleOffload>,
    /// Every flow that enters by a port of this target.
    pub flows: Carried,
    /// Flows for which no rule is known, by reason.
    pub unknown: BTreeMap<String, u64>,
}
