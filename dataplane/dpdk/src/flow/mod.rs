//! Typed `rte_flow`: rules that a device applies in hardware.
//!
//! ```text
//! Rule { attributes, pattern, actions } ─encode─▶ what rte_flow takes ─┬▶ Flows::validate
//!                                                                     ├▶ Flows::create ─▶ FlowRule (query, destroy)
//!                                                                     └▶ FlowError: what, where in the rule, and why
//! ```
//!
//! What a device supports differs much; [`Flows::validate`] asks it. Most virtual devices
//! support nothing.

mod action;
mod encode;
mod error;
mod item;
mod resets;
mod rule;

pub use action::Action;
pub use error::{FlowCause, FlowError, FlowErrorKind};
pub use item::{Address, Eth, Field, Ipv4, Ipv6, Item, Masked, Ports, Tcp, Vlan};
pub use resets::Resets;
pub use rule::{FlowCount, FlowRule, Flows};

/// Which packets a rule sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Those that arrive at the port, on their way to its queues.
    #[default]
    Ingress,
    /// Those that leave through the port.
    Egress,
    /// Those that pass the switch inside the device, on their way between its ports.
    Transfer,
}

/// Where a rule is among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Group; packets start in 0, and reach others by [`Action::Jump`].
    pub group: u32,
    /// Priority within the group, 0 is the highest.
    pub priority: u32,
    /// Which packets it sees.
    pub direction: Direction,
}

/// A rule: packets that match the pattern get the actions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Where it is among the others.
    pub attributes: Attributes,
    /// Headers from the outermost on, as in the packet. Nothing matches every packet.
    pub pattern: Vec<Item>,
    /// What happens, in order.
    pub actions: Vec<Action>,
}
