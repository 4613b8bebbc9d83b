//! Where a port of each class leads: to the class, to an overlay and the class below it, or past every policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_compiler::{Class, ClassId, ClassRows, CompileError, Intent, RowCache};

use crate::ports::NAMED;

/// The classes that stand on others, each with the one below it; and those left to another target, with the open class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlays(BTreeMap<ClassId, ClassId>);

/// Where a port leads: a class, and the overlay above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// The class whose rows stand below; [`ClassId::OPEN`] where nothing is denied.
    pub class: ClassId,
    /// The overlay above it; [`ClassId::OPEN`] without one.
    pub overlay: ClassId,
}

impl Overlays {
    /// Notes a class if its rows are an overlay.
    pub fn note(&mut self, class: &Class, rows: &ClassRows) {
        if let Some(base) = class.base.as_ref().filter(|_| rows.overlay) {
            self.0.insert(class.id, base.id);
        }
    }

    /// Notes a class that another target of its endpoints enforces: its ports lead past every policy here.
    pub fn leave(&mut self, class: ClassId) {
        self.0.insert(class, ClassId::OPEN);
    }

    /// Takes a class for one that is no overlay, as before it was noted.
    pub fn forget(&mut self, class: ClassId) {
        self.0.remove(&class);
    }

    /// Those among some classes of an intent.
    pub fn among(
        classes: impl IntoIterator<Item = ClassId>,
        intent: &Intent,
        rows: &mut RowCache,
    ) -> Result<Self, CompileError> {
        let mut overlays = Overlays::default();
        for class in classes.into_iter().filter_map(|id| intent.classes.get(&id)) {
            if class.base.is_some() {
                overlays.note(class, &*rows.get(class)?);
            }
        }
        Ok(overlays)
    }

    /// The class below one of these, if there is one.
    pub fn below(&self, class: ClassId) -> Option<ClassId> {
        self.0.get(&class).copied().filter(|base| *base != ClassId::OPEN)
    }

    /// Those of some classes.
    pub fn of(&self, classes: impl IntoIterator<Item = ClassId>) -> Self {
        let known = classes.into_iter().filter_map(|id| self.0.get_key_value(&id));
        Overlays(known.map(|(id, base)| (*id, *base)).collect())
    }

    /// Where a port of a class leads.
    pub fn lead(&self, class: ClassId) -> Lead {
        let (class, overlay) = match self.0.get(&class) {
            Some(&ClassId::OPEN) => (ClassId::OPEN, ClassId::OPEN),
            Some(base) => (*base, class),
            None => (class, ClassId::OPEN),
        };
        Lead { class, overlay }
    }

    /// The overlays above each class, by number, as [`Hit`](crate::Hit) lists them.
    pub fn above(&self) -> BTreeMap<ClassId, Arc<BTreeSet<u32>>> {
        let mut above: BTreeMap<ClassId, BTreeSet<u32>> = BTreeMap::new();
        for (overlay, base) in self.0.iter().filter(|(_, base)| **base != ClassId::OPEN) {
            above.entry(*base).or_default().insert(overlay.0);
        }
        above
            .into_iter()
            .map(|(base, all)| (base, Arc::new(all)))
            .collect()
    }

    /// Lists each class below an overlay with the members of both: it decides about what the overlay leaves open.
    pub fn join_members(&self, members: &mut BTreeMap<ClassId, Vec<String>>) {
        for (base, overlays) in self.above() {
            let overlays = overlays.iter().map(|id| ClassId(*id));
            let lists = overlays.chain([base]).filter_map(|id| members.get(&id));
            let names: BTreeSet<String> = lists.flatten().cloned().collect();
            members.insert(base, names.into_iter().take(NAMED).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_below_overlays_is_listed_with_their_members() {
        let overlays = Overlays([(ClassId(5), ClassId(1)), (ClassId(6), ClassId(1))].into());
        assert_eq!(overlays.above(), [(ClassId(1), Arc::new([5, 6].into()))].into());
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut members = BTreeMap::from([(ClassId(5), names(&["b"])), (ClassId(6), names(&["a"]))]);
        overlays.join_members(&mut members);
        assert_eq!(members[&ClassId(1)], names(&["a", "b"]));
        let lead = overlays.of([ClassId(6), ClassId(9)]).lead(ClassId(6));
        assert_eq!((lead.class, lead.overlay), (ClassId(1), ClassId(6)));
        assert_eq!(overlays.lead(ClassId(1)).overlay, ClassId::OPEN);
    }

    #[test]
    fn ports_of_a_class_left_to_another_target_lead_past_every_policy() {
        let mut overlays = Overlays([(ClassId(5), ClassId(1))].into());
        overlays.leave(ClassId(6));
        let lead = overlays.of([ClassId(6)]).lead(ClassId(6));
        assert_eq!((lead.class, lead.overlay), (ClassId::OPEN, ClassId::OPEN));
        assert_eq!(overlays.below(ClassId(6)), None);
        assert_eq!(overlays.above(), [(ClassId(1), Arc::new([5].into()))].into());
    }
}
