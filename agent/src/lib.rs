//! The Portcullis agent: API, store, engine, targets, lifecycle, and the command line of the program.
//!
//! One way through for a change: [`api`] converts a request, [`engine`] makes it the desired state (validate,
//! resolve, check on every target, commit to the [`store`], publish), [`targets`] realize it.
#![allow(
    missing_docs,
    reason = "its interface is the gRPC API and the command, which have docs of their own"
)]

pub mod access;
pub mod api;
pub mod clock;
pub mod command;
pub mod config;
pub mod daemon;
pub mod embedded;
pub mod engine;
pub mod grpc_status;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod promotion;
pub mod reading;
pub mod store;
pub mod targets;
pub mod unlocks;
