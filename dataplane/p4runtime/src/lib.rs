//! Backend for P4Runtime devices, described by their own P4Info.
//!
//! ```text
//! P4Info (text or binary) ─p4info::parse─▶ P4Info ─┐
//! mapping (TOML) ─Mapping::from_toml─▶ Mapping ────┴─model::bound─▶ stage model, ids ─▶ device
//! intent ─▶ points (who is where), the compiler's rows ─▶ units ─▶ session ─order─▶ requests ─wire─▶ client
//! ```
//!
//! I/O: `backend`, `client`, `driver`, `look`. Everything else is pure.
//!
//! A P4 program that uses our names needs no mapping ([`model`] lists them); neither does an ingress ACL table whose
//! match fields have names that mean one thing to everybody. For anything else a [`Mapping`] says what is what.

pub mod attachment_points;
mod backend;
pub mod behind;
pub mod client;
mod config;
mod describe;
pub mod device;
mod driver;
pub mod ends;
pub mod entry;
pub mod failure;
pub mod find;
mod limits;
mod look;
pub mod mapping;
pub mod model;
mod numbered;
mod offload;
mod order;
mod own;
pub mod p4info;
pub mod pipelines;
mod place;
mod program;
mod query;
pub mod session;
pub mod units;
pub mod value;
pub mod wire;

pub use backend::P4Backend;
pub use config::{Config, PipelineSource, PortMatching, Room, Tls};
pub use describe::describe;
pub use look::{NoServer, SeenDevice, Server, look};
pub use mapping::Mapping;
pub use model::{MappingError, from_p4info};
pub use order::UPDATES;
pub use p4info::{P4InfoError, parse};
pub use portcullis_proto::p4::config::v1::P4Info;
pub use program::{OwnProgram, ProgramError};
pub use wire::Tag;
