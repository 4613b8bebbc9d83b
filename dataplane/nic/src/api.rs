//! What is asked of a NIC.

use std::fmt;

use crate::rule::Rule;

/// Packets and bytes that a rule has dropped since it was created. A NIC may lack either, and may lose what it counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCount {
    /// Packets that it dropped.
    pub packets: Option<u64>,
    /// Bytes of these packets.
    pub bytes: Option<u64>,
}

/// Why a NIC does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// The driver's words, with what it objects to.
    pub why: String,
    /// Whether it may take the same rule later.
    pub until: Until,
}

/// How long a refusal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The NIC does not take such a rule.
    Always,
    /// There is no room for it beside the others.
    ThereIsRoom,
    /// The port is busy, or not ready.
    Later,
}

/// The rules of one port's NIC. Rules are about received frames, and their one action is "drop".
pub trait FlowApi {
    /// A rule on the NIC.
    type Handle: fmt::Debug;

    /// Asks whether the NIC would take a rule. Its answer may be wrong.
    ///
    /// # Errors
    /// What it objects to.
    fn validate(&mut self, rule: &Rule, count: bool) -> Result<(), Refusal>;

    /// Puts a rule on the NIC; with `count` the rule counts what it drops.
    ///
    /// # Errors
    /// What it objects to.
    fn create(&mut self, rule: &Rule, count: bool) -> Result<Self::Handle, Refusal>;

    /// Reads what a rule has dropped.
    ///
    /// # Errors
    /// If it does not count, or is no longer there.
    fn query(&mut self, handle: &Self::Handle) -> Result<FlowCount, Refusal>;

    /// Removes a rule. After an error it may still be there, and so may one that was created before a flush that failed.
    ///
    /// # Errors
    /// What the NIC says.
    fn destroy(&mut self, handle: Self::Handle) -> Result<(), Refusal>;

    /// Removes every rule of the port, also those whose handles are lost.
    ///
    /// # Errors
    /// What the NIC says.
    fn flush(&mut self) -> Result<(), Refusal>;

    /// How often the port has reset since it was opened: its rules are gone then.
    fn resets(&self) -> u64;
}
