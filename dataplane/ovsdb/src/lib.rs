//! OVSDB (RFC 7047 and the extensions of ovsdb-server(7)) and the replica of a switch, without sockets.
//!
//! Bytes go in, bytes and [`Event`]s come out; time is an argument:
//!
//! ```text
//! bytes ─Framer─▶ JSON ─message─▶ reply | notification | request
//!        get_schema ─layout─▶ which columns exist ─▶ monitor_cond_since | monitor_cond | monitor
//!        update | update2 | update3 ─tables─▶ raw rows by UUID ─view─▶ Switch
//! ```
//!
//! The caller owns the socket: it calls [`Session::connected`], writes what [`Session::take_output`] gives,
//! feeds what it reads to [`Session::received`], calls [`Session::tick`] at [`Session::next_deadline`], and
//! after any error closes the socket and calls [`Session::disconnected`]. `Backoff` (of the backend crate) tells how long to wait
//! before the next attempt.

mod catalog;
mod clip;
mod datum;
mod framer;
mod layout;
mod message;
mod session;
mod session_error;
mod switch;
mod tables;
mod uuid;
mod view;

pub use datum::ValueError;
pub use framer::{DEFAULT_MAX_MESSAGE, Framer, MAX_DEPTH, ProtocolError};
pub use layout::SchemaError;
pub use message::{MessageError, RemoteError};
pub use session::{Event, Session, SessionConfig, Stage};
pub use session_error::SessionError;
pub use switch::{
    Bridge, Datapath, FlowTable, Interface, LinkState, Located, Mirror, Port, Switch, VlanMode,
};
pub use tables::UpdateError;
pub use uuid::{Uuid, UuidError};
