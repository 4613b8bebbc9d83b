//! Actions of `rte_flow` rules.

use portcullis_dpdk_sys as sys;

/// What happens to a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The packet is dropped by the device, without reaching a queue.
    Drop,
    /// It goes to this receive queue of the port.
    Queue(u16),
    /// It is counted, for [`FlowRule::query`](super::FlowRule::query).
    Count,
    /// It carries this number.
    Mark(u32),
    /// It goes on with the rules of this group.
    Jump(u32),
    /// It goes on with other rules that match.
    Passthru,
}

impl Action {
    /// Its name, as in DPDK's documentation.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Queue(_) => "queue",
            Self::Count => "count",
            Self::Mark(_) => "mark",
            Self::Jump(_) => "jump",
            Self::Passthru => "passthru",
        }
    }

    pub(super) fn kind(self) -> sys::rte_flow_action_type {
        match self {
            Self::Drop => sys::RTE_FLOW_ACTION_TYPE_DROP,
            Self::Queue(_) => sys::RTE_FLOW_ACTION_TYPE_QUEUE,
            Self::Count => sys::RTE_FLOW_ACTION_TYPE_COUNT,
            Self::Mark(_) => sys::RTE_FLOW_ACTION_TYPE_MARK,
            Self::Jump(_) => sys::RTE_FLOW_ACTION_TYPE_JUMP,
            Self::Passthru => sys::RTE_FLOW_ACTION_TYPE_PASSTHRU,
        }
    }

    /// Its argument in the form of DPDK, if it has one.
    pub(super) fn argument(self) -> Option<Argument> {
        match self {
            Self::Queue(index) => Some(Argument::Queue(sys::rte_flow_action_queue { index })),
            Self::Count => Some(Argument::Count(sys::rte_flow_action_count { id: 0 })),
            Self::Mark(id) => Some(Argument::Mark(sys::rte_flow_action_mark { id })),
            Self::Jump(group) => Some(Argument::Jump(sys::rte_flow_action_jump { group })),
            Self::Drop | Self::Passthru => None,
        }
    }
}

/// The argument of an action, as DPDK takes it.
#[derive(Debug)]
pub(super) enum Argument {
    Queue(sys::rte_flow_action_queue),
    Count(sys::rte_flow_action_count),
    Mark(sys::rte_flow_action_mark),
    Jump(sys::rte_flow_action_jump),
}

impl Argument {
    /// Where it is, for as long as it is not moved.
    pub(super) fn pointer(&self) -> *const std::ffi::c_void {
        match self {
            Self::Queue(argument) => std::ptr::from_ref(argument).cast(),
            Self::Count(argument) => std::ptr::from_ref(argument).cast(),
            Self::Mark(argument) => std::ptr::from_ref(argument).cast(),
            Self::Jump(argument) => std::ptr::from_ref(argument).cast(),
        }
    }
}
