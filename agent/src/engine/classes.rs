//! Class ids as the store keeps them, and changes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use portcullis_compiler::{Class, ClassId, Compiler, Fingerprint, Intent};

use crate::store::ClassChanges;

/// What the store knows of classes.
#[derive(Debug)]
pub(super) enum StoredClasses {
    /// As they were read, with a compiler that knew only them.
    Listed(Vec<(Fingerprint, ClassId)>, Compiler),
    /// Those of an intent, and where its compiler stood.
    Of(Arc<Intent>, Compiler),
}

impl StoredClasses {
    /// What has to be stored, so that the store knows the classes of an intent.
    pub fn changes(&self, intent: &Intent, compiler: &Compiler) -> ClassChanges {
        let of = |class: &Arc<Class>| (class.id, class.fingerprint);
        match self {
            StoredClasses::Listed(classes, was) => {
                let before = classes.iter().map(|(fingerprint, id)| (*id, *fingerprint));
                class_changes(before, intent.classes.values().map(of), was, compiler)
            }
            StoredClasses::Of(stored, was) => {
                let (mut before, mut after) = (Vec::new(), Vec::new());
                for difference in stored.classes.diff(&intent.classes) {
                    match difference {
                        DiffItem::Add(_, class) => after.push(of(class)),
                        DiffItem::Remove(_, class) => before.push(of(class)),
                        DiffItem::Update {
                            old: (_, old),
                            new: (_, new),
                        } => {
                            before.push(of(old));
                            after.push(of(new));
                        }
                    }
                }
                class_changes(before, after, was, compiler)
            }
        }
    }
}

/// Classes that come into use and go out of use, and what else a compiler has to remember.
fn class_changes(
    before: impl IntoIterator<Item = (ClassId, Fingerprint)>,
    after: impl IntoIterator<Item = (ClassId, Fingerprint)>,
    was: &Compiler,
    is: &Compiler,
) -> ClassChanges {
    let before: BTreeMap<ClassId, Fingerprint> = before.into_iter().collect();
    let after: BTreeMap<ClassId, Fingerprint> = after.into_iter().collect();
    let mut changes = ClassChanges {
        next: is.next_id(),
        ..ClassChanges::default()
    };
    for (id, fingerprint) in &before {
        if after.get(id) != Some(fingerprint) {
            changes.removed.push(*id);
        }
    }
    for (id, fingerprint) in &after {
        if before.get(id) != Some(fingerprint) {
            changes.added.push((*fingerprint, *id));
        }
    }
    for difference in was.released().diff(is.released()) {
        match difference {
            DiffItem::Add(id, since) | DiffItem::Update { new: (id, since), .. } => {
                changes.released.push((*id, *since));
            }
            DiffItem::Remove(id, _) => changes.gone.push(*id),
        }
    }
    changes
}
