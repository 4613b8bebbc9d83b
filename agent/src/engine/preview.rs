//! What a change would come to, without making it.

use std::sync::Arc;

use portcullis_backend::TargetHandle;
use portcullis_compiler::Intent;
use portcullis_policy::Document;

use super::worker::{check, resolve};
use super::{Base, ChangeError, Edit, edit};
use crate::config::Limits;
use crate::store::{Change, Key};

/// What an edit would come to.
#[derive(Debug)]
pub struct Preview {
    /// The policy.
    pub document: Document,
    /// What it would change.
    pub changes: Vec<(Change, Key)>,
    /// What it would mean for targets.
    pub intent: Arc<Intent>,
}

/// Applies an edit to a moment of the state. Slow for large documents; runs on any thread. With targets, each
/// checks the result as it would if the change were made.
pub fn preview(
    base: &Base,
    edit: Edit,
    limits: &Limits,
    targets: &[TargetHandle],
) -> Result<Preview, ChangeError> {
    let edited = edit::apply(&base.document, edit, limits)?;
    let mut compiler = base.compiler.clone();
    let intent = resolve(&mut compiler, targets, &edited.document, base.generation, false)?;
    check(targets, &intent)?;
    Ok(Preview {
        document: edited.document,
        changes: edited.changes,
        intent,
    })
}
