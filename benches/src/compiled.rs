//! What the compiler's benches run.
#![allow(clippy::unwrap_used, reason = "a bench that cannot run shall end")]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_compiler::compilation::{Compilation, UNMANAGED_PORTS};
use portcullis_compiler::{Attribution, Class, ClassId, Compiler, Intent, RowCache, RowKey, StageModel};
use portcullis_policy::Document;

fn model(name: &str) -> StageModel {
    StageModel::named(name).unwrap()
}

/// Compiles, proves and fits an intent from nothing; the rows of all stages together.
pub fn compiled(intent: &Intent, name: &str) -> u64 {
    let mut programs = RowCache::new(model(name));
    let unmanaged = BTreeSet::from([UNMANAGED_PORTS.to_owned()]);
    let compilation =
        Compilation::new(intent, &mut programs, Attribution::Rule, &unmanaged, |_| false).unwrap();
    assert!(
        compilation.unsupported.is_empty(),
        "{:?}",
        compilation.unsupported
    );
    compilation.tables().iter().map(|t| t.rows).sum()
}

/// Resolves, compiles and proves a document from nothing.
pub fn from_nothing(document: &Document, name: &str) -> u64 {
    compiled(&Compiler::default().resolve(document, 1).unwrap(), name)
}

/// A compiler and its target as they stand after a document.
pub struct Standing {
    compiler: Compiler,
    programs: RowCache,
    intent: Arc<Intent>,
    pub document: Document,
}

impl Standing {
    pub fn new(document: Document) -> Self {
        let mut compiler = Compiler::default();
        let mut programs = RowCache::new(StageModel::ovs());
        let intent = compiler.resolve(&document, 1).unwrap();
        programs.check(&intent).unwrap();
        Standing {
            compiler,
            programs,
            intent,
            document,
        }
    }

    /// Resolves, compiles and proves the next document, and counts the writes.
    pub fn change(&mut self, next: &Document) -> Writes {
        // Its target holds every intent at once. The compiler and the rows are borrowed apart from each other.
        let programs = std::cell::RefCell::new(&mut self.programs);
        let edits = |old: &Class, new: &Class| programs.borrow_mut().edits(old, new);
        let generation = self.intent.generation + 1;
        let intent = self.compiler.resolve_in_place(next, generation, &edits).unwrap();
        let mut writes = Writes {
            endpoints: intent.changed.endpoints.len(),
            ..Writes::default()
        };
        for id in &intent.changed.classes {
            let before = rows(&self.intent, *id, &mut self.programs);
            let after = rows(&intent, *id, &mut self.programs);
            let written = after
                .iter()
                .filter(|(key, row)| before.get(*key) != Some(*row))
                .count();
            let deleted = before.keys().filter(|key| !after.contains_key(*key)).count();
            writes.classes += usize::from(written + deleted > 0);
            writes.written += written;
            writes.deleted += deleted;
        }
        self.intent = intent;
        writes
    }
}

/// The writes of one change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writes {
    /// Classes of which rows change.
    pub classes: usize,
    /// Rows of the policy stage added or changed.
    pub written: usize,
    /// Rows of the policy stage deleted.
    pub deleted: usize,
    /// Endpoints whose classes change.
    pub endpoints: usize,
}

/// A class's rows of the policy stage, by priority and key, with what decides verdicts.
fn rows(
    intent: &Intent,
    id: ClassId,
    programs: &mut RowCache,
) -> HashMap<(u32, RowKey), (portcullis_policy::Verdict, Option<u16>)> {
    let Some(class) = intent.classes.get(&id) else {
        return HashMap::new();
    };
    let program = programs.get(class).unwrap();
    let rows = program.policy.iter();
    rows.map(|r| ((r.priority, r.key), (r.action, r.words))).collect()
}
