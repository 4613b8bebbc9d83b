//! Errors of decoding and encoding messages.

use crate::version::Version;

/// Why bytes from the peer are not an OpenFlow message. After any of these the connection is out of step and
/// should be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The version byte is not one this codec speaks for this message type.
    #[error(
        "version byte {version:#04x} of message type {msg_type} is neither OpenFlow 1.4 (0x05) nor 1.5 (0x06): \
         let the switch offer one of them (bridge column `protocols`) and reconnect"
    )]
    Version {
        /// Version byte of the header.
        version: u8,
        /// The message type byte.
        msg_type: u8,
    },
    /// A part ends before its fixed content does.
    #[error("{what} is cut short: {need} more bytes needed, {have} left; close the connection")]
    Truncated {
        /// The part being read.
        what: &'static str,
        /// Bytes the next read needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// A length field contradicts the bytes around it.
    #[error("{what} claims an impossible length of {length} bytes; close the connection")]
    Length {
        /// The part whose length is wrong.
        what: &'static str,
        /// Length the field gives, in bytes.
        length: usize,
    },
    /// A value that has no meaning.
    #[error("{what} has the value {value:#x}, which OpenFlow does not define; close the connection")]
    Value {
        /// The part being read.
        what: &'static str,
        /// The undefined value, as on the wire.
        value: u64,
    },
    /// A match names one field twice.
    #[error("a match names {field} twice; close the connection")]
    DuplicateField {
        /// Name of the field.
        field: &'static str,
    },
    /// A bundled message holds another bundled message.
    #[error("a bundled message holds another bundled message; close the connection")]
    NestedBundle,
}

/// Why a message cannot be put on the wire. Nothing has been written when this is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message, or a part of it, is longer than its 16-bit length field can say.
    #[error("{what} needs {length} bytes, more than its length field can hold: split it")]
    TooLong {
        /// The part that does not fit.
        what: &'static str,
        /// Bytes the part needs; the limit is 65,535.
        length: usize,
    },
    /// The protocol version has no way to say this.
    #[error("{what} cannot be expressed in {version}: {hint}")]
    NotExpressible {
        /// What was to be said.
        what: &'static str,
        /// The version in use.
        version: Version,
        /// What to do instead.
        hint: &'static str,
    },
    /// A value does not fit its field.
    #[error("{what} cannot hold {value:#x}: use a value within its width")]
    Range {
        /// Field or part that is too narrow.
        what: &'static str,
        /// Value that does not fit.
        value: u128,
    },
}
