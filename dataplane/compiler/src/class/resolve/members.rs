//! Which classes endpoints and combinations of profiles are in.

use std::sync::Arc;

use portcullis_policy::{Endpoint, Name, PerDirection};

use super::{OPEN, Round, class_of};
use crate::class::affected::{Affected, Difference};
use crate::class::compiler::{Bound, Combo, Source, Use, falls_of};
use crate::class::{ClassId, EndpointIntent, Intent, ScheduledTransition};

impl Round<'_> {
    /// Tells every resolved combination its classes.
    pub(super) fn bind_combos(&mut self, made: &[ClassId]) {
        let resolved = std::mem::take(&mut self.resolved);
        for (source, resolved) in &resolved {
            if let Source::Profiles(combo) = source {
                let classes = resolved.wants.map(|want| class_of(want, made));
                let before = self.compiler.combos.get(combo).copied().unwrap_or_default();
                self.rebind(source, before.classes, classes);
                if before.bases > 0 {
                    self.count_bases(before.classes, classes);
                }
                self.compiler
                    .combos
                    .insert(Arc::clone(combo), Bound { classes, ..before });
            }
            for want in resolved.wants {
                self.touched.insert(class_of(want, made));
            }
        }
        self.resolved = resolved;
    }

    /// Takes one endpoint from what it was to what it is.
    pub(super) fn apply(&mut self, one: &Affected<'_>, made: &[ClassId], next: &mut Intent) {
        let before = next.endpoints.get(one.name);
        let was = before.map_or(OPEN, |e| e.classes);
        let had = before.map_or_else(Vec::new, |e| e.transitions.clone());
        let (is, transitions) = if one.rules {
            (self.regroup(one, was, made), self.transition(one, &had, made))
        } else {
            (was, had)
        };
        let after = one
            .new
            .map(|endpoint| intent_of(one.name, endpoint, is, transitions));
        if before.map(AsRef::as_ref) == after.as_ref() {
            return;
        }
        next.changed.endpoints.push(one.name.clone());
        match after {
            Some(after) => next.endpoints.insert(one.name.clone(), Arc::new(after)),
            None => next.endpoints.remove(one.name),
        };
    }

    /// Takes what an endpoint falls back to out of its classes and into others; returns those.
    fn transition(
        &mut self,
        one: &Affected<'_>,
        had: &[ScheduledTransition],
        made: &[ClassId],
    ) -> Vec<ScheduledTransition> {
        for (number, transition) in (0..).zip(had) {
            let was = transition.classes;
            self.forget(&Source::ScheduledTransition(one.name.clone(), number), was);
            self.count(was, OPEN);
        }
        let ends = match one.new {
            Some(_) => falls_of(self.document, one.name),
            None => Vec::new(),
        };
        let mut transitions = Vec::with_capacity(ends.len());
        for (number, (at, _)) in (0..).zip(ends) {
            let source = Source::ScheduledTransition(one.name.clone(), number);
            let classes = self.classes(&source, made);
            self.rebind(&source, OPEN, classes);
            self.count(OPEN, classes);
            transitions.push(ScheduledTransition { at, classes });
        }
        transitions
    }

    /// Takes an endpoint out of its classes and into others; returns those.
    fn regroup(
        &mut self,
        one: &Affected<'_>,
        was: PerDirection<ClassId>,
        made: &[ClassId],
    ) -> PerDirection<ClassId> {
        let old = one.old.map(|e| Source::new(one.name, e, self.was));
        let new = one.new.map(|e| Source::new(one.name, e, self.document));
        let is = new.as_ref().map_or(OPEN, |source| self.classes(source, made));
        self.count(was, is);
        if let Some(source @ Source::Endpoint(_)) = &old {
            self.forget(source, was);
        }
        if let Some(source @ Source::Endpoint(_)) = &new {
            self.rebind(source, OPEN, is);
        }
        self.bind(one, old.as_ref(), new.as_ref());
        is
    }

    fn classes(&self, source: &Source, made: &[ClassId]) -> PerDirection<ClassId> {
        match (self.resolved.get(source), source) {
            (Some(resolved), _) => resolved.wants.map(|want| class_of(want, made)),
            (None, Source::Profiles(combo)) => {
                let bound = self.compiler.combos.get(combo);
                bound.copied().unwrap_or_default().classes
            }
            // Endpoints with rules of their own whose rules changed were resolved.
            (None, _) => OPEN,
        }
    }

    /// Which profiles an endpoint binds, and which combinations are in use.
    fn bind(&mut self, one: &Affected<'_>, old: Option<&Source>, new: Option<&Source>) {
        let bound = one.old.map_or(&[][..], |e| e.profiles.as_slice());
        let binds = one.new.map_or(&[][..], |e| e.profiles.as_slice());
        for profile in bound.iter().filter(|p| !binds.contains(p)) {
            if let Some(binders) = self.compiler.binders.get_mut(profile) {
                binders.remove(one.name);
                if binders.is_empty() {
                    self.compiler.binders.remove(profile);
                }
            }
        }
        for profile in binds.iter().filter(|p| !bound.contains(p)) {
            let binders = self.compiler.binders.entry(profile.clone()).or_default();
            binders.insert(one.name.clone());
        }
        if old != new {
            self.bind_whole(old, new);
        }
        let stands_on = |endpoint: Option<&Arc<Endpoint>>, source: Option<&Source>| -> Option<Combo> {
            let own = matches!(source, Some(Source::Endpoint(_)));
            endpoint.filter(|_| own).map(|e| e.profiles.as_slice().into())
        };
        let (left, taken) = (stands_on(one.old, old), stands_on(one.new, new));
        if left != taken {
            self.rebase(left, taken);
        }
    }

    /// Which combination an endpoint without rules of its own has.
    fn bind_whole(&mut self, old: Option<&Source>, new: Option<&Source>) {
        if let Some(Source::Profiles(combo)) = old
            && let Some(bound) = self.compiler.combos.get_mut(combo)
        {
            bound.endpoints = bound.endpoints.saturating_sub(1);
        }
        if let Some(Source::Profiles(combo)) = new {
            let bound = self.compiler.combos.entry(Arc::clone(combo)).or_default();
            bound.endpoints += 1;
        }
    }

    /// Which combination the rules and unlocks of an endpoint stand on.
    fn rebase(&mut self, left: Option<Combo>, taken: Option<Combo>) {
        if let Some(bound) = left.and_then(|combo| self.compiler.combos.get_mut(&combo)) {
            bound.bases = bound.bases.saturating_sub(1);
            let (last, classes) = (bound.bases == 0, bound.classes);
            if last {
                self.count_bases(classes, OPEN);
            }
        }
        if let Some(combo) = taken {
            let bound = self.compiler.combos.entry(combo).or_default();
            bound.bases += 1;
            let (first, classes) = (bound.bases == 1, bound.classes);
            if first {
                self.count_bases(OPEN, classes);
            }
        }
    }

    /// Counts a combination that others stand on out of some classes and into others.
    fn count_bases(&mut self, was: PerDirection<ClassId>, is: PerDirection<ClassId>) {
        self.recount(was, is, |used| &mut used.bases);
    }

    /// Forgets combinations that nobody has any more.
    pub(super) fn drop_combos(&mut self, difference: &Difference<'_>) {
        let changed = difference.endpoints.iter().filter(|one| one.rules);
        for endpoint in changed.filter_map(|one| one.old) {
            let combo: Combo = endpoint.profiles.as_slice().into();
            if let Some(bound) = self.compiler.combos.get(&combo).copied()
                && bound.endpoints == 0
                && bound.bases == 0
            {
                self.compiler.combos.remove(&combo);
                self.forget(&Source::Profiles(combo), bound.classes);
            }
        }
    }

    /// Counts an endpoint out of some classes and into others.
    pub(super) fn count(&mut self, was: PerDirection<ClassId>, is: PerDirection<ClassId>) {
        self.recount(was, is, |used| &mut used.endpoints);
    }

    /// One user less of some classes, and one more of others.
    fn recount(
        &mut self,
        was: PerDirection<ClassId>,
        is: PerDirection<ClassId>,
        users: fn(&mut Use) -> &mut u32,
    ) {
        for (was, is) in was.zip(is).into_iter().filter(|(was, is)| was != is) {
            if let Some(class) = self.compiler.uses.get_mut(&was) {
                let users = users(class);
                *users = users.saturating_sub(1);
                self.touched.insert(was);
            }
            if is != ClassId::OPEN {
                *users(self.compiler.uses.entry(is).or_default()) += 1;
                self.touched.insert(is);
            }
        }
    }

    /// Lets a source be a member of classes no more.
    fn forget(&mut self, source: &Source, classes: PerDirection<ClassId>) {
        for id in classes {
            if let Some(class) = self.compiler.uses.get_mut(&id) {
                class.members.remove(source);
                self.touched.insert(id);
            }
        }
    }

    /// Makes a source a member of other classes.
    pub(super) fn rebind(&mut self, source: &Source, was: PerDirection<ClassId>, is: PerDirection<ClassId>) {
        self.forget(source, was);
        for id in is.into_iter().filter(|id| *id != ClassId::OPEN) {
            self.compiler
                .uses
                .entry(id)
                .or_default()
                .members
                .insert(source.clone());
            self.touched.insert(id);
        }
    }
}

fn intent_of(
    name: &Name,
    endpoint: &Endpoint,
    classes: PerDirection<ClassId>,
    transitions: Vec<ScheduledTransition>,
) -> EndpointIntent {
    EndpointIntent {
        name: name.clone(),
        attachments: endpoint.attachments.clone(),
        macs: endpoint.macs.clone(),
        addresses: endpoint.addresses.clone(),
        network: endpoint.network.clone(),
        shared: endpoint.shared.clone(),
        roles: endpoint.roles.clone(),
        source_guard: endpoint.source_guard,
        link_local: endpoint.link_local,
        classes,
        transitions,
    }
}
