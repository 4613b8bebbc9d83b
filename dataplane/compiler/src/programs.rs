//! Proved rows, remembered per class.

use std::collections::HashMap;
use std::sync::Arc;

use crate::class::{Class, ClassId, Fingerprint, Intent};
use crate::lower::{fixed_rows, lower};
use crate::model::StageModel;
use crate::program::{PolicyRow, Program, Unsupported};
use crate::proof::{Counterexample, prove};

/// Why an intent has no rows on a target. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The target cannot do it.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The rows are not the policy: a bug of the compiler. The change is refused.
    #[error(
        "the compiled rows of class {class} differ from its policy on {model}; the change is refused and the old \
         state stays; please report this: {example}"
    )]
    Unproved {
        /// The class.
        class: ClassId,
        /// The model.
        model: &'static str,
        /// Where they differ.
        example: Box<Counterexample>,
    },
}

/// Rows of classes on one stage model: compiled once, proved before they are handed out.
#[derive(Debug)]
pub struct Programs {
    model: StageModel,
    fixed: Vec<PolicyRow>,
    known: HashMap<Fingerprint, Arc<Program>>,
}

impl Programs {
    /// Of a model.
    pub fn new(model: StageModel) -> Self {
        Programs {
            fixed: fixed_rows(&model),
            model,
            known: HashMap::new(),
        }
    }

    /// The model.
    pub fn model(&self) -> &StageModel {
        &self.model
    }

    /// The rows that hold for every class.
    pub fn fixed(&self) -> &[PolicyRow] {
        &self.fixed
    }

    /// The proved rows of a class.
    pub fn get(&mut self, class: &Class) -> Result<Arc<Program>, CompileError> {
        if let Some(program) = self.known.get(&class.fingerprint) {
            return Ok(Arc::clone(program));
        }
        let program = lower(&class.policy, &self.model)?;
        prove(&class.policy, &program, &self.fixed, &self.model).map_err(|example| {
            CompileError::Unproved {
                class: class.id,
                model: self.model.name,
                example,
            }
        })?;
        let program = Arc::new(program);
        self.known.insert(class.fingerprint, Arc::clone(&program));
        Ok(program)
    }

    /// Compiles and proves every class of an intent, so that a later [`get`](Self::get) cannot fail.
    pub fn check(&mut self, intent: &Intent) -> Result<(), CompileError> {
        intent
            .classes
            .values()
            .try_for_each(|class| self.get(class).map(drop))
    }

    /// Forgets what no intent of these uses.
    pub fn keep(&mut self, intents: &[&Intent]) {
        let used: std::collections::HashSet<Fingerprint> = intents
            .iter()
            .flat_map(|i| i.classes.values())
            .map(|c| c.fingerprint)
            .collect();
        self.known.retain(|fingerprint, _| used.contains(fingerprint));
    }
}
