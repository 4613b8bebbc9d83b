//! Errors of a session.

use std::time::Duration;

use portcullis_openflow::{DecodeError, EncodeError};

/// Why the connection has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The bytes are not OpenFlow, or not as its specification has them.
    #[error("the switch sent something that is not OpenFlow 1.4 or 1.5")]
    Decode(#[from] DecodeError),
    /// A message of ours does not fit.
    #[error("a row does not fit into a message")]
    Encode(#[from] EncodeError),
    /// The switch and the agent have no version in common.
    #[error(
        "the bridge speaks OpenFlow versions {theirs:#x} (bit n: version n) and Portcullis 1.4 and 1.5: allow one with \
         `ovs-vsctl set bridge BRIDGE protocols=OpenFlow10,OpenFlow14,OpenFlow15`"
    )]
    Version {
        /// Their versions as a bitmap: bit *n* stands for wire version *n*.
        theirs: u32,
    },
    /// The switch refused something that is not a row.
    #[error("the switch refused {what}: {why}")]
    Refused {
        /// The kind of request.
        what: &'static str,
        /// The error of the switch, explained.
        why: String,
    },
    /// No answer to an echo request in time.
    #[error("the switch has not answered for {0:?}")]
    Silent(Duration),
}
