//! State of the compiler between two resolutions.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use portcullis_policy::{Document, Endpoint, Grant, Lists, Name, PerDirection};

use super::ids::{Ids, OutOfClasses};
use super::resolve::Round;
use super::{Class, ClassId, Fingerprint, Intent};

/// Resolves documents into intents and keeps class ids stable. A clone is cheap and independent: resolve with a clone
/// what may yet be refused.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub(super) ids: Ids,
    /// Classes in use by fingerprint; until the first resolution, those of the run before.
    pub(super) known: OrdMap<Fingerprint, ClassId>,
    /// Ids of the run before, until the first resolution.
    pub(super) restored: OrdSet<ClassId>,
    pub(super) lists: Lists,
    /// The classes of endpoints without rules of their own, by the profiles they bind.
    pub(super) combos: OrdMap<Combo, Bound>,
    /// The endpoints that bind each profile.
    pub(super) binders: OrdMap<Name, OrdSet<Name>>,
    pub(super) uses: OrdMap<ClassId, Use>,
    pub(super) last: Option<(Document, Arc<Intent>)>,
}

/// Names of profiles in their order.
pub(super) type Combo = Arc<[Name]>;

/// Where a policy comes from. Endpoints without rules of their own that bind the same profiles have one in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Unmanaged,
    Profiles(Combo),
    Endpoint(Name),
    /// An endpoint after its unlocks up to the one with this index have ended.
    ScheduledTransition(Name, u32),
}

impl Source {
    /// The endpoint that has rules or unlocks of its own, if it is about one.
    pub(super) fn endpoint(&self) -> Option<&Name> {
        match self {
            Source::Endpoint(name) | Source::ScheduledTransition(name, _) => Some(name),
            Source::Unmanaged | Source::Profiles(_) => None,
        }
    }

    /// Where the policy of an endpoint of a document comes from.
    pub(super) fn new(name: &Name, endpoint: &Endpoint, document: &Document) -> Self {
        if endpoint.rules.is_empty() && !document.grants.contains_key(name) {
            Source::Profiles(endpoint.profiles.as_slice().into())
        } else {
            Source::Endpoint(name.clone())
        }
    }
}

/// What an endpoint's unlocks leave of each other as they end: the moments, rising, and what holds from then on.
pub(super) fn falls_of(document: &Document, name: &Name) -> Vec<(u64, Vec<Grant>)> {
    let Some(grants) = document.grants.get(name) else {
        return Vec::new();
    };
    let opens = grants.iter().filter(|grant| !grant.closes());
    let mut ends: Vec<u64> = opens.map(|grant| grant.ends).collect();
    ends.sort_unstable();
    ends.dedup();
    // A quarantine does not end by itself: who lifts it does it.
    let left = |end: u64| grants.iter().filter(move |g| g.closes() || g.ends > end).cloned();
    ends.into_iter().map(|end| (end, left(end).collect())).collect()
}

/// The classes of a combination of profiles.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bound {
    /// Endpoints that have it.
    pub endpoints: u32,
    /// Endpoints with rules or unlocks of their own beside it.
    pub bases: u32,
    pub classes: PerDirection<ClassId>,
}

/// What is known of a class in use.
#[derive(Debug, Clone, Default)]
pub(super) struct Use {
    /// Endpoints that have it; ports without an endpoint count as one.
    pub endpoints: u32,
    /// Classes whose base it is.
    pub bases: u32,
    /// Whose policies they are.
    pub members: OrdSet<Source>,
    /// Whose names the class bears.
    pub named: Option<Source>,
}

impl Use {
    /// Whether anything needs the class.
    pub fn is_needed(&self) -> bool {
        self.endpoints > 0 || self.bases > 0
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new(1, [], [])
    }
}

impl Compiler {
    /// One that takes up where an earlier run stopped: with the first id that was never used, the classes in use, and
    /// the ids [`released`](Self::released) but not confirmed gone.
    pub fn new(
        next: u32,
        known: impl IntoIterator<Item = (Fingerprint, ClassId)>,
        released: impl IntoIterator<Item = (ClassId, u64)>,
    ) -> Self {
        let known: OrdMap<Fingerprint, ClassId> = known.into_iter().collect();
        let released: Vec<(ClassId, u64)> = released.into_iter().collect();
        let used = known.values().chain(released.iter().map(|(id, _)| id));
        let above = used.map(|id| id.0.saturating_add(1)).max().unwrap_or(1);
        Compiler {
            ids: Ids::new(next.max(above), released),
            restored: known.values().copied().collect(),
            known,
            lists: Lists::default(),
            combos: OrdMap::new(),
            binders: OrdMap::new(),
            uses: OrdMap::new(),
            last: None,
        }
    }

    /// Ids count up to a limit; after that the lowest one that is out of use and confirmed gone is used again.
    #[cfg(test)]
    pub(super) fn limit(&mut self, max_id: u32) {
        self.ids.set_limit(max_id);
    }

    /// The first class id that was never used: persist it with the classes.
    pub fn next_id(&self) -> u32 {
        self.ids.next()
    }

    /// Ids out of use that are not confirmed gone, each with the first generation without it: persist them. They are
    /// not used again.
    pub fn released(&self) -> &OrdMap<ClassId, u64> {
        self.ids.released()
    }

    /// Says that every target confirmed a generation without these ids: no row of theirs is left anywhere.
    pub fn confirm_gone(&mut self, ids: impl IntoIterator<Item = ClassId>) {
        ids.into_iter().for_each(|id| self.ids.confirm_gone(id));
    }

    /// Resolves a document, at a cost that goes with what differs from the one before. After an error the compiler is
    /// what it was. No class is edited in place: each changed policy is a class with another id.
    pub fn resolve(&mut self, document: &Document, generation: u64) -> Result<Arc<Intent>, OutOfClasses> {
        self.resolve_in_place(document, generation, &|_, _| false)
    }

    /// Like [`resolve`](Self::resolve), with classes edited in place where targets can do that.
    ///
    /// A class is edited in place, so that it keeps its id under another fingerprint, when all it is for (endpoints, and
    /// ports without an endpoint) move to one policy that nothing else moves to and no class has, the two policies have the
    /// same entries with prefixes, and `edits` says that every target can turn the rows of the first class into those of the
    /// second: then a packet's way to the class's rows stays, and they can be written one by one in an order in which each
    /// packet meets the old verdict or the new one.
    ///
    /// `edits` must say no while a target does not hold all of the intent resolved last. A target that follows several
    /// changes at once could otherwise wire an endpoint to a class that does not have the endpoint's policy yet.
    pub fn resolve_in_place(
        &mut self,
        document: &Document,
        generation: u64,
        edits: &dyn Fn(&Class, &Class) -> bool,
    ) -> Result<Arc<Intent>, OutOfClasses> {
        let mut next = self.clone();
        let intent = Round::run(&mut next, document, generation, edits)?;
        *self = next;
        Ok(intent)
    }
}
