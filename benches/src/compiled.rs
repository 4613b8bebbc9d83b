//! What the compiler's benches run.
#![allow(clippy::unwrap_used, reason = "a bench that cannot run shall end")]

use std::sync::Arc;

use portcullis_compiler::compilation::Compilation;
use portcullis_compiler::{Attribution, Class, Compiler, Delta, Intent, Programs, StageModel};
use portcullis_policy::Document;

fn model(name: &str) -> StageModel {
    StageModel::named(name).unwrap()
}

/// Compiles, proves and fits an intent from nothing; the rows of all stages together.
pub fn compiled(intent: &Intent, name: &str) -> u64 {
    let mut programs = Programs::new(model(name));
    let compilation = Compilation::of(intent, &mut programs, Attribution::Rule, |_| false).unwrap();
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
    programs: Programs,
    intent: Arc<Intent>,
    /// The document.
    pub document: Document,
}

impl Standing {
    /// After this document.
    pub fn new(document: Document) -> Self {
        let mut compiler = Compiler::default();
        let mut programs = Programs::new(StageModel::ovs());
        let intent = compiler.resolve(&document, 1).unwrap();
        programs.check(&intent).unwrap();
        Standing {
            compiler,
            programs,
            intent,
            document,
        }
    }

    /// Resolves, compiles and proves the next document, and tells the writes.
    pub fn change(&mut self, next: &Document) -> Delta {
        // Its target holds every intent at once. The compiler and the rows are borrowed apart from each other.
        let programs = std::cell::RefCell::new(&mut self.programs);
        let edits = |old: &Class, new: &Class| programs.borrow_mut().edits(old, new);
        let next_generation = self.intent.generation + 1;
        let intent = self
            .compiler
            .resolve_in_place(next, next_generation, &edits)
            .unwrap();
        let delta = Delta::between(&self.intent, &intent, &mut self.programs).unwrap();
        self.intent = intent;
        delta
    }
}
