//! Which classes are written as overlays, and what leads a port to them.

use std::collections::BTreeMap;

use portcullis_compiler::{Class, ClassId, ClassRows};
use portcullis_openflow::Action;

use crate::regs;

/// The classes that stand on others, each with the one below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlays(BTreeMap<ClassId, ClassId>);

impl Overlays {
    /// Notes a class if its rows are an overlay.
    pub fn note(&mut self, class: &Class, rows: &ClassRows) {
        if let Some(base) = class.base.as_ref().filter(|_| rows.overlay) {
            self.0.insert(class.id, base.id);
        }
    }

    /// The class below one of these, if there is one.
    pub fn below(&self, class: ClassId) -> Option<ClassId> {
        self.0.get(&class).copied()
    }

    /// Those of some classes.
    pub fn of(&self, classes: impl IntoIterator<Item = ClassId>) -> Self {
        let known = classes.into_iter().filter_map(|id| Some((id, self.below(id)?)));
        Overlays(known.collect())
    }

    /// Notes class and overlay for the rows of a policy table. `fresh`: the registers are zero.
    pub fn lead(&self, class: ClassId, fresh: bool) -> Vec<Action> {
        let (class, overlay) = match self.below(class) {
            Some(base) => (base, class),
            None => (class, ClassId::OPEN),
        };
        let registers = [(regs::CLASS, class), (regs::OVERLAY, overlay)];
        let wanted = registers
            .into_iter()
            .filter(|(_, id)| !fresh || *id != ClassId::OPEN);
        wanted
            .map(|(register, id)| Action::set(register, u128::from(id.0)))
            .collect()
    }
}
