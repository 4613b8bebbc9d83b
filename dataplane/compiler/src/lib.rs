//! Compiler from policies to match-action rows: classes, stage models, encodings, and a proof of every result.
//!
//! Everything here is pure. The way through the crate:
//!
//! 1. [`Compiler::resolve`] turns a document into an [`Intent`]: endpoints bound to [`Class`]es, one class for
//!    each distinct policy.
//! 2. [`lower`](lower::lower) turns a class's policy into a [`ClassRows`]: rows of the `remote` and policy
//!    stages, in the terms of a [`StageModel`] and nothing else.
//! 3. [`prove`](proof::prove) compares those rows with the policy over the whole packet space, exactly. It
//!    shares no code with the encoder. [`RowCache::get`] never hands out rows that were not proved.

pub mod capacity;
pub mod class;
pub mod class_rows;
pub mod compilation;
pub mod enforced;
pub mod lower;
pub mod model;
pub mod proof;
pub mod restriction;
pub mod row;
pub mod row_cache;

pub use class::{
    Changes, Class, ClassId, Compiler, EndpointIntent, Fingerprint, Intent, OutOfClasses, ScheduledTransition,
};
pub use class_rows::{
    ClassRows, CodeRow, CodeStage, Codes, FrameMatch, PolicyRow, PortMatch, RemoteMatch, RemoteRow, RowKey,
    Shortfall, Unsupported, WordRow,
};
pub use enforced::Enforced;
pub use lower::Attribution;
pub use model::{ModelError, StageModel, TableModel};
pub use proof::Counterexample;
pub use row_cache::{CompileError, Proved, RowCache};
