//! Errors of `rte_flow`: which part of a rule the device rejected, and why.

use super::encode::Encoded;
use crate::errno::Errno;
use portcullis_dpdk_sys as sys;
use std::ffi::CStr;
use std::fmt;
use std::mem::zeroed;
use thiserror::Error;

/// What of a rule a driver objects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowErrorKind {
    /// The driver does not say; most often it has no rules at all.
    Unspecified,
    /// The rule itself, which is no longer there.
    Handle,
    /// The group: most devices have only group 0.
    Group,
    /// The priority: 0 is the highest, and the lowest depends on the driver.
    Priority,
    /// The direction; most devices have only ingress.
    Direction,
    /// Group, priority and direction together.
    Attributes,
    /// The number of headers.
    PatternLength,
    /// A value to match.
    ItemValue,
    /// The end of a range to match.
    ItemRange,
    /// A mask, where the device matches whole fields only.
    ItemMask,
    /// A header, or its place in the pattern.
    Item,
    /// The number of actions.
    ActionCount,
    /// The argument of an action.
    ActionArgument,
    /// An action, or its place among the others.
    Action,
    /// The state of the device.
    State,
    /// One that this version of Portcullis does not know.
    Other(u32),
}

/// The part of the rule that a driver points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowCause {
    /// Group, priority or direction.
    Attributes,
    /// One header of the pattern.
    Item {
        /// Place in the pattern, from 0.
        index: usize,
        /// Name of the header, as in DPDK's documentation.
        name: &'static str,
    },
    /// One of the actions.
    Action {
        /// Place in the list of actions, from 0.
        index: usize,
        /// Name, as of [`Action::name`](super::Action::name).
        name: &'static str,
    },
}

/// Why a device does not take a rule, or does not do with it what it was asked for.
#[derive(Debug, Error)]
#[error("port {port} {step}: it objects to {kind}{}{}", at(cause.as_ref()), quoted(message.as_deref()))]
pub struct FlowError {
    /// Name of the device.
    pub port: String,
    /// What it does not do.
    pub step: &'static str,
    /// What it objects to.
    pub kind: FlowErrorKind,
    /// Where in the rule that is, when it says.
    pub cause: Option<FlowCause>,
    /// What it says, in its own words.
    pub message: Option<String>,
    /// What the call returned, or DPDK's errno.
    #[source]
    pub errno: Errno,
}

fn at(cause: Option<&FlowCause>) -> String {
    match cause {
        Some(FlowCause::Attributes) => " (the attributes)".to_owned(),
        Some(FlowCause::Item { index, name }) => format!(" (header {index}, {name})"),
        Some(FlowCause::Action { index, name }) => format!(" (action {index}, {name})"),
        None => String::new(),
    }
}

fn quoted(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!("; the driver says: {message}"))
}

impl FlowErrorKind {
    fn from_raw(kind: sys::rte_flow_error_type) -> Self {
        match kind {
            sys::RTE_FLOW_ERROR_TYPE_NONE | sys::RTE_FLOW_ERROR_TYPE_UNSPECIFIED => Self::Unspecified,
            sys::RTE_FLOW_ERROR_TYPE_HANDLE => Self::Handle,
            sys::RTE_FLOW_ERROR_TYPE_ATTR_GROUP => Self::Group,
            sys::RTE_FLOW_ERROR_TYPE_ATTR_PRIORITY => Self::Priority,
            sys::RTE_FLOW_ERROR_TYPE_ATTR_INGRESS
            | sys::RTE_FLOW_ERROR_TYPE_ATTR_EGRESS
            | sys::RTE_FLOW_ERROR_TYPE_ATTR_TRANSFER => Self::Direction,
            sys::RTE_FLOW_ERROR_TYPE_ATTR => Self::Attributes,
            sys::RTE_FLOW_ERROR_TYPE_ITEM_NUM => Self::PatternLength,
            sys::RTE_FLOW_ERROR_TYPE_ITEM_SPEC => Self::ItemValue,
            sys::RTE_FLOW_ERROR_TYPE_ITEM_LAST => Self::ItemRange,
            sys::RTE_FLOW_ERROR_TYPE_ITEM_MASK => Self::ItemMask,
            sys::RTE_FLOW_ERROR_TYPE_ITEM => Self::Item,
            sys::RTE_FLOW_ERROR_TYPE_ACTION_NUM => Self::ActionCount,
            sys::RTE_FLOW_ERROR_TYPE_ACTION_CONF => Self::ActionArgument,
            sys::RTE_FLOW_ERROR_TYPE_ACTION => Self::Action,
            sys::RTE_FLOW_ERROR_TYPE_STATE => Self::State,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for FlowErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "rules as such, or says no more",
            Self::Handle => "a rule that is not there (any more)",
            Self::Group => "the group: it may have only group 0",
            Self::Priority => "the priority: use another number",
            Self::Direction => "the direction: use another one (most devices have ingress)",
            Self::Attributes => "the attributes: group, priority and direction do not go together",
            Self::PatternLength => "the number of headers in the pattern",
            Self::ItemValue => "a value to match",
            Self::ItemRange => "a range to match: use masks",
            Self::ItemMask => "a mask: it may match whole fields only",
            Self::Item => "a header, or its place in the pattern",
            Self::ActionCount => "the number of actions",
            Self::ActionArgument => "the argument of an action",
            Self::Action => "an action, or its place among the others",
            Self::State => "its own state: it may have to be started, or be out of room",
            Self::Other(number) => return write!(f, "something of a kind unknown here (number {number})"),
        })
    }
}

/// Room for DPDK's error.
pub(super) fn room() -> sys::rte_flow_error {
    // SAFETY: the struct is a number and pointers, for which zero is a value.
    unsafe { zeroed() }
}

/// The error of a call about a rule that returned `status` and left `raw`.
pub(super) fn explain(
    port: &str,
    step: &'static str,
    status: i32,
    raw: &sys::rte_flow_error,
    rule: Option<&Encoded>,
) -> FlowError {
    let message = (!raw.message.is_null()).then(|| {
        // SAFETY: a driver's message is a C string that lives as long as the device is configured.
        unsafe { CStr::from_ptr(raw.message) }
            .to_string_lossy()
            .into_owned()
    });
    FlowError {
        port: port.to_owned(),
        step,
        kind: FlowErrorKind::from_raw(raw.type_),
        cause: rule.and_then(|rule| rule.cause(raw.cause)),
        message,
        errno: Errno::from_return_or_last(status),
    }
}
