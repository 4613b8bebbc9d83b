//! OpenFlow 1.4 and 1.5 messages, without sockets.
//!
//! [`frame_len`] cuts a stream into frames, [`decode`] reads one, [`encode`] writes one. Nothing here does I/O, keeps
//! state or panics on what a peer sends.
//!
//! Messages are given in one form for both versions, and in one canonical form each: a [`Match`] or instruction sent
//! to a switch compares equal to what its flow statistics say of it, whichever of its headers, registers and
//! extensions the switch says it with.

pub mod action;
pub mod bundle;
mod error;
pub mod error_msg;
mod error_names;
mod field;
pub mod flow_mod;
pub mod instruction;
pub mod learn;
mod matches;
pub mod message;
pub mod multipart;
mod oxm;
mod oxs;
pub mod port;
pub mod stats;
pub mod switch;
mod version;
mod wire;

pub use action::Action;
pub use bundle::{BundleAdd, BundleControl, BundleKind};
pub use error::{DecodeError, EncodeError};
pub use error_msg::ErrorMsg;
pub use field::Field;
pub use flow_mod::{Command, FlowMod, FlowRemoved, NO_BUFFER, RemovedReason};
pub use instruction::Instruction;
pub use learn::{Bits, Learn, LearnSpec};
pub use matches::Match;
pub use message::{Message, decode, encode};
pub use multipart::{Desc, MultipartRequest, ReplyBody};
pub use oxm::Oxm;
pub use port::{PortDesc, PortMod, PortReason, PortStatus};
pub use stats::{FlowStats, FlowStatsRequest, TableStats};
pub use switch::{AsyncProp, Features, Fragments, SwitchConfig};
pub use version::{HEADER_LEN, Header, Hello, Version, frame_len, negotiate};
