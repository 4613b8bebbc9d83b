//! Proved rows of a target, for checks and for the session, which do not wait for each other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_compiler::{Class, Proved, RowCache, StageModel};

/// Proved rows of classes that wait for the session. When more wait, all are dropped, and proved again when they are written: an
/// agent that checks and writes nothing, because its target is away, does not keep them all.
const WAITING: usize = 100_000;

/// The rows of classes on one stage model. A check may take long, and the session must not wait for it: each has a cache of its
/// own, and the session takes over what checks proved.
#[derive(Debug)]
pub struct Proofs {
    session: Mutex<RowCache>,
    checks: Mutex<RowCache>,
    proved: Mutex<Vec<Proved>>,
}

/// A holder that panicked left whole entries behind: entries are only ever added whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proofs {
    /// Of a model; nothing is proved yet.
    pub fn from_model(model: StageModel) -> Self {
        Proofs {
            session: Mutex::new(RowCache::new(model.clone())),
            checks: Mutex::new(RowCache::new(model)),
            proved: Mutex::default(),
        }
    }

    /// The rows for the session, with what checks proved until now.
    pub fn of_session(&self) -> MutexGuard<'_, RowCache> {
        let mut rows = lock(&self.session);
        // What the session proves itself is for nobody else.
        drop(rows.take_proved());
        rows.adopt(std::mem::take(&mut *lock(&self.proved)));
        rows
    }

    /// Checks something; what it proves is kept for the session.
    pub fn check<T>(&self, what: impl FnOnce(&mut RowCache) -> T) -> T {
        let mut rows = lock(&self.checks);
        let checked = what(&mut rows);
        let mut kept = lock(&self.proved);
        if kept.len() > WAITING {
            kept.clear();
        }
        kept.extend(rows.take_proved());
        checked
    }

    /// Whether the rows of a class can become those of another; see [`Backend::edits`](crate::Backend::edits).
    pub fn edits(&self, old: &Class, new: &Class) -> bool {
        self.check(|rows| rows.edits(old, new))
    }

    /// The rows that a class takes; see [`Backend::rows`](crate::Backend::rows).
    pub fn rows(&self, class: &Class) -> Option<usize> {
        self.check(|rows| rows.get(class).ok().map(|class| class.rows()))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_compiler::Compiler;
    use portcullis_policy::Document;

    use super::*;

    #[test]
    fn what_a_check_proved_is_not_proved_again() {
        let document = Document::from_yaml(
            "
version: portcullis/v1
baseline: [{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}]
endpoints:
  web: {rules: [{name: own, action: deny, direction: egress, protocol: tcp, ports: [26]}]}
",
        )
        .unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let proofs = Proofs::from_model(StageModel::ovs());
        let get_all = |rows: &mut RowCache| {
            intent.enforced().for_each(|class| drop(rows.get(class).unwrap()));
            rows.take_proved().len()
        };
        // As backends check an intent.
        proofs.check(|rows| {
            rows.check(&intent).unwrap();
            rows.keep(&[&intent]);
        });
        assert_eq!(get_all(&mut proofs.of_session()), 0);
        assert!(get_all(&mut Proofs::from_model(StageModel::ovs()).of_session()) > 0);
    }
}
