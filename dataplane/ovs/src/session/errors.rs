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
    /// No common version.
    #[error(
        "the bridge speaks OpenFlow versions {theirs:#x} (bit n: version n) and Portcullis 1.4 and 1.5: allow one with \
         `ovs-vsctl set bridge BRIDGE protocols=OpenFlow10,OpenFlow14,OpenFlow15`"
    )]
    Version {
        /// Their bitmap.
        theirs: u32,
    },
    /// The switch refused something that is not a row.
    #[error("the switch refused {what}: {why}")]
    Refused {
        /// What we asked.
        what: &'static str,
        /// Its answer.
        why: String,
    },
    /// Silence.
    #[error("the switch has not answered for {0:?}")]
    Silent(Duration),
}
