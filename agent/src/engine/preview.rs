//! Preview of a change without making it.

use std::sync::Arc;

use portcullis_backend::TargetHandle;
use portcullis_compiler::Intent;
use portcullis_policy::Document;
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::Unlock;

use super::worker::{check, resolve};
use super::{Base, ChangeError, Edit, edit, gaps};
use crate::config::Limits;
use crate::store::{Change, Key};

/// The result that an edit would have.
#[derive(Debug)]
pub struct Preview {
    pub document: Document,
    /// What it would change.
    pub changes: Vec<(Change, Key)>,
    /// What it would mean for targets.
    pub intent: Arc<Intent>,
    /// Unlocks as they would be after it: grants that it would end, or put before an operator again.
    pub closed: Vec<Arc<Unlock>>,
}

/// Applies an edit to a moment of the state. Slow for large documents; runs on any thread. With targets, each
/// checks the result as it would if the change were made.
pub fn preview(
    base: &Base,
    edit: Edit,
    limits: &Limits,
    targets: &[TargetHandle],
    now: &Moment,
) -> Result<Preview, ChangeError> {
    let mut edited = edit::apply(&base.document, edit, limits)?;
    let mut ledger = base.ledger.clone();
    let followed = ledger.follow(&base.document, &edited.document, now).into_iter();
    let was_open = |unlock: &Unlock| {
        base.ledger
            .get(unlock.id.as_str())
            .is_some_and(|before| before.is_open(now))
    };
    let closed = followed
        .map(|change| change.unlock)
        .filter(|unlock| was_open(unlock) && !unlock.is_open(now))
        .collect();
    ledger.end_bypasses_with(&base.document, &edited.document);
    edited.document.grants = ledger.grants_at(now);
    let mut compiler = base.compiler.clone();
    let intent = resolve(&mut compiler, targets, &edited.document, base.generation)?;
    check(targets, &intent)?;
    gaps::refuse_new(targets, &intent, &base.intent)?;
    Ok(Preview {
        document: edited.document,
        changes: edited.changes,
        intent,
        closed,
    })
}
