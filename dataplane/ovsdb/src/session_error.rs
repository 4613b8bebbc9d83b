//! Why a session with a database server ended.

use std::time::Duration;

use crate::framer::ProtocolError;
use crate::layout::SchemaError;
use crate::message::{MessageError, RemoteError};
use crate::tables::UpdateError;

/// Why a session ended. After any of these the caller closes the connection, calls
/// [`Session::disconnected`](crate::Session::disconnected) and connects again after a wait; the replica is then
/// fetched anew, except after [`SessionError::Unresponsive`], where it is resumed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The bytes are no OVSDB messages.
    #[error("the database server's byte stream cannot be read")]
    Protocol(#[from] ProtocolError),
    /// A JSON object is no JSON-RPC message.
    #[error("the database server sent a malformed message")]
    Message(#[from] MessageError),
    /// The parameters or the result of a known method are of another form.
    #[error("the database server sent {part} as {found}, expected {expected}")]
    Malformed {
        /// Which part of which message.
        part: &'static str,
        /// JSON type that belongs there.
        expected: &'static str,
        /// JSON type and value sent, cut when long.
        found: String,
    },
    /// A reply to nothing that was asked.
    #[error("the database server answered request {id}, which is not open")]
    UnexpectedReply {
        /// The id of the reply, cut when long.
        id: String,
    },
    /// An update for another monitor, or in the notation of another method.
    #[error("the database server sent {method} for monitor {id}, which is not open")]
    UnexpectedUpdate {
        /// `update`, `update2` or `update3`.
        method: String,
        /// The monitor's id as sent, cut when long.
        id: String,
    },
    /// The server refused a request.
    #[error("the database server refused {method}")]
    Refused {
        /// The method of the request.
        method: &'static str,
        /// The server's error, with its details.
        #[source]
        source: RemoteError,
    },
    /// The server does not have the database.
    #[error(
        "the database server has no database {db:?}; is this the socket of an Open vSwitch, and has it been initialized?"
    )]
    UnknownDatabase {
        /// The database asked for.
        db: String,
    },
    /// The database is not that of a switch this crate knows.
    #[error("the database schema cannot be used")]
    Schema(#[from] SchemaError),
    /// An update does not fit the replica.
    #[error("the database server sent an update that cannot be applied")]
    Update(#[from] UpdateError),
    /// The server ended the monitor, because the database was removed.
    #[error("the database server ended the monitor: the database was removed or replaced")]
    Canceled,
    /// Nothing was received, not even the answer to an echo request.
    #[error("the database server has been silent for {silent:?} and did not answer an echo request")]
    Unresponsive {
        /// Time since it was last heard.
        silent: Duration,
    },
    /// The server sends requests and does not read the answers.
    #[error("{bytes} bytes wait to be sent to the database server, which does not read them")]
    OutputFull {
        /// Bytes not taken with `take_output`.
        bytes: usize,
    },
    /// Bytes were received although there is no connection, or after an error ended it.
    #[error("bytes were received without an open session; connect first")]
    NotConnected,
}
