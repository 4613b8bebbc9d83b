//! Compiler from policies to match-action rows: classes, stage models, encodings, and a proof of every result.
//!
//! Everything here is pure. The way through the crate:
//!
//! 1. [`Compiler::resolve`] turns a document into an [`Intent`]: endpoints bound to [`Class`]es, one class for
//!    each distinct policy.
//! 2. [`lower`](lower::lower) turns a class's policy into a [`Program`]: rows of the `remote` and policy
//!    stages, in the terms of a [`StageModel`] and nothing else.
//! 3. [`prove`](proof::prove) compares those rows with the policy over the whole packet space, exactly. It
//!    shares no code with the encoder. [`Programs::get`] never hands out rows that were not proved.

pub mod capacity;
pub mod class;
pub mod compilation;
pub mod lower;
pub mod model;
pub mod program;
pub mod programs;
pub mod proof;
pub mod row;

pub use class::{Changes, Class, ClassId, Compiler, EndpointIntent, Fall, Fingerprint, Intent, OutOfClasses};
pub use lower::Attribution;
pub use model::{ModelError, StageModel, TableModel};
pub use program::{
    CodeRow, CodeStage, Codes, FrameMatch, PolicyRow, PortMatch, Program, RemoteMatch, RemoteRow, RowKey,
    Unsupported, WordRow,
};
pub use programs::{CompileError, Programs, Proved};
pub use proof::Counterexample;
