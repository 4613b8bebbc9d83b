//! What a change of the intent comes to on one target: rows to write and to delete, in the three steps of make before
//! break (design section 4).

use std::sync::Arc;

use portcullis_policy::Name;

use crate::class::{ClassId, Intent};
use crate::edit::Edit;
use crate::program::Program;
use crate::programs::{CompileError, Programs};

/// The writes of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassDelta {
    /// A class with no rows yet: all of them, before anything leads to it.
    New(Arc<Program>),
    /// Rows of a class that is in use, in an order in which each packet meets the old or the new verdict.
    InPlace(Edit),
    /// A class in use whose other stages change: it has to be written whole under a free id.
    Anew(Arc<Program>),
    /// A class that nothing leads to any more: all of its rows go.
    Gone(Arc<Program>),
}

impl ClassDelta {
    /// Rows written and rows deleted.
    pub fn rows(&self) -> (usize, usize) {
        match self {
            ClassDelta::New(program) => (program.rows(), 0),
            ClassDelta::InPlace(edit) => (edit.writes.len(), edit.deletes.len()),
            // The old rows were as many as another program has, which its own delta does not know: they go when the
            // free id has taken over.
            ClassDelta::Anew(program) => (program.rows(), 0),
            ClassDelta::Gone(program) => (0, program.rows()),
        }
    }
}

/// A change of the intent on one target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Classes whose rows change, ascending; none without a change.
    pub classes: Vec<(ClassId, ClassDelta)>,
    /// Endpoints whose `attach` and `deliver` rows change: that is where a class takes effect.
    pub endpoints: Vec<Name>,
}

impl Delta {
    /// From one intent to the next, proved. What did not change costs nothing when `after` was resolved from `before`.
    pub fn between(before: &Intent, after: &Intent, programs: &mut Programs) -> Result<Self, CompileError> {
        let (classes, endpoints) = if after.changed.since == before.generation && before.generation != 0 {
            (after.changed.classes.clone(), after.changed.endpoints.clone())
        } else {
            everything(before, after)
        };
        let mut delta = Delta {
            classes: Vec::with_capacity(classes.len()),
            endpoints,
        };
        for id in classes {
            let one = match (before.classes.get(&id), after.classes.get(&id)) {
                (None, None) => continue,
                (None, Some(new)) => ClassDelta::New(programs.get(new)?),
                (Some(old), None) => ClassDelta::Gone(programs.get(old)?),
                (Some(old), Some(new)) if old.fingerprint == new.fingerprint => continue,
                (Some(old), Some(new)) => {
                    let (old, new) = (programs.get(old)?, programs.get(new)?);
                    match Edit::between(&old, &new) {
                        Some(edit) if edit.is_empty() => continue,
                        Some(edit) => ClassDelta::InPlace(edit),
                        None => ClassDelta::Anew(new),
                    }
                }
            };
            delta.classes.push((id, one));
        }
        Ok(delta)
    }

    /// Rows of classes written, rows deleted, and endpoints whose wiring changes.
    pub fn size(&self) -> (usize, usize, usize) {
        let rows = self.classes.iter().map(|(_, c)| c.rows());
        let (written, deleted) = rows.fold((0, 0), |(w, d), (x, y)| (w + x, d + y));
        (written, deleted, self.endpoints.len())
    }
}

/// All classes and endpoints of either intent that are not the same in both.
fn everything(before: &Intent, after: &Intent) -> (Vec<ClassId>, Vec<Name>) {
    let classes = before.classes.keys().chain(after.classes.keys()).copied();
    let differs = |name: &&Name| before.endpoints.get(*name) != after.endpoints.get(*name);
    let names = before.endpoints.keys().chain(after.endpoints.keys());
    let mut classes: Vec<ClassId> = classes.collect();
    let mut endpoints: Vec<Name> = names.filter(differs).cloned().collect();
    classes.sort_unstable();
    classes.dedup();
    endpoints.sort_unstable();
    endpoints.dedup();
    (classes, endpoints)
}
